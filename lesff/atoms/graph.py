"""``AtomGraph``: one batch of structures with their neighbour edges, immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.contacts import ContactRule
from lesff.atoms.neighbors import Neighbors, find_neighbors
from lesff.atoms.structure import MIN_DISTANCE, Structure
from lesff.errors import StructureError


@dataclass(frozen=True, kw_only=True)
class AtomGraph:
    """A batch of structures; a single structure is a batch of one.

    Attributes:
        positions: (n_atoms, 3) in A.
        atomic_numbers: (n_atoms,) int64.
        batch: (n_atoms,) int64, the system of each atom, ascending.
        cell: (n_systems, 3, 3) in A, rows are lattice vectors; zero where nothing is periodic.
        pbc: (n_systems, 3) bool.
        total_charge: (n_systems,) in e, integer valued, of the positions' dtype.
        spin_multiplicity: (n_systems,) int64, 2S+1.
        edge_index: (2, n_edges) int64; row 0 sender, row 1 receiver; sorted by receiver.
        cell_shifts: (n_edges, 3) int64; the edge vector, sender to receiver, is
            ``r[receiver] - r[sender] + shift @ cell``.
        reverse_edge: (n_edges,) int64, index of the same pair seen from the other end.
        external_field: (n_systems, 3) uniform electric field in V/A (a positive charge is pushed
            along it; zero rows: no field), or None if there is none at all.
    """

    positions: Tensor
    atomic_numbers: Tensor
    batch: Tensor
    cell: Tensor
    pbc: Tensor
    total_charge: Tensor
    spin_multiplicity: Tensor
    edge_index: Tensor
    cell_shifts: Tensor
    reverse_edge: Tensor
    external_field: Tensor | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms in all systems."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.edge_index.shape[1]

    def replace(self, **changes: Tensor) -> AtomGraph:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to(self, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> AtomGraph:
        """A copy with floating-point fields as ``dtype`` and everything on ``device``."""
        moved = {}
        for field in fields(self):
            value: Tensor | None = getattr(self, field.name)
            if value is None:
                continue
            is_float = value.is_floating_point()
            moved[field.name] = value.to(device=device, dtype=dtype if is_float else value.dtype)
        return AtomGraph(**moved)

    def atoms_per_system(self) -> Tensor:
        """(n_systems,) int64."""
        # not bincount: it asks a GPU for the largest entry
        counts = torch.zeros(self.n_systems, dtype=torch.int64, device=self.batch.device)
        return counts.index_add(0, self.batch, torch.ones_like(self.batch))


torch.export.register_dataclass(AtomGraph)


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Join graphs into one batch, in order.

    Raises:
        StructureError: if ``graphs`` is empty.
    """
    if not graphs:
        raise StructureError("`graphs` must hold at least one structure, got an empty list")
    if len(graphs) == 1:
        return graphs[0]

    def cat(name: str) -> Tensor:
        return torch.cat([getattr(graph, name) for graph in graphs])

    # what counts systems, atoms or edges moves by the number of them in the graphs before
    batch, edge_index, reverse_edge = [], [], []
    n_atoms = n_systems = n_edges = 0
    for graph in graphs:
        batch.append(graph.batch + n_systems)
        edge_index.append(graph.edge_index + n_atoms)
        reverse_edge.append(graph.reverse_edge + n_edges)
        n_atoms += graph.n_atoms
        n_systems += graph.n_systems
        n_edges += graph.n_edges
    # a batch has a field for all systems, zero where there is none, or no field at all
    field = None
    if any(graph.external_field is not None for graph in graphs):
        rows = [
            torch.zeros_like(graph.cell[:, 0])
            if graph.external_field is None
            else graph.external_field
            for graph in graphs
        ]
        field = torch.cat(rows)
    return AtomGraph(
        positions=cat("positions"),
        atomic_numbers=cat("atomic_numbers"),
        batch=torch.cat(batch),
        cell=cat("cell"),
        pbc=cat("pbc"),
        total_charge=cat("total_charge"),
        spin_multiplicity=cat("spin_multiplicity"),
        edge_index=torch.cat(edge_index, dim=1),
        cell_shifts=cat("cell_shifts"),
        reverse_edge=torch.cat(reverse_edge),
        external_field=field,
    )


def split_rows(values: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Split per-atom rows of a batch into one tensor per system."""
    return list(torch.split(values, list(counts)))


def strained(graph: AtomGraph, strain: Tensor) -> AtomGraph:
    """Apply ``r -> r (1 + eps)`` and ``h -> h (1 + eps)`` with the symmetric part of ``strain``.

    Args:
        graph: The batch.
        strain: (n_systems, 3, 3), dimensionless.
    """
    # the antisymmetric part would rotate, which changes no energy but is not a strain
    eps = 0.5 * (strain + strain.transpose(1, 2))
    # rows times matrix, for positions as for lattice vectors: n: atom, i, j: Cartesian
    moved = torch.einsum("ni,nij->nj", graph.positions, eps[graph.batch])
    cell = graph.cell + torch.bmm(graph.cell, eps)
    return graph.replace(positions=graph.positions + moved, cell=cell)


def build_graph(
    structure: Structure,
    cutoff: float,
    neighbors: Neighbors | None = None,
    *,
    contacts: ContactRule | None = None,
    where: str = "structure",
) -> AtomGraph:
    """Graph of one structure, float64.

    Args:
        structure: The structure.
        cutoff: Edge cutoff in A.
        neighbors: Its neighbours, if they are known.
        contacts: What is done about close contacts; if None, only ``MIN_DISTANCE`` is refused.
        where: Name of the structure, for messages.

    Raises:
        StructureError: if two atoms are too close.
    """
    found = neighbors
    if found is None:
        found = find_neighbors(structure.positions, structure.cell, structure.pbc, cutoff)
    if contacts is not None:
        contacts.check(structure, found, where)
    elif found.min_distance < MIN_DISTANCE:
        raise _overlap(structure, found.edge_index, found.cell_shifts)
    # a molecule's cell means nothing: zero, so that nothing can depend on it
    cell = structure.cell if structure.pbc.any() else np.zeros((3, 3))
    tensor = torch.from_numpy
    return AtomGraph(
        positions=tensor(np.ascontiguousarray(structure.positions)),
        atomic_numbers=tensor(structure.numbers),
        batch=torch.zeros(len(structure), dtype=torch.int64),
        cell=tensor(np.ascontiguousarray(cell))[None],
        pbc=tensor(structure.pbc)[None],
        total_charge=torch.tensor([float(structure.total_charge)], dtype=torch.float64),
        spin_multiplicity=torch.tensor([structure.spin_multiplicity]),
        edge_index=tensor(found.edge_index),
        cell_shifts=tensor(found.cell_shifts),
        reverse_edge=tensor(found.reverse_edge),
        external_field=None
        if structure.external_field is None
        else tensor(structure.external_field)[None],
    )


def _overlap(structure: Structure, edges: np.ndarray, shifts: np.ndarray) -> StructureError:
    """Error that names the closest pair."""
    vectors = structure.positions[edges[1]] - structure.positions[edges[0]]
    if structure.pbc.any():
        vectors = vectors + shifts @ structure.cell
    distances = np.linalg.norm(vectors, axis=1)
    edge = int(distances.argmin())
    return StructureError(
        f"atoms {edges[0, edge]} and {edges[1, edge]} overlap: they must be at least "
        f"{MIN_DISTANCE} A apart, got {distances[edge]:.3f} A"
    )


def edge_vectors(graph: AtomGraph) -> Tensor:
    """From sender to receiver of each edge, (n_edges, 3) in A."""
    sender, receiver = graph.edge_index
    shift = graph.cell_shifts.to(graph.positions.dtype)
    # e: edge, i: lattice vector, j: Cartesian
    lattice = torch.einsum("ei,eij->ej", shift, graph.cell[graph.batch[sender]])
    return graph.positions[receiver] - graph.positions[sender] + lattice
