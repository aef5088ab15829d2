"""Ranking, pictures and page of a screening for ionic conductors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from lesff.reports.figures import new_figure
from lesff.workflows.conductors import Conductor, Screening
from lesff.workflows.folder import WorkFolder
from lesff.workflows.percolation import GridPath

_DRAWN = 12
"""Structures with a picture."""
_FAR = 0.1
"""Relative change of the volume that is remarked on."""
_COLORS = ("#1f6fb2", "#2e8b57", "#d08a2e")
"""Of ways in 1, 2 and 3 dimensions."""


def report_screening(
    folder: WorkFolder, result: Screening, *, command_line: str | None = None
) -> dict[str, Any]:
    """Write ``conductors.json``, ``.html``, ``levels.csv`` and pictures of the best structures.

    Args:
        folder: Where.
        result: The screening.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    settings = folder.settings
    rows = [_row(rank + 1, found) for rank, found in enumerate(result.ranking)]
    figures: dict[str, Any] = {}
    if result.ranking:
        top = _levels_top(result.ranking)
        levels = np.linspace(0.0, top, 200)
        columns = {"energy above the minimum (eV)": levels}
        for rank, found in enumerate(result.ranking):
            columns[f"{rank + 1} {found.name}: fraction"] = found.volume_below(levels)
        folder.write_csv("levels", columns)
        figures["levels"] = _level_figure(result.ranking, levels, settings["level"])
    for rank, found in enumerate(result.ranking[:_DRAWN]):
        figures[f"{rank + 1:02d}-landscape"] = _landscape_figure(found)
    dimension = settings["dimension"]
    best = [f"{rank + 1}. {c.name}: {_text(float(c.barriers[dimension - 1]))} eV"
            for rank, c in enumerate(result.ranking[:5])]  # fmt: skip
    report = {"structures": rows, "errors": result.errors}
    tables = {
        "Ranking": (
            ["structure", "rank", "1D eV", "2D eV", "3D eV", f"free A^3 per {settings['mobile']}",
             "free fraction", "lowest point to framework A", "volume relaxed/given", "grid",
             "computed", "remark"],
            [[r["name"], r["rank"], *map(_text, r["barriers_ev"]), r["free_volume_a3_per_ion"],
              r["free_fraction"], r["closest_a"], r["relative_volume"],
              "x".join(map(str, r["grid"])), r["n_computed"], r["remark"]] for r in rows],
        ),
        "Percolation energies on each grid, eV": (
            ["structure", "step A", "1D", "2D", "3D"],
            [[r["name"], step, *map(_text, values)]
             for r in rows for step, values in zip(r["steps_a"], r["by_step_ev"], strict=True)],
        ),
    }  # fmt: skip
    if result.errors:
        tables["Not computed"] = (["structure", "why"], [[k, v] for k, v in result.errors.items()])
    folder.finish(
        report,
        title=f"Conductors of {settings['mobile']}",
        summary=[
            f"model {settings['model']}, framework {settings['framework']}, percolation in "
            f"{dimension}D ranks",
            *best,
        ],
        tables=tables,
        figures=figures,
        command_line=command_line,
    )
    return report


def _row(rank: int, found: Conductor) -> dict[str, Any]:
    n_levels = len(found.coarse)
    steps = [found.grid.step * 2 ** (n_levels - 1 - k) for k in range(n_levels)]
    remarks = ["lowest point beside closed ones"] if found.next_to_closed else []
    if abs(found.relative_volume - 1.0) > _FAR:
        remarks.append("volume changed much")
    remark = ", ".join(remarks)
    return {
        "rank": rank, "name": found.name, "formula": found.atoms.get_chemical_formula(),
        "barriers_ev": [float(x) for x in found.barriers],
        "free_volume_a3_per_ion": found.free_volume, "free_fraction": found.free_fraction,
        "closest_a": found.closest, "grid": list(found.grid.shape), "steps_a": steps,
        "by_step_ev": [[float(x) for x in level] for level in found.coarse],
        "symmetry_operations": [len(found.grid.rotations), found.grid.n_symmetry],
        "n_computed": found.n_computed, "relative_volume": found.relative_volume, "remark": remark,
        "cell_a_deg": found.atoms.cell.cellpar().tolist(),
        "paths": [
            {"vector": list(path.vector), "length_a": length.tolist(), "energy_ev": energy.tolist()}
            for path, (length, energy) in ((p, path_profile(found, p)) for p in found.paths)
        ],
    }  # fmt: skip


def path_profile(found: Conductor, path: GridPath) -> tuple[np.ndarray, np.ndarray]:
    """Way in A and energy in eV along a path that begins at its lowest point, (n,) each."""
    points, cells = _from_lowest(found, path)
    positions = (found.grid.fractional(points) + cells) @ found.grid.cell
    ways = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(ways)]), found.energies.ravel()[points]


def _from_lowest(found: Conductor, path: GridPath) -> tuple[np.ndarray, np.ndarray]:
    """The closed path, turned so that its lowest point is its beginning and end."""
    start = int(found.energies.ravel()[path.points].argmin())
    points = np.concatenate([path.points[start:], path.points[1 : start + 1]])
    cells = np.concatenate([path.cells[start:], path.cells[1 : start + 1] + path.vector])
    return points, cells


def _text(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "none"


def _levels_top(ranking: tuple[Conductor, ...]) -> float:
    known = np.array([c.barriers for c in ranking])
    known = known[np.isfinite(known)]
    return float(np.clip(1.3 * known.max(initial=0.0), 1.0, 3.0))


def _level_figure(ranking: tuple[Conductor, ...], levels: np.ndarray, at: float) -> Any:
    """Level map: how much of the cell lies below an energy, the percolation energies on it."""
    figure = new_figure(6.5, 4.0)
    panel = figure.subplots()
    for found in ranking[:_DRAWN]:
        (line,) = panel.plot(levels, 100.0 * found.volume_below(levels), lw=1.2, label=found.name)
        shown = found.barriers[found.barriers <= levels[-1]]
        heights = 100.0 * found.volume_below(shown + 1e-9)
        for value, height, marker in zip(shown, heights, "o^s", strict=False):
            panel.plot(value, height, marker, color=line.get_color(), ms=5)
    panel.axvline(at, color="#9aa4af", lw=0.7, ls="--")
    panel.set(xlabel="energy above the minimum (eV)", ylabel="volume below (%)")
    panel.set_title("circle, triangle, square: percolation in 1, 2, 3 dimensions", fontsize=8)
    panel.legend(frameon=False, fontsize=7)
    return figure


def _landscape_figure(found: Conductor) -> Any:
    """The lowest energy along each lattice vector, with ways; their profiles."""
    figure = new_figure(11.0, 3.2)
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.2])
    top = found.barriers[np.isfinite(found.barriers)]
    ceiling = float(np.clip(1.5 * top.max(initial=0.0), 0.5, 2.0))
    image = None
    for axis, panel in enumerate(panels[:3]):
        image = _projection(panel, found, axis, ceiling)
    if image is not None:
        figure.colorbar(image, ax=list(panels[:3]), label="energy (eV)", shrink=0.8)
    for path, color, name in zip(found.paths, _COLORS, ("1D", "2D", "3D"), strict=False):
        way, energy = path_profile(found, path)
        panels[3].plot(way, energy, color=color, lw=1.1, label=f"{name}: {energy.max():.3f} eV")
    panels[3].set(xlabel="way (A)", ylabel="energy (eV)")
    panels[3].set_ylim(bottom=0.0)
    if found.paths:
        panels[3].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{found.name}, {found.atoms.get_chemical_formula()}", fontsize=9)
    return figure


def _projection(panel: Any, found: Conductor, axis: int, ceiling: float) -> Any:
    """Lowest energy along one lattice vector, on the plane of the other two."""
    first, second = (k for k in range(3) if k != axis)
    plane = _plane(found.grid.cell, first, second)
    low = np.minimum(found.energies.min(axis=axis), ceiling)
    n, m = low.shape
    # corners of the pixels, whose centres are the grid points
    u = found.grid.origin[first] + (np.arange(n + 1) - 0.5) / n
    v = found.grid.origin[second] + (np.arange(m + 1) - 0.5) / m
    corners = u[:, None, None] * plane[0] + v[None, :, None] * plane[1]
    image = panel.pcolormesh(
        corners[..., 0], corners[..., 1], low, cmap="viridis_r", vmin=0.0, vmax=ceiling,
        shading="flat", rasterized=True,
    )  # fmt: skip
    scaled = found.framework.get_scaled_positions()
    flat = scaled[:, [first, second]] @ plane
    numbers = found.framework.numbers
    panel.scatter(
        flat[:, 0], flat[:, 1], s=40.0 * covalent_radii[numbers] ** 2, c=jmol_colors[numbers],
        edgecolors="black", linewidths=0.4, alpha=0.8,
    )  # fmt: skip
    for path, color in reversed(list(zip(found.paths, _COLORS, strict=False))):
        points, cells = _from_lowest(found, path)
        way = (found.grid.fractional(points) + cells)[:, [first, second]]
        # its images that cross the cell
        for image_of in itertools.product(range(-1, 2), repeat=2):
            moved = (way - np.floor(way[0]) + image_of) @ plane
            panel.plot(moved[:, 0], moved[:, 1], color=color, lw=1.6)
    edges = corners.reshape(-1, 2)
    panel.set(xlim=(edges[:, 0].min(), edges[:, 0].max()),
              ylim=(edges[:, 1].min(), edges[:, 1].max()))  # fmt: skip
    panel.set_aspect("equal")
    panel.set_title(f"along {'abc'[axis]}", fontsize=8)
    panel.tick_params(labelsize=6)
    return image


def _plane(cell: np.ndarray, first: int, second: int) -> np.ndarray:
    """Two lattice vectors in coordinates of their plane, (2, 2) in A."""
    a, b = cell[first], cell[second]
    length = float(np.linalg.norm(a))
    along = float(a @ b) / length
    return np.array([[length, 0.0], [along, np.sqrt(max(float(b @ b) - along**2, 0.0))]])
