"""Energies on a grid, computed once an orbit, and finer ones around minimum and saddles."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lesff.errors import DataError
from lesff.workflows.ion_grid import Grid
from lesff.workflows.percolation import percolation

Energy = Callable[[Grid, np.ndarray], np.ndarray]
"""Energies (n,) in eV of flat indices (n,) of a grid; infinite where closed."""
REFINED_UP_TO = 2.0
"""eV above the minimum: saddles that are higher are left on the grid that there is."""
_CEILING = 10.0
"""eV above the minimum: closed points count as this in interpolations."""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Energies on a grid.

    Attributes:
        grid: Points.
        energies: (n_a, n_b, n_c) eV, infinite where closed.
        is_computed: (n_a, n_b, n_c) bool; others are interpolated.
        n_computed: Points that were computed, on all grids so far.
    """

    grid: Grid
    energies: np.ndarray
    is_computed: np.ndarray
    n_computed: int

    @classmethod
    def computed(cls, grid: Grid, energy: Energy) -> Landscape:
        """All of a grid, one point of each orbit computed.

        Raises:
            DataError: if no point is open.
        """
        orbits = grid.orbits()
        points, where = np.unique(orbits, return_inverse=True)
        values = energy(grid, points)
        if not np.isfinite(values).any():
            raise DataError("the grid must have open points; lower `r_min`")
        return cls(
            grid=grid,
            energies=values[where].reshape(grid.shape),
            is_computed=np.ones(grid.shape, bool),
            n_computed=int(np.isfinite(values).sum()),
        )


def refined(
    coarse: Landscape, energy: Energy, *, margin: float = 0.3, neighbours: int = 26
) -> Landscape:
    """The landscape on a grid of half the step, computed where its percolation needs it.

    New points are interpolated and taken to be ``margin`` lower. While the lowest point, a
    bottleneck, or a point of a percolating path that might be above its level is not computed, it
    is, with what lies around it and all their images. Percolation energies at the end are those of
    the whole finer grid if interpolation is nowhere wrong by more than ``margin`` there, in
    dimensions where they are below :data:`REFINED_UP_TO`.

    Args:
        coarse: The landscape so far.
        energy: What computes points.
        margin: eV.
        neighbours: Of each point.
    """
    grid = coarse.grid.finer()
    orbits = grid.orbits()
    lowest = float(coarse.energies.min())
    values = _between(np.minimum(coarse.energies, lowest + _CEILING)).ravel()
    known = np.zeros(grid.shape, bool)
    known[::2, ::2, ::2] = coarse.is_computed
    exact = known.ravel()
    coarse_values = np.full(grid.shape, np.nan)
    coarse_values[::2, ::2, ::2] = coarse.energies
    values[exact] = coarse_values.ravel()[exact]
    count = coarse.n_computed
    while True:
        guess = np.where(exact, values, values - margin).reshape(grid.shape)
        wanted = _wanted(guess, exact, margin, neighbours)
        if not len(wanted):
            break
        points = np.unique(orbits[wanted])
        new = energy(grid, points)
        count += int(np.isfinite(new).sum())
        # to all images: orbits that were computed now
        place = np.searchsorted(points, orbits)
        place[place == len(points)] = 0
        hit = points[place] == orbits
        values[hit] = new[place[hit]]
        exact[hit] = True
    return Landscape(
        grid=grid,
        energies=values.reshape(grid.shape),
        is_computed=exact.reshape(grid.shape),
        n_computed=count,
    )


def _wanted(guess: np.ndarray, exact: np.ndarray, margin: float, neighbours: int) -> np.ndarray:
    """Flat indices of points that have to be computed next."""
    bottom = int(guess.argmin())
    flat = guess.ravel()
    near = _cube(bottom, guess.shape)
    if not exact[near].all():
        return near[~exact[near]]
    wanted: list[np.ndarray] = []
    found = percolation(guess, neighbours=neighbours, up_to=flat[bottom] + REFINED_UP_TO)
    for level, point, network in zip(found.energies, found.points, found.networks, strict=False):
        unsure = network[~exact[network]]
        unsure = unsure[flat[unsure] + 2.0 * margin > level]
        if not exact[point] or len(unsure):
            near = np.concatenate([_cube(int(p), guess.shape) for p in (point, *unsure)])
            wanted.append(near[~exact[near] & (flat[near] <= level + margin)])
    return np.unique(np.concatenate(wanted)) if wanted else np.empty(0, int)


def _cube(point: int, shape: tuple[int, ...]) -> np.ndarray:
    """A point and the 26 around it, flat indices."""
    centre = np.unravel_index(point, shape)
    offsets = np.array(list(itertools.product((-1, 0, 1), repeat=3))).T
    moved = (np.array(centre)[:, None] + offsets) % np.array(shape)[:, None]
    return np.unique(np.ravel_multi_index(tuple(moved), shape))


def _between(values: np.ndarray) -> np.ndarray:
    """Linear interpolation on a periodic grid of half the step."""
    for axis in range(3):
        middle = 0.5 * (values + np.roll(values, -1, axis))
        pair = np.stack([values, middle], axis + 1)
        shape = list(values.shape)
        shape[axis] *= 2
        values = pair.reshape(shape)
    return values
