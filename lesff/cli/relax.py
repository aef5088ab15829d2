"""The command that relaxes structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from lesff.errors import StructureError

if TYPE_CHECKING:
    from lesff.workflows.relax import Relaxed


@click.command("relax")
@input_argument(many=True)
@model_options("off-medium")
@output_option
@click.option(
    "--method", type=click.Choice(["fire", "lbfgs", "bfgs"]), default="fire", show_default=True,
    help="Optimiser of ASE.",
)  # fmt: skip
@click.option(
    "--cell", type=click.Choice(["fixed", "full", "shape", "volume"]), default="fixed",
    show_default=True, help="What of the cell is relaxed with the atoms.",
)  # fmt: skip
@click.option("--pressure", default=0.0, show_default=True, help="External pressure, GPa.")
@click.option("--fmax", default=0.02, show_default=True, help="Largest force at the end, eV/A.")
@click.option("--steps", default=500, show_default=True, help="Most steps of a structure.")
@click.option("--batch", default=64, show_default=True, help="Structures at a time.")
@click.option("--trajectory", is_flag=True, help="Write every step of every structure.")
@charge_option
@spin_option
def relax_command(
    structures: tuple[Path, ...],
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    method: Any,
    cell: Any,
    pressure: float,
    fmax: float,
    steps: int,
    batch: int,
    charge: int | None,
    spin: int | None,
    *,
    trajectory: bool,
    accept_license: bool,
) -> None:
    """Relax every structure of the files, many at a time, with the optimisers of ASE.

    One batched call of the model serves all structures that are not relaxed yet. Constraints of the
    input are kept. Interrupted: run again to go on.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.relax import RelaxOptions, relax, settings_of
    from lesff.workflows.relax_report import report_relaxation

    options = RelaxOptions(
        method=method, cell=cell, pressure=pressure, fmax=fmax, steps=steps, batch=batch
    )
    atoms = read_input(structures, charge, spin)
    model = open_model(name, device, dtype, accept_license)
    folder = WorkFolder(output, "relax", model, atoms, settings_of(options))

    def say(row: Relaxed) -> None:
        formula = row.atoms.get_chemical_formula()
        if row.error is not None:
            click.echo(f"{row.index} {formula}: {row.error}", err=True)
            return
        word = "converged" if row.converged else "not converged"
        click.echo(
            f"{row.index} {formula}: {word} after {row.steps} steps, {row.energy:.6f} eV "
            f"({row.energy_change:+.4f}), largest force {row.fmax:.4f} eV/A"
        )

    result = relax(model, atoms, options, folder=output, trajectories=trajectory, on_done=say)
    report_relaxation(folder, result, command_line=command_line())
    click.echo(
        f"{result.n_converged} of {len(result.relaxed)} converged; {result.n_calls} batched calls; "
        f"written to {output / 'relax'}.json, .html and {output / 'relaxed.extxyz'}"
    )
    if all(row.error is not None for row in result.relaxed):
        raise StructureError(f"no structure could be computed; {output / 'relax'}.json says why")
