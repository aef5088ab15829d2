"""Latent Ewald summation: one energy for a batch of periodic and isolated systems."""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.electrostatics.ewald import EwaldSettings, open_energy, periodic_energy
from lesff.errors import UnsupportedInputError
from lesff.graph import AtomGraph


def check_boundaries(pbc: Tensor) -> None:
    """Refuse partial periodicity.

    Raises:
        UnsupportedInputError: if a system is periodic in one or two directions only.
    """
    count = pbc.sum(1)
    partial = torch.nonzero((count > 0) & (count < 3)).flatten().tolist()
    if partial:
        raise UnsupportedInputError(
            f"`pbc` must be all True or all False for a model with long-range electrostatics, "
            f"got {pbc[partial[0]].tolist()} (structure {partial[0]}); "
            "set atoms.pbc = True with a vacuum layer in the cell, or False for a molecule"
        )


def latent_energy(charges: Tensor, graph: AtomGraph, settings: EwaldSettings) -> Tensor:
    """Coulomb energy of the latent charges of every system, (n_systems,) in eV.

    Boundaries follow ``pbc``, never the determinant of the cell.

    Args:
        charges: (n_atoms,) latent charges in e.
        graph: Positions, cells and boundaries.
        settings: Constants.
    """
    periodic = graph.pbc.all(1)
    if not periodic.any():
        return open_energy(charges, graph.positions, graph.batch, graph.n_systems, settings)
    if periodic.all():
        return periodic_energy(charges, graph.positions, graph.cell, graph.batch, settings)
    energy = charges.new_zeros(graph.n_systems)
    for is_periodic in (True, False):
        systems = torch.nonzero(periodic == is_periodic).flatten()
        rank = torch.full_like(periodic, -1, dtype=torch.int64)
        rank[systems] = torch.arange(len(systems), device=systems.device)
        atoms = torch.nonzero(rank[graph.batch] >= 0).flatten()
        q, r, batch = charges[atoms], graph.positions[atoms], rank[graph.batch[atoms]]
        if is_periodic:
            part = periodic_energy(q, r, graph.cell[systems], batch, settings)
        else:
            part = open_energy(q, r, batch, len(systems), settings)
        energy = energy.index_add(0, systems, part)
    return energy
