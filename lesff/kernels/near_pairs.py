"""Neighbour lists in the compiled library: arrays of NumPy, always float64."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch

from lesff.kernels.library import call


class _NearPairs(ctypes.Structure):
    _fields_ = [
        ("n_pairs", c_int64),
        ("cutoff_squared", c_double),
        *[(n, c_void_p) for n in ("positions", "ends", "offsets", "pair_of")],
        *[(n, c_void_p) for n in ("kept_edges", "kept_shifts", "kept_reverse")],
        *[(n, c_void_p) for n in ("squared", "rank", "edges", "shifts", "reverse", "lengths")],
        ("n_found", ctypes.POINTER(c_int64)),
        ("min_distance", ctypes.POINTER(c_double)),
    ]


@dataclass(frozen=True, kw_only=True)
class NearEdges:
    """Edges that are close; fields as of :class:`lesff.atoms.neighbors.Neighbors`."""

    edge_index: np.ndarray
    cell_shifts: np.ndarray
    reverse_edge: np.ndarray
    lengths: np.ndarray
    min_distance: float


class NearPairs:
    """A neighbour list of both directions of each pair, to be cut down again and again.

    Args:
        edge_index: (2, n_edges) int64, sender and receiver.
        cell_shifts: (n_edges, 3) int64.
        reverse_edge: (n_edges,) int64.
        ends: (2, n_edges / 2) int64, of one edge of each pair.
        offsets: (n_edges / 2, 3) in A, shift vectors of these edges.
        pair_of: (n_edges,) int64.
    """

    def __init__(
        self,
        *,
        edge_index: np.ndarray,
        cell_shifts: np.ndarray,
        reverse_edge: np.ndarray,
        ends: np.ndarray,
        offsets: np.ndarray,
        pair_of: np.ndarray,
    ) -> None:
        n_edges, integers = len(reverse_edge), np.int64
        index = (ends, pair_of, edge_index, cell_shifts, reverse_edge)
        self._ends, self._pair_of, self._edges, self._shifts, self._reverse = (
            np.ascontiguousarray(array, dtype=integers) for array in index
        )
        self._offsets = np.ascontiguousarray(offsets, dtype=np.float64)
        self._n_edges = n_edges
        self._arguments = _NearPairs(
            n_pairs=n_edges // 2,
            ends=self._ends.ctypes.data,
            offsets=self._offsets.ctypes.data,
            pair_of=self._pair_of.ctypes.data,
            kept_edges=self._edges.ctypes.data,
            kept_shifts=self._shifts.ctypes.data,
            kept_reverse=self._reverse.ctypes.data,
        )

    def within(self, positions: np.ndarray, cutoff: float) -> NearEdges:
        """Edges shorter than the cutoff, in the order of the list.

        Args:
            positions: (n_atoms, 3) in A.
            cutoff: In A.

        Raises:
            KernelError: if there are no compiled kernels.
        """
        positions = np.ascontiguousarray(positions, dtype=np.float64)
        n_edges, integers = self._n_edges, np.int64
        # a copy and arrays of its own: other threads may ask, too
        arguments = _NearPairs.from_buffer_copy(self._arguments)
        squared, rank = np.empty(n_edges // 2), np.empty(n_edges, dtype=integers)
        edges, shifts = np.empty(2 * n_edges, dtype=integers), np.empty((n_edges, 3), integers)
        reverse, lengths = np.empty(n_edges, dtype=integers), np.empty(n_edges)
        n_found, least = c_int64(), c_double()
        arguments.positions, arguments.cutoff_squared = positions.ctypes.data, cutoff**2
        arguments.edges, arguments.shifts = edges.ctypes.data, shifts.ctypes.data
        arguments.reverse, arguments.lengths = reverse.ctypes.data, lengths.ctypes.data
        arguments.squared, arguments.rank = squared.ctypes.data, rank.ctypes.data
        arguments.n_found, arguments.min_distance = ctypes.pointer(n_found), ctypes.pointer(least)
        call("near_pairs", torch.float64, arguments)
        found = n_found.value
        return NearEdges(
            edge_index=edges[: 2 * found].reshape(2, found),
            cell_shifts=shifts[:found],
            reverse_edge=reverse[:found],
            lengths=lengths[:found],
            min_distance=least.value,
        )
