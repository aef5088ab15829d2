"""`lesff verify NAME --robustness`: the table of the chapter, its files and its page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ase.io import write

import lesff
from lesff.disk import write_atomically
from lesff.errors import RobustnessError
from lesff.evaluation.results import NONE_MAY, Value
from lesff.evaluation.robustness.chapter import Finding, run_chapter, stored_references
from lesff.evaluation.robustness.hunt import found_atoms
from lesff.evaluation.robustness.page import cell, page_of
from lesff.evaluation.robustness.probe import Options
from lesff.evaluation.tables import limit_text
from lesff.methods import ModelMethod
from lesff.plain_data import write_json

FORMAT = 1
_CHECK, _FIGURE = 18, 52


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files to write.

    Attributes:
        json: Figures and rows, complete after each check.
        html: The page with pictures, at the end.
        found: Atoms of the lowest energy of the hunt.
    """

    json: Path | None = None
    html: Path | None = None
    found: Path | None = None


def verify_robustness(
    name: str, options: Options, outputs: Outputs, *, accept_license: bool
) -> None:
    """Run the chapter and print every figure as soon as it is known.

    Args:
        name: Name of the model.
        options: How much is done.
        outputs: Files to write.
        accept_license: Accept the licence of the model.

    Raises:
        RobustnessError: if a figure is outside its limits.
        LesffError: as :func:`lesff.load` does.
    """
    subject = ModelMethod(name, accept_license=accept_license)
    data: dict[str, Any] = {
        "format": FORMAT, "model": subject.name, "lesff": lesff.__version__,
        "quick": options.quick, "seed": options.seed, "checks": {},
    }  # fmt: skip
    click.echo(_head())
    findings: list[Finding] = []
    for finding in run_chapter(subject, options):
        findings.append(finding)
        for line in _lines(finding):
            click.echo(line)
        data["checks"][finding.check] = as_data(finding)
        if outputs.json is not None:
            write_json(outputs.json, data)
        if finding.check == "hunt":
            _write_find(finding, outputs.found)
    if outputs.html is not None:
        write_atomically(outputs.html, page_of(subject.name, findings))
    failed = [figure for finding in findings for figure in finding.failed]
    if failed:
        raise RobustnessError(
            f"{len(failed)} figures of {subject.name} are outside their limits: {failed[0]}"
            + (" and others" if len(failed) > 1 else "")
        )


def as_data(finding: Finding) -> dict[str, Any]:
    """A finding as plain data: the result as in files of the suite, other methods, the time."""
    if finding.result is None:
        return {"status": "not covered", "reason": finding.reason}
    result = finding.result.to_dict()
    for quantity, value in zip(result["quantities"], finding.result.quantities, strict=True):
        beside = {name: row.get(value.name) for name, row in finding.references.items()}
        quantity["passes"] = value.passes
        quantity["references"] = {
            name: number if number is not None and math.isfinite(number) else None
            for name, number in beside.items()
        }
    return {**result, "seconds": finding.seconds}


def _write_find(finding: Finding, path: Path | None) -> None:
    """Write the atoms of the lowest energy, if they are asked for and there are any."""
    atoms = found_atoms(finding.result.rows) if finding.result else None
    if path is not None and atoms is not None:
        write(path, atoms, format="extxyz")
        click.echo(f"atoms of the lowest energy found in {path}")


def _head() -> str:
    beside = "".join(f"{name:>12}" for name in stored_references())
    return f"{'check':{_CHECK}}{'figure':{_FIGURE}}{'value':>12} {'unit':9}{'limit':>16}{beside}"


def _lines(finding: Finding) -> list[str]:
    if finding.result is None:
        return [f"{finding.check:{_CHECK}}not covered: {finding.reason}"]
    lines = [_line(finding, value) for value in finding.result.quantities]
    reasons: dict[str, int] = {}
    for why in finding.result.left_out.values():
        text = "elements not covered" if why.startswith("no ") else why
        reasons[text] = reasons.get(text, 0) + 1
    if reasons:
        what = "; ".join(f"{count} ({why})" for why, count in reasons.items())
        lines.append(f"{finding.check:{_CHECK}}left out: {what}")
    return lines


def _line(finding: Finding, value: Value) -> str:
    result = {None: "", True: "ok", False: "FAIL"}[value.passes]
    beside = [finding.references.get(name, {}).get(value.name) for name in stored_references()]
    is_count = value.limits == NONE_MAY
    numbers = [
        f"{number:.0f}" if is_count and number is not None else cell(number)
        for number in (value.value, *beside)
    ]
    return (
        f"{finding.check:{_CHECK}}{value.name:{_FIGURE}}{numbers[0]:>12} {value.unit:9}"
        f"{limit_text(value.limits):>16}" + "".join(f"{n:>12}" for n in numbers[1:]) + f"  {result}"
    )
