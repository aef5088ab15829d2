"""The report as one HTML page: tables and pictures inside, nothing to fetch."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lesff.reports.figures import curve_figure, image, parity_figure, worst_figure
from lesff.reports.tables import error_table, number, table
from lesff.train.metrics import FramePrediction

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee6; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f4f6f9; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }
.verdict { background: #eef2f6; border-left: 4px solid #6b7683; padding: .5rem 1rem; }
.verdict.good { background: #eaf5ee; border-color: #2e8b57; }
.verdict.mixed { background: #fdf3e3; border-color: #d08a2e; }
.verdict.bad { background: #fbeceb; border-color: #c0392b; }
td { white-space: nowrap; }
table.verdicts { font-size: 13px; } table.verdicts td, table.verdicts th { padding: .2rem .5rem; }
td.better { background: #dff1e5; color: #1c6b3f; font-weight: 600; }
td.worse { background: #f9dedb; color: #9c2b1f; font-weight: 600; }
td.same { color: #6b7683; }
img { max-width: 100%; }
"""


def page_html(
    report: dict[str, Any],
    models: Mapping[str, Sequence[FramePrediction]],
    log: Sequence[dict[str, Any]],
    start: Mapping[str, float],
) -> str:
    """The page.

    Args:
        report: Content of ``report.json``.
        models: Predictions for the validation frames: untouched base, base with refitted reference
            energies, trained model, in this order.
        log: Lines of the training log.
        start: Validation errors of the base model with refitted reference energies.
    """
    title = f"Finetuning of {report['base']}"
    words = {name: row["verdict"] for name, row in report["verdicts"]["validation"].items()}
    trained = list(models.values())[-1]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="verdict {_mood(report, words)}">'
        + "<br>".join(map(html.escape, _head(report, words))) + "</div>",
        "<h2>Verdicts</h2>",
        verdict_table(report),
        "<p>Ratio of root mean square errors, with its 95 % interval by a paired bootstrap over "
        "frames: better or worse where the interval leaves out 1. What is better must be so "
        "against the untouched base model and against the base model with refitted reference "
        "energies. The mean verdict is that of the validation frames.</p>",
        "<h2>Parity and residuals, validation frames</h2>",
        image(parity_figure(models, words), "parity"),
        "<h2>Learning curve</h2>",
        image(curve_figure(log, start=start, best_step=report["best_step"]), "learning curve"),
        "<h2>Worst validation frames of the trained model</h2>",
        image(worst_figure(trained, report["worst_frames"]), "worst structures"),
        table(
            ["frame", "formula", "F RMSE meV/A", "largest F error meV/A", "E error meV/atom"],
            [list(row.values()) for row in report["worst_frames"]],
        ),
        "<h2>Errors of every model</h2>",
        *(
            f"<h3>{part} ({_count(report, part)} frames)</h3>" + error_table(rows)
            for part, rows in report["errors"].items()
        ),
        _dipole_table(report),
        "<h2>Forgetting</h2>",
        _forgetting(report),
        "<h2>Charges, validation frames</h2>",
        _charges(report["charges"]),
        "<h2>Data</h2>",
        *(f"<pre>{html.escape(name)}: {html.escape(chr(10).join(lines))}</pre>"
          for name, lines in report["labels"].items()),
        "<h2>Run</h2>",
        _run_table(report),
        f"<pre>{html.escape(report['command'])}</pre>",
        "<details><summary>Options</summary>"
        f"<pre>{html.escape(json.dumps(report['options'], indent=1))}</pre></details>",
    ]  # fmt: skip
    return document(title, parts)


def _head(report: dict[str, Any], words: Mapping[str, str]) -> list[str]:
    """What came out, without the numbers that the table below has."""
    lines = report["verdict"]
    end = next(i for i, line in enumerate(lines) if line.startswith("returned:")) + 1
    labels = ", ".join(f"{name.replace('_', ' ')} {word}" for name, word in words.items())
    return [*lines[:end], labels, *lines[end + len(words) :]]


def _mood(report: dict[str, Any], words: Mapping[str, str]) -> str:
    """Colour of the box: green only if something is better and nothing is worse."""
    if not report["improved"]:
        return "bad" if "worse" in words.values() else "plain"
    return "mixed" if "worse" in words.values() else "good"


def verdict_table(report: dict[str, Any]) -> str:
    """Every label of every part beside what was forgotten, coloured by the verdict."""
    head = ["frames", "label", "base", "refitted base", "finetuned", "ratio to base [95 %]",
            "ratio to refitted [95 %]", "verdict"]  # fmt: skip
    names = {"known": "not to be forgotten"}
    rows = []
    for part, found in report["verdicts"].items():
        for label, row in found.items():
            first, second = row["against_base"], row["against_refitted"]
            is_energy = label == "energy" and part != "known"
            cells = [
                f"{names.get(part, part)} ({first['n_frames']})",
                f"{label.replace('_', ' ')}, {row['unit']}", first["before"],
                second["before"] if is_energy else "as base", first["after"],
                _interval(first), _interval(second) if is_energy else "as base",
            ]  # fmt: skip
            rows.append(_row(cells, row["verdict"]))
    probe = report["forgetting"].get("probe")
    if probe:
        for label, key, unit in (
            ("forces", "forces_rmse", "meV/A"), ("energy", "energy_rmse", "meV/atom"),
        ):  # fmt: skip
            cells = [f"probe structures ({probe['n_frames']})", f"{label} moved by, {unit}", 0.0,
                     "as base", probe[key], "", ""]  # fmt: skip
            rows.append(_row(cells, "answers moved"))
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f'<table class="verdicts"><tr>{cells}</tr>{"".join(rows)}</table>'


def _row(cells: Sequence[Any], verdict: str) -> str:
    kind = verdict if verdict in ("better", "worse") else "same"
    body = "".join(f"<td>{number(cell)}</td>" for cell in cells)
    return f'<tr>{body}<td class="{kind}">{html.escape(verdict)}</td></tr>'


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["low"], row["high"]
    if math.isnan(low):
        return f"{row['ratio']:.3g} [one frame]"
    return f"{row['ratio']:.3g} [{low:.3g}, {high:.3g}]"


def document(title: str, parts: Sequence[str]) -> str:
    """A page of its own from HTML pieces."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _count(report: dict[str, Any], part: str) -> int:
    return report["errors"][part]["all"]["finetuned"]["n_frames"]


def _dipole_table(report: dict[str, Any]) -> str:
    rows = [
        [part, values["base"], values["finetuned"]]
        for part, values in report["dipole_r2"].items()
        if not math.isnan(values["base"])
    ]
    return table(["dipole R²", "base", "finetuned"], rows) if rows else ""


def _forgetting(report: dict[str, Any]) -> str:
    probe = report["forgetting"].get("probe")
    if not probe:
        return "<p>No probe structure has elements of this model.</p>"
    text = (
        f"<p>{probe['n_frames']} structures that are not in the data (small molecules, pairs of "
        "them, crystals where the model covers them), with the base model's own answers as "
        "reference; the change of reference energies is taken off.</p>"
    )
    return text + table(
        ["moved by", "RMSE"],
        [
            ["forces, meV/A", probe["forces_rmse"]],
            ["energy, meV/atom", probe["energy_rmse"]],
            ["for comparison: forces themselves, meV/A", probe["typical_forces"]],
        ],
    )


def _charges(charges: dict[str, Any]) -> str:
    if not charges:
        return "<p>The model has no charges.</p>"
    elements = charges["finetuned"]["by_element"]
    rows = [
        [symbol, *(charges[m]["by_element"][symbol][k] for m in ("base", "finetuned")
                   for k in ("mean", "std"))]
        for symbol in elements
    ]  # fmt: skip
    head = ["element", "base mean e", "base spread e", "finetuned mean e", "finetuned spread e"]
    worst = charges["finetuned"]["largest_sum_error"]
    return table(head, rows) + f"<p>Largest error of a sum of charges: {worst:.1e} e.</p>"


def _run_table(report: dict[str, Any]) -> str:
    rows = [
        ["steps (best)", f"{report['steps']} ({report['best_step']})"],
        ["training time, min", report["training_minutes"]],
        ["processes", report["processes"]],
        ["peak memory of the first process, MB", report["peak_memory_mb"]],
        ["trained values", f"{report['trained_values']:,}"],
        ["data SHA-256", report["split"]["data_sha256"]],
    ]
    return table(["", ""], rows)
