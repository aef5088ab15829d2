"""Commands on uncertainty: calibrate, select."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lesff.cli.frames import parse_labels
from lesff.cli.options import BACKWARD_PASSES, accept_license_option
from lesff.errors import ConfigError
from lesff.plain_data import write_json

if TYPE_CHECKING:
    from lesff.model import Model
    from lesff.train.data import Frame
    from lesff.train.frame_stream import Frames, StreamedFile


@click.command("calibrate")
@click.argument("name")
@click.option(
    "--train", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Frames like those the model was trained on; may be given several times.",
)  # fmt: skip
@click.option(
    "--validation", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Labelled frames it was not trained on. For a file given to both, its own split counts.",
)  # fmt: skip
@click.option("--test", type=click.Path(path_type=Path), help="Labelled frames to report on.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder.")
@click.option("--max-frames", type=int, help="Draw at most this many frames of each file and part.")
@click.option(
    "--directions", type=int, default=BACKWARD_PASSES, show_default=True,
    help="Backward passes of a force uncertainty; all last-layer features: exact.",
)  # fmt: skip
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=KEY",
    help="Key of a label, such as energy=REF_energy. May be repeated.",
)  # fmt: skip
@click.option("--json", "table", type=click.Path(path_type=Path), help="Write the numbers as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace a model folder that is there.")
@accept_license_option
def calibrate_command(
    name: str,
    train: tuple[Path, ...],
    validation: tuple[Path, ...],
    test: Path | None,
    output: Path,
    max_frames: int | None,
    directions: int,
    labels: tuple[str, ...],
    table: Path | None,
    *,
    overwrite: bool,
    accept_license: bool,
) -> None:
    """Give a model uncertainties: write it as a folder that predicts them.

    The scale is set on the validation frames; --test frames are only reported on.
    """
    if max_frames is not None and max_frames < 1:
        raise ConfigError(f"`--max-frames` must be at least 1, got {max_frames}")
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.train.frame_stream import FrameStream
    from lesff.uncertainty.agreement import evaluate_uncertainty

    model = load(name, accept_license=accept_license)
    keys = parse_labels(labels)
    both = set(train) & set(validation)
    held = [
        f for p in validation for f in _frames(p, p in both, "validation", max_frames, model, keys)
    ]
    known: Frames
    if max_frames is None:  # as many as there are: never all of them in memory
        known = FrameStream([_streamed(p, p in both, model, keys) for p in train])
    else:
        known = [f for p in train for f in _frames(p, p in both, "train", max_frames, model, keys)]
    click.echo(f"{len(known)} training, {len(held)} validation frames")
    calibrated, result = model.calibrate(
        known,
        held,
        output,
        directions=directions,
        overwrite=overwrite,
        progress=True,
    )
    reports = {"validation": result}
    if test is not None:
        frames = _frames(test, False, "test", None, model, keys)
        reports["test"] = evaluate_uncertainty(calibrated.potential, frames, progress=True)
    for part, report in reports.items():
        click.echo(f"{part} ({report.n_frames} frames)")
        for line in report.lines():
            click.echo(f"  {line}")
    if table is not None:
        data = {part: asdict(report) for part, report in reports.items()}
        write_json(table, data)
    click.echo(f"lesff.load({str(output)!r}).predict(atoms, ['energy', 'uncertainty'])")


def _streamed(path: Path, is_split: bool, model: Model, keys: dict[str, str]) -> StreamedFile:
    """Frames of a file as :func:`_frames` gives those of the training part, piece by piece."""
    # start-up: help needs nothing that computes
    from lesff.atoms.elements import elements_of
    from lesff.train.data import labelled_pieces
    from lesff.train.frame_stream import PIECE, StreamedFile

    covered = set(model.config.elements)
    other = sum(
        not elements_of(frame.structure) <= covered and not (is_split and frame.is_validation)
        for piece in labelled_pieces(path, PIECE, keys=keys or None)
        for frame in piece
    )
    if other:
        click.echo(f"{path.name}: {other} frames left out (elements)")

    def keep(frame: Frame) -> bool:
        is_other_part = is_split and frame.is_validation
        return elements_of(frame.structure) <= covered and not is_other_part

    return StreamedFile(path=path, keep=keep, keys=keys or None)


def _frames(
    path: Path,
    is_split: bool,
    part: str,
    max_frames: int | None,
    model: Model,
    keys: dict[str, str],
) -> list[Frame]:
    """Frames of a file that the model covers; of a file with its own split, the part's."""
    # start-up: help needs nothing that computes
    import numpy as np

    from lesff.atoms.elements import elements_of
    from lesff.train.data import read_labelled

    required = () if part == "train" else ("energy", "forces")
    frames, _ = read_labelled(path, keys=keys or None, required=required)
    if is_split:
        frames = [frame for frame in frames if frame.is_validation == (part == "validation")]
    known = set(model.config.elements)
    covered = [f for f in frames if elements_of(f.structure) <= known]
    if len(covered) < len(frames):
        click.echo(f"{path.name}: {len(frames) - len(covered)} frames left out (elements)")
    if max_frames is not None and len(covered) > max_frames:
        order = np.random.default_rng(0).permutation(len(covered))
        covered = [covered[i] for i in sorted(order[:max_frames])]
    return covered
