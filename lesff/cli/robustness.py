"""`lesff verify NAME --robustness`: the table of the chapter, its file and its page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

import lesff
from lesff.errors import RobustnessError
from lesff.evaluation.results import Value
from lesff.evaluation.robustness.chapter import Finding, run_chapter
from lesff.evaluation.robustness.probe import Options
from lesff.evaluation.tables import limit_text, significant
from lesff.methods import ModelMethod
from lesff.plain_data import write_json

FORMAT = 1
_HEAD = f"{'check':18}{'figure':52}{'value':>12} {'unit':9}{'limit':>16}{'GFN2-xTB':>12}  result"


def verify_robustness(
    name: str, *, quick: bool, seed: int, output: Path | None, accept_license: bool
) -> None:
    """Run the chapter and print every figure as soon as it is known; the file grows with it.

    Args:
        name: Name of the model.
        quick: A few items of each check only.
        seed: Of everything that is random.
        output: JSON file of figures and rows.
        accept_license: Accept the licence of the model.

    Raises:
        RobustnessError: if a figure is outside its limits.
        LesffError: as :func:`lesff.load` does.
    """
    subject = ModelMethod(name, accept_license=accept_license)
    options = Options(quick=quick, seed=seed)
    data: dict[str, Any] = {
        "format": FORMAT, "model": subject.name, "lesff": lesff.__version__, "quick": quick,
        "seed": seed, "checks": {},
    }  # fmt: skip
    click.echo(_HEAD)
    failed: list[str] = []
    for finding in run_chapter(subject, options):
        for line in _lines(finding):
            click.echo(line)
        failed += finding.failed
        data["checks"][finding.check] = as_data(finding)
        if output is not None:
            write_json(output, data)
    if output is not None:
        click.echo(f"results in {output}")
    if failed:
        raise RobustnessError(
            f"{len(failed)} figures of {subject.name} are outside their limits: {failed[0]}"
            + (" and others" if len(failed) > 1 else "")
        )


def as_data(finding: Finding) -> dict[str, Any]:
    """A finding as plain data: the result as in files of the suite, GFN2-xTB and the time."""
    if finding.result is None:
        return {"status": "not covered", "reason": finding.reason}
    result = finding.result.to_dict()
    for quantity, value in zip(result["quantities"], finding.result.quantities, strict=True):
        quantity["passes"] = value.passes
        quantity["gfn2_xtb"] = _or_none(finding.reference.get(value.name))
    return {**result, "seconds": finding.seconds}


def _lines(finding: Finding) -> list[str]:
    if finding.result is None:
        return [f"{finding.check:18}not covered: {finding.reason}"]
    lines = [_line(finding.check, value, finding.reference) for value in finding.result.quantities]
    reasons: dict[str, int] = {}
    for why in finding.result.left_out.values():
        text = "elements not covered" if why.startswith("no ") else why
        reasons[text] = reasons.get(text, 0) + 1
    if reasons:
        what = "; ".join(f"{count} ({why})" for why, count in reasons.items())
        lines.append(f"{finding.check:18}left out: {what}")
    return lines


def _line(check: str, value: Value, reference: dict[str, float]) -> str:
    result = {None: "", True: "ok", False: "FAIL"}[value.passes]
    count = f"{value.value:.0f}" if value.unit.startswith("of ") else None
    cells = [
        f"{check:18}{value.name:52}{count or _number(value.value):>12} {value.unit:9}",
        f"{limit_text(value.limits):>16}{_number(reference.get(value.name)):>12}  {result}",
    ]
    return "".join(cells)


def _number(value: float | None) -> str:
    """A number of the table: a dash where there is none, exponents where it is long."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2e}" if abs(value) >= 1e6 or 0.0 < abs(value) < 1e-3 else significant(value)


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
