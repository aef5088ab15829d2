"""``AtomGraph``: one batch of structures with their neighbour edges, immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.cell import inverse_cell
from lesff.atoms.contacts import ContactRule
from lesff.atoms.neighbors import Neighbors, find_neighbors
from lesff.atoms.point_charges import PointCharges, join
from lesff.atoms.structure import MIN_DISTANCE, Structure
from lesff.errors import StructureError


@dataclass(frozen=True, kw_only=True)
class ExactGeometry:
    """Positions and cells of a batch before they were rounded to float32.

    Attributes:
        positions: (n_atoms, 3) in A, float64.
        cell: (n_systems, 3, 3) in A, float64.
    """

    positions: Tensor
    cell: Tensor

    def to(self, device: torch.device | str) -> ExactGeometry:
        """A copy on ``device``."""
        return ExactGeometry(positions=self.positions.to(device), cell=self.cell.to(device))


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
        point_charges: Charges around the systems that are no atoms of them, or None.
        exact: What ``positions`` and ``cell`` were rounded from; None where they are as given.
            Edge vectors are differences of these: far from the origin those of float32 positions
            have lost their digits.
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
    point_charges: PointCharges | None = None
    exact: ExactGeometry | None = None

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

    def replace(self, **changes: Tensor | PointCharges | ExactGeometry | None) -> AtomGraph:
        """A copy with some fields replaced; other positions or cells are not rounded ones."""
        if "exact" not in changes and ("positions" in changes or "cell" in changes):
            changes["exact"] = None
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def to(self, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> AtomGraph:
        """A copy with floating-point fields as ``dtype`` and everything on ``device``.

        Rounding positions from float64 keeps them in ``exact``.
        """
        moved: dict[str, Any] = {}
        for name, value in self._tensors().items():
            is_float = value.is_floating_point()
            moved[name] = value.to(device=device, dtype=dtype if is_float else value.dtype)
        exact = self.exact
        if dtype == torch.float64:
            exact = None
        elif self.positions.dtype == torch.float64:
            exact = ExactGeometry(positions=self.positions, cell=self.cell)
        charges = self.point_charges
        return AtomGraph(
            **moved,
            point_charges=None if charges is None else charges.to(device),
            exact=None if exact is None else exact.to(device),
        )

    def outside_inference(self) -> AtomGraph:
        """The graph, with copies of tensors that were made inside ``torch.inference_mode()``."""
        tensors = self._tensors()
        exact = self.exact
        if exact is not None and exact.positions.is_inference():
            exact = ExactGeometry(positions=exact.positions.clone(), cell=exact.cell.clone())
        charges = self.point_charges
        if charges is not None and charges.positions.is_inference():
            charges = charges.cloned()
        is_same = exact is self.exact and charges is self.point_charges
        if is_same and not any(x.is_inference() for x in tensors.values()):
            return self
        copies = {name: x.clone() if x.is_inference() else x for name, x in tensors.items()}
        return AtomGraph(**copies, point_charges=charges, exact=exact)

    def _tensors(self) -> dict[str, Tensor]:
        """Fields that are tensors and present."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: x for name, x in found.items() if isinstance(x, Tensor)}

    def atoms_per_system(self) -> Tensor:
        """(n_systems,) int64."""
        if self.n_systems == 1:
            return torch.full((1,), self.n_atoms, dtype=torch.int64, device=self.batch.device)
        # not bincount: it asks a GPU for the largest entry
        counts = torch.zeros(self.n_systems, dtype=torch.int64, device=self.batch.device)
        return counts.index_add(0, self.batch, torch.ones_like(self.batch))


torch.export.register_dataclass(PointCharges)
torch.export.register_dataclass(ExactGeometry)
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
    # positions are rounded ones in all graphs, or in none: the others are given as they are
    exact = None
    if any(graph.exact is not None for graph in graphs):
        parts = [graph.exact or _as_exact(graph) for graph in graphs]
        exact = ExactGeometry(
            positions=torch.cat([part.positions for part in parts]),
            cell=torch.cat([part.cell for part in parts]),
        )
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
        point_charges=join([graph.point_charges for graph in graphs]),
        exact=exact,
    )


def one_system(graph: AtomGraph, index: int) -> AtomGraph:
    """One system of a batch, without gradients."""
    atoms = torch.nonzero(graph.batch == index)[:, 0]
    edges = torch.nonzero(graph.batch[graph.edge_index[1]] == index)[:, 0]
    system = slice(index, index + 1)
    # atoms and edges of a system stand side by side: those before it are counted off
    first_atom = int(atoms[0])
    first_edge = int(edges[0]) if len(edges) else 0
    field, exact = graph.external_field, graph.exact
    if exact is not None:
        exact = ExactGeometry(
            positions=exact.positions[atoms].detach(), cell=exact.cell[system].detach()
        )
    return AtomGraph(
        positions=graph.positions[atoms].detach(),
        atomic_numbers=graph.atomic_numbers[atoms],
        batch=torch.zeros_like(atoms),
        cell=graph.cell[system].detach(),
        pbc=graph.pbc[system],
        total_charge=graph.total_charge[system],
        spin_multiplicity=graph.spin_multiplicity[system],
        edge_index=graph.edge_index[:, edges] - first_atom,
        cell_shifts=graph.cell_shifts[edges],
        reverse_edge=graph.reverse_edge[edges] - first_edge,
        external_field=None if field is None else field[system].detach(),
        exact=exact,
    )


def _as_exact(graph: AtomGraph) -> ExactGeometry:
    """Positions and cells of a graph in float64."""
    double = torch.float64
    return ExactGeometry(positions=graph.positions.to(double), cell=graph.cell.to(double))


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
    positions, cell = _strained(graph.positions, graph.cell, graph.batch, eps)
    exact = graph.exact
    if exact is not None:
        moved = _strained(exact.positions, exact.cell, graph.batch, eps.to(torch.float64))
        exact = ExactGeometry(positions=moved[0], cell=moved[1])
    return graph.replace(positions=positions, cell=cell, exact=exact)


def _strained(positions: Tensor, cell: Tensor, batch: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    # rows times matrix, for positions as for lattice vectors: n: atom, i, j: Cartesian
    moved = torch.einsum("ni,nij->nj", positions, eps[batch])
    return positions + moved, cell + torch.bmm(cell, eps)


def lattice_offset(graph: AtomGraph, positions: Tensor, cell: Tensor) -> Tensor:
    """What may be subtracted from positions without any effect but on rounding, (n_atoms, 3) in A.

    The centre of each system, and the lattice vectors that lead back to the cell about it.
    Without gradient; decides nothing on the host.

    Args:
        graph: The batch.
        positions: (n_atoms, 3) in A, float64.
        cell: (n_systems, 3, 3) in A, float64.
    """
    positions, cell = positions.detach(), cell.detach()
    total = positions.new_zeros(graph.n_systems, 3).index_add(0, graph.batch, positions)
    centre = (total / graph.atoms_per_system()[:, None])[graph.batch]
    # the periodic rows C span a space; the part of r in it has the coordinates r C^T (C C^T)^-1
    rows = cell * graph.pbc[:, :, None]
    gram = torch.bmm(rows, rows.transpose(1, 2)) + torch.diag_embed((~graph.pbc).to(cell.dtype))
    inverse = torch.bmm(rows.transpose(1, 2), inverse_cell(gram))  # [system, xyz, lattice vector]
    # n: atom, i: Cartesian, j: lattice vector
    shifts = torch.einsum("ni,nij->nj", positions - centre, inverse[graph.batch]).round()
    return centre + torch.einsum("nj,nji->ni", shifts, rows[graph.batch])


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
    # from numpy: tensors are on the host whatever PyTorch's default device is
    cell = structure.cell if structure.pbc.any() else np.zeros((3, 3))
    tensor = torch.from_numpy
    return AtomGraph(
        positions=tensor(np.ascontiguousarray(structure.positions)),
        atomic_numbers=tensor(structure.numbers),
        batch=tensor(np.zeros(len(structure), dtype=np.int64)),
        cell=tensor(np.ascontiguousarray(cell))[None],
        pbc=tensor(structure.pbc)[None],
        total_charge=tensor(np.array([structure.total_charge], dtype=np.float64)),
        spin_multiplicity=tensor(np.array([structure.spin_multiplicity], dtype=np.int64)),
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


def first_edges(graph: AtomGraph) -> Tensor:
    """One edge of each undirected pair, the first in the list, (n_pairs,)."""
    order = torch.arange(graph.n_edges, device=graph.reverse_edge.device)
    return (order < graph.reverse_edge).nonzero()[:, 0]


def edge_vectors(graph: AtomGraph) -> Tensor:
    """From sender to receiver of each edge, (n_edges, 3) in A."""
    sender, receiver = graph.edge_index
    return vectors_between(graph, sender, receiver, graph.cell_shifts)


def vectors_between(graph: AtomGraph, sender: Tensor, receiver: Tensor, shifts: Tensor) -> Tensor:
    """``r[receiver] - r[sender] + shift @ cell``, (n, 3) in A, of the graph's dtype.

    Differences are formed before anything is rounded.

    Args:
        graph: The batch.
        sender: (n,) atoms.
        receiver: (n,) atoms of the same systems.
        shifts: (n, 3) cell shifts.
    """
    positions, cell = graph.positions, graph.cell
    if graph.exact is not None:
        positions, cell = graph.exact.positions, graph.exact.cell
    # index_select: the gradient of plain indexing is slow
    first, second = (positions.index_select(0, atoms) for atoms in (sender, receiver))
    # [n, 3]: one cell for all, or one per system
    shifts = shifts.to(positions.dtype)
    if graph.n_systems == 1:
        lattice = shifts @ cell[0]
    else:
        # sum_a shift[n, a] cell[n, a, x]
        chosen = cell.index_select(0, graph.batch[sender])
        lattice = (shifts[:, :, None] * chosen).sum(1)
    return (second - first + lattice).to(graph.positions.dtype)
