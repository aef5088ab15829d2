r"""Coulomb energy of Gaussian charges, dipoles and quadrupoles in crystals, slabs and molecules.

An atom is ``L_i = q_i + u_i . grad_i + 1/2 Q_i : grad_i grad_i`` acting on its Gaussian, Q the
primitive second moment ``sum q r r``: derivatives in the position of the atom, since a dipole is a
charge at ``r_i + u`` less one at ``r_i``. Periodic: the sum of :mod:`.ewald` with

.. math::
    S(k) = \sum_i \left(q_i + i k \cdot u_i - \tfrac12 k \cdot Q_i \cdot k\right) e^{i k r_i}

In open space the pair energy is ``L_i L_j K(|r_i - r_j|^2)``, derivatives of ``K = erf(r / sqrt(2)
sigma) / r``. With ``f_m = 2^m d^m K / d(r^2)^m`` and ``d = r_i - r_j``

.. math::
    \partial_a K = d_a f_1, \quad \partial_{ab} K = \delta_{ab} f_1 + d_a d_b f_2, \quad
    \partial_{abc} K = (\delta_{ab} d_c + \delta_{ac} d_b + \delta_{bc} d_a) f_2 + d_a d_b d_c f_3,

    \partial_{abcd} K = (\delta_{ab} \delta_{cd} + \text{2 more}) f_2
        + (\delta_{ab} d_c d_d + \text{5 more}) f_3 + d_a d_b d_c d_d f_4,

in derivatives with respect to ``r_i``; those in ``r_j`` have a factor of -1 for each order.
Index letters: s system, n, i, j atom, a to d and x Cartesian.

Self energies at r = 0: ``ke q^2 / (sigma sqrt(2 pi))``, ``ke u^2 / (3 sigma^3 sqrt(2 pi))`` and,
for traceless Q, ``ke Q:Q / (10 sigma^5 sqrt(2 pi))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.autograd import recomputed
from lesff.electrostatics.sums.ewald import wave_limits, weighted_power
from lesff.electrostatics.sums.gaussian_kernel import kernel_derivatives
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.pair_sum import check_boundaries
from lesff.electrostatics.sums.plan import (
    OPEN,
    SLAB,
    TRANSFORMS,
    WaveSum,
    members_of,
    system_groups,
)
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.electrostatics.sums.structure_factor import Grid, Transform, structure_factor

_PAIRS = 2**17
"""Pairs of one block; blocks are recomputed in the backward pass."""
_UNIQUE = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a symmetric tensor; the last three count twice."""


@dataclass(frozen=True, kw_only=True)
class Multipoles:
    """Moments of every atom.

    Attributes:
        charges: (n_atoms,) in e.
        dipoles: (n_atoms, 3) in e A.
        quadrupoles: (n_atoms, 3, 3) symmetric primitive second moments in e A^2, or None; traceless
            ones have no part that acts like a wider charge.
    """

    charges: Tensor
    dipoles: Tensor
    quadrupoles: Tensor | None = None

    @staticmethod
    def of(
        charges: Tensor, dipoles: Tensor | None = None, quadrupoles: Tensor | None = None
    ) -> Multipoles:
        """Moments of atoms that may have charges only: dipoles not given are zero."""
        zero = charges.new_zeros(len(charges), 3)
        return Multipoles(
            charges=charges,
            dipoles=zero if dipoles is None else dipoles,
            quadrupoles=quadrupoles,
        )


def multipole_energy(
    moments: Multipoles, graph: AtomGraph, settings: EwaldSettings, evaluator: WaveSum = "auto"
) -> Tensor:
    """Coulomb energy of every system, (n_systems,) in eV, differentiable to any order.

    With charges only it is :func:`.latent_energy`. The settings say whether self energies count.
    A sum over wave vectors costs four structure factors with dipoles and ten with quadrupoles,
    against one of charges, by the same evaluators; molecules are a blocked pair sum.

    Args:
        moments: Moments of the atoms.
        graph: Positions, cells and boundaries.
        settings: Constants.
        evaluator: How sums over wave vectors are done; see :func:`.latent_energy`.

    Raises:
        UnsupportedInputError: for wires and for slabs that look wrapped.
    """
    check_boundaries(graph.pbc)
    cells, groups = system_groups(graph, settings, evaluator)
    energy = moments.charges.new_zeros(graph.n_systems)
    for boundary, name, members in groups:
        systems = torch.tensor(members, device=energy.device)
        atoms, batch = members_of(graph, systems)
        padding = Padding.of(batch, len(members))
        rows = (moments.charges, moments.dipoles, graph.positions)
        q, u, r = (padding.pad(x[atoms]) for x in rows)
        theta = None
        if moments.quadrupoles is not None:
            theta = padding.pad(moments.quadrupoles[atoms])
        if boundary == OPEN:
            part = settings.coulomb_constant * _open_energy(q, u, theta, r, settings.sigma)
        else:
            part = _periodic_energy(
                q, u, theta, r, cells[systems], settings, TRANSFORMS[name], is_slab=boundary == SLAB
            )
        energy = energy.index_add(0, systems, part)
    # the pair sum lacks the self energies, the sum over waves has them
    self_energy = segment_sum(self_energies(moments, settings), graph.batch, graph.n_systems)
    is_periodic = graph.pbc.any(1)
    sign = -is_periodic.to(energy.dtype)  # settings without: -1 for waves, 0 for pairs
    if not settings.remove_self_interaction:
        sign = sign + 1.0  # settings with: 0 for waves, 1 for pairs
    return energy + sign * self_energy


def self_energies(moments: Multipoles, settings: EwaldSettings) -> Tensor:
    """Energy of each atom's Gaussian moments with themselves, (n_atoms,) in eV.

    ``1/2 L_i L_j K`` at d = 0, where odd derivatives vanish, ``f_1 = 2 K'`` and ``f_2 = 4 K''``:
    ``1/2 [q^2 K - 2 K' u^2 + 2 K' q tr Q + K'' ((tr Q)^2 + 2 Q:Q)]``, positive for u as K' < 0.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    k0, k1, k2 = (float(k) for k in kernel_derivatives(zero, settings.sigma, 2))
    q, u, theta = moments.charges, moments.dipoles, moments.quadrupoles
    total = k0 * q.square() - 2.0 * k1 * u.square().sum(1)
    if theta is None:
        return 0.5 * settings.coulomb_constant * total
    # 1/4 Q_ab Q_cd (delta_ab delta_cd + two more) f_2 = 1/4 [(tr Q)^2 + 2 Q:Q] 4 K''
    trace = theta.diagonal(dim1=1, dim2=2).sum(1)
    second = trace.square() + 2.0 * theta.square().sum((1, 2))
    total = total + 2.0 * k1 * q * trace + k2 * second
    return 0.5 * settings.coulomb_constant * total


def total_dipole(moments: Multipoles, graph: AtomGraph, origin: Tensor) -> Tensor:
    """``sum_i q_i (r_i - r_0) + u_i`` of each system, (n_systems, 3) in e A.

    Args:
        moments: Moments of the atoms.
        graph: Positions.
        origin: (n_systems, 3) r_0 in A.
    """
    r = graph.positions - origin[graph.batch]
    return segment_sum(moments.charges[:, None] * r + moments.dipoles, graph.batch, graph.n_systems)


def _periodic_energy(
    q: Tensor,
    u: Tensor,
    theta: Tensor | None,
    r: Tensor,
    cell: Tensor,
    settings: EwaldSettings,
    transform: Transform,
    *,
    is_slab: bool,
) -> Tensor:
    """Sum over wave vectors of padded systems, self energies included.

    Args:
        q: (n_systems, n_max) charges.
        u: (n_systems, n_max, 3) dipoles.
        theta: (n_systems, n_max, 3, 3) quadrupoles, or None.
        r: (n_systems, n_max, 3) positions in A.
        cell: (n_systems, 3, 3) in A.
        settings: Constants.
        transform: The evaluator.
        is_slab: Whether all systems are slabs.
    """
    # s = r h^-1 within half a cell of the origin, as in :func:`.ewald.periodic_energy`
    inverse = torch.linalg.inv(cell.double())
    fractional = torch.einsum("sni,sij->snj", r.double(), inverse)
    fractional = (fractional - fractional.detach().round()).to(r.dtype)
    inverse = inverse.to(cell.dtype)
    # k.u = 2 pi n.(u h^-1), k.Q.k = 4 pi^2 n.(h^-T Q h^-1).n; i, j: Cartesian, a, b: lattice vector
    channels = [q[..., None], torch.einsum("sni,sij->snj", u, inverse)]
    if theta is not None:
        theta = torch.einsum("sia,snij,sjb->snab", inverse, theta, inverse)
        channels.append(torch.stack([theta[..., a, b] for a, b in _UNIQUE], dim=-1))
    # one structure factor per component: [s, n, 1 + 3 (+ 6)] -> [s, channel, n]
    weights = torch.cat(channels, dim=-1).transpose(1, 2)
    first, second, third = wave_limits(cell, settings.dl).amax(0).tolist()
    grid = Grid((first, second, third))
    sums = structure_factor(weights, fractional, grid, transform)
    # S = S_q + i k.S_u - 1/2 k.S_Q.k, (n_systems, n1, n2, n3); the two orders of ab cancel the 1/2
    n = [2.0 * math.pi * grid.along(axis, r) for axis in range(3)]
    structure = sums[:, 0]
    for axis in range(3):
        structure = structure + 1j * n[axis] * sums[:, 1 + axis]
    for channel, (a, b) in enumerate(_UNIQUE if theta is not None else ()):
        factor = 0.5 if a == b else 1.0
        structure = structure - factor * n[a] * n[b] * sums[:, 4 + channel]
    height = cell[:, 2].norm(dim=1) if is_slab else None
    volume = torch.linalg.det(cell).abs()
    power = weighted_power(structure, inverse, grid, settings, height)
    return settings.prefactor / volume * power


def _open_energy(q: Tensor, u: Tensor, theta: Tensor | None, r: Tensor, sigma: float) -> Tensor:
    """Pair sum of padded systems in units of ke, without self energies."""
    n_systems, n_atoms = q.shape
    # blocks of rows i against all j
    step = max(_PAIRS // (n_systems * n_atoms), 1)
    total = q.new_zeros(n_systems)
    for start in range(0, n_atoms, step):
        rows = (start, min(start + step, n_atoms))
        pairs = partial(_pair_rows, rows, sigma=sigma)
        if step >= n_atoms:
            return pairs(q, u, theta, r)
        total = total + recomputed(pairs, q, u, theta, r)
    return total


def _pair_rows(
    rows: tuple[int, int], q: Tensor, u: Tensor, theta: Tensor | None, r: Tensor, *, sigma: float
) -> Tensor:
    """``1/2 sum_j L_i L_j K`` of some atoms i, (n_systems,); index letters [s, i, j]."""
    i = slice(*rows)
    d = r[:, i, None] - r[:, None]  # [s, i, j, x]
    # an atom with itself: any distance but 0, whose kernels are then dropped
    index = torch.arange(r.shape[1], device=r.device)
    same = index[i, None] == index
    squared = torch.where(same, 1.0, d.square().sum(3))
    kernels = kernel_derivatives(squared, sigma, 2 if theta is None else 4)
    f = [(2.0**m * k).masked_fill(same, 0.0) for m, k in enumerate(kernels)]  # f_m, [s, i, j]
    # u_i.d, u_j.d and u_i.u_j, [s, i, j]
    q_i, q_j, u_i = q[:, i, None], q[:, None], u[:, i]
    u_id, u_jd = (u_i[:, :, None] * d).sum(3), (u[:, None] * d).sum(3)
    uu = torch.einsum("sia,sja->sij", u_i, u)
    # (q_i + u_i.grad) (q_j - u_j.grad) K: grad_j = -grad_i, a minus for every dipole of j
    pair = q_i * q_j * f[0] + (u_id * q_j - q_i * u_jd - uu) * f[1] - u_id * u_jd * f[2]
    if theta is not None:
        pair = pair + _quadrupole_pairs(i, d, f, (q, u, theta), (u_id, u_jd))
    return 0.5 * pair.sum((1, 2))


def _quadrupole_pairs(
    i: slice,
    d: Tensor,
    f: list[Tensor],
    moments: tuple[Tensor, Tensor, Tensor],
    along: tuple[Tensor, Tensor],
) -> Tensor:
    """Terms of ``L_i L_j K`` with quadrupoles, (n_systems, i, j).

    With ``v = Q d``, ``w = d.Q d``, ``t = tr Q`` and the derivatives of the module's head

    ``q_i 1/2 Q_j:grad grad K     = 1/2 q_i (t_j f_1 + w_j f_2)``, and the same with i and j swapped
    ``u_i.grad 1/2 Q_j:grad grad K = (u_i.v_j + 1/2 t_j u_i.d) f_2 + 1/2 (u_i.d) w_j f_3``
    ``-u_j.grad 1/2 Q_i:grad grad K``: the same with i and j swapped, and a minus
    ``1/4 Q_i:grad grad Q_j:grad grad K = (1/4 t_i t_j + 1/2 Q_i:Q_j) f_2
    + (1/4 t_i w_j + 1/4 t_j w_i + v_i.v_j) f_3 + 1/4 w_i w_j f_4``

    Args:
        i: Rows.
        d: (n_systems, i, j, 3) ``r_i - r_j``.
        f: Kernels up to the fourth.
        moments: Padded charges, dipoles and quadrupoles.
        along: ``u_i . d`` and ``u_j . d``.
    """
    q, u, theta = moments
    u_id, u_jd = along
    q_i, q_j, u_i, theta_i = q[:, i, None], q[:, None], u[:, i], theta[:, i]
    v_i = torch.einsum("siab,sijb->sija", theta_i, d)  # Q_i d
    v_j = torch.einsum("sjab,sijb->sija", theta, d)
    w_i, w_j = (v_i * d).sum(3), (v_j * d).sum(3)  # d Q d
    trace = theta.diagonal(dim1=2, dim2=3).sum(2)
    t_i, t_j = trace[:, i, None], trace[:, None]
    contraction = torch.einsum("siab,sjab->sij", theta_i, theta)
    # u_i.v_j and u_j.v_i: [s, i, 1, x] and [s, 1, j, x] x [s, i, j, x] -> [s, i, j]
    u_v, v_u = (u_i[:, :, None] * v_j).sum(3), (u[:, None] * v_i).sum(3)
    # factors of f_1, f_2 and f_3, collected from the terms above
    first = 0.5 * (q_i * t_j + t_i * q_j)
    second = 0.5 * (q_i * w_j + w_i * q_j)
    second = second + u_v - v_u + 0.5 * (t_j * u_id - t_i * u_jd)
    second = second + 0.25 * t_i * t_j + 0.5 * contraction
    third = 0.5 * (u_id * w_j - u_jd * w_i)
    third = third + 0.25 * (t_i * w_j + t_j * w_i) + (v_i * v_j).sum(3)
    return first * f[1] + second * f[2] + third * f[3] + 0.25 * w_i * w_j * f[4]
