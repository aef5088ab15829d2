"""Pictures of labelled frames: parity with density, residuals, learning curves, structures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols

from lesff.atoms.elements import elements_of
from lesff.train.metrics import FramePrediction, labelled_values
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.units import EA_TO_DEBYE

COLORS = {
    "base": "#c07a2c",
    "base, energies refitted": "#8b5fa8",
    "finetuned": "#1f6fb2",
    "student": "#1f6fb2",
}
"""Colour of a model in every picture."""
VERDICT_COLORS = {"better": "#2e8b57", "worse": "#c0392b", "no difference": "#6b7683"}
_OTHER = "#444444"
_DENSE = 400
"""From this number of points on, their density is drawn."""
_SHOWN = 4.0
"""Residuals are shown up to this multiple of the RMSE."""
_DRAWN = 4
"""Structures drawn."""

_TITLES = {
    "energy": ("energy", "meV/atom", "energy_rmse"),
    "forces": ("force components", "meV/A", "forces_rmse"),
    "dipole": ("dipole components", "D", "dipole_rmse"),
    "stress": ("stress components", "meV/A³", "stress_rmse"),
    "charges": ("charges", "e", "charges_rmse"),
    "born_effective_charges": ("Born charges", "e", "born_effective_charges_rmse"),
}
_FACTORS = {"dipole": EA_TO_DEBYE, "stress": 1e3}
_UNITS = {"energy": "eV/atom", "forces": "eV/A"}


def image(figure: Any, text: str = "") -> str:
    """The figure inside a page.

    Args:
        figure: A matplotlib figure.
        text: What it shows, for those who do not see it.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches, drawn without a window."""
    # start-up: 0.4 s of CPU
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def parity_figure(
    models: Mapping[str, Sequence[FramePrediction]], verdicts: Mapping[str, str] | None = None
) -> Any:
    """Predictions against labels and residuals, a row for each label, a column for each model.

    Args:
        models: Predictions for the same frames by name of the model; the last is what is judged.
        verdicts: ``"better"``, ``"worse"`` or ``"no difference"`` by label, for the last model.
    """
    names = [n for n in _TITLES if all(len(_pairs(rows, n)[0]) for rows in models.values())]
    figure = new_figure(2.75 * (len(models) + 1), 2.75 * max(len(names), 1))
    grid = figure.subplots(max(len(names), 1), len(models) + 1, squeeze=False)
    for row, name in zip(grid, names, strict=False):
        pairs = {model: _pairs(rows, name) for model, rows in models.items()}
        verdict = (verdicts or {}).get(name)
        different: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for panel, (model, (label, value)) in zip(row, pairs.items(), strict=False):
            is_last = model == list(models)[-1]
            twin = [m for m, (_, v) in different.items() if np.array_equal(v, value)]
            if twin and not is_last:
                _same_panel(panel, model, twin[0])
                continue
            different[model] = (label, value)
            _parity_panel(panel, name, model, label, value, verdict if is_last else None)
        _residual_panel(row[-1], name, different)
    return figure


def _same_panel(panel: Any, model: str, twin: str) -> None:
    """A note in place of a second picture of the same points."""
    panel.set_axis_off()
    panel.text(
        0.5, 0.5, f"{model}:\nthe same as {twin}", ha="center", va="center", fontsize=8,
        color=COLORS.get(model, _OTHER), transform=panel.transAxes,
    )  # fmt: skip


def _pairs(rows: Sequence[FramePrediction], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions as they are drawn, flattened over frames with both."""
    if name == "energy":
        return _energies(rows)
    if name == "forces":
        label = np.concatenate([p.frame.forces.ravel() for p in rows])
        value = np.concatenate([p.forces.ravel() for p in rows])
        known = ~np.isnan(label)
        return label[known], value[known]
    label, value = labelled_values(rows, name)
    factor = _FACTORS.get(name, 1.0)
    return factor * label, factor * value


def _energies(rows: Sequence[FramePrediction]) -> tuple[np.ndarray, np.ndarray]:
    """Energies per atom less what composition explains of the labels, eV.

    Total energies of different compositions lie so far apart that any model looks perfect.
    """
    known = [p for p in rows if np.isfinite(p.frame.energy) and np.isfinite(p.energy)]
    if not known:
        return np.empty(0), np.empty(0)
    label = np.array([p.frame.energy for p in known])
    value = np.array([p.energy for p in known])
    elements = sorted(elements_of(*(p.frame.structure for p in known)))
    counts = composition([p.frame for p in known], elements)
    size = counts.sum(1)
    if len(known) > len(elements) + 3:
        shift, _ = explain_by_elements(counts, label)
        zero = counts @ shift
    else:
        zero = size * (label / size).mean()
    return (label - zero) / size, (value - zero) / size


def _parity_panel(
    panel: Any, name: str, model: str, label: np.ndarray, value: np.ndarray, verdict: str | None
) -> None:
    """Points, or their density where they are many, on the diagonal of a square."""
    low, high = min(label.min(), value.min()), max(label.max(), value.max())
    room = 0.05 * (high - low) or 1e-3
    limits = (low - room, high + room)
    color = COLORS.get(model, _OTHER)
    panel.plot(limits, limits, color="#9aa4af", linewidth=0.8, zorder=0)
    if len(label) >= _DENSE:
        panel.hexbin(
            label, value, gridsize=45, extent=(*limits, *limits), mincnt=1, bins="log",
            cmap=_shades(color), linewidths=0.1,
        )  # fmt: skip
    else:
        alpha = 0.75 if len(label) < 100 else 0.4
        panel.scatter(label, value, s=13, alpha=alpha, linewidths=0, c=color)
    title, unit, _ = _TITLES[name]
    drawn = _UNITS.get(name, unit)
    text = f"{model}\nRMSE {_rmse_text(name, label, value)} {unit}"
    weight = "normal"
    if verdict is not None:
        text, color, weight = f"{text}: {verdict}", VERDICT_COLORS[verdict], "bold"
    panel.set_title(text, fontsize=8, color=color, fontweight=weight)
    panel.set_xlabel(f"label: {title} ({drawn})", fontsize=8)
    panel.set_ylabel(f"model ({drawn})", fontsize=8)
    panel.set(xlim=limits, ylim=limits, aspect="equal")
    panel.tick_params(labelsize=7)
    panel.locator_params(nbins=5)


def _rmse_text(name: str, label: np.ndarray, value: np.ndarray) -> str:
    factor = 1e3 if name in _UNITS else 1.0
    return f"{factor * float(np.sqrt(((value - label) ** 2).mean())):.3g}"


def _shades(color: str) -> Any:
    """From a light to the full and then a dark shade of a colour."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    full = np.array(to_rgb(color))
    return LinearSegmentedColormap.from_list(color, [0.75 + 0.25 * full, full, 0.45 * full])


def _residual_panel(
    panel: Any, name: str, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Distribution of the errors of every model; far ones are counted at the edges."""
    title, unit, _ = _TITLES[name]
    factor = 1e3 if name in _UNITS else 1.0
    errors = {model: factor * (value - label) for model, (label, value) in pairs.items()}
    # the untouched base may lie far off with its energy zero: the last two models set the scale
    scale = max(float(np.sqrt((e**2).mean())) for e in list(errors.values())[-2:])
    edge = _SHOWN * scale or 1.0
    bins = np.linspace(-edge, edge, 12 if min(map(len, errors.values())) < 60 else 41)
    outside = []
    for model, found in errors.items():
        color = COLORS.get(model, _OTHER)
        inside = np.abs(found) <= edge
        panel.hist(found[inside], bins=bins, histtype="stepfilled", alpha=0.25, color=color)
        panel.hist(found[inside], bins=bins, histtype="step", color=color, label=model)
        if not inside.all():
            share = 100.0 * float(1.0 - inside.mean())
            outside.append(f"{model} {share:.0f} %" if share >= 1.0 else f"{model} {share:.1f} %")
    panel.axvline(0.0, color="#9aa4af", linewidth=0.8)
    panel.set_title("residuals", fontsize=8)
    if outside:
        text = "not shown:\n" + "\n".join(outside)
        panel.text(0.98, 0.97, text, ha="right", va="top", fontsize=6, transform=panel.transAxes)
    panel.set_xlabel(f"model - label: {title} ({unit})", fontsize=8)
    panel.set_ylabel("values", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.locator_params(nbins=5)
    if len(errors) > 1:
        top = panel.get_ylim()[1]
        panel.set_ylim(0.0, 1.45 * top)
        panel.legend(fontsize=6, loc="upper left", frameon=False)


def curve_figure(
    log: Sequence[Mapping[str, Any]],
    *,
    start: Mapping[str, float] | None = None,
    best_step: int | None = None,
    has_score: bool = True,
) -> Any:
    """Validation errors against steps, one point for each validation.

    Args:
        log: Lines of the training log.
        start: Errors at step 0, those of the base model with refitted reference energies.
        best_step: Step of the weights that are judged.
        has_score: Whether the score is drawn.
    """
    rows = [row for row in log if "all" in row["validation"]]
    points = [(row["step"], row["validation"]["all"]) for row in rows]
    if start is not None:
        points = [(0, start), *points]
    shown = [
        (name, key) for name, (_, _, key) in _TITLES.items()
        if any(_is_number(errors.get(key)) for _, errors in points)
    ]  # fmt: skip
    count = len(shown) + int(has_score)
    width = min(count, 4)
    figure = new_figure(2.75 * max(width, 2), 2.5 * -(-count // width))
    panels = list(figure.subplots(-(-count // width), width, squeeze=False).ravel())
    for panel, (name, key) in zip(panels, shown, strict=False):
        title, unit, _ = _TITLES[name]
        values = [errors.get(key, math.nan) for _, errors in points]
        _curve(panel, [step for step, _ in points], values, f"{title}, RMSE ({unit})")
        if start is not None and _is_number(start.get(key)):
            panel.axhline(start[key], color=COLORS["base, energies refitted"], linewidth=0.9,
                          linestyle="--", label="base, energies refitted")  # fmt: skip
    if has_score:
        first = [(0, 1.0)] if start is not None else []
        scored = first + [(row["step"], row.get("score", math.nan)) for row in rows]
        steps, scores = [step for step, _ in scored], [score for _, score in scored]
        _curve(panels[len(shown)], steps, scores, "score (start = 1)")
        panels[len(shown)].axhline(1.0, color=COLORS["base, energies refitted"], linewidth=0.9,
                                   linestyle="--", label="base, energies refitted")  # fmt: skip
    for panel in panels[:count]:
        if best_step:
            panel.axvline(best_step, color="#9aa4af", linewidth=0.9, label="judged")
    for panel in panels[count:]:
        panel.set_axis_off()
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=6)
    return figure


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _curve(panel: Any, steps: list[int], values: list[float], title: str) -> None:
    panel.plot(steps, values, marker="o", markersize=3, linewidth=1.1, color=COLORS["finetuned"])
    known = [value for value in values if _is_number(value) and value > 0.0]
    if known and max(known) > 5.0 * min(known):
        panel.set_yscale("log")
    panel.set_title(title, fontsize=8)
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=7, which="both")


def worst_figure(predictions: Sequence[FramePrediction], worst: Sequence[Mapping[str, Any]]) -> Any:
    """The structures with the largest force errors.

    Args:
        predictions: Of the model that is judged.
        worst: Rows of the table of worst frames.
    """
    from ase.visualize.plot import plot_atoms  # start-up: imports matplotlib

    rows = list(worst)[:_DRAWN]
    faces = [_facing(predictions[row["frame"]]) for row in rows]
    height = max((_height(atoms) for atoms in faces), default=1.0)
    figure = new_figure(2.75 * max(len(rows), 2), 0.9 + 2.5 * min(height, 1.3))
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)
    panels = figure.subplots(1, max(len(rows), 2))
    for panel in panels:
        panel.set_axis_off()
    for panel, row, atoms in zip(panels, rows, faces, strict=False):
        p = predictions[row["frame"]]
        plot_atoms(atoms, panel, radii=0.85, show_unit_cell=2 if atoms.pbc.any() else 0)
        panel.set_axis_off()
        panel.margins(0.12)
        panel.set_anchor("N")
        panel.autoscale()
        errors = np.linalg.norm(p.force_error(), axis=1)
        text = f"frame {row['frame']}: {row['formula']}"
        if not np.isnan(errors).all():
            atom = int(np.nanargmax(errors))
            symbol = chemical_symbols[int(p.frame.structure.numbers[atom])]
            text += (
                f"\nforce RMSE {row['forces_rmse']:.0f} meV/A"
                f"\nlargest on atom {atom} ({symbol}): |dF| {errors[atom]:.0f} meV/A"
            )
        panel.set_title(text, fontsize=8)
    return figure


def _facing(prediction: FramePrediction) -> ase.Atoms:
    """The structure with its two longest extents in the plane of the picture."""
    s = prediction.frame.structure
    atoms = ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
    if atoms.pbc.any():
        atoms.rotate(-75, "x", rotate_cell=True)
        atoms.rotate(15, "y", rotate_cell=True)
    else:
        atoms.positions = _turned(atoms.positions)
    return atoms


def _height(atoms: ase.Atoms) -> float:
    """Height of the picture of a structure, relative to its width."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, 8).T @ np.array(atoms.cell)
    points = np.concatenate([atoms.positions, corners]) if atoms.pbc.any() else atoms.positions
    width, height = np.ptp(points[:, :2], axis=0) + 2.0
    return float(height / width)


def _turned(positions: np.ndarray) -> np.ndarray:
    """Positions about their centre along their principal axes, the longest first."""
    centred = positions - positions.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=True)[2].T
