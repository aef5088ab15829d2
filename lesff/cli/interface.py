"""Commands on interfaces: build, run with stages, analyse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lesff.cli.options import accept_license_option
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
from lesff.errors import ConfigError, OutOfDomainError

if TYPE_CHECKING:
    from lesff.workflows.interface import Stage

F = TypeVar("F", bound=Callable[..., Any])


@click.group("interface")
def interface_group() -> None:
    """Build an interface of two crystals, run it, say what became of it."""


@interface_group.command("build")
@click.argument("substrate", type=click.Path(path_type=Path))
@click.argument("film", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="File to write, .extxyz.")  # fmt: skip
@click.option("--substrate-plane", default="001", show_default=True,
              help="Miller indices: 001, or 1,-1,0.")  # fmt: skip
@click.option("--film-plane", default="001", show_default=True, help="Likewise.")
@click.option("--substrate-thickness", default=8.0, show_default=True, help="At least, A.")
@click.option("--film-thickness", default=8.0, show_default=True, help="At least, A.")
@click.option("--gap", default=2.2, show_default=True, help="Between the two, A.")
@click.option("--vacuum", type=float, help="Above the film, A; the gap: they meet twice.")
@click.option("--max-strain", default=0.05, show_default=True,
              help="Largest von Mises strain of the film.")  # fmt: skip
@click.option("--max-area", default=200.0, show_default=True, help="Of the common cell, A^2.")
@click.option("--max-atoms", default=500, show_default=True, help="Most atoms.")
@click.option("--match", "chosen", default=0, show_default=True, help="Which of those listed.")
def build_command(
    substrate: Path,
    film: Path,
    output: Path,
    substrate_plane: str,
    film_plane: str,
    chosen: int,
    **values: Any,
) -> None:
    """A strain-matched interface of two crystals, by pymatgen (ZSL); misfits are listed.

    The film is strained to the substrate. Give conventional cells, relaxed with the model that is
    used later (`lesff relax --cell`).
    """
    from ase.io import write  # start-up: imports scipy, 0.7 s of CPU

    # start-up: help needs nothing that computes
    from lesff.workflows.interface_build import InterfaceOptions, build_interfaces

    options = InterfaceOptions(
        substrate_miller=_miller(substrate_plane), film_miller=_miller(film_plane), **values
    )
    found = build_interfaces(read_one(substrate), read_one(film), options)
    if not 0 <= chosen < len(found):
        raise ConfigError(f"`--match` must be 0 to {len(found) - 1}, got {chosen}")
    for place, match in enumerate(found[:10]):
        mark = "*" if place == chosen else " "
        click.echo(
            f"{mark}{place:2d}: {len(match.atoms)} atoms, {match.area:.1f} A^2, strain "
            f"{100.0 * match.strain:.2f} %, {' | '.join(match.termination)}"
        )
    match = found[chosen]
    match.atoms.info.update(
        von_mises_strain=match.strain, area=match.area, termination=" | ".join(match.termination)
    )
    write(output, match.atoms, format="extxyz")
    xx, yy, xy = (100.0 * match.green_lagrange[i] for i in ((0, 0), (1, 1), (0, 1)))
    click.echo(f"strain of the film: xx {xx:.2f} %, yy {yy:.2f} %, xy {xy:.2f} %")
    click.echo(f"written to {output}")


def _miller(text: str) -> tuple[int, int, int]:
    """``"001"`` or ``"1,-1,0"`` as three integers."""
    parts = text.split(",") if "," in text else list(text)
    try:
        first, second, third = (int(part) for part in parts)
    except ValueError:
        raise ConfigError(f"a plane must be three integers, 001 or 1,-1,0, got {text!r}") from None
    return first, second, third


def _analysis_options(function: F) -> F:
    """How an interface is looked at."""
    options = (
        click.option("--skip", default=0.0, show_default=True,
                     help="Left out at the beginning, fs."),
        click.option("--layers", "n_layers", default=6, show_default=True,
                     help="Slices that atoms are told apart by, from where they begin."),
        click.option("--width", default=0.5, show_default=True, help="Of a bin of density, A."),
        click.option("--lower", type=float, help="Start of the straight part, fs."),
        click.option("--upper", type=float, help="End of it, fs; half a block."),
        click.option("--blocks", "n_blocks", default=5, show_default=True,
                     help="Blocks for the error bars."),
        click.option("--method", type=click.Choice(["kmeans", "hdbscan"]), default="kmeans",
                     show_default=True, help="Of clustering, by scikit-learn."),
        click.option("--phases", "n_phases", type=int,
                     help="Of k-means; by silhouettes if not given."),
        click.option("--radius", default=4.0, show_default=True,
                     help="Descriptors are averaged over atoms this near, A."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


_ANALYSIS = ("skip", "n_layers", "width", "lower", "upper", "n_blocks", "method", "n_phases",
             "radius")  # fmt: skip


@interface_group.command("run")
@input_argument()
@model_options("mat-small")
@output_option
@click.option("--stage", "stages", multiple=True, required=True, metavar="K:STEPS",
              help="Temperature and time steps; may be repeated.")  # fmt: skip
@click.option("--relax", "relaxing", type=click.IntRange(min=0), default=100, show_default=True,
              help="Steps of FIRE before the first stage.")  # fmt: skip
@click.option("--dt", default=1.0, show_default=True, help="Time step, fs.")
@trajectory_options
@click.option("--seed", default=0, show_default=True, help="Of velocities, noise and k-means.")
@_analysis_options
@charge_option
@spin_option
def run_command(
    structure: Path,
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    stages: tuple[str, ...],
    relaxing: int,
    charge: int | None,
    spin: int | None,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Staged dynamics of an interface with checkpoints, then its analysis.

    Run again to go on. A calibrated model stops, or warns, where atoms leave its domain; a run
    that stopped is analysed and reported, with exit code 1.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.dynamics import DynamicsOptions
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.interface import AnalysisOptions, analyse_interface, run_stages, settled
    from lesff.workflows.interface_report import report_interface

    looked = AnalysisOptions(seed=values["seed"], **{k: values.pop(k) for k in _ANALYSIS})
    options = DynamicsOptions(**values)
    parts = [_stage(text) for text in stages]
    atoms = read_one(structure, charge, spin)
    model = open_model(name, device, dtype, accept_license)
    kept = {**values, **asdict(looked), "stages": list(stages), "relaxing": relaxing}
    folder = WorkFolder(output, "interface", model, [atoms], kept)

    def say(stage: int, step: int, row: dict[str, float]) -> None:
        click.echo(f"stage {stage}, step {step}: {row['temperature']:.0f} K")

    start = settled(model, atoms, relaxing, folder)
    run = run_stages(model, start, parts, options, folder=folder, say=say)
    frames = run.frames()
    folder.write_atoms("trajectory.traj", frames)
    result = analyse_interface(
        frames, options.every * options.dt, looked, model=model, folder=folder
    )
    report = report_interface(folder, result, stopped=run.stopped, command_line=command_line())
    _say(report, output)
    if run.stopped is not None:
        raise OutOfDomainError(run.stopped)


@interface_group.command("analyse")
@click.argument("trajectory", type=click.Path(path_type=Path))
@click.option("-m", "--model", "name", help="Model whose descriptors are clustered into phases.")
@output_option
@click.option("--dt", type=float, required=True, help="Time between frames, fs.")
@click.option("--seed", default=0, show_default=True, help="Of k-means.")
@_analysis_options
@accept_license_option
def analyse_command(
    trajectory: Path,
    name: str | None,
    output: Path,
    dt: float,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Density, motion, neighbours and phases of the layers of an interface, from a trajectory."""
    # start-up: help needs nothing that computes
    from lesff.atoms.structure import read_atoms
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.interface import AnalysisOptions, analyse_interface
    from lesff.workflows.interface_report import report_interface

    options = AnalysisOptions(**values)
    frames = read_atoms(trajectory)
    model = None if name is None else open_model(name, "cpu", None, accept_license)
    folder = WorkFolder(output, "interface", model, frames, {**asdict(options), "dt": dt})
    result = analyse_interface(frames, dt, options, model=model, folder=folder)
    _say(report_interface(folder, result, command_line=command_line()), output)


def _stage(text: str) -> Stage:
    """``"300:2000"`` as a stage."""
    from lesff.workflows.interface import Stage  # start-up: help needs nothing that computes

    temperature, colon, steps = text.partition(":")
    try:
        found = Stage(temperature=float(temperature), steps=int(steps))
    except ValueError:
        raise ConfigError(f"`--stage` must be KELVIN:STEPS, got {text!r}") from None
    if not colon or found.steps < 1:
        raise ConfigError(f"`--stage` must be KELVIN:STEPS, got {text!r}")
    return found


def _say(report: dict[str, Any], output: Path) -> None:
    for row in report["layers"]:
        for species, values in row["species"].items():
            click.echo(
                f"layer {row['layer']} {species} ({values['n_atoms']}): D in plane "
                f"{values['in_plane_cm2_per_s']:.2g} +- {values['in_plane_error_cm2_per_s']:.1g}, "
                f"along the normal {values['normal_cm2_per_s']:.2g} +- "
                f"{values['normal_error_cm2_per_s']:.1g} cm^2/s"
            )
    for row in (report["phases"] or {"list": []})["list"]:
        shares = " ".join(f"{s}{x:.2f}" for s, x in row["composition"].items() if x > 0.0)
        click.echo(
            f"phase {row['phase']} {shares}: {row['thickness_first_a']:.1f} to "
            f"{row['thickness_last_a']:.1f} A, growth {row['growth_a_per_ps']:.2g} +- "
            f"{row['growth_error_a_per_ps']:.1g} A/ps"
        )
    if report["phases"] is not None and not report["phases"]["list"]:
        click.echo("no phases: HDBSCAN takes all atoms for noise")
    click.echo(f"written to {output / 'interface'}.json and .html, {output / 'phases.extxyz'}")
