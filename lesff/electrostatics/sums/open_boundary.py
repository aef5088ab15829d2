r"""Energy of pairs in open space: a blocked sum with analytic derivatives.

With ``K(u)``, ``u = r^2``, the kernel of the settings (of Gaussian charges ``erf(r / (sqrt(2)
sigma)) / r``), its constant c (``ke``) and d = r_i - r_j,

.. math::
    E = \frac{c}{2} \sum_{i \ne j} q_i q_j K(u_{ij}), \quad
    \frac{\partial E}{\partial q_i} = c \sum_j q_j K, \quad
    \frac{\partial E}{\partial r_i} = 2 c q_i \sum_j q_j K' d .

First derivatives come from the compiled library where there is one. They and second derivatives are
written by hand, block by block, with nothing of the size of the pairs kept; third and higher ones
fall back to differentiable operations recomputed per block.

Index letters: s system, i atom of the block (row), j any atom, x Cartesian.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lesff import kernels
from lesff.autograd import recomputed
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import PairSettings

_CACHE_VALUES = 2**17
"""Pairs of one block on a CPU, measured: larger ones leave the cache."""
_DEVICE_VALUES = 2**24
"""The same on a GPU."""


def open_energy(
    charges: Tensor,
    positions: Tensor,
    batch: Tensor,
    n_systems: int,
    settings: PairSettings,
    *,
    padding: Padding | None = None,
) -> Tensor:
    """Energy of each isolated system, (n_systems,) in eV, differentiable to any order.

    The self energy (of charges ``ke sum q^2 / (sigma sqrt(2 pi))``) is added where the settings
    keep it.

    Args:
        charges: (n_atoms,) in e, or the coefficients of another interaction.
        positions: (n_atoms, 3) in A.
        batch: (n_atoms,) system of each atom, ascending.
        n_systems: Number of systems.
        settings: Constants.
        padding: That of ``batch``, if it is known.
    """
    padding = padding or Padding.of(batch, n_systems)
    q, r = padding.pad(charges), padding.pad(positions)
    energy = settings.pair_constant * _PairEnergy.apply(q, r, settings)  # pyright: ignore[reportOperatorIssue]
    # the pair sum leaves i = j out; settings that keep it add K at r = 0, finite for Gaussians
    if not settings.remove_self_interaction:
        energy = energy + settings.self_energy * (q * q).sum(1)
    return energy


class _PairEnergy(Function):
    """``1/2 sum_{i != j} q_i q_j K`` of padded systems; keeps its gradient from the same pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, r: Tensor, settings: PairSettings) -> Tensor:
        ctx.settings = settings
        with_forces = ctx.needs_input_grad[1]
        potential, slope = _first_derivatives(q, r, settings, forces=with_forces)
        ctx.save_for_backward(q, r, potential, slope)
        return 0.5 * (q * potential).sum(1)  # sum_ij counts each pair twice

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, r, potential, slope = ctx.saved_tensors
        # dE/dq and dE/dr are known from the forward pass, but as plain numbers: if they will be
        # differentiated, the same gradient comes from a function that has a backward
        if torch.is_grad_enabled():
            potential, slope = _PairGradient.apply(q, r, ctx.settings)  # pyright: ignore[reportGeneralTypeIssues]
        # grad is dL/dE, (n_systems,): [s, 1, 1] x [s, i, x]
        grad_r = grad[:, None, None] * slope if ctx.needs_input_grad[1] else None
        return grad[:, None] * potential, grad_r, None


class _PairGradient(Function):
    """The gradient as a function; its backward is the product with the Hessian."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, r: Tensor, settings: PairSettings) -> tuple[Tensor, Tensor]:
        ctx.settings = settings
        ctx.save_for_backward(q, r)
        return _first_derivatives(q, r, settings, forces=True)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # dL = a . d(dE/dq) + b . d(dE/dr): the Hessian, which is symmetric, times (a, b)
        q, r = ctx.saved_tensors
        blocks = _row_blocks(q)
        differentiable = torch.is_grad_enabled()
        parts = []
        for block in blocks:
            rows = partial(_hessian_rows, block, settings=ctx.settings)
            if differentiable and len(blocks) > 1:
                parts.append(recomputed(rows, q, r, a, b))
            else:
                parts.append(rows(q, r, a, b))
        return torch.cat([p for p, _ in parts], 1), torch.cat([p for _, p in parts], 1), None


def _row_blocks(q: Tensor) -> list[slice]:
    """Blocks of atoms i whose pairs with all atoms j of all systems fit the cache."""
    n_systems, n_atoms = q.shape
    limit = _CACHE_VALUES if q.device.type == "cpu" else _DEVICE_VALUES
    step = max(limit // (n_systems * n_atoms), 1)
    return [slice(start, min(start + step, n_atoms)) for start in range(0, n_atoms, step)]


def _first_derivatives(
    q: Tensor, r: Tensor, settings: PairSettings, *, forces: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of the pair sum in q, (n_systems, n_atoms), and in r, (..., 3)."""
    fused = kernels.backend(q)
    if fused is not None and fused.has_open_pairs:
        return fused.open_pairs(q, r, settings.pair_kind, settings.sigma, forces=forces)
    return plain_derivatives(q, r, settings, forces=forces)


def plain_derivatives(
    q: Tensor, r: Tensor, settings: PairSettings, *, forces: bool
) -> tuple[Tensor, Tensor]:
    """The same block by block in plain PyTorch."""
    potential, slope = torch.empty_like(q), torch.zeros_like(r)
    for block in _row_blocks(q):
        d, k = _pairs(block, r, settings, int(forces))
        # dE/dq_i = sum_j K q_j: [s, i, j] @ [s, j, 1]
        potential[:, block] = torch.bmm(k[0], q[:, :, None])[..., 0]
        if forces:
            # dE/dr_i = 2 q_i sum_j q_j K' d: the factor 2 is dr^2/dr = 2 d
            weight = k[1] * q[:, None, :] * (2.0 * q[:, block, None])  # [s, i, j]
            for axis in range(3):
                slope[:, block, axis] = (weight * d[axis]).sum(2)
    return potential, slope


def _pairs(
    block: slice, r: Tensor, settings: PairSettings, order: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Difference vectors, three of (n_systems, rows, n_atoms), and kernels, zero for i = j."""
    # r_i - r_j, one table [s, i, j] per Cartesian axis
    d = [r[:, block, None, axis] - r[:, None, :, axis] for axis in range(3)]
    n_rows, n_atoms = d[0].shape[1:]
    rows = torch.arange(block.start, block.start + n_rows, device=r.device)
    same = rows[:, None] == torch.arange(n_atoms, device=r.device)
    u = d[0].square() + d[1].square() + d[2].square()
    u = torch.where(same, 4.0 * settings.sigma**2, u)  # any value that needs no series
    return d, [k.masked_fill(same, 0.0) for k in settings.kernel(u, order)]


def _hessian_rows(
    block: slice, q: Tensor, r: Tensor, a: Tensor, b: Tensor, settings: PairSettings
) -> tuple[Tensor, Tensor]:
    """Rows of the Hessian of the pair sum times the vector (a, b).

    Gradient of ``D = sum_{i != j} a_i q_j K + q_i q_j K' d . (b_i - b_j)``, the derivative of the
    energy along (a, b). With ``db = b_i - b_j`` and both orders of a pair added up,

    ``dD/dq_i = sum_j a_j K + 2 q_j K' d . db``
    ``dD/dr_i = sum_j [2 K' (a_i q_j + q_i a_j) + 4 K'' q_i q_j d . db] d + 2 K' q_i q_j db``

    Args:
        block: Atoms i.
        q: (n_systems, n_atoms) charges.
        r: (n_systems, n_atoms, 3) positions.
        a: (n_systems, n_atoms) direction in charges.
        b: (n_systems, n_atoms, 3) direction in positions.
        settings: The interaction.

    Returns:
        Rows in charges, (n_systems, rows), and in positions, (n_systems, rows, 3).
    """
    d, (k0, k1, k2) = _pairs(block, r, settings, 2)
    db = [b[:, block, None, axis] - b[:, None, :, axis] for axis in range(3)]  # three of [s, i, j]
    along = d[0] * db[0] + d[1] * db[1] + d[2] * db[2]  # d . db
    # dD/dq_i
    charge = torch.bmm(k0, a[:, :, None])[..., 0] + 2.0 * (k1 * along * q[:, None, :]).sum(2)
    # dD/dr_i: a part along d and one along db, factors [s, i, j]
    product = q[:, block, None] * q[:, None, :]
    mixed = a[:, block, None] * q[:, None, :] + q[:, block, None] * a[:, None, :]
    radial = 2.0 * k1 * mixed + 4.0 * k2 * along * product
    parallel = 2.0 * k1 * product
    point = [(radial * d[axis] + parallel * db[axis]).sum(2) for axis in range(3)]
    return charge, torch.stack(point, -1)
