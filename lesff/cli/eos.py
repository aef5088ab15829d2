"""The command that computes an equation of state."""

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


@click.command("eos")
@input_argument()
@model_options("mat-medium", "float64")
@output_option
@relax_crystal_option
@click.option("--fmax", default=1e-3, show_default=True, help="Largest force of minima, eV/A.")
@click.option("--strain", default=0.02, show_default=True, help="Largest change of the lengths.")
@click.option("--points", default=9, show_default=True, help="Volumes.")
@click.option(
    "--inner", type=click.Choice(["none", "atoms", "shape"]), default="atoms", show_default=True,
    help="What is relaxed at each volume: atoms, or the shape of the cell with them.",
)  # fmt: skip
@click.option(
    "--form", type=click.Choice(["birchmurnaghan", "murnaghan", "vinet", "sj"]),
    default="birchmurnaghan", show_default=True, help="Equation, as in ASE.",
)  # fmt: skip
def eos_command(
    structure: Path,
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Equation of state of a crystal: volume, bulk modulus and its derivative.

    All volumes are computed in one batch.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.eos import EosOptions, equation_of_state, report_eos
    from lesff.workflows.folder import WorkFolder

    options = EosOptions(**values)
    atoms = read_one(structure)
    model = open_model(name, device, dtype, accept_license)
    folder = WorkFolder(output, "eos", model, [atoms], asdict(options))
    result = equation_of_state(model, atoms, options, folder=folder)
    report_eos(folder, result, command_line=command_line())
    click.echo(f"volume: {result.volume:.4f} A^3, lattice constants times {result.scale:.5f}")
    click.echo(
        f"bulk modulus: {result.bulk_modulus:.2f} GPa, B' {result.pressure_derivative:.2f}, "
        f"residual {result.residual:.2g} meV/atom"
    )
    click.echo(f"written to {output / 'eos'}.json, .html and .png")
