"""The command that shows what a model covers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lesff.cli.catalogue import find_unfetched, show_unfetched
from lesff.cli.options import accept_license_option

if TYPE_CHECKING:
    from lesff.potential.config import ModelConfig
    from lesff.potential.potential import Potential


@click.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the configuration as JSON.")
@accept_license_option
def info_command(name: str, *, as_json: bool, accept_license: bool) -> None:
    """Show what a model covers, and its card.

    A model that others publish and that is not on this machine is not fetched: what the manifest
    says about it is shown.
    """
    unfetched = find_unfetched(name)
    if unfetched is not None:
        click.echo(show_unfetched(*unfetched, as_json=as_json))
        return
    # start-up: help needs nothing that computes
    from lesff.atoms.elements import symbols
    from lesff.model import load

    model = load(name, accept_license=accept_license)
    config = model.config
    if as_json:
        click.echo(json.dumps(config.to_dict(), indent=1))
        return
    n_parameters = sum(p.numel() for p in model.potential.parameters())
    rows = {
        "model": model.name,
        "from": f"{model.source.origin}: {model.source.folder}",
        "elements": symbols(config.elements),
        "total charge": "{} to {}".format(*config.total_charge),
        "spin multiplicity": "{} to {}".format(*config.spin_multiplicity),
        "level of theory": config.level_of_theory,
        "energy zero": config.energy_reference,
        "parameters": f"{n_parameters:,}",
        "electrostatics": _electrostatics(model.potential),
        "properties": ", ".join(model.potential.available_properties()),
    }
    for key, value in rows.items():
        click.echo(f"{key + ':':20}{value}")
    trained = _without_charges(model.config)
    if trained:
        click.echo(f"{'no charges of:':20}{trained}")
    for quantity, why in model.source.caveats.items():
        click.echo(f"{'caveat:':20}{quantity}: {why}")
    click.echo("\n" + model.card.strip())


def _without_charges(config: ModelConfig) -> str:
    """Elements whose charges were not trained."""
    from lesff.atoms.elements import symbols

    trained = None if config.long_range is None else config.long_range.charge_elements
    return "" if trained is None else symbols(sorted(set(config.elements) - set(trained)))


def _electrostatics(potential: Potential) -> str:
    """Charge head and the sum over wave vectors."""
    if potential.ewald is None or potential.config.long_range is None:
        return "none"
    if not potential.config.long_range.in_energy:
        return f"head {potential.config.long_range.head!r}, not in the energy"
    return f"head {potential.config.long_range.head!r}, {potential.ewald.in_words}"
