"""The report as one HTML page: tables and pictures inside, nothing to fetch."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lesff.reports.tables import error_table, table
from lesff.train.metrics import FramePrediction, labelled_values
from lesff.units import EA_TO_DEBYE

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee6; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f4f6f9; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }
.verdict { background: #eef6ee; border-left: 4px solid #3a8f4d; padding: .5rem 1rem; }
.verdict.bad { background: #fbf1e6; border-color: #c9822b; }
img { max-width: 100%; }
"""


def page_html(
    report: dict[str, Any],
    before: Sequence[FramePrediction],
    after: Sequence[FramePrediction],
    log: Sequence[dict[str, Any]],
) -> str:
    """The page.

    Args:
        report: Content of ``report.json``.
        before: The base model on the validation frames, reference energies refitted.
        after: The result on the same frames.
        log: Lines of the training log.
    """
    kind = "verdict" if report["improved"] else "verdict bad"
    title = f"Finetuning of {report['base']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="{kind}">' + "<br>".join(map(html.escape, report["verdict"])) + "</div>",
        "<h2>Errors before and after</h2>",
        *(
            f"<h3>{part} ({_count(report, part)} frames)</h3>" + error_table(rows)
            for part, rows in report["errors"].items()
        ),
        _dipole_table(report),
        "<h2>Parity, validation frames</h2>",
        image(parity_figure([("base", "#b9803a", before), ("finetuned", "#2a6fb0", after)])),
        "<h2>Learning curve</h2>",
        image(curve_figure(log)) if len(log) > 1 else "<p>One validation only.</p>",
        "<h2>Worst validation frames</h2>",
        table(
            ["frame", "formula", "F RMSE meV/A", "largest F error meV/A", "E error meV/atom"],
            [list(row.values()) for row in report["worst_frames"]],
        ),
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


def image(figure: Any) -> str:
    """The figure inside the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _figure(width: float, height: float) -> Any:
    # start-up: 0.4 s of CPU
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def parity_figure(series: Sequence[tuple[str, str, Sequence[FramePrediction]]]) -> Any:
    """Predictions against labels: energies, forces and, where there are any, dipoles.

    Args:
        series: Name, colour and predictions of each model.
    """
    rows_of_all = [p for _, _, rows in series for p in rows]
    has_dipole = any(p.dipole is not None and p.frame.dipole is not None for p in rows_of_all)
    figure = _figure(9.6 if has_dipole else 6.6, 3.3)
    panels = figure.subplots(1, 3 if has_dipole else 2)
    for name, color, rows in series:
        style: dict[str, Any] = {"s": 4, "alpha": 0.5, "linewidths": 0, "label": name, "c": color}
        size = np.array([len(p.frame.structure) for p in rows])
        label = np.array([p.frame.energy for p in rows]) / size
        panels[0].scatter(label, np.array([p.energy for p in rows]) / size, **style)
        panels[1].scatter(
            np.concatenate([p.frame.forces.ravel() for p in rows]),
            np.concatenate([p.forces.ravel() for p in rows]),
            **style,
        )
        if has_dipole:
            x, y = (EA_TO_DEBYE * values for values in labelled_values(rows, "dipole"))
            panels[2].scatter(x, y, **style)
    titles = ("energy (eV/atom)", "force component (eV/A)", "dipole component (D)")
    for panel, title in zip(panels, titles, strict=False):
        low, high = panel.get_xlim()
        panel.plot([low, high], [low, high], color="#666666", linewidth=0.7)
        panel.set(xlabel=f"label: {title}", ylabel="model")
    panels[0].legend(fontsize=8)
    return figure


def curve_figure(log: Sequence[dict[str, Any]], *, has_score: bool = True) -> Any:
    """Validation errors and, if asked for, the score against steps."""
    figure = _figure(9.6 if has_score else 6.6, 3.0)
    panels = figure.subplots(1, 3 if has_score else 2)
    rows = [row for row in log if "all" in row["validation"]]
    steps = [row["step"] for row in rows]
    for panel, key, title in (
        (panels[0], "forces_rmse", "force RMSE (meV/A)"),
        (panels[1], "energy_rmse", "energy RMSE (meV/atom)"),
    ):
        panel.plot(steps, [row["validation"]["all"][key] for row in rows], marker=".")
        panel.set(xlabel="step", ylabel=f"validation {title}")
    if has_score:
        panels[2].plot(steps, [row.get("score", math.nan) for row in rows], marker=".")
        panels[2].axhline(1.0, color="#b9803a", linewidth=0.8)
        panels[2].set(xlabel="step", ylabel="score (base = 1)")
    return figure
