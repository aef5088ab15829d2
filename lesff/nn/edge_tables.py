"""Index tables that the blocks of an architecture share, built once per graph.

Nodes are kept sorted by element, so that element-wise weights act on contiguous slices. Compiled
kernels read edges receiver by receiver. For plain PyTorch edges are regrouped into chunks of
receivers with about the same number of neighbours: inside a chunk the sum over neighbours is one
batched matrix product. Either table is built when it is first asked for.

A water molecule in which only O-H are neighbours, atoms O H H in graph order, H H O in element
order (``node_order`` = 1 2 0, ``node_rank`` = 2 0 1):

.. code-block:: text

    tables, edges by receiver in graph order             edges, the same for fused kernels
    edge  receiver  sender  pair  sign  the vector       receiver   node_start  sender  pair  sign
    0     O         0       0     +     H1 -> O          0 (H1)     0           2       0     -
    1     O         1       1     +     H2 -> O          1 (H2)     1           2       1     -
    2     H1        2       0     -     O -> H1          2 (O)      2           0       0     +
    3     H2        2       1     -     O -> H2                                 1       1     +
    of_pair = [[0, 2], [1, 3]]                           end        4

Senders are in element order. Edges 0 and 2 are the two directions of pair 0, whose radial and
angular functions are evaluated once, along edge 0.

Slots of four receivers with 5, 4, 4 and 1 edges e0 .. e13:

.. code-block:: text

                        w = 0    1    2    3    4
    chunk 0, width 5    e0   e1   e2   e3   e4       slots 0..14, a (3, 5) block
                        e5   e6   e7   e8   --       -- is padding: sign 0, so that it adds nothing
                        e9   e10  e11  e12  --
    chunk 1, width 1    e13                          slot 15, a (1, 1) block
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.kernels import ConvolutionEdges

_CHUNK_EDGES = 1024
"""Edges per chunk: a chunk's working set stays in a core's level-2 cache."""
_SORTED_ATOMS = 1000
"""Atoms from which on nodes and pairs are sorted in space; smaller tables fit into a cache."""
_CUBE = 3.0
"""Side of a cube of the curve, A: some atoms each."""
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
class Slots:
    """Edges regrouped into chunks, every receiver padded to its chunk's width.

    Attributes:
        sender: (n_slots,) sender (element order) of each slot.
        pair: (n_slots,) pair of each slot.
        sign: (n_slots,) +1 along the pair's edge, -1 against it, 0 for padding.
        chunks: contiguous slices of slots.
        chunk_rank: (n_atoms,) chunk-order row of each node in element order.
        of_pair: (n_pairs, 2) the two slots of each pair, along its edge and against it.
    """

    sender: Tensor
    pair: Tensor
    sign: Tensor
    chunks: tuple[Chunk, ...]
    chunk_rank: Tensor
    of_pair: Tensor


@dataclass(frozen=True)
class EdgeTables:
    """Edges sorted by receiver in graph order, on the host.

    Attributes:
        degree: (n_atoms,) edges of each receiver, graph order.
        sender: (n_edges,) sender, element order.
        pair: (n_edges,) undirected pair.
        sign: (n_edges,) int8, +1 along the pair's edge, -1 against it.
        of_pair: (n_pairs, 2) the two edges of each pair, along it and against it.
    """

    degree: np.ndarray
    sender: np.ndarray
    pair: np.ndarray
    sign: np.ndarray
    of_pair: np.ndarray


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
        tables: edges on the host, from which the tables below are made.
        stays_apart: whether no pair comes nearer than tables of radial functions begin, as long as
            the topology serves.
    """

    node_order: Tensor
    node_rank: Tensor
    node_element: Tensor
    elements: tuple[ElementSlice, ...]
    pair_sender: Tensor
    pair_receiver: Tensor
    pair_shift: Tensor
    tables: EdgeTables
    stays_apart: bool = False

    @cached_property
    def edges(self) -> ConvolutionEdges:
        """Edges grouped by receiver in element order, for fused kernels."""
        # receivers from graph order to element order: their edges move as blocks
        tables, order = self.tables, self.node_order.cpu().numpy()
        device = self.node_order.device
        degree = tables.degree[order]
        start = np.concatenate([[0], np.cumsum(degree)])
        graph_start = np.cumsum(tables.degree) - tables.degree
        # edge of the e-th row: first edge of its receiver in graph order, plus its place among them
        edge = np.repeat(graph_start[order] - start[:-1], degree) + np.arange(start[-1])
        # the ends of a pair are those of the edge along it; both in element order
        along = tables.of_pair[:, 0]
        receiver = np.repeat(self.node_rank.cpu().numpy(), tables.degree)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.astype(np.int32)).to(device)

        return ConvolutionEdges(
            node_start=tensor(start),
            sender=tensor(tables.sender[edge]),
            pair=tensor(tables.pair[edge]),
            sign=torch.from_numpy(tables.sign[edge]).to(device),
            pair_sender=tensor(tables.sender[along]),
            pair_receiver=tensor(receiver[along]),
        )

    def element_slices(self, n_rows: int) -> Tensor:
        """(n_slices, 3) int64 start, stop, row of a table, for fused kernels.

        Args:
            n_rows: Rows of the table; one row is shared by all elements.
        """
        return self._one_slice if n_rows == 1 else self._element_slices

    @cached_property
    def _one_slice(self) -> Tensor:
        return torch.tensor([[0, len(self.node_order), 0]], device=self.node_order.device)

    @cached_property
    def _element_slices(self) -> Tensor:
        rows = [(part.start, part.stop, part.element) for part in self.elements]
        table = torch.tensor(rows, dtype=torch.int64).view(-1, 3)
        return table.to(self.node_order.device)

    def prepare(self, *, fused: bool) -> None:
        """Make the tables of fused kernels, or those of plain PyTorch, now."""
        # cached properties: looking at them builds them
        names = ("edges", "_element_slices", "_one_slice") if fused else ("slots",)
        for name in names:
            getattr(self, name)

    @cached_property
    def slots(self) -> Slots:
        """Padded chunks, for plain PyTorch."""
        tables, order = self.tables, self.node_order.cpu().numpy()
        degree = tables.degree
        n_nodes, n_edges = len(degree), len(tables.sender)
        # receivers by descending number of edges, so that a chunk's first is its widest
        first_edge = np.cumsum(degree) - degree
        by_degree = np.argsort(-degree, kind="stable")
        chunks = _plan_chunks(degree[by_degree])
        parts = [np.zeros(0, dtype=np.int64)]
        for chunk in chunks:
            # (n, w) edges of the chunk's receivers, -1 where a receiver has fewer than w + 1
            nodes = by_degree[chunk.node_start : chunk.node_stop]
            part = first_edge[nodes, None] + np.arange(chunk.width)
            part[np.arange(chunk.width) >= degree[nodes, None]] = -1
            parts.append(part.ravel())
        # slot -> edge, and its inverse on the slots that are no padding
        slot_edge = np.concatenate(parts)
        real = slot_edge >= 0
        edge_slot = np.empty(n_edges, dtype=np.int64)
        edge_slot[slot_edge[real]] = np.flatnonzero(real)
        # padding reads edge 0, with sign 0
        slot_edge = np.where(real, slot_edge, 0)
        # row of each node in chunk order: inverse of by_degree
        chunk_rank = np.empty(n_nodes, dtype=np.int64)
        chunk_rank[by_degree] = np.arange(n_nodes)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.node_order.device)

        return Slots(
            sender=tensor(tables.sender[slot_edge]),
            pair=tensor(tables.pair[slot_edge]),
            sign=tensor(np.where(real, tables.sign[slot_edge], 0)),
            chunks=tuple(chunks),
            chunk_rank=tensor(chunk_rank[order]),
            of_pair=tensor(edge_slot[tables.of_pair]),
        )

    @property
    def n_pairs(self) -> int:
        """Number of undirected pairs."""
        return len(self.pair_sender)

    def slot_rows(self, slots: slice, n_rows: int) -> Tensor:
        """Rows of some slots in a table with one row per pair, or one per direction of a pair.

        A directed table has the pairs along their edges first, then against them.
        """
        rows = self.slots.pair[slots]
        if n_rows == self.n_pairs:
            return rows
        # rows of the directions against the pairs' edges stand n_pairs further on
        return rows + self.n_pairs * (self.slots.sign[slots] < 0)


def _plan_chunks(degree: np.ndarray) -> list[Chunk]:
    """Cut receivers, sorted by descending degree, into chunks of little padding."""
    chunks: list[Chunk] = []
    start = edge = 0
    n_nodes = len(degree)
    while start < n_nodes:
        width = int(degree[start])
        # all that is left has no edges: one chunk, of width zero
        if width == 0:
            chunks.append(Chunk(start, n_nodes, 0, edge, edge))
            break
        # receivers that fill enough of the width, and no more than fit into the cache
        full = np.searchsorted(-degree, -max(_MIN_FILL * width, 1.0), side="right")
        stop = min(int(full), start + max(_CHUNK_EDGES // width, 1))
        n_slots = (stop - start) * width
        chunks.append(Chunk(start, stop, width, edge, edge + n_slots))
        start, edge = stop, edge + n_slots
    return chunks


def _element_slices(node_element: np.ndarray) -> tuple[ElementSlice, ...]:
    """Runs of equal rows in the ascending table rows of the nodes."""
    # rows are ascending: a value's nodes end where the next value starts
    values, starts = np.unique(node_element, return_index=True)
    stops = [*starts[1:], len(node_element)]
    return tuple(
        ElementSlice(int(z), int(a), int(b)) for z, a, b in zip(values, starts, stops, strict=True)
    )


def spatial_order(graph: AtomGraph) -> np.ndarray:
    """Place of each atom along a curve through space, (n_atoms,), all zero for few atoms.

    Neighbours are near each other in memory, whatever the order in which the atoms were given:
    cubes along a Z-order curve (Morton, IBM technical report, 1966).
    """
    if graph.n_atoms < _SORTED_ATOMS:
        return np.zeros(graph.n_atoms, dtype=np.int64)
    positions = graph.positions.detach().cpu().numpy()
    low = positions.min(0)
    # at most 2^10 cubes along each direction
    side = max(_CUBE, float((positions - low).max()) / 1023.0)
    cubes = ((positions - low) / side).astype(np.int64)
    place = np.zeros(graph.n_atoms, dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            place |= ((cubes[:, axis] >> bit) & 1) << (3 * bit + axis)
    # systems of a batch one after the other
    return place + (graph.batch.cpu().numpy().astype(np.int64) << 30)


def build_topology(graph: AtomGraph, element_row: Tensor) -> Topology:
    """Build the tables.

    Args:
        graph: The batch.
        element_row: (119,) table row of each atomic number.
    """
    device = graph.positions.device
    # the tables are made with numpy on the host, then copied to the device
    element = element_row[graph.atomic_numbers].cpu().numpy()
    sender, receiver = graph.edge_index.cpu().numpy()
    reverse = graph.reverse_edge.cpu().numpy()
    n_nodes, n_edges = graph.n_atoms, graph.n_edges

    # nodes by element; atoms of an element keep their order, in large systems that along a curve
    node_order = np.lexsort((spatial_order(graph), element))
    node_rank = np.empty(n_nodes, dtype=np.int64)
    node_rank[node_order] = np.arange(n_nodes)

    # of the two edges of a pair, the first one in the list gives the pair its direction
    is_along = np.arange(n_edges) < reverse
    along = np.flatnonzero(is_along)
    if n_nodes >= _SORTED_ATOMS:
        # pairs in the order in which their receivers are visited
        along = along[np.argsort(node_rank[receiver[along]], kind="stable")]
    against = reverse[along]
    pair = np.empty(n_edges, dtype=np.int64)
    # both directions carry the number of their pair
    pair[along] = pair[against] = np.arange(len(along))

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    first_edges = tensor(along)
    return Topology(
        node_order=tensor(node_order),
        node_rank=tensor(node_rank),
        node_element=tensor(element[node_order]),
        elements=_element_slices(element[node_order]),
        pair_sender=tensor(sender[along]),
        pair_receiver=tensor(receiver[along]),
        pair_shift=graph.cell_shifts[first_edges],
        tables=EdgeTables(
            degree=np.bincount(receiver, minlength=n_nodes),
            sender=node_rank[sender],
            pair=pair,
            sign=np.where(is_along, 1, -1).astype(np.int8),
            of_pair=np.stack([along, against], axis=1),
        ),
    )
