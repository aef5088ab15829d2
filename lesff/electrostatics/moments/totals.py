"""Dipole and quadrupole of finite systems from atomic moments."""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum, shift_to_total


def moment_origin(graph: AtomGraph) -> Tensor:
    """Centre of nuclear charge of each system, (n_systems, 3) in A, without gradient.

    Moments of charged systems are quoted about it; for neutral ones the dipole does not depend
    on the origin.
    """
    # weights that do not depend on the model, so that moments of two models share an origin
    z = graph.atomic_numbers.to(graph.positions.dtype)[:, None]
    total = segment_sum(z, graph.batch, graph.n_systems)
    return (segment_sum(z * graph.positions, graph.batch, graph.n_systems) / total).detach()


def neutralised(charges: Tensor, graph: AtomGraph) -> Tensor:
    """Charges shifted uniformly so that each system sums to its total charge, (n_atoms,) in e."""
    return shift_to_total(charges, graph.batch, graph.total_charge, graph.atoms_per_system())


def dipole_moment(
    charges: Tensor, graph: AtomGraph, origin: Tensor, dipoles: Tensor | None = None
) -> Tensor:
    """``mu = sum_i q_i (r_i - r_0) + u_i`` of each system, (n_systems, 3) in e A.

    Args:
        charges: (n_atoms,) in e, summing to the total charge.
        graph: Positions.
        origin: (n_systems, 3) r_0 in A.
        dipoles: (n_atoms, 3) u in e A, if any.
    """
    r = graph.positions - origin[graph.batch]
    atomic = charges[:, None] * r
    if dipoles is not None:
        atomic = atomic + dipoles
    return segment_sum(atomic, graph.batch, graph.n_systems)


def along_slab_normals(moment: Tensor, graph: AtomGraph) -> Tensor:
    """``(mu.n) n`` for slabs of normal n, mu itself for other systems, (n_systems, 3).

    In the plane the dipole of a slab depends on which image of each atom is in the list, along its
    normal it does not: what is left is all that a field along the normal couples to,
    ``mu.n = -dF/dE``.

    Args:
        moment: (n_systems, 3) mu.
        graph: Cells and boundaries.
    """
    slabs = graph.pbc.sum(1) == 2
    if not bool(slabs.any()):
        return moment
    normal = slab_normals(graph)
    # s: system, i: Cartesian
    projected = torch.einsum("si,si->s", moment, normal)[:, None] * normal
    return torch.where(slabs[:, None], projected, moment)


def slab_normals(graph: AtomGraph) -> Tensor:
    """Unit normals of the periodic rows of slabs, (n_systems, 3); zero for other systems."""
    # the open row is the last of each cell: [system, row, xyz]
    order = torch.argsort(graph.pbc.to(torch.int64), dim=1, descending=True, stable=True)
    rows = torch.gather(graph.cell, 1, order[:, :, None].expand(-1, -1, 3))
    normal = torch.linalg.cross(rows[:, 0], rows[:, 1])
    slabs = (graph.pbc.sum(1) == 2)[:, None]
    length = torch.where(slabs, normal.norm(dim=1, keepdim=True), 1.0)
    return torch.where(slabs, normal / length, 0.0)


def quadrupole_moment(
    charges: Tensor,
    graph: AtomGraph,
    origin: Tensor,
    dipoles: Tensor | None = None,
    quadrupoles: Tensor | None = None,
) -> Tensor:
    """Primitive second moment of each system about ``origin``, (n_systems, 3, 3) in e A^2.

    ``sum_i q_i r_i r_i + u_i r_i + r_i u_i + Q_i``.

    Args:
        charges: (n_atoms,) in e.
        graph: Positions.
        origin: (n_systems, 3) in A.
        dipoles: (n_atoms, 3) u in e A, if any.
        quadrupoles: (n_atoms, 3, 3) Q in e A^2, if any.
    """
    r = graph.positions - origin[graph.batch]
    outer = torch.einsum("n,ni,nj->nij", charges, r, r)  # n: atom, i, j: Cartesian
    # a dipole at r is a pair of charges about it: both orders of u and r
    if dipoles is not None:
        mixed = torch.einsum("ni,nj->nij", dipoles, r)  # [n, i, j] and its transpose in ij
        outer = outer + mixed + mixed.transpose(1, 2)
    if quadrupoles is not None:
        outer = outer + quadrupoles
    return segment_sum(outer, graph.batch, graph.n_systems)
