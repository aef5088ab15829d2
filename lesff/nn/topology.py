"""Index tables that the blocks of an architecture share, built once per graph.

Nodes are kept sorted by element, so that element-wise weights act on contiguous slices. Edges are
regrouped into chunks of receivers with about the same number of neighbours: inside a chunk the
sum over neighbours is one batched matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesff.graph import AtomGraph

_CHUNK_EDGES = 1024
"""Edges per chunk: a chunk's working set stays in a core's level-2 cache."""
_MIN_FILL = 0.8
"""A chunk ends where a receiver has fewer neighbours than this share of the chunk's first."""


@dataclass(frozen=True)
class Chunk:
    """Receivers ``node_start:node_stop`` (chunk order), each padded to ``width`` neighbours."""

    node_start: int
    node_stop: int
    width: int
    edge_start: int
    edge_stop: int


@dataclass(frozen=True)
class ElementSlice:
    """Nodes ``start:stop`` (element order) are of the element with table row ``element``."""

    element: int
    start: int
    stop: int


@dataclass(frozen=True)
class Topology:
    """Index tables of one graph.

    Attributes:
        node_order: (n_atoms,) graph index of each node in element order.
        node_rank: (n_atoms,) its inverse.
        node_element: (n_atoms,) table row of each node's element, ascending.
        elements: contiguous slices of equal elements.
        pair_sender, pair_receiver: (n_pairs,) graph indices, one entry per undirected pair.
        pair_shift: (n_pairs, 3) cell shift of the pair's edge.
        slot_sender: (n_slots,) sender (element order) of each padded edge slot.
        slot_pair: (n_slots,) pair of each slot.
        slot_sign: (n_slots,) +1 along the pair's edge, -1 against it, 0 for padding.
        chunks: contiguous slices of slots.
        chunk_rank: (n_atoms,) chunk-order row of each node in element order.
        pair_slots: (n_pairs, 2) the two slots of each pair.
    """

    node_order: Tensor
    node_rank: Tensor
    node_element: Tensor
    elements: tuple[ElementSlice, ...]
    pair_sender: Tensor
    pair_receiver: Tensor
    pair_shift: Tensor
    slot_sender: Tensor
    slot_pair: Tensor
    slot_sign: Tensor
    chunks: tuple[Chunk, ...]
    chunk_rank: Tensor
    pair_slots: Tensor

    @property
    def n_pairs(self) -> int:
        """Number of undirected pairs."""
        return len(self.pair_sender)

    def slot_rows(self, slots: slice, n_rows: int) -> Tensor:
        """Rows of some slots in a table with one row per pair, or one per direction of a pair.

        A directed table has the pairs along their edges first, then against them.
        """
        rows = self.slot_pair[slots]
        if n_rows == self.n_pairs:
            return rows
        return rows + self.n_pairs * (self.slot_sign[slots] < 0)


def _plan_chunks(degree: np.ndarray) -> list[Chunk]:
    """Cut receivers, sorted by descending degree, into chunks of little padding."""
    chunks: list[Chunk] = []
    start = edge = 0
    n_nodes = len(degree)
    while start < n_nodes:
        width = int(degree[start])
        if width == 0:
            chunks.append(Chunk(start, n_nodes, 0, edge, edge))
            break
        full = np.searchsorted(-degree, -max(_MIN_FILL * width, 1.0), side="right")
        stop = min(int(full), start + max(_CHUNK_EDGES // width, 1))
        n_slots = (stop - start) * width
        chunks.append(Chunk(start, stop, width, edge, edge + n_slots))
        start, edge = stop, edge + n_slots
    return chunks


def _element_slices(node_element: np.ndarray) -> tuple[ElementSlice, ...]:
    values, starts = np.unique(node_element, return_index=True)
    stops = [*starts[1:], len(node_element)]
    return tuple(
        ElementSlice(int(z), int(a), int(b)) for z, a, b in zip(values, starts, stops, strict=True)
    )


def build_topology(graph: AtomGraph, element_row: Tensor) -> Topology:
    """Build the tables.

    Args:
        graph: The batch.
        element_row: (119,) table row of each atomic number.
    """
    device = graph.positions.device
    element = element_row[graph.atomic_numbers].cpu().numpy()
    sender, receiver = graph.edge_index.cpu().numpy()
    reverse = graph.reverse_edge.cpu().numpy()
    n_nodes, n_edges = graph.n_atoms, graph.n_edges

    node_order = np.argsort(element, kind="stable")
    node_rank = np.empty(n_nodes, dtype=np.int64)
    node_rank[node_order] = np.arange(n_nodes)

    edge_ids = np.arange(n_edges)
    forward = np.flatnonzero(edge_ids < reverse)
    edge_pair = np.empty(n_edges, dtype=np.int64)
    edge_pair[forward] = np.arange(len(forward))
    edge_pair[reverse[forward]] = np.arange(len(forward))
    edge_sign = np.where(edge_ids < reverse, 1.0, -1.0)

    degree = np.bincount(receiver, minlength=n_nodes)
    first_edge = np.concatenate([[0], np.cumsum(degree)])[:-1]
    by_degree = np.argsort(-degree, kind="stable")
    chunks = _plan_chunks(degree[by_degree])

    slots = []
    for chunk in chunks:
        nodes = by_degree[chunk.node_start : chunk.node_stop]
        table = first_edge[nodes, None] + np.arange(chunk.width)
        table[np.arange(chunk.width) >= degree[nodes, None]] = -1
        slots.append(table.ravel())
    slot_edge = np.concatenate(slots) if slots else np.zeros(0, dtype=np.int64)
    real = slot_edge >= 0
    edge_slot = np.empty(n_edges, dtype=np.int64)
    edge_slot[slot_edge[real]] = np.flatnonzero(real)
    slot_edge = np.where(real, slot_edge, 0)

    chunk_rank = np.empty(n_nodes, dtype=np.int64)
    chunk_rank[by_degree] = np.arange(n_nodes)

    def tensor(array: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)

    return Topology(
        node_order=tensor(node_order),
        node_rank=tensor(node_rank),
        node_element=tensor(element[node_order]),
        elements=_element_slices(element[node_order]),
        pair_sender=tensor(sender[forward]),
        pair_receiver=tensor(receiver[forward]),
        pair_shift=graph.cell_shifts[tensor(forward)],
        slot_sender=tensor(node_rank[sender[slot_edge]]),
        slot_pair=tensor(edge_pair[slot_edge]),
        slot_sign=tensor(np.where(real, edge_sign[slot_edge], 0.0), graph.positions.dtype),
        chunks=tuple(chunks),
        chunk_rank=tensor(chunk_rank[node_order]),
        pair_slots=tensor(np.stack([edge_slot[forward], edge_slot[reverse[forward]]], axis=1)),
    )
