"""The command that runs molecular dynamics."""

from __future__ import annotations

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
    read_one,
    spin_option,
    trajectory_options,
)
from lesff.errors import OutOfDomainError


@click.command("md")
@input_argument()
@model_options("off-medium")
@output_option
@click.option(
    "--ensemble", type=click.Choice(["nve", "nvt", "npt"]), default="nvt", show_default=True,
    help="Velocity Verlet, a thermostat, or Martyna-Tobias-Klein.",
)  # fmt: skip
@click.option(
    "--thermostat", type=click.Choice(["langevin", "bussi"]), default="bussi", show_default=True,
    help="Of nvt.",
)  # fmt: skip
@click.option("--temperature", default=300.0, show_default=True, help="K.")
@click.option("--pressure", default=0.0, show_default=True, help="GPa, of npt.")
@click.option(
    "--cell", type=click.Choice(["isotropic", "full"]), default="isotropic", show_default=True,
    help="What of the cell moves in npt.",
)  # fmt: skip
@click.option("--dt", default=0.5, show_default=True, help="Time step, fs.")
@click.option("--steps", default=1000, show_default=True, help="Steps in all; raise it to go on.")
@trajectory_options
@click.option("--seed", default=0, show_default=True, help="Of velocities and noise.")
@charge_option
@spin_option
def md_command(
    structure: Path,
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
    """Molecular dynamics of the structure of a file, with the integrators of ASE.

    Velocities of the file are kept, else drawn. Run again to go on from the last checkpoint: the
    result is the same, bit by bit, as that of an uninterrupted run. A run that stopped because
    atoms left the domain of the model is reported, with exit code 1.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.dynamics import DynamicsOptions, run_dynamics
    from lesff.workflows.dynamics_report import report_dynamics
    from lesff.workflows.folder import WorkFolder

    options = DynamicsOptions(**values)
    atoms = read_one(structure, charge, spin)
    model = open_model(name, device, dtype, accept_license)
    kept = {key: value for key, value in values.items() if key != "steps"}
    folder = WorkFolder(output, "md", model, [atoms], kept)

    def say(step: int, row: dict[str, float]) -> None:
        click.echo(
            f"step {step}: {1e-3 * step * options.dt:.3f} ps, {row['temperature']:.0f} K, "
            f"potential energy {row['potential']:.4f} eV"
        )

    result = run_dynamics(model, atoms, options, folder=output, say=say)
    report = report_dynamics(folder, result, command_line=command_line())
    drift = report["drift_mev_per_atom_ps"]
    if drift == drift:
        click.echo(f"conserved energy: drift {drift:.3g} meV/atom/ps")
    mean = report["averages"]["temperature"]
    error = f" +- {mean['error']:.2g}" if mean["error"] == mean["error"] else ""
    click.echo(f"temperature: {mean['mean']:.1f}{error} K after the first fifth")
    click.echo(f"written to {output / 'md'}.json, .html, .csv and {output / 'trajectory.traj'}")
    if result.stopped is not None:
        raise OutOfDomainError(result.stopped)
