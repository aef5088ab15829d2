"""A grid over a crystal that its symmetry maps onto itself, sites of an ion on its points.

Points are ``origin + (i / n_a, j / n_b, k / n_c)`` in lattice vectors. An operation of the crystal,
``x -> R x + w``, maps the grid onto itself if ``R_ij n_i / n_j`` and ``n_i (R o + w - o)_i`` are
whole numbers; those that do are a group, and one point of each of its orbits has to be computed.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import ase
import numpy as np
from ase.geometry import get_distances

from lesff.errors import ConfigError
from lesff.workflows.crystals import SYMMETRY_TOLERANCE
from lesff.workflows.extras import require

_ROUNDING = 0.02
"""Steps of the grid that a point may miss: symmetry of relaxed crystals holds to 1e-3 A."""
_FINER = 1.35
"""How much finer than asked the grid may be where that keeps symmetry or sites."""
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A periodic grid and the operations that map it onto itself.

    Attributes:
        cell: (3, 3) lattice vectors as rows, A.
        shape: Points along each.
        origin: (3,) of the grid, in lattice vectors.
        rotations: (n_operations, 3, 3) whole numbers.
        shifts: (n_operations, 3) in lattice vectors, about ``origin``.
        n_symmetry: Operations of the crystal, those that the grid does not have included.
    """

    cell: np.ndarray
    shape: tuple[int, int, int]
    origin: np.ndarray
    rotations: np.ndarray
    shifts: np.ndarray
    n_symmetry: int

    @property
    def size(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape))

    @property
    def step(self) -> float:
        """Largest distance of neighbours along a lattice vector, A."""
        return float((np.linalg.norm(self.cell, axis=1) / self.shape).max())

    def fractional(self, points: np.ndarray) -> np.ndarray:
        """Of flat indices (n,): (n, 3) in lattice vectors."""
        indices = np.stack(np.unravel_index(points, self.shape), -1)
        return self.origin + indices / np.array(self.shape)

    def positions(self, points: np.ndarray) -> np.ndarray:
        """Of flat indices (n,): (n, 3) in A."""
        return self.fractional(points) @ self.cell

    def finer(self) -> Grid:
        """The grid of half the step; its even points are those of this one."""
        a, b, c = self.shape
        return replace(self, shape=(2 * a, 2 * b, 2 * c))

    def orbits(self) -> np.ndarray:
        """(size,) lowest flat index among the images of each point."""
        n = np.array(self.shape)
        index = np.indices(self.shape).reshape(3, -1)  # [xyz, point]
        lowest = np.arange(self.size)
        for rotation, shift in zip(self.rotations, self.shifts, strict=True):
            whole = np.rint(rotation * n[:, None] / n[None, :]).astype(int)
            image = (whole @ index + np.rint(n * shift).astype(int)[:, None]) % n[:, None]
            lowest = np.minimum(lowest, np.ravel_multi_index(tuple(image), self.shape))
        return lowest


def make_grid(framework: ase.Atoms, sites: np.ndarray, step: float) -> Grid:
    """The grid that costs least: few points, much symmetry, sites on points.

    Args:
        framework: What the ion moves in.
        sites: (n_sites, 3) of the ion, in lattice vectors.
        step: Largest distance of neighbouring points, A.
    """
    rotations, translations = _symmetry(framework)
    cell = np.array(framework.cell)
    at_least = np.maximum(2, np.ceil(cell_lengths(cell) / step - 1e-9)).astype(int)
    groups = _mixed(rotations)
    ranges = []
    for group in groups:
        low = max(at_least[list(group)])
        ranges.append(range(low, int(np.ceil(_FINER * low)) + 1))
    origins = [np.zeros(3)] + ([sites[0] % 1.0] if len(sites) else [])
    best: tuple[float, Grid] | None = None
    for origin in origins:
        shifts = np.einsum("oij,j->oi", rotations, origin) + translations - origin
        for chosen in itertools.product(*ranges):
            n = np.empty(3, int)
            for group, count in zip(groups, chosen, strict=True):
                n[list(group)] = count
            fits = np.array([_is_whole(n * shift) for shift in shifts])
            on_grid = [_is_whole(n * (site - origin)) for site in sites]
            off = 1.0 - float(np.mean(on_grid)) if on_grid else 0.0
            cost = float(np.prod(n)) / max(int(fits.sum()), 1) * (1.0 + off)
            if best is None or cost < best[0] - 1e-9:
                shape = (int(n[0]), int(n[1]), int(n[2]))
                grid = Grid(
                    cell=cell, shape=shape, origin=origin, rotations=rotations[fits],
                    shifts=shifts[fits], n_symmetry=len(rotations),
                )  # fmt: skip
                best = (cost, grid)
    assert best is not None  # noqa: S101 - every range has a number
    return best[1]


def _is_whole(values: np.ndarray) -> bool:
    return bool(np.abs(values - np.rint(values)).max() < _ROUNDING)


def cell_lengths(cell: np.ndarray) -> np.ndarray:
    """Lengths of lattice vectors, (3,) in A."""
    return np.linalg.norm(cell, axis=1)


def _symmetry(framework: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) and translations (n, 3) of the space group in lattice vectors."""
    spglib: Any = require("spglib", "spglib")
    crystal = (np.array(framework.cell), framework.get_scaled_positions(), framework.numbers)
    with warnings.catch_warnings():
        # about errors that will be raised one day
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry(crystal, symprec=SYMMETRY_TOLERANCE)
    if found is None:
        return np.eye(3, dtype=int)[None], np.zeros((1, 3))
    return found["rotations"].astype(int), found["translations"]


def _mixed(rotations: np.ndarray) -> list[tuple[int, ...]]:
    """Axes that rotations mix: they need equal numbers of points."""
    touch = (rotations != 0).any(0) | np.eye(3, dtype=bool)
    touch |= touch.T
    for _ in range(2):
        touch = (touch.astype(int) @ touch.astype(int)) > 0
    return sorted({tuple(np.flatnonzero(row).tolist()) for row in touch})


def distances_to(framework: ase.Atoms, positions: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest atom, (n,) in A.

    Args:
        framework: A periodic structure.
        positions: (n, 3) in A.
    """
    if not len(framework):
        raise ConfigError("the framework must have atoms, got none but the mobile ones")
    parts = []
    for start in range(0, len(positions), _CHUNK):
        part = positions[start : start + _CHUNK]
        _, lengths = get_distances(
            part, framework.positions, cell=np.array(framework.cell), pbc=True
        )
        parts.append(lengths.min(1))
    return np.concatenate(parts)
