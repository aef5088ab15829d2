"""The command that chooses the most informative frames."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.cli.options import accept_license_option
from lesff.errors import PropertyError


@click.command("select")
@click.argument("structures", type=click.Path(path_type=Path))
@click.option("-n", "count", type=int, required=True, help="How many frames to choose.")
@click.option("-m", "--model", "name", required=True, help="A calibrated model.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="extxyz file to write."
)
@click.option(
    "--without-calibration", is_flag=True,
    help="Judge by the frames alone, for a model without calibration.",
)  # fmt: skip
@accept_license_option
def select_command(
    structures: Path,
    count: int,
    name: str,
    output: Path,
    *,
    without_calibration: bool,
    accept_license: bool,
) -> None:
    """Choose the most informative frames of a file, labels and all, most informative first."""
    if output.suffix not in (".xyz", ".extxyz"):
        raise PropertyError(f"`--output` must end in .extxyz or .xyz, got {output.name}")
    # start-up: help needs nothing that computes
    from ase.io import write

    from lesff.atoms.elements import elements_of
    from lesff.atoms.structure import read_structures, with_state
    from lesff.model import load
    from lesff.potential.domain import check_domain
    from lesff.train.data import unlabelled
    from lesff.uncertainty.selection import select_frames

    pairs = list(read_structures(structures))
    model = load(name, accept_license=accept_license)
    known = set(model.config.elements)
    covered = [i for i, (s, _) in enumerate(pairs) if elements_of(s) <= known]
    if len(covered) < len(pairs):
        click.echo(f"{len(pairs) - len(covered)} frames left out (elements not covered)")
    candidates = [pairs[i][0] for i in covered]
    check_domain(model.config, candidates, strict=False)
    found = select_frames(
        model.potential, [unlabelled(structure) for structure in candidates], count,
        without_calibration=without_calibration, progress=True,
    )  # fmt: skip
    chosen = [covered[i] for i in found.chosen]
    frames = [with_state(pairs[i][1], pairs[i][0]) for i in chosen]
    for index, atoms in zip(chosen, frames, strict=True):
        atoms.info["selected_frame"] = index
    write(output, frames, format="extxyz")
    lower = 100.0 * (1.0 - found.mean_after / found.mean_before)
    click.echo(
        f"{count} of {len(covered)} frames ({found.n_different} different) written to {output}; "
        f"knowing them lowers the mean predicted variance of all by {lower:.3g} %"
    )
