"""The command that computes elastic constants."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lesff.cli.workflow import (
    command_line,
    input_argument,
    model_options,
    open_model,
    output_option,
    read_one,
    relax_crystal_option,
)


@click.command("elastic")
@input_argument()
@model_options("mat-medium", "float64")
@output_option
@relax_crystal_option
@click.option("--fmax", default=1e-3, show_default=True, help="Largest force of minima, eV/A.")
@click.option("--strain", default=0.01, show_default=True, help="Largest strain.")
@click.option(
    "--relaxed/--clamped", "relaxes_atoms", default=True, show_default=True,
    help="Whether atoms are relaxed in each strained cell.",
)  # fmt: skip
def elastic_command(
    structure: Path,
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Elastic constants of a crystal, their averages and whether it is stable.

    Stresses of 24 strained cells in batches, fitted by pymatgen. Needs `lesff[workflows]`.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.elastic import ElasticOptions, elastic_constants, report_elastic
    from lesff.workflows.folder import WorkFolder

    options = ElasticOptions(**values)
    atoms = read_one(structure)
    model = open_model(name, device, dtype, accept_license)
    folder = WorkFolder(output, "elastic", model, [atoms], asdict(options))
    result = elastic_constants(model, atoms, options, folder=folder)
    report_elastic(folder, result, command_line=command_line())
    for row in result.constants:
        # no negative zeros
        click.echo(" ".join(f"{round(value, 2) + 0.0:8.2f}" for value in row))
    for title, values_of in (("bulk", result.bulk), ("shear", result.shear)):
        voigt, reuss, hill = values_of
        click.echo(
            f"{title} modulus: {voigt:.2f} (Voigt) {reuss:.2f} (Reuss) {hill:.2f} (Hill) GPa"
        )
    word = "stable" if result.is_stable else "not stable"
    click.echo(f"{word}: smallest eigenvalue {result.eigenvalues.min():.2f} GPa")
    click.echo(f"written to {output / 'elastic'}.json, .html and .png")
