"""The command that finds minimum energy paths."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lesff.cli.workflow import (
    charge_option,
    command_line,
    input_argument,
    model_options,
    open_model,
    output_option,
    read_input,
    spin_option,
)


@click.command("neb")
@input_argument(many=True)
@model_options("off-medium")
@output_option
@click.option("--images", default=5, show_default=True, help="Images between the two ends.")
@click.option(
    "--interpolation", type=click.Choice(["idpp", "linear"]), default="idpp", show_default=True,
    help="Of the first path.",
)  # fmt: skip
@click.option("--spring", default=0.1, show_default=True, help="eV/A^2.")
@click.option("--climb/--no-climb", default=True, show_default=True, help="Highest image climbs.")
@click.option(
    "--optimizer", type=click.Choice(["fire", "lbfgs", "bfgs"]), default="fire", show_default=True,
    help="Optimiser of ASE.",
)  # fmt: skip
@click.option("--fmax", default=0.05, show_default=True, help="Largest force at the end, eV/A.")
@click.option("--steps", default=500, show_default=True, help="Most steps.")
@click.option(
    "--relax-ends/--fixed-ends", "relaxes_ends", default=True, show_default=True,
    help="Whether the ends are relaxed first.",
)  # fmt: skip
@charge_option
@spin_option
def neb_command(
    structures: tuple[Path, ...],
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    charge: int | None,
    spin: int | None,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Minimum energy path between the first and the last structure of the files.

    Two structures are the ends; more are a first path. All images are computed in one batch.
    Interrupted: run again to go on.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.neb import NebOptions, nudged_elastic_band, report_neb

    options = NebOptions(**values)
    path = read_input(structures, charge, spin)
    model = open_model(name, device, dtype, accept_license)
    kept = {key: value for key, value in asdict(options).items() if key != "steps"}
    folder = WorkFolder(output, "neb", model, path, kept)
    result = nudged_elastic_band(model, path, options, folder=folder)
    report_neb(folder, result, command_line=command_line())
    word = "converged" if result.converged else "not converged"
    click.echo(
        f"{word} after {result.steps} steps ({result.n_calls} batched calls), largest force "
        f"{result.fmax:.4f} eV/A"
    )
    click.echo(f"barrier: {result.barrier:.4f} eV, back {result.reverse_barrier:.4f} eV")
    click.echo(f"reaction energy: {result.reaction_energy:.4f} eV")
    click.echo(f"written to {output / 'neb'}.json, .html and {output / 'path.extxyz'}")
