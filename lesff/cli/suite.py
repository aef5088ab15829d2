"""`lesff evaluate --suite`: the physical and chemical checks, their file and the card's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lesff.disk import write_atomically
from lesff.errors import DataError
from lesff.evaluation.checks.frames import Labelled
from lesff.evaluation.results import SuiteFile
from lesff.evaluation.suite import find_checks, run_suite
from lesff.evaluation.tables import blocks, filled, significant
from lesff.files import sha256_of
from lesff.methods import ModelMethod, open_baseline
from lesff.model_folder.layout import WEIGHTS_FILE


def evaluate_suite(
    name: str,
    suite: str,
    *,
    only: tuple[str, ...],
    data: Path | None,
    baselines: tuple[str, ...],
    card: Path | None,
    output: Path | None,
    label: str | None,
    restart: bool,
    accept_license: bool,
) -> None:
    """Run the suite, print its results, keep them in a file and fill the card's tables.

    Args:
        name: Name of the model.
        suite: Which suite.
        only: Names of the checks to run; all of the suite if empty.
        data: Labelled frames, divided by molecule.
        baselines: What else to run it for.
        card: Model card to fill.
        output: Result file; beside the card if not given.
        label: Name in results.
        restart: Forget results in an older file.
        accept_license: Accept the licence of the model.

    Raises:
        DataError: for a card without a place for the table, or results of other weights.
        LesffError: as :func:`lesff.load` does.
    """
    checks = find_checks(only)
    _check_card(card)
    labelled = None if data is None else Labelled.read(data)
    subject = ModelMethod(name, label=label, accept_license=accept_license)
    others = [open_baseline(other, accept_license=accept_license) for other in baselines]
    weights = sha256_of(subject.fast.source.folder / WEIGHTS_FILE)
    path = output or _beside(card, subject.name)
    file = SuiteFile.open(path, subject.name, weights, restart=restart)
    for who, check, result in run_suite(
        [subject, *others], checks, file, suite=suite, data=labelled, again=bool(only)
    ):
        click.echo(f"{who} {check}" + _summary(result))
    click.echo(f"results in {path}")
    if card is not None:
        text = filled(card.read_text(encoding="utf-8"), card.stem, card.parent)
        write_atomically(card, text)
        click.echo(f"tables of {card} made from the results beside it")


def _check_card(card: Path | None) -> None:
    """Refuse a card that the table has no place in, before anything is computed."""
    if card is None:
        return
    if not card.is_file():
        raise DataError(f"card {card} does not exist")
    if "suite" not in blocks(card.read_text(encoding="utf-8")):
        raise DataError(
            f"{card} has no place for the table: put the lines <!-- begin suite --> and "
            "<!-- end suite --> where it should be"
        )


def _beside(card: Path | None, name: str) -> Path:
    if card is not None:
        return card.with_name(f"{card.stem}.suite.json")
    return Path(f"{Path(name.split('@')[0]).name}.suite.json")


def _summary(result: dict[str, Any]) -> str:
    if result["status"] != "done":
        return f": not covered ({result['reason']})"
    lines = []
    for q in result["quantities"]:
        reference = "" if q["reference"] is None else f"  (reference {significant(q['reference'])})"
        lines.append(f"\n  {q['name']}: {significant(q['value'])} {q['unit']}{reference}")
    left_out = len(result["left_out"])
    return "".join(lines) + (f"\n  {left_out} items left out" if left_out else "")
