r"""Matrix of the Coulomb interaction of unit Gaussians, self terms included, for small systems.

``E = 1/2 q^T A q`` is :func:`.latent_energy` with ``remove_self_interaction=False``:

.. math::
    A_{ij} = k_e \frac{\mathrm{erf}(r_{ij}/\sqrt 2 \sigma)}{r_{ij}}, \quad
    A_{ii} = \frac{2 k_e}{\sigma \sqrt{2\pi}}
    \qquad\text{or}\qquad
    A_{ij} = \frac{4\pi k_e}{V} \sum_k w_k \cos k(r_i - r_j)

with the weights ``w_k`` of :mod:`.ewald`. With the self terms A has no negative eigenvalue, up to
the k = 0 term of slabs, which is a constant for all pairs and is kept apart: its weight ``-L^2/8``
in the energy is ``-prefactor L^2 Q^2 / (8 V)``, a matrix with ``-prefactor L^2 / (4 V)`` in every
entry.

Index letters: s system, a atom, i wave index along axis 1, (j, l) along axes 2 and 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.sums.ewald import wave_limits, wave_weights
from lesff.electrostatics.sums.gaussian_kernel import gaussian_kernel
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.plan import OPEN, SLAB, members_of, system_groups
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.electrostatics.sums.structure_factor import Grid

_PHASE_VALUES = 2**22
"""Phases of one block of planes."""


@torch.no_grad()
def coulomb_matrix(graph: AtomGraph, settings: EwaldSettings) -> tuple[Tensor, Tensor]:
    """Positive semidefinite part of the Coulomb matrix of every system, and a constant.

    The full matrix is ``matrix - background``; the background is zero but for slabs. Rows and
    columns of padding are zero. Plain numbers in float64, without graph.

    Args:
        graph: Positions, cells and boundaries.
        settings: Constants; ``remove_self_interaction`` has no influence.

    Returns:
        (n_systems, n_max, n_max) and (n_systems,), in eV / e^2.
    """
    graph = graph.to(dtype=torch.float64, device=graph.positions.device)
    padding = Padding.of(graph.batch, graph.n_systems)
    matrix = graph.positions.new_zeros(graph.n_systems, padding.n_max, padding.n_max)
    background = graph.positions.new_zeros(graph.n_systems)
    cells, groups = system_groups(graph, settings, "direct")
    for boundary, _, members in groups:
        systems = torch.tensor(members, device=matrix.device)
        atoms, batch = members_of(graph, systems)
        # the group has a padded table of its own, no larger than that of the batch
        inner = Padding.of(batch, len(members))
        r, real = inner.pad(graph.positions[atoms]), inner.pad(torch.ones_like(batch))
        if boundary == OPEN:
            block = _open_matrix(r, settings)
        else:
            cell = cells[systems]
            block = _periodic_matrix(r, cell, settings, is_slab=boundary == SLAB)
            if boundary == SLAB:
                # the weight -L^2/8 of k = 0 that `_periodic_matrix` leaves out
                height, volume = cell[:, 2].norm(dim=1), torch.linalg.det(cell).abs()
                background[systems] = settings.prefactor / volume * height.square() / 4.0
        # zero rows and columns of padding: [s, a, 1] x [s, 1, a]
        both = (real[:, :, None] * real[:, None, :]).bool()
        matrix[systems, : inner.n_max, : inner.n_max] = torch.where(both, block, 0.0)
    return matrix, background


def _open_matrix(r: Tensor, settings: EwaldSettings) -> Tensor:
    """Gaussian kernel of all pairs, (n_systems, n_max, n_max); its value at r = 0 is A_ii."""
    squared = (r[:, :, None] - r[:, None, :]).square().sum(3)  # [s, a, a]
    return settings.coulomb_constant * gaussian_kernel(squared, settings.sigma)


def _periodic_matrix(r: Tensor, cell: Tensor, settings: EwaldSettings, *, is_slab: bool) -> Tensor:
    """``2 prefactor / V sum_k w_k cos k (r_i - r_j)`` without k = 0, plane by plane."""
    # s = r h^-1; s: system, n: atom, i: Cartesian, j: lattice vector
    inverse, volume = torch.linalg.inv(cell), torch.linalg.det(cell).abs()
    fractional = torch.einsum("sni,sij->snj", r, inverse)
    first, second, third = wave_limits(cell, settings.dl).amax(0).tolist()
    grid = Grid((first, second, third))
    height = cell[:, 2].norm(dim=1) if is_slab else None
    # exp(2 pi i n s) of each axis, [s, a, n], and of axes 2 and 3 together, [s, a, j l]
    phase = [
        torch.exp(2j * math.pi * fractional[..., axis, None] * grid.indices(axis, r))
        for axis in range(3)
    ]
    n_systems, n_atoms = r.shape[:2]
    plane = (phase[1][..., :, None] * phase[2][..., None, :]).flatten(2)
    matrix = r.new_zeros(n_systems, n_atoms, n_atoms)
    step = max(_PHASE_VALUES // plane.numel(), 1)
    for start in range(0, grid.shape[0], step):
        planes = slice(start, start + step)
        weight = wave_weights(inverse, planes, grid, settings, height)  # [s, i, j, l]
        if is_slab and start == 0:
            weight[:, 0, second, third] = 0.0  # n = 0: indices of axes 2 and 3 start at -limit
        # sqrt(w_k) e^{i k r} of every atom as real numbers: [s, a, i, j l] -> [s, a, i j l re/im]
        block = phase[0][:, :, planes, None] * plane[:, :, None]
        block = torch.view_as_real(block * weight.flatten(2).sqrt()[:, None]).flatten(2)
        # their scalar products are sum_k w_k cos k (r_i - r_j): a Gram matrix, never negative
        matrix += torch.bmm(block, block.transpose(1, 2))
    # twice the energy's prefactor, since E = 1/2 q A q
    return 2.0 * settings.prefactor / volume[:, None, None] * matrix
