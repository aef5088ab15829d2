"""What a finetuning run changed: errors before and after, what was forgotten, what it cost."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from lesff.disk import write_atomically
from lesff.finetune.start import EnergyShift
from lesff.finetune.verdict import UNITS, LabelVerdict, judge, mean_mark
from lesff.plain_data import finite, write_json
from lesff.reports.page import page_html
from lesff.train.data import Frame
from lesff.train.metrics import Errors, FramePrediction, errors_by, errors_of, labelled_values
from lesff.units import EA_TO_DEBYE

BASE, REFITTED, TRAINED = "base", "base, energies refitted", "finetuned"
"""The models that are compared, as they are called in tables and pictures."""
REPORT_FILES = ("report.json", "report.html")
_WORST = 10


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything a report is made of.

    Attributes:
        base_name: Name of the base model.
        options: Options of the run, plain data.
        split: Content of ``split.json``.
        labels: Summary of the labels by source.
        before: Predictions of the base model by part: ``train``, ``validation``, ``test``,
            ``known`` (what must not be forgotten).
        after: Predictions of the trained model, same parts, whether it is returned or not.
        shift: Change of the reference energies.
        start_error: Differences to the base model before training.
        probe_before: Probe structures labelled by the base model.
        probe_after: Predictions of the result for them.
        start_errors: Validation errors of the base model with refitted reference energies.
        best_step: Step of the best validation; 0 for the base model.
        steps: Steps done.
        score: Validation score of the result; 1 for the base model.
        training_seconds: Training time, over all sessions.
        session_seconds: Time of this session.
        n_processes: Number of processes.
        n_trained: Number of values that the optimiser moved.
        command: How to run it again.
    """

    base_name: str
    options: dict[str, Any]
    split: dict[str, Any]
    labels: dict[str, list[str]]
    before: dict[str, list[FramePrediction]]
    after: dict[str, list[FramePrediction]]
    shift: EnergyShift
    start_error: dict[str, float]
    probe_before: list[Frame]
    probe_after: list[FramePrediction]
    start_errors: Errors
    best_step: int
    steps: int
    score: float
    training_seconds: float
    session_seconds: float
    n_processes: int
    n_trained: int
    command: str

    def refitted(self, part: str) -> list[FramePrediction]:
        """Base model with the reference energies of the result; ``known`` keeps its own."""
        return [
            replace(p, energy=p.energy + self.shift.of(p.frame.structure.numbers))
            for p in self.before[part]
        ]


def write_report(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html``; returns the content of the first."""
    report = make_report(outcome)
    log_file = folder / "log.jsonl"
    lines = log_file.read_text(encoding="utf-8").splitlines() if log_file.exists() else []
    log = [json.loads(line) for line in lines]
    write_json(folder / "report.json", finite(report))
    models = {
        BASE: outcome.before["validation"],
        REFITTED: outcome.refitted("validation"),
        TRAINED: outcome.after["validation"],
    }
    page = page_html(report, models, log, asdict(outcome.start_errors))
    write_atomically(folder / "report.html", page)
    return report


def make_report(outcome: Outcome) -> dict[str, Any]:
    """Content of ``report.json``."""
    errors = {part: _compared(outcome, part) for part in outcome.after}
    verdicts = {part: _judged(outcome, part) for part in outcome.after if part != "train"}
    mark = mean_mark(verdicts["validation"])
    improved = mark > 0.0
    is_returned = improved or outcome.options["returns"] == "trained"
    report = {
        "base": outcome.base_name,
        "improved": improved,
        "returned": "finetuned" if is_returned else "base",
        "mean_verdict": mark,
        "verdicts": {part: _verdict_rows(found) for part, found in verdicts.items()},
        "score": outcome.score,
        "errors": errors,
        "dipole_r2": {
            part: {
                "base": dipole_r2(outcome.before[part]), "finetuned": dipole_r2(outcome.after[part])
            }
            for part in outcome.after
        },
        "worst_frames": worst_frames(outcome.after["validation"]),
        "forgetting": forgetting(outcome),
        "charges": charge_diagnostics(outcome.before["validation"], outcome.after["validation"]),
        "reference_energies": {
            chemical_symbols[z]: value for z, value in outcome.shift.by_element.items()
        },
        "start_difference": outcome.start_error,
        "labels": outcome.labels,
        "split": {k: v for k, v in outcome.split.items() if k != "indices"},
        "options": outcome.options,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "trained_values": outcome.n_trained,
        "training_minutes": outcome.training_seconds / 60.0,
        "session_minutes": outcome.session_seconds / 60.0,
        "processes": outcome.n_processes,
        "peak_memory_mb": peak_memory_mb(),
        "command": outcome.command,
    }  # fmt: skip
    report["verdict"] = verdict_lines(report, verdicts["validation"])
    return report


def _judged(outcome: Outcome, part: str) -> dict[str, LabelVerdict]:
    """Verdicts by label; what must not be forgotten is compared with the untouched base only."""
    base = outcome.before[part]
    refitted = base if part == "known" else outcome.refitted(part)
    return judge(base, refitted, outcome.after[part])


def _verdict_rows(verdicts: dict[str, LabelVerdict]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "unit": UNITS[name],
            "verdict": one.verdict,
            "against_base": asdict(one.base),
            "against_refitted": asdict(one.refitted),
        }
        for name, one in verdicts.items()
    }


def _compared(outcome: Outcome, part: str) -> dict[str, dict[str, dict[str, float]]]:
    """Errors by group and model; every group is in ``all``."""
    models = {BASE: outcome.before[part], TRAINED: outcome.after[part]}
    if part != "known":
        models[REFITTED] = outcome.refitted(part)
    tables = {name: errors_by(rows, lambda f: f.group) for name, rows in models.items()}
    groups = list(tables["base"])
    if len(groups) > 30:
        groups = ["all"]
    return {g: {name: asdict(tables[name][g]) for name in sorted(tables)} for g in groups}


def verdict_lines(report: dict[str, Any], verdicts: dict[str, LabelVerdict]) -> list[str]:
    """What came out, for people: what is returned, every label, what was forgotten."""
    n = int(report["errors"]["validation"]["all"][BASE]["n_frames"])
    words = [one.verdict for one in verdicts.values()]
    counts = ", ".join(f"{words.count(w)} {w}" for w in ("better", "no difference", "worse"))
    mean = f"mean verdict {report['mean_verdict']:+.2f} over {len(words)} labels: {counts}"
    if report["improved"]:
        lines = [f"better than the base model on {n} validation frames ({mean})"]
    elif report["best_step"] == 0:
        lines = [
            f"no step of the training was better than the base model on {n} validation frames "
            f"({mean})"
        ]
    else:
        lines = [f"not better than the base model on {n} validation frames ({mean})"]
    if n == 1:
        lines.append("one frame has no error bar and cannot tell: hold out more with "
                     "split.validation")  # fmt: skip
    returned = "the untouched base model" if report["returned"] == "base" else "the trained model"
    lines.append(f"returned: {returned}")
    for name, one in verdicts.items():
        text = f"{name}: {one.verdict}; RMSE {one.base.text()} {UNITS[name]} against the base"
        if one.refitted != one.base:
            text += f", {one.refitted.text()} against the base with refitted energies"
        lines.append(text)
    return lines + _forgotten_lines(report)


def _forgotten_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    drift = report["forgetting"].get("probe")
    if drift:
        lines.append(
            f"on {drift['n_frames']} probe structures the answers of the trained model moved by "
            f"{drift['forces_rmse']:.3g} meV/A (forces) and {drift['energy_rmse']:.3g} meV/atom"
        )
    known = report["verdicts"].get("known", {})
    if known:
        words = ", ".join(
            f"{name} {row['verdict']} ({100.0 * (row['against_base']['ratio'] - 1.0):+.0f} %)"
            for name, row in known.items()
        )
        n = report["errors"]["known"]["all"][BASE]["n_frames"]
        lines.append(f"what must not be forgotten ({n} frames), RMSE against the base: {words}")
    return lines


def forgetting(outcome: Outcome) -> dict[str, Any]:
    """How far the answers for the probe structures moved, reference energies aside."""
    if not outcome.probe_after:
        return {}
    moved = [
        replace(p, energy=p.energy - outcome.shift.of(p.frame.structure.numbers))
        for p in outcome.probe_after
    ]
    errors = errors_of(moved)
    typical = np.concatenate([f.forces.ravel() for f in outcome.probe_before])
    return {
        "probe": {
            "n_frames": errors.n_frames,
            "energy_rmse": errors.energy_rmse,
            "forces_rmse": errors.forces_rmse,
            "typical_forces": 1e3 * float(np.sqrt((typical**2).mean())),
        }
    }


def dipole_r2(predictions: Sequence[FramePrediction]) -> float:
    """Share of the variance of dipole components explained; NaN without labels."""
    label, model = (x.reshape(-1, 3) for x in labelled_values(predictions, "dipole"))
    if len(label) < 2:
        return float("nan")
    spread = ((label - label.mean(0)) ** 2).sum()
    return float(1.0 - ((label - model) ** 2).sum() / spread) if spread > 0.0 else float("nan")


def worst_frames(predictions: Sequence[FramePrediction]) -> list[dict[str, Any]]:
    """Frames with the largest force errors, worst first."""
    rows = []
    for index, p in enumerate(predictions):
        errors = errors_of([p])
        rows.append(
            {
                "frame": index,
                "formula": _formula(p.frame),
                "forces_rmse": errors.forces_rmse,
                "largest_force_error": float(np.abs(p.force_error()).max()),
                "energy_error": p.energy_error(),
            }
        )
    return sorted(rows, key=lambda row: -np.nan_to_num(row["forces_rmse"]))[:_WORST]


def _formula(frame: Frame) -> str:
    z, n = np.unique(frame.structure.numbers, return_counts=True)
    return "".join(f"{chemical_symbols[a]}{b if b > 1 else ''}" for a, b in zip(z, n, strict=True))


def charge_diagnostics(
    before: Sequence[FramePrediction], after: Sequence[FramePrediction]
) -> dict[str, Any]:
    """Mean and spread of charges by element, and how well they sum to the total charge."""
    if after[0].charges is None:
        return {}
    return {"base": charge_summary(before), "finetuned": charge_summary(after)}


def charge_summary(rows: Sequence[FramePrediction]) -> dict[str, Any]:
    """Charges of one model by element, their largest excess and the mean dipole."""
    parts = [(p.charges, p.frame.structure) for p in rows if p.charges is not None]
    z = np.concatenate([structure.numbers for _, structure in parts])
    q = np.concatenate([charges for charges, _ in parts])
    excess = [float(q_.sum()) - structure.total_charge for q_, structure in parts]
    dipoles = [np.linalg.norm(p.dipole) for p in rows if p.dipole is not None]
    return {
        "by_element": {
            chemical_symbols[int(e)]: {
                "mean": float(q[z == e].mean()), "std": float(q[z == e].std())
            }
            for e in np.unique(z)
        },
        "largest_sum_error": float(np.abs(excess).max()),
        "mean_dipole_debye": EA_TO_DEBYE * float(np.mean(dipoles)) if dipoles else None,
    }  # fmt: skip


def peak_memory_mb() -> float:
    """Peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def error_rows(report: dict[str, Any], part: str) -> list[tuple[str, str, Errors]]:
    """(group, model, errors) of one part of the report."""
    rows = report["errors"].get(part, {})
    return [
        (group, name, Errors(**values))
        for group, row in rows.items()
        for name, values in row.items()
    ]
