"""A student against its teacher: tables, a page, a card."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesff.disk import write_atomically
from lesff.finetune.report import charge_summary, dipole_r2, peak_memory_mb, worst_frames
from lesff.model_folder.card import with_front_matter
from lesff.plain_data import finite, write_json
from lesff.potential.config import ModelConfig
from lesff.reports.figures import curve_figure, image, parity_figure, worst_figure
from lesff.reports.page import document
from lesff.reports.tables import error_table, table
from lesff.train.metrics import FramePrediction, errors_by

HELD_OUT = "held out"
"""Name of the part of the frames around structures that were not trained on."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything a report is made of.

    Attributes:
        teacher: Name of the teacher.
        license: Licence that its labels inherit, or ``"unknown"``.
        options: Options of sampling and labelling.
        recipe: The student's recipe.
        parts: Predictions of the student by part, ``"held out"`` and ``"train"``.
        dropped: Frames left out for their forces.
        steps: Optimiser steps.
        training_seconds: Time of training, over all sessions.
        evaluation_seconds: Time of the student for all frames.
        n_parameters: Size of the student.
        command: How to run it again.
    """

    teacher: str
    license: str
    options: dict[str, Any]
    recipe: dict[str, Any]
    parts: Mapping[str, Sequence[FramePrediction]]
    dropped: int
    steps: int
    training_seconds: float
    evaluation_seconds: float
    n_parameters: int
    command: str


def write_student_report(result: Result, folder: Path) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html``; returns the content of the first."""
    report = make_student_report(result)
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    write_json(folder / "report.json", finite(report))
    page = _page(report, result.parts[HELD_OUT], [json.loads(line) for line in lines])
    write_atomically(folder / "report.html", page)
    return report


def make_student_report(result: Result) -> dict[str, Any]:
    """Content of ``report.json``: errors are differences to the teacher."""
    errors = {
        part: {
            group: {"student": asdict(e)} for group, e in errors_by(rows, lambda f: f.group).items()
        }
        for part, rows in result.parts.items()
    }
    held_out = result.parts[HELD_OUT]
    has_charges = held_out[0].charges is not None
    report = {
        "teacher": result.teacher,
        "errors": errors,
        "dipole_r2": {part: dipole_r2(rows) for part, rows in result.parts.items()},
        "worst_frames": worst_frames(held_out),
        "charges": charge_summary(held_out) if has_charges else {},
        "dropped_frames": result.dropped,
        "steps": result.steps,
        "parameters": result.n_parameters,
        "training_minutes": result.training_seconds / 60.0,
        "student_ms_per_atom": 1e3 * result.evaluation_seconds / _n_atoms(result),
        "peak_memory_mb": peak_memory_mb(),
        "options": result.options,
        "recipe": result.recipe,
        "command": result.command,
    }
    table = errors[HELD_OUT]["all"]["student"]
    n_groups = len(errors[HELD_OUT]) - 1
    report["verdict"] = [
        f"student against {result.teacher} on {table['n_frames']} frames of {n_groups} "
        f"structure(s) that were not trained on: energy RMSE {table['energy_rmse']:.4g} "
        f"meV/atom, forces RMSE {table['forces_rmse']:.4g} meV/A"
    ]
    if not math.isnan(report["dipole_r2"][HELD_OUT]):
        report["verdict"].append(f"R2 of their dipoles: {report['dipole_r2'][HELD_OUT]:.4f}")
    return report


def _n_atoms(result: Result) -> int:
    return sum(len(p.frame.structure) for rows in result.parts.values() for p in rows)


def _page(
    report: dict[str, Any], held_out: Sequence[FramePrediction], log: Sequence[dict[str, Any]]
) -> str:
    title = f"Distillation of {report['teacher']}"
    run = {
        "steps": report["steps"],
        "training time, min": report["training_minutes"],
        "parameters of the student": f"{report['parameters']:,}",
        "frames dropped for their forces": report["dropped_frames"],
        "student, energy and forces, ms per atom": report["student_ms_per_atom"],
        "peak memory, MB": report["peak_memory_mb"],
    }
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        '<div class="verdict">' + "<br>".join(map(html.escape, report["verdict"])) + "</div>",
        "<h2>Differences to the teacher</h2>",
        *(f"<h3>{part}</h3>" + error_table(rows) for part, rows in report["errors"].items()),
        "<h2>Parity, structures that were not trained on</h2>",
        image(parity_figure({"student": held_out}), "parity"),
        "<h2>Learning curve</h2>",
        image(curve_figure(log, has_score=False), "learning curve"),
        "<h2>Worst frames, not trained on</h2>",
        image(worst_figure(held_out, report["worst_frames"]), "worst structures"),
        table(
            ["frame", "formula", "F RMSE meV/A", "largest F error meV/A", "E error meV/atom"],
            [list(row.values()) for row in report["worst_frames"]],
        ),
        "<h2>Charges, structures that were not trained on</h2>",
        _charges(report["charges"]),
        "<h2>Run</h2>",
        table(["", ""], list(run.items())),
        f"<pre>{html.escape(report['command'])}</pre>",
        "<details><summary>Options and recipe</summary><pre>"
        + html.escape(json.dumps([report["options"], report["recipe"]], indent=1))
        + "</pre></details>",
    ]
    return document(title, parts)


def _charges(charges: dict[str, Any]) -> str:
    if not charges:
        return "<p>The student has no charges.</p>"
    rows = [[symbol, v["mean"], v["std"]] for symbol, v in charges["by_element"].items()]
    worst = charges["largest_sum_error"]
    return (
        table(["element", "mean e", "spread e"], rows)
        + f"<p>Largest error of a sum of charges: {worst:.1e} e. Without dipole labels, charges "
        "are what energies and forces imply; no label checks them.</p>"
    )


_CARD = """# Student of {teacher}

Distilled from **{teacher}**, which labelled {n_train} frames around {n_structures} structure(s)
({sample}).
Frames around {n_held_out} other structure(s) were only reported on. Elements, charges and phases
beyond these structures are extrapolation.

{verdict}

Level of theory: {level}. Energy zero: {reference}.

The licence is that of the teacher where it is a lesff model (file `LICENSE`), else unknown.

```
{command}
```
"""


def student_card(result: Result, report: dict[str, Any], config: ModelConfig) -> str:
    """Model card, Markdown."""
    train = report["errors"]["train"]
    facts = {
        "name": "student",
        "license": result.license,
        "library_name": "lesff",
        "description": f"Student of {result.teacher}",
    }
    text = _CARD.format(
        teacher=result.teacher,
        n_train=train["all"]["student"]["n_frames"],
        n_structures=len(train) - 1,
        n_held_out=len(report["errors"][HELD_OUT]) - 1,
        sample=_sample_text(result.options),
        verdict="\n".join(f"- {line}" for line in report["verdict"]),
        level=config.level_of_theory,
        reference=config.energy_reference,
        command=result.command,
    )
    return with_front_matter(facts, text)


def _sample_text(options: dict[str, Any]) -> str:
    if options["sample"] == "rattle":
        low, high = options["displacement"]
        return f"random displacements of {low} to {high} A"
    kelvin = ", ".join(f"{t:g}" for t in options["temperatures"])
    return f"Langevin dynamics at {kelvin} K"
