"""The chapter of robustness as one HTML page: the table, and pictures of what lies behind it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lesff.evaluation.robustness.chapter import Finding, stored_references
from lesff.evaluation.robustness.size_consistency import ENERGY_LIMIT
from lesff.evaluation.robustness.solvated_ions import WINDOW
from lesff.evaluation.tables import limit_text, significant
from lesff.reports.figures import image, new_figure
from lesff.reports.page import document
from lesff.reports.tables import table

Rows = Sequence[Mapping[str, Any]]
_SHOWN = 12
"""Curves in a picture, the worst first."""
_CURVES = {
    "pairs": ("fall_ev", "distance / covalent radii"),
    "approaches": ("fall_ev", "closest contact / covalent radii"),
    "compression": ("fall_ev", "scale"),
    "ion-contacts": ("concave_ev", "hydrogen bond (A)"),
    "dissociation": ("second_difference_ev", "bond stretched by (A)"),
}
"""Checks with curves: what makes a row bad, and the label of the axis."""
_MODEL, _OTHER, _GRID = "#2e6da4", "#d08a2e", "#9aa4af"


def page_of(model: str, findings: Sequence[Finding]) -> str:
    """The page.

    Args:
        model: Name of the model.
        findings: What the checks found.
    """
    title = f"Robustness of {model}"
    failed = [name for finding in findings for name in finding.failed]
    total = sum(len(f.result.quantities) for f in findings if f.result)
    mood = "bad" if failed else "good"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="verdict {mood}">{len(failed)} of {total} figures are outside their '
        "limits</div>",
        figure_table(findings),
    ]
    for finding in findings:
        parts.append(f"<h2>{html.escape(finding.check)}</h2>")
        parts.append(_picture(model, finding))
        parts.append(_left_out(finding))
    return document(title, parts)


def figure_table(findings: Sequence[Finding]) -> str:
    """All figures, with limits and other methods beside them, as HTML."""
    others = list(dict.fromkeys(name for f in findings for name in f.references))
    rows = []
    for finding in findings:
        for value in finding.result.quantities if finding.result else ():
            beside = [finding.references.get(name, {}).get(value.name) for name in others]
            rows.append(
                [
                    f"{finding.check}: {value.name}", cell(value.value), value.unit,
                    limit_text(value.limits), *map(cell, beside),
                    {None: "", True: "ok", False: "FAIL"}[value.passes],
                ]
            )  # fmt: skip
    return table(["figure", "value", "unit", "limit", *others, "result"], rows)


def cell(value: float | None) -> str:
    """A number of a table: a dash where there is none, with an exponent where it is long."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= 1e6 or 0.0 < abs(value) < 1e-3:
        return f"{value:.2e}"
    return significant(value)


def _picture(model: str, finding: Finding) -> str:
    """The picture of a check; empty where there is nothing to draw."""
    if finding.result is None:
        return f"<p>not covered: {html.escape(finding.reason)}</p>"
    rows = finding.result.rows
    if finding.check in _CURVES:
        figure = _curves(model, finding.check, rows)
    elif finding.check == "ions-in-water":
        figure = _ions(model, rows)
    elif finding.check == "size-consistency":
        figure = _errors(rows)
    else:
        return _row_table(rows)
    return image(figure, finding.check)


def _curves(model: str, check: str, rows: Rows) -> Any:
    """Energies of the worst scans from their first point, beside those of other methods."""
    key, label = _CURVES[check]
    drawn = [row for row in rows if "energy_ev" in row]
    drawn = sorted(drawn, key=lambda row: -_finite(row[key], np.inf))[:_SHOWN]
    n_columns = min(4, max(len(drawn), 1))
    n_rows = -(-max(len(drawn), 1) // n_columns)
    figure = new_figure(2.9 * n_columns, 2.3 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    for panel, row in zip(panels, drawn, strict=False):
        curves = {model: (_MODEL, row)}
        for name, stored in stored_references().items():
            same = [r for r in stored["rows"].get(check, ()) if r["item"] == row["item"]]
            if same and "energy_ev" in same[0]:
                curves[name] = (_OTHER, same[0])
        for name, (color, curve) in curves.items():
            energy = np.array(curve["energy_ev"], dtype=float)
            panel.plot(curve["x"], energy - energy[0], color=color, linewidth=1.2, label=name)
        panel.set_yscale("symlog", linthresh=1.0)
        panel.axhline(0.0, color=_GRID, linewidth=0.7, zorder=0)
        panel.set_title(row["item"], fontsize=8)
        panel.set_xlabel(label, fontsize=7)
        panel.set_ylabel("energy (eV)", fontsize=7)
        panel.tick_params(labelsize=6)
    if drawn:
        panels[0].legend(fontsize=6)
    return figure


def _ions(model: str, rows: Rows) -> Any:
    """Charge of each ion against the number of molecules, and the window it must stay in."""
    figure = new_figure(5.5, 3.2)
    panel = figure.subplots()
    names = dict.fromkeys(row["item"].split()[0] for row in rows)
    panel.axhspan(*WINDOW, color="#eaf5ee", zorder=0)
    stored = {"": rows} | {
        f" ({name})": data["rows"].get("ions-in-water", ())
        for name, data in stored_references().items()
    }
    for suffix, found in stored.items():
        for ion in names:
            part = [row for row in found if row["item"].split()[0] == ion]
            sizes = [abs(_finite(row["charge_e"], np.nan)) for row in part]
            panel.plot(
                [row["n_waters"] for row in part], sizes, marker="o", markersize=3,
                linestyle="--" if suffix else "-", label=f"{ion}{suffix or f' ({model})'}",
            )  # fmt: skip
    panel.set_xscale("log")
    panel.set_xlabel("water molecules", fontsize=8)
    panel.set_ylabel("charge on the ion, size (e)", fontsize=8)
    panel.legend(fontsize=6)
    return figure


def _errors(rows: Rows) -> Any:
    """Errors of the energies of parts far apart, as bars."""
    figure = new_figure(6.5, 0.8 + 0.24 * len(rows))
    panel = figure.subplots()
    values = [_finite(row["error_ev"], np.nan) for row in rows]
    colors = ["#2e8b57" if row["ok"] else "#c0392b" for row in rows]
    panel.barh([row["item"] for row in rows], values, color=colors)
    panel.axvspan(-ENERGY_LIMIT, ENERGY_LIMIT, color="#eaf5ee", zorder=0)
    panel.set_xscale("symlog", linthresh=ENERGY_LIMIT)
    panel.set_xlabel("E(together) - E(parts) - Coulomb (eV)", fontsize=8)
    panel.invert_yaxis()
    panel.tick_params(labelsize=7)
    return figure


def _row_table(rows: Rows) -> str:
    """Rows without curves as a table; atoms are left out."""
    names = [key for key, value in rows[0].items() if not isinstance(value, list)]
    cells = [
        [value if isinstance(value := row.get(key, ""), (str, bool)) else cell(value)
         for key in names]
        for row in rows
    ]  # fmt: skip
    return table(names, cells)


def _left_out(finding: Finding) -> str:
    reasons: dict[str, list[str]] = {}
    for item, why in finding.result.left_out.items() if finding.result else ():
        reasons.setdefault(why, []).append(item)
    lines = [f"{html.escape(why)}: {html.escape(', '.join(i))}" for why, i in reasons.items()]
    return f"<p>Left out: {'; '.join(lines)}.</p>" if lines else ""


def _finite(value: float | None, instead: float) -> float:
    return float(value) if value is not None and np.isfinite(value) else instead
