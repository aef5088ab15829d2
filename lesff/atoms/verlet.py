"""Neighbours along a trajectory: a list that reaches further is kept and cut down at each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from lesff.atoms.neighbors import (
    Neighbors,
    both_ways,
    canonical_order,
    find_pairs,
    nearest_pairs,
)
from lesff.kernels import NearPairs, kernel_status

_WIDER = 1.25
"""Reach of a list from which the closest pairs are chosen, in units of the reach asked for."""


def moved_beyond(
    positions: np.ndarray, cell: np.ndarray, moved: np.ndarray, moved_cell: np.ndarray
) -> tuple[float, float]:
    """How far atoms have moved beyond what they move with the cell, and what the cell shortens.

    A pair of atoms, or of their images, that was ``d`` apart is not closer than ``least * d - 2 *
    furthest`` now.

    Args:
        positions: (n_atoms, 3) in A, before.
        cell: (3, 3) in A, before.
        moved: (n_atoms, 3) in A, now.
        moved_cell: (3, 3) in A, now; the same, or one that is periodic in three directions.

    Returns:
        ``furthest`` in A, and ``least``, 1 for the same cell.
    """
    least, steps = 1.0, moved - positions
    if moved_cell is not cell and not np.array_equal(moved_cell, cell):
        # v -> v F shortens no vector by more than the least singular value of F; all atoms
        # together may go anywhere
        strain = np.linalg.inv(cell) @ moved_cell
        steps = moved - positions @ strain
        steps -= steps.mean(axis=0)
        least = float(np.linalg.svd(strain, compute_uv=False)[-1])
    return float(np.sqrt(np.einsum("ij,ij->i", steps, steps).max())), least


class _KeptList:
    """All pairs within a reach, to be cut down as atoms move.

    Args:
        positions: (n_atoms, 3) in A, of the search.
        cell: (3, 3) in A.
        pbc: (3,) bool.
        reach: In A.

    Attributes:
        neighbors: Both directions of each pair, in the order of receivers, senders and shifts;
            lengths are those of the search.
        reach: In A.
    """

    def __init__(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float
    ) -> None:
        kept = both_ways(*find_pairs(positions, cell, pbc, reach), canonical_order)
        self.neighbors, self.reach = kept, reach
        self._positions, self._cell, self._pbc = positions.copy(), cell.copy(), pbc.copy()
        # the edge with the lower index of the two stands for the pair
        pairs = np.flatnonzero(np.arange(len(kept.reverse_edge)) < kept.reverse_edge)
        box = cell if pbc.any() else np.zeros((3, 3))
        self._now, self._min_period = self._cell, kept.min_period
        self._shifts = kept.cell_shifts[pairs].astype(np.float64)
        self._offsets = np.ascontiguousarray(self._shifts @ box)  # shift vectors of the pairs, A
        self._ends = np.ascontiguousarray(kept.edge_index[:, pairs])
        self._pair_of = np.empty(len(kept.reverse_edge), dtype=np.int64)
        self._pair_of[pairs] = self._pair_of[kept.reverse_edge[pairs]] = np.arange(len(pairs))
        # the same in the compiled library, if there is one
        self._near: NearPairs | None = None
        if kernel_status().instruction_set is not None:
            self._near = NearPairs(
                edge_index=kept.edge_index,
                cell_shifts=kept.cell_shifts,
                reverse_edge=kept.reverse_edge,
                ends=self._ends,
                offsets=self._offsets,
                pair_of=self._pair_of,
            )

    def follow(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> float:
        """Go on with atoms elsewhere, in a cell that may have changed.

        Returns:
            Distance in A within which no pair is lacking now; minus infinity for other boundaries.
        """
        if positions.shape != self._positions.shape or not np.array_equal(pbc, self._pbc):
            return -np.inf
        if not pbc.any():
            furthest, least = moved_beyond(self._positions, self._cell, positions, self._cell)
        elif pbc.all() or np.array_equal(cell, self._cell):
            furthest, least = moved_beyond(self._positions, self._cell, positions, cell)
        else:
            return -np.inf
        if pbc.any() and not np.array_equal(cell, self._now):
            self._now = cell.copy()
            # in place: the compiled library reads them, too
            np.matmul(self._shifts, cell, out=self._offsets)
            own = self._offsets[self._ends[0] == self._ends[1]]
            self._min_period = float(np.linalg.norm(own, axis=1).min(initial=np.inf))
        # two atoms that moved towards each other
        return least * self.reach - 2.0 * furthest

    def squared(self, positions: np.ndarray) -> np.ndarray:
        """Squares of the lengths of all kept pairs now, (n_pairs,) in A^2."""
        # of one edge per pair: its reverse is exactly as long
        sender, receiver = self._ends
        vectors = positions.take(receiver, axis=0) - positions.take(sender, axis=0) + self._offsets
        return np.einsum("ij,ij->i", vectors, vectors)  # i: pair, j: Cartesian

    def within(self, positions: np.ndarray, cutoff: float) -> Neighbors:
        """The kept edges shorter than the cutoff, in their order."""
        kept = self.neighbors
        if self._near is not None:
            near = self._near.within(positions, cutoff)
            return Neighbors(**vars(near), min_period=self._min_period)
        squared = self.squared(positions)
        # keep both edges of every close pair, in the order of the kept list
        is_near = (squared < cutoff**2).take(self._pair_of)
        order = np.flatnonzero(is_near)
        # from old to new places, for the references to reverse edges
        rank = np.cumsum(is_near) - 1
        return Neighbors(
            edge_index=kept.edge_index.take(order, axis=1),
            cell_shifts=kept.cell_shifts.take(order, axis=0),
            reverse_edge=rank.take(kept.reverse_edge.take(order)),
            lengths=np.sqrt(squared).take(self._pair_of.take(order)),
            min_distance=float(np.sqrt(squared.min(initial=np.inf))),
            min_period=self._min_period,
        )


class VerletList:
    """Neighbours along a trajectory: searched anew only when an atom has moved half the skin.

    Atoms move with a cell that changes, and only what they move beyond that counts.

    A list with a larger cutoff is kept and cut down to the pairs that are close now. The edges and
    their order are therefore functions of the positions and of the last search's images, and the
    same positions give the same bits whenever the search was made.

    Args:
        cutoff: In A.
        skin: How much further the kept list reaches, in A; 0 searches every time.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.n_searches = 0
        self._kept: _KeptList | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the kept list: the copy searches anew."""
        return vars(VerletList(self.cutoff, self.skin))

    def find(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Neighbors:
        """All pairs closer than the cutoff; arguments as for :func:`find_neighbors`."""
        kept = self._kept
        if kept is None or not kept.follow(positions, cell, pbc) > self.cutoff:
            kept = self._kept = _KeptList(positions, cell, pbc, self.cutoff + self.skin)
            self.n_searches += 1
        return kept.within(positions, self.cutoff)


class ClosestPairs:
    """What :func:`nearest_pairs` finds, along a trajectory: chosen from a wider list that is kept.

    Attributes:
        n_searches: How often that list was made.
    """

    def __init__(self) -> None:
        self.n_searches = 0
        self._kept: _KeptList | None = None

    def find(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float, count: int
    ) -> tuple[Neighbors, float]:
        """As :func:`nearest_pairs`; which of several equally long pairs are left out may differ."""
        found = self._chosen(positions, cell, pbc, reach, count)
        if found is None:
            self._kept = _KeptList(positions, cell, pbc, _WIDER * reach)
            self.n_searches += 1
            found = self._chosen(positions, cell, pbc, reach, count)
        # of equally long pairs only some would be taken
        return found or nearest_pairs(positions, cell, pbc, reach, count)

    def _chosen(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float, count: int
    ) -> tuple[Neighbors, float] | None:
        """Pairs of the kept list; None if it may lack one, or has equally long ones."""
        kept = self._kept
        if kept is None:
            return None
        complete = kept.follow(positions, cell, pbc)
        cutoff = reach
        if len(kept.neighbors.reverse_edge) > 2 * count and complete > 0.0:
            squared = np.partition(kept.squared(positions), (count - 1, count) if count else 0)
            left_out = float(np.sqrt(squared[count]))
            if left_out <= reach:
                last = float(np.sqrt(squared[count - 1])) if count else 0.0
                reach, cutoff = left_out, 0.5 * (last + left_out)
        if reach > complete:
            return None
        found = kept.within(positions, cutoff)
        is_whole = cutoff == reach or len(found.reverse_edge) == 2 * count
        return (found, reach) if is_whole else None
