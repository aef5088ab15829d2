"""Tables of numbers for people: HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any


def number(value: Any) -> str:
    """Text of a cell."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return html.escape(str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{number(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def error_table(groups: dict[str, dict[str, dict[str, float]]]) -> str:
    """Errors by group and model."""
    every = [values for models in groups.values() for values in models.values()]
    shown = [(key, title) for key, title in _COLUMNS if any(not math.isnan(v[key]) for v in every)]
    order = sorted(groups, key=lambda name: name != "all")
    rows = [
        [group, name, groups[group][name]["n_frames"], *(groups[group][name][k] for k, _ in shown)]
        for group in order
        for name in groups[group]
    ]
    return table(["group", "model", "frames", *(title for _, title in shown)], rows)


_COLUMNS = (
    ("energy_mae", "E MAE meV/atom"),
    ("energy_rmse", "E RMSE meV/atom"),
    ("forces_mae", "F MAE meV/A"),
    ("forces_rmse", "F RMSE meV/A"),
    ("dipole_mae", "dipole MAE D"),
    ("stress_rmse", "stress RMSE meV/A³"),
    ("charges_rmse", "charges RMSE e"),
)
