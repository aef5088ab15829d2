"""Finite-size correction of a molecule in a periodic box, on request."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import UnsupportedInputError

WIGNER_CUBE = 2.8372974795
"""Energy of a unit point charge in a cube with background is -WIGNER_CUBE ke / (2L)."""
_CUBIC_TOLERANCE = 1e-4
"""Relative deviation of lengths and cosines of a cell that counts as cubic."""


def makov_payne_correction(charges: Tensor, graph: AtomGraph, settings: EwaldSettings) -> Tensor:
    """Energy to add to that of a cubic box for the isolated molecule, (n_systems,) in eV.

    ``ke [2.837297 Q^2 / (2L) + 2 pi |p|^2 / (3 L^3) - 2 pi Q T / (3 L^3)]`` with the dipole p and
    ``T = sum q r^2 + 3/2 sigma^2 Q``, the width of the Gaussians included (Makov and Payne, PRB 51,
    4014 (1995), eq. 15 and its dipole term for conducting surroundings). The remainder falls as
    ``L^-5``. Independent of the origin; the molecule must be in one piece, not wrapped.

    It follows from the potential of a unit charge, its images and the background in a cube, ``1/r -
    2.837297/L + 2 pi r^2 / (3 L^3) + O(r^4)``: the sum of ``q_i q_j r_ij^2`` over pairs is ``Q T -
    p^2``, with T of the Gaussians because their second moment is ``3 sigma^2 / 2``.

    Args:
        charges: (n_atoms,) in e.
        graph: Positions and cells.
        settings: Constants of the energy.

    Raises:
        UnsupportedInputError: for a system that is not periodic in three directions, or a cell that
            is not cubic.
    """
    _check_cubes(graph)
    length = torch.linalg.det(graph.cell).abs() ** (1.0 / 3.0)  # (n_systems,)
    n_systems, batch = graph.n_systems, graph.batch
    total = segment_sum(charges, batch, n_systems)
    # moments about the first atom: large coordinates would cancel in float32
    count = graph.atoms_per_system()
    first = torch.cumsum(count, 0) - count
    r = graph.positions - graph.positions.detach()[first][batch]
    dipole = segment_sum(charges[:, None] * r, batch, n_systems)  # p, (n_systems, 3)
    second = segment_sum(charges * r.square().sum(1), batch, n_systems)
    second = second + 1.5 * settings.sigma**2 * total  # T: each Gaussian has a width of its own
    multipoles = dipole.square().sum(1) - total * second  # p^2 - Q T, (n_systems,)
    # the monopole term undoes the attraction of a charge to images and background; the other takes
    # the parabolic potential of the background away
    return settings.coulomb_constant * (
        WIGNER_CUBE * total.square() / (2.0 * length) + 2.0 * math.pi / 3.0 * multipoles / length**3
    )


def _check_cubes(graph: AtomGraph) -> None:
    """Raise UnsupportedInputError for systems that are no cubic boxes, the first one named."""
    # the metric h h^T of a cube, in any orientation, is L^2 times the identity
    cell = graph.cell.detach().double()
    gram = torch.bmm(cell, cell.transpose(1, 2))
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(3, dtype=cell.dtype, device=cell.device)
    off = (gram - mean * eye).abs().flatten(1).amax(1)
    bad = ~graph.pbc.all(1) | (off > _CUBIC_TOLERANCE * mean[:, 0, 0])
    if bool(bad.any()):
        i = int(torch.nonzero(bad)[0])
        raise UnsupportedInputError(
            "the Makov-Payne correction needs cubic cells periodic in three directions, "
            f"structure {i} has pbc {graph.pbc[i].tolist()} and cell {graph.cell[i].tolist()}"
        )
