"""The command that evaluates a model: on labelled frames, or by the suite of checks."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.frames import parse_labels
from lesff.cli.options import CHECK_NAMES, SUITE_NAMES, accept_license_option
from lesff.errors import DataError
from lesff.evaluation.tables import fragment_markdown
from lesff.plain_data import finite, write_json

_ANOTHER_ZERO = 1000.0
"""Mean error of energies in meV/atom from which the zero is asked about."""

if TYPE_CHECKING:
    from lesff.model import Model
    from lesff.train.data import Frame
    from lesff.train.metrics import Errors


@click.command("evaluate")
@click.argument("name")
@click.argument("frames", nargs=-1, type=click.Path(path_type=Path))
@click.option("--validation-only", is_flag=True, help="Only frames the data mark as held out.")
@click.option(
    "--fragments",
    is_flag=True,
    help="Net forces on the molecules of each frame instead, by charge and gap.",
)
@click.option(
    "--gap",
    type=click.FloatRange(min=0.0, min_open=True),
    help="A: what counts as apart for --fragments; the cutoff of the model if left out.",
)
@click.option(
    "--energy-state",
    "energy_states",
    type=(int, int),
    multiple=True,
    metavar="CHARGE MULTIPLICITY",
    help="Only energies of frames of this state count, again if need be; for labels whose energy "
    "zero depends on the charge.",
)
@click.option(
    "--fit-energy-zero",
    is_flag=True,
    help="Take an energy of each element, fitted to the differences, off the predicted energies: "
    "for labels with another zero, such as total energies of another code.",
)
@click.option(
    "--without",
    type=click.Path(path_type=Path),
    help="Leave out frames of the same composition as a frame of this file.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=KEY",
    help="Key of a label, such as energy=REF_energy; NAME= leaves it out. May be repeated.",
)  # fmt: skip
@click.option(
    "--suite", type=click.Choice(SUITE_NAMES), help="Run the checks of the suite instead."
)
@click.option(
    "--only",
    multiple=True,
    metavar="CHECK",
    help="Run this check of the suite, again if need be: " + ", ".join(CHECK_NAMES) + ".",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled frames for the suite, divided by molecule as by `lesff split`.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME",
    help="Run the suite for this too: gfn2-xtb (needs tblite), another model, or "
    "NAME=module:callable of an ASE calculator.",
)
@click.option("--card", type=click.Path(path_type=Path), help="Model card to fill with the tables.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write results as JSON.")
@click.option("--as", "label", metavar="NAME", help="Name in results, for models to be released.")
@click.option("--restart", is_flag=True, help="Forget results of the suite in an older file.")
@accept_license_option
def evaluate_command(
    name: str,
    frames: tuple[Path, ...],
    suite: str | None,
    only: tuple[str, ...],
    data: Path | None,
    baselines: tuple[str, ...],
    card: Path | None,
    output: Path | None,
    label: str | None,
    gap: float | None,
    energy_states: tuple[tuple[int, int], ...],
    without: Path | None,
    labels: tuple[str, ...],
    *,
    validation_only: bool,
    fragments: bool,
    fit_energy_zero: bool,
    restart: bool,
    accept_license: bool,
) -> None:
    """Errors of a model on labelled FRAMES, per subset; or the evaluation suite.

    With --suite, a JSON file holds the results, beside the card if one is given; run again to go on
    where a run was stopped. Frames with elements that the model does not cover are left out.
    """
    if suite is None:
        if only or data or baselines or card or restart:
            raise click.UsageError("--only, --data, --baseline, --card, --restart need --suite")
        if not frames:
            raise click.UsageError("give labelled FRAMES, or --suite standard")
        if gap is not None and not fragments:
            raise click.UsageError("--gap needs --fragments")
        if fragments and fit_energy_zero:
            raise click.UsageError("--fragments looks at forces: leave out --fit-energy-zero")
        if fragments and energy_states:
            raise click.UsageError("--fragments looks at forces: leave out --energy-state")
        from lesff.model import load  # start-up: help needs nothing that computes

        model = load(name, accept_license=accept_license)
        reach = (gap or model.potential.architecture.cutoff) if fragments else None
        _evaluate_frames(
            model, label or model.name, frames, validation_only, output, reach, energy_states,
            without, parse_labels(labels), fit_energy_zero,
        )  # fmt: skip
        return
    if fragments or gap is not None:
        raise click.UsageError("--fragments and --gap are for labelled FRAMES, not for --suite")
    if frames or validation_only or energy_states or without or labels or fit_energy_zero:
        raise click.UsageError(
            "with --suite, labelled frames are given by --data; leave out --validation-only, "
            "--without, --label, --energy-state and --fit-energy-zero"
        )
    from lesff.cli.suite import evaluate_suite  # start-up: help needs nothing that computes

    evaluate_suite(
        name,
        suite,
        only=only,
        data=data,
        baselines=baselines,
        card=card,
        output=output,
        label=label,
        restart=restart,
        accept_license=accept_license,
    )


def _evaluate_frames(
    model: Model,
    label: str,
    paths: tuple[Path, ...],
    validation_only: bool,
    output: Path | None,
    reach: float | None,
    energy_states: tuple[tuple[int, int], ...],
    without: Path | None,
    keys: dict[str, str],
    fit_energy_zero: bool,
) -> None:
    """Errors per subset, or between molecules if ``reach`` (A) is given."""
    # start-up: help needs nothing that computes
    from ase.data import chemical_symbols

    from lesff.atoms.elements import elements_of
    from lesff.evaluation.fragments import fragment_table
    from lesff.train.metrics import errors_by, predict_frames, with_common_zero
    from lesff.train.training_data import keep_energies, without_compositions

    known = set(model.config.elements)
    required = ("forces",) if reach is not None else ()
    frames = [frame for path in paths for frame in _labelled(path, keys, required)]
    if validation_only:
        frames = [frame for frame in frames if frame.is_validation]
    if without is not None:
        frames = without_compositions(frames, without)
    covered = [f for f in frames if elements_of(f.structure) <= known]
    names = ", ".join(path.name for path in paths)
    if not covered:
        raise DataError(
            f"no frame of {names} is left: elements that are not covered, none marked as held out, "
            "or all left out by `--without`"
        )
    covered = keep_energies(covered, energy_states, names)
    predictions = predict_frames(model.potential, covered, progress=True)
    zero: dict[int, float] = {}
    if fit_energy_zero:
        predictions, zero = with_common_zero(predictions)
        text = ", ".join(f"{chemical_symbols[z]} {energy:.4f}" for z, energy in zero.items())
        click.echo(f"taken off predicted energies, eV: {text}")
    if reach is not None:
        table = fragment_table(predictions, reach)
        result = {"fragments": table}
        click.echo(fragment_markdown(table))
    else:
        errors = errors_by(predictions, lambda frame: frame.subset)
        result = {"errors": {key: asdict(value) for key, value in errors.items()}}
        click.echo(_table(errors))
        if errors and errors["all"].energy_mae > _ANOTHER_ZERO:
            click.echo(
                "energies of the model and the labels have another zero, it seems; "
                "--fit-energy-zero fits it"
            )
    click.echo(f"{len(frames) - len(covered)} frames left out (elements not covered)")
    if output is not None:
        head: dict[str, Any] = {
            "model": label,
            "data": [path.name for path in paths],
            "validation_only": validation_only,
            "n_left_out": len(frames) - len(covered),
        }
        options = {
            "energy_states": energy_states,
            "energy_zero": {chemical_symbols[z]: energy for z, energy in zero.items()},
            "without": without.name if without is not None else "",
        }
        head |= {key: value for key, value in options.items() if value}
        write_json(output, finite(head | result))


def _labelled(path: Path, keys: dict[str, str], required: tuple[str, ...]) -> list[Frame]:
    """Frames of a file; each must have a label.

    Raises:
        DataError: naming the first frame that has none.
    """
    # start-up: help needs nothing that computes
    from lesff.train.data import read_labelled

    frames, summary = read_labelled(path, keys=keys or None, required=required)
    summary.check_results()
    for index, frame in enumerate(frames):
        if not frame.labels():
            raise DataError(f"{path}, frame {index}: no energy, no forces and no other label")
    return frames


def _table(table: dict[str, Errors]) -> str:
    head = (
        f"{'subset':32}{'frames':>7}{'E MAE':>9}{'E RMSE':>9}{'F MAE':>9}{'F RMSE':>9}{'mu MAE':>9}"
    )
    units = f"{'':32}{'':>7}{'meV/atom':>9}{'meV/atom':>9}{'meV/A':>9}{'meV/A':>9}{'D':>9}"
    rows = [
        f"{key:32}{e.n_frames:7d}{_cell(e.energy_mae, 2)}{_cell(e.energy_rmse, 2)}"
        f"{_cell(e.forces_mae, 1)}{_cell(e.forces_rmse, 1)}{_cell(e.dipole_mae, 3)}"
        for key, e in table.items()
    ]
    parts = [e for key, e in table.items() if key != "all"]
    mean = (
        f"{'mean over subsets':32}{'':7}{_cell(_mean([e.energy_mae for e in parts]), 2)}{'':9}"
        f"{_cell(_mean([e.forces_mae for e in parts]), 1)}"
    )
    return "\n".join([head, units, *rows, mean])


def _cell(value: float, digits: int) -> str:
    """A number of a column; a dash where no frame has the label."""
    return f"{'-':>9}" if math.isnan(value) else f"{value:9.{digits}f}"


def _mean(values: list[float]) -> float:
    """Mean of the numbers; NaN if there is none."""
    # start-up: help needs nothing that computes
    import numpy as np

    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
