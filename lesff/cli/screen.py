"""Commands that rank structures by a property."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.workflow import (
    command_line,
    input_argument,
    model_options,
    open_model,
    output_option,
    read_input,
    relax_crystal_option,
)
from lesff.errors import StructureError

if TYPE_CHECKING:
    import ase

    from lesff.workflows.conductors import Conductor


@click.group("screen")
def screen_group() -> None:
    """Rank structures by a property."""


@screen_group.command("conductors")
@input_argument(many=True)
@model_options("mat-medium")
@output_option
@click.option("--mobile", default="Li", show_default=True, help="Symbol of the ion that moves.")
@click.option(
    "--framework", type=click.Choice(["emptied", "vacancy"]), default="emptied", show_default=True,
    help="Take all mobile ions away, or only the one that moves.",
)  # fmt: skip
@relax_crystal_option
@click.option("--fmax", default=0.02, show_default=True, help="Largest force of minima, eV/A.")
@click.option("--step", default=0.4, show_default=True, help="Step of the first grid, A.")
@click.option(
    "--refine", default=1, show_default=True,
    help="How often the step is halved around minimum and saddles.",
)  # fmt: skip
@click.option("--margin", default=0.3, show_default=True,
              help="By how much interpolation may be too high, eV.")  # fmt: skip
@click.option("--r-min", default=1.0, show_default=True,
              help="Points nearer to the framework are closed, A.")  # fmt: skip
@click.option("--min-length", default=8.0, show_default=True,
              help="The framework is repeated to this length, A.")  # fmt: skip
@click.option("--neighbours", type=click.Choice([6, 18, 26]), default=26, show_default=True,
              help="Of each grid point.")  # fmt: skip
@click.option("--level", default=0.5, show_default=True,
              help="Energy above the minimum for the free volume, eV.")  # fmt: skip
@click.option("--dimension", type=click.Choice([1, 2, 3]), default=1, show_default=True,
              help="Of the percolation energy that ranks.")  # fmt: skip
@click.option("--executor", metavar="KIND:WHAT", help="Where the first grids are computed: "
              "processes:8, threads:2, dask:ADDRESS or parsl:CONFIG.py.")  # fmt: skip
def conductors_command(
    structures: tuple[Path, ...],
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    executor: str | None,
    *,
    accept_license: bool,
    **values: Any,
) -> None:
    """Rank crystals by the energy at which one ion percolates through their framework.

    The ion is moved over a grid in the frozen framework; percolation in 1, 2 and 3 dimensions is
    found exactly. Interrupted: run again to go on.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.conductors import ConductorOptions, screen_conductors
    from lesff.workflows.conductors_report import report_screening
    from lesff.workflows.folder import WorkFolder

    options = ConductorOptions(**values)
    named = _named(structures)
    model = open_model(name, device, dtype, accept_license)
    folder = WorkFolder(
        output, "conductors", model, [atoms for _, atoms in named],
        asdict(options) | {"names": [key for key, _ in named]},
    )  # fmt: skip

    def say(key: str, row: Conductor | str) -> None:
        if isinstance(row, str):
            click.echo(f"{key}: {row}", err=True)
        else:
            click.echo(f"{key}: {_barriers(row)} ({row.n_computed} energies)")

    result = screen_conductors(model, named, options, folder=folder, executor=executor, on_done=say)
    report_screening(folder, result, command_line=command_line())
    for rank, row in enumerate(result.ranking):
        click.echo(f"{rank + 1}. {row.name}: {_barriers(row)}, free {row.free_volume:.2f} A^3/ion")
    click.echo(f"written to {output / 'conductors'}.json, .html, levels.csv and pictures")
    if not result.ranking:
        raise StructureError(f"no structure could be computed; {output}/conductors.json says why")


def _barriers(row: Conductor) -> str:
    return "1D/2D/3D " + "/".join(f"{value:.3f}" for value in row.barriers) + " eV"


def _named(paths: tuple[Path, ...]) -> list[tuple[str, ase.Atoms]]:
    """Structures with names: of the file, and the number in it where it has several."""
    found: list[tuple[str, ase.Atoms]] = []
    stems = Counter(path.stem for path in paths)
    for path in paths:
        frames = read_input([path])
        stem = path.stem if stems[path.stem] == 1 else str(path)
        for index, atoms in enumerate(frames):
            found.append((stem if len(frames) == 1 else f"{stem}-{index}", atoms))
    return found
