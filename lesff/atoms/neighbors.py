"""Neighbour lists through vesin: any cell, mixed periodicity, sorted by receiver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

from lesff.atoms.scattered import check_density, check_geometry, scattered_pairs
from lesff.errors import StructureError

_LOCAL = threading.local()
_MAX_BINS = 50_000
"""Bins that vesin may make; it divides by zero for some 100,000 along one axis."""
_MAX_IMAGES = 100_000
"""Images of atoms that vesin may search, or 27 for each atom if that is more."""
_MAX_CELLS_AWAY = 100.0
"""How many cells away from the cell an atom may be for vesin."""
_MAX_OPEN_EXTENT = 300.0
"""A: the same along an open axis of a slab or wire, which vesin takes for cells of 1 A."""
_FAR = 1e4
"""A: the same for molecules."""


@dataclass(frozen=True)
class Neighbors:
    """Directed neighbour edges of one structure.

    Attributes:
        edge_index: (2, n_edges) int64; row 0 sender, row 1 receiver; sorted by receiver.
        cell_shifts: (n_edges, 3) int64; ``r[receiver] - r[sender] + shift @ cell`` is the edge.
        reverse_edge: (n_edges,) int64, index of the opposite edge.
        lengths: (n_edges,) in A.
        min_distance: Length of the shortest edge in A; infinite without edges.
        min_period: That of the shortest edge from an atom to an image of itself.
    """

    edge_index: np.ndarray
    cell_shifts: np.ndarray
    reverse_edge: np.ndarray
    lengths: np.ndarray
    min_distance: float
    min_period: float


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

    Memory grows with atoms and edges, not with the volume they span.

    Args:
        positions: (n_atoms, 3) in A.
        cell: (3, 3) in A, rows are lattice vectors; rows of axes that are not periodic are
            ignored.
        pbc: (3,) bool.
        cutoff: in A.

    Raises:
        StructureError: for positions or cells that are not finite or too large for float64 to hold
            distances, a cell without volume, images of an atom that overlap, and more neighbours
            than a structure of atoms can have.
    """
    first, second, shifts, distances = find_pairs(positions, cell, pbc, cutoff)
    return both_ways(
        first,
        second,
        shifts,
        distances,
        lambda receiver, _, __: np.argsort(receiver, kind="stable"),
    )


def nearest_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float, count: int
) -> tuple[Neighbors, float]:
    """The ``count`` closest pairs, or all within ``reach`` if they are fewer.

    Edges are in the order of receivers, senders and shifts, whatever the reach.

    Args:
        positions: (n_atoms, 3) in A.
        cell: (3, 3) in A.
        pbc: (3,) bool.
        reach: in A.
        count: Number of undirected pairs.

    Returns:
        Both directions of each pair, and the distance in A within which none is left out.

    Raises:
        StructureError: as :func:`find_neighbors`.
    """
    *pairs, distances = find_pairs(positions, cell, pbc, reach)
    if len(distances) > count:
        order = np.argpartition(distances, count)
        # the first pair that is left out
        reach = float(distances[order[count]])
        chosen = order[:count]
        *pairs, distances = (x[chosen] for x in (*pairs, distances))
    first, second, shifts = pairs
    return both_ways(first, second, shifts, distances, canonical_order), reach


def find_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each pair of :func:`find_neighbors` once, in any order.

    Args:
        positions: (n_atoms, 3) in A.
        cell: (3, 3) in A.
        pbc: (3,) bool.
        cutoff: in A.

    Returns:
        Both atoms, (n_pairs,) each, cell shifts from the first to the second, (n_pairs, 3), and
        lengths in A.

    Raises:
        StructureError: as :func:`find_neighbors`.
    """
    if not np.isfinite(cell[pbc]).all():
        raise StructureError(f"the cell must be finite, got {cell.tolist()}")
    box = _complete_cell(cell, pbc) if pbc.any() else np.zeros((3, 3))
    check_geometry(positions, box, pbc)
    if _suits_bins(positions, box, pbc, cutoff):
        first, second, shifts, distances = _half_list(float(cutoff)).compute(
            points=np.ascontiguousarray(positions, dtype=np.float64),
            box=box,
            periodic=pbc,
            quantities="ijSd",
        )
        shifts = shifts.astype(np.int64).reshape(-1, 3)
        return first.astype(np.int64), second.astype(np.int64), shifts, distances
    return scattered_pairs(positions, box, pbc, cutoff)


def both_ways(
    first: np.ndarray,
    second: np.ndarray,
    shifts: np.ndarray,
    distances: np.ndarray,
    order_of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Neighbors:
    """Both directions of each pair, in the order of receivers, senders and shifts given."""
    # place k is the pair, place k + n_pairs its reverse.
    # r_ij = r_second - r_first + shift @ cell, so `first` sends and `second` receives
    n_pairs = len(first)
    sender = np.concatenate([first, second])
    receiver = np.concatenate([second, first])
    all_shifts = np.concatenate([shifts, -shifts])
    order = order_of(receiver, sender, all_shifts)
    # the reverse of place p is p + n_pairs, modulo all; `rank` says where the sort has put it
    rank = np.empty_like(order)
    rank[order] = np.arange(2 * n_pairs)
    reverse = rank[(order + n_pairs) % max(2 * n_pairs, 1)]
    return Neighbors(
        edge_index=np.stack([sender[order], receiver[order]]),
        cell_shifts=all_shifts[order],
        reverse_edge=reverse,
        lengths=np.concatenate([distances, distances])[order],
        min_distance=float(distances.min(initial=np.inf)),
        min_period=float(distances[first == second].min(initial=np.inf)),
    )


def _suits_bins(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> bool:
    """Whether vesin's cell list suits the structure: few bins, few images, nothing far away.

    Vesin's bins fill the box about all atoms: it divides by zero where they are too many along an
    axis, and its time grows with the images between an atom and the cell.

    Raises:
        StructureError: for more neighbours than atoms can have.
    """
    n_atoms = len(positions)
    if not pbc.any():
        low, high = positions.min(axis=0), positions.max(axis=0)
        check_density(positions, box, pbc, high - low, cutoff)
        return _are_few((high - low) / cutoff, n_atoms) and max(high.max(), -low.min()) < _FAR
    # heights of the cell: column j of the inverse is normal to the planes of the other vectors
    inverse = np.linalg.inv(box)
    height = 1.0 / np.sqrt(np.square(inverse).sum(axis=0))
    fractional = positions @ inverse
    low, high = fractional.min(axis=0), fractional.max(axis=0)
    extent = np.where(pbc, height, high - low)  # rows of open axes are 1 A long
    check_density(positions, box, pbc, extent, cutoff)
    images = np.where(pbc, 2.0 * cutoff / height + 1.0, 1.0).prod()
    away = np.maximum(high, -low)
    return (
        _are_few(extent / cutoff, n_atoms)
        and bool(images * n_atoms <= max(_MAX_IMAGES, 27 * n_atoms))
        and bool(np.all(away < np.where(pbc, _MAX_CELLS_AWAY, _MAX_OPEN_EXTENT)))
    )


def _are_few(bins: np.ndarray, n_atoms: int) -> bool:
    """Whether a grid of so many bins along its axes, (3,), is small."""
    bins = np.maximum(bins, 1.0)
    return bool(bins.max() < _MAX_BINS and bins.prod() < max(_MAX_BINS, 4 * n_atoms))


def _by_receiver(receiver: np.ndarray, sender: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Order of edges by receiver, else as they were found."""
    return np.argsort(receiver, kind="stable")


def canonical_order(receiver: np.ndarray, sender: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Order of edges by receiver, sender and shift."""
    # one number for each edge, its digits in the order of their weight
    low, high = shifts.min(axis=0, initial=0), shifts.max(axis=0, initial=0)
    spans = [int(span) for span in high - low + 1]
    n_atoms = int(receiver.max(initial=-1)) + 1
    if n_atoms**2 * spans[0] * spans[1] * spans[2] >= 2**63:
        return np.lexsort((*shifts.T[::-1], sender, receiver))
    key = receiver * n_atoms + sender
    for axis in range(3):
        key = key * spans[axis] + (shifts[:, axis] - low[axis])
    return np.argsort(key)


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
