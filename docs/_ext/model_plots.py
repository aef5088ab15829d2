"""Pictures of the page that compares models: one panel a quantity, one bar a method."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lesff.evaluation.card_pages import HEADLINES, headline

OURS = ("#1f5fbf", "#6fa3e8", "#a8c8f4")
OTHERS = ("#b0762b", "#8a8f98")
REFERENCE = "#c8102e"
INK = "#1c2430"
STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": "#aab2bc",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "lesff",  # the same picture is the same file
}
COLUMNS = 3
WIDTH = 42
"""Characters of a line above a panel."""


class Panel(NamedTuple):
    """One quantity: values by method, and what it should be (None for errors)."""

    label: str
    unit: str
    values: dict[str, float]
    reference: float | None


def panels(suites: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """Headlines of models that are measured alike, and of the methods beside them.

    Args:
        suites: Content of ``NAME.suite.json`` by name of the model.
    """
    found = []
    for row in HEADLINES:
        values: dict[str, float] = {}
        unit, reference = "", None
        for name, suite in suites.items():
            for place, (method, results) in enumerate(suite["results"].items()):
                one = headline(results, row)
                # models of this project stand for themselves, each in its own file
                if one is None or (place and "@" in method):
                    continue
                values.setdefault(method if place else name, one.value)
                unit, reference = one.unit, one.reference
        if any(name in values for name in suites):
            found.append(Panel(row.label, unit, values, reference))
    return found


def draw(rows: Sequence[Panel], models: Sequence[str]) -> Figure:
    """A figure with a panel for each quantity.

    Args:
        rows: The quantities.
        models: Those among the methods that are models of this project, in their order.
    """
    methods = [*models, *sorted({m for row in rows for m in row.values} - set(models))]
    ours = dict(zip(models, OURS, strict=False))
    others = dict(zip(methods[len(models) :], OTHERS, strict=False))
    colours = ours | others
    n_rows = math.ceil(len(rows) / COLUMNS)
    height = 0.95 + 0.27 * len(methods)
    figure = Figure(figsize=(10.5, height * n_rows), layout="constrained", facecolor="white")
    for place, row in enumerate(rows):
        axes = figure.add_subplot(n_rows, COLUMNS, place + 1)
        shown = [method for method in methods if method in row.values]
        bars = axes.barh(
            shown, [row.values[m] for m in shown], color=[colours[m] for m in shown], height=0.65
        )
        axes.bar_label(bars, fmt="%.3g", padding=3)
        if row.reference is not None:
            axes.axvline(row.reference, color=REFERENCE, linestyle="--", linewidth=1.2)
        axes.set_title(textwrap.fill(f"{row.label} ({row.unit})", WIDTH), fontsize=9, loc="left")
        axes.invert_yaxis()
        # room for the numbers at the ends of the bars
        axes.margins(x=0.2 if min(row.values.values()) >= 0.0 else 0.45)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def picture(rows: Sequence[Panel], models: Sequence[str]) -> str:
    """The figure as SVG, on white: pages are light or dark."""
    with mpl.rc_context(STYLE):
        figure = draw(rows, models)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()
