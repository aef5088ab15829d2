"""Neighbour lists through vesin: any cell, mixed periodicity, sorted by receiver."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

_LOCAL = threading.local()


@dataclass(frozen=True)
class Neighbors:
    """Directed neighbour edges of one structure.

    Attributes:
        edge_index: (2, n_edges) int64; row 0 sender, row 1 receiver; sorted by receiver.
        cell_shifts: (n_edges, 3) int64; ``r[receiver] - r[sender] + shift @ cell`` is the edge.
        reverse_edge: (n_edges,) int64, index of the opposite edge.
    """

    edge_index: np.ndarray
    cell_shifts: np.ndarray
    reverse_edge: np.ndarray


def _half_list(cutoff: float) -> NeighborList:
    """One vesin list per cutoff and thread; it keeps its buffers between calls."""
    lists = _LOCAL.__dict__.setdefault("lists", {})
    if cutoff not in lists:
        lists[cutoff] = NeighborList(cutoff=cutoff, full_list=False)
    return lists[cutoff]


def find_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> Neighbors:
    """All pairs closer than ``cutoff``, both directions, images of the same atom included.

    Args:
        positions: (n_atoms, 3) in A.
        cell: (3, 3) in A, rows are lattice vectors; rows of axes that are not periodic are
            ignored.
        pbc: (3,) bool.
        cutoff: in A.
    """
    box = _complete_cell(cell, pbc) if pbc.any() else np.zeros((3, 3))
    first, second, shifts = _half_list(float(cutoff)).compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=box,
        periodic=pbc,
        quantities="ijS",
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    shifts = shifts.astype(np.int64).reshape(-1, 3)
    # vesin: r_ij = r_second - r_first + shift @ cell, so `first` sends and `second` receives
    n_pairs = len(first)
    sender = np.concatenate([first, second])
    receiver = np.concatenate([second, first])
    all_shifts = np.concatenate([shifts, -shifts])
    order = np.argsort(receiver, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(2 * n_pairs)
    reverse = rank[(order + n_pairs) % max(2 * n_pairs, 1)]
    return Neighbors(
        edge_index=np.stack([sender[order], receiver[order]]),
        cell_shifts=all_shifts[order],
        reverse_edge=reverse,
    )


def _complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace rows of open axes by unit vectors normal to the periodic ones."""
    box = np.array(cell, dtype=np.float64)
    if pbc.all():
        return box
    open_axes = np.flatnonzero(~pbc)
    box[open_axes] = 0.0
    # the null space of the periodic rows completes them to a basis
    _, _, vh = np.linalg.svd(box[pbc])
    for axis, row in zip(open_axes, vh[int(pbc.sum()) :], strict=True):
        box[axis] = row
    return box
