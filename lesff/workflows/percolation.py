"""Percolation of an energy landscape on a periodic grid: exact, by union-find with lattice offsets.

Grid points are added in the order of their energies. Each component keeps, for every point, the
lattice vector from the cell of its root to the copy of the point that it is connected to. An edge
inside a component that disagrees with these offsets by a vector D closes a path that ends D cells
away: the component percolates along D. The energy at which a component has d linearly independent
such vectors is the percolation energy in d dimensions; no bisection, no supercell. The edges that
joined components are a minimum spanning forest: its path between two points has the lowest possible
maximum of the energy.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lesff.errors import ConfigError

NEIGHBOURS = {6: 1, 18: 2, 26: 3}
"""Numbers of neighbours of a point, and how many of their indices may differ from its own."""
Vector = tuple[int, int, int]


class Loop(NamedTuple):
    """What ends in another cell: the forest from ``first`` to ``last``, then their edge.

    Attributes:
        vector: Where it ends, in lattice vectors.
        first: Flat index.
        last: Flat index.
        wrap: Cell of the copy of ``last`` that is beside ``first``.
    """

    vector: Vector
    first: int
    last: int
    wrap: Vector


@dataclass(frozen=True, kw_only=True)
class GridPath:
    """A path from a point to its copy in another cell.

    Attributes:
        points: (n,) flat indices, the first and the last the same.
        cells: (n, 3) cell of each point.
        vector: From the first point to the last, in lattice vectors.
    """

    points: np.ndarray
    cells: np.ndarray
    vector: Vector


@dataclass(frozen=True, kw_only=True)
class Percolation:
    """Where a landscape begins to percolate in 1, 2 and 3 dimensions.

    Attributes:
        energies: (3,) lowest level e such that {E <= e} percolates in 1, 2, 3 independent
            directions; infinite where it never does.
        points: (3,) index of the point that opens the way, the bottleneck; -1 where none does.
        paths: One for each dimension that is reached, in independent directions.
        networks: For each, flat indices of what all paths so far need, from one to the other too.
    """

    energies: np.ndarray
    points: np.ndarray
    paths: tuple[GridPath, ...]
    networks: tuple[np.ndarray, ...]


def percolation(
    energies: np.ndarray, *, neighbours: int = 26, up_to: float = np.inf
) -> Percolation:
    """Percolation energies of a landscape, and ways that percolate.

    Args:
        energies: (n_a, n_b, n_c) on a periodic grid without repeated end points; points that are
            not finite are closed.
        neighbours: Of each point: 6, 18 or 26.
        up_to: Energies above are not looked at.

    Raises:
        ConfigError: for another number of neighbours.
    """
    steps = _steps(neighbours)
    shape, strides = np.array(energies.shape), np.array([energies[0].size, energies.shape[2], 1])
    flat = energies.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.isfinite(flat[order]) & (flat[order] <= up_to)]
    forest = _Forest(flat.size)
    seen = np.zeros(flat.size, bool)
    levels, points = np.full(3, np.inf), np.full(3, -1)
    paths: list[GridPath] = []
    networks: list[np.ndarray] = []
    for i in order.tolist():
        seen[i] = True
        # neighbours that are open by now, each with the cell that it lies in
        around = np.array(np.unravel_index(i, energies.shape)) + steps
        wraps = around // shape
        near = (around - wraps * shape) @ strides
        is_open = seen[near]
        for j, wrap in zip(near[is_open].tolist(), wraps[is_open].tolist(), strict=True):
            loops = forest.join(i, j, (wrap[0], wrap[1], wrap[2]))
            while len(paths) < len(loops):
                rank = len(paths)
                levels[rank], points[rank] = flat[i], i
                paths.append(forest.closed(loops[rank]))
                networks.append(forest.network(loops[: rank + 1]))
        if len(paths) == 3:
            break
    return Percolation(energies=levels, points=points, paths=tuple(paths), networks=tuple(networks))


class _Forest:
    """Components of grid points, each with lattice offsets and the loops that leave its cell.

    Args:
        size: Number of points.
    """

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._offset: list[Vector] = [(0, 0, 0)] * size  # from the parent
        self._edges: dict[int, list[tuple[int, Vector]]] = {}
        self._loops: dict[int, list[Loop]] = {}  # by root

    def _root(self, i: int) -> int:
        """Root of a point; afterwards its offset counts from there."""
        path = []
        while self._parent[i] != i:
            path.append(i)
            i = self._parent[i]
        total = (0, 0, 0)
        for k in reversed(path):
            total = _sum(self._offset[k], total)
            self._parent[k], self._offset[k] = i, total
        return i

    def join(self, i: int, j: int, wrap: Vector) -> Sequence[Loop]:
        """Add the edge from a point to the copy of another in cell ``wrap``; the loops there."""
        a, b = self._root(i), self._root(j)
        # the copy of j beside i, seen from the root of i; and as its own component has it
        here, there = _sum(self._offset[i], wrap), self._offset[j]
        difference = _difference(here, there)
        if a != b:
            self._parent[b], self._offset[b] = a, difference
            self._edges.setdefault(i, []).append((j, wrap))
            self._edges.setdefault(j, []).append((i, _difference((0, 0, 0), wrap)))
            found = [*self._loops.pop(a, ()), *self._loops.pop(b, ())]
        elif any(difference):
            found = [*self._loops.get(a, ()), Loop(difference, i, j, wrap)]
        else:
            return self._loops.get(a, ())
        if found:
            self._loops[a] = found = _independent(found)
        return found

    def _between(self, first: int, last: int) -> tuple[list[int], list[Vector]]:
        """The path of the forest: points, and the cell of each if the first is in cell 0."""
        before: dict[int, tuple[int, Vector]] = {first: (first, (0, 0, 0))}
        queue = deque([first])
        while last not in before:
            i = queue.popleft()
            for j, wrap in self._edges.get(i, ()):
                if j not in before:
                    before[j] = (i, wrap)
                    queue.append(j)
        points, wraps = [last], [before[last][1]]
        while points[-1] != first:
            points.append(before[points[-1]][0])
            wraps.append(before[points[-1]][1])
        cells: list[Vector] = [(0, 0, 0)]
        for wrap in reversed(wraps[:-1]):
            cells.append(_sum(cells[-1], wrap))
        return points[::-1], cells

    def closed(self, loop: Loop) -> GridPath:
        """A loop as a path."""
        points, cells = self._between(loop.first, loop.last)
        end = _difference(cells[-1], loop.wrap)
        return GridPath(
            points=np.array([*points, loop.first]), cells=np.array([*cells, end]), vector=end
        )

    def network(self, loops: Sequence[Loop]) -> np.ndarray:
        """Flat indices of loops of one component and of what connects them."""
        found = [self.closed(loop).points for loop in loops]
        found += [np.array(self._between(loops[0].first, loop.first)[0]) for loop in loops[1:]]
        return np.unique(np.concatenate(found))


def _independent(loops: Sequence[Loop]) -> list[Loop]:
    """Loops with linearly independent vectors, as many as there are, the first ones preferred."""
    kept: list[Loop] = []
    for loop in loops:
        v = loop.vector
        if len(kept) == 3:
            break
        if not kept or (len(kept) == 1 and any(_cross(kept[0].vector, v))):
            kept.append(loop)
        elif len(kept) == 2:
            normal = _cross(kept[0].vector, kept[1].vector)
            if normal[0] * v[0] + normal[1] * v[1] + normal[2] * v[2]:
                kept.append(loop)
    return kept


def _difference(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _sum(a: Vector, b: Vector) -> Vector:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _steps(neighbours: int) -> np.ndarray:
    if neighbours not in NEIGHBOURS:
        raise ConfigError(f"`neighbours` must be 6, 18 or 26, got {neighbours!r}")
    every = itertools.product((-1, 0, 1), repeat=3)
    return np.array([s for s in every if 0 < sum(map(abs, s)) <= NEIGHBOURS[neighbours]])
