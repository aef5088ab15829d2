"""The command that runs an input script of LAMMPS with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lesff.cli.options import accept_license_option


@click.command("lammps")
@click.argument("script", type=click.Path(path_type=Path))
@click.option("-m", "--model", "name", default="off-medium", show_default=True, help="Model name.")
@click.option(
    "-e", "--elements", metavar="SYMBOLS",
    help='Element of each atom type, as "O H"; from their masses if left out.',
)  # fmt: skip
@click.option("--charge", type=int, help="Total charge of the box, e.")
@click.option("--spin", type=int, help="Spin multiplicity 2S+1.")
@click.option("--field", type=(float, float, float), metavar="X Y Z", help="External field, V/A.")
@click.option("--charges", is_flag=True, help="Write charges of atoms to q at each step.")
@click.option("--atom-energies", is_flag=True, help="Give energies of atoms (compute pe/atom fix).")
@click.option("--no-virial", is_flag=True, help="Leave out the virial: pressures mean nothing.")
@click.option(
    "--out-of-domain",
    type=click.Choice(["warn", "stop", "ignore"]),
    default="warn",
    show_default=True,
    help="What is done where atoms are unlike what the model was calibrated on.",
)
@click.option("--allow-close", is_flag=True, help="Compute also where atoms overlap.")
@click.option(
    "-v", "--var", "variables", multiple=True, type=(str, str), metavar="NAME VALUE",
    help="Variable of the script, as of LAMMPS' -var.",
)  # fmt: skip
@click.option("--log", default="log.lammps", show_default=True, help="Log file of LAMMPS, or none.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision.")
@accept_license_option
def lammps_command(
    script: Path,
    name: str,
    elements: str | None,
    charge: int | None,
    spin: int | None,
    field: tuple[float, float, float] | None,
    out_of_domain: Any,
    variables: tuple[tuple[str, str], ...],
    log: str,
    device: str,
    dtype: Any,
    *,
    charges: bool,
    atom_energies: bool,
    no_virial: bool,
    allow_close: bool,
    accept_license: bool,
) -> None:
    """Run an input script of LAMMPS with the forces of a model.

    The model is attached before the first run, minimize or label of the script, or where it has the
    line `fix ID all external pf/callback 1 1`. The script has `units metal` or `real` and
    `pair_style zero CUTOFF`.
    """
    # start-up: they import torch, which help does not need
    from lesff.engines.lammps_script import run_script
    from lesff.model import load

    model = load(name, device=device, dtype=dtype, accept_license=accept_license)
    arguments = ["-log", log]
    for variable, value in variables:
        arguments += ["-var", variable, value]
    lmp, _ = run_script(
        script,
        model,
        arguments=arguments,
        say=lambda text: click.echo(text, err=True),
        elements=None if elements is None else elements.split(),
        charges=charges,
        atom_energies=atom_energies,
        virial=not no_virial,
        total_charge=charge,
        spin_multiplicity=spin,
        external_field=field,
        allow_close=allow_close,
        on_out_of_domain=out_of_domain,
    )
    lmp.close()
