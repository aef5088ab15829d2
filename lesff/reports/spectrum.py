"""Results as CSV and PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Columns with a header line; names carry their unit."""
    table = np.column_stack(list(columns.values()))
    # names with commas are quoted
    header = ",".join(f'"{name}"' if "," in name else name for name in columns)
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.8g")


def draw_curves(
    path: Path,
    x: np.ndarray,
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]],
    *,
    labels: tuple[str, str],
    limits: tuple[float, float] | None = None,
) -> None:
    """Curves with bands of one standard error.

    Args:
        path: PNG to write.
        x: (n,) abscissa.
        curves: Name, (n,) values and (n,) errors of each.
        labels: Of the axes, with units.
        limits: Of the abscissa.
    """
    # here, because it takes a second that other commands need not spend
    # start-up: 0.4 s of CPU
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    inside = np.ones(len(x), dtype=bool)
    if limits is not None:
        inside = (x >= limits[0]) & (x <= limits[1])
        axes.set_xlim(*limits)
    for name, values, errors in curves:
        (line,) = axes.plot(x[inside], values[inside], lw=1.2, label=name or None)
        band = np.nan_to_num(errors[inside])
        axes.fill_between(
            x[inside], values[inside] - band, values[inside] + band, alpha=0.25, lw=0,
            color=line.get_color(),
        )  # fmt: skip
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if any(name for name, _, _ in curves):
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
