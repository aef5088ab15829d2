r"""Structure factor and its adjoint: two linear maps that are each other's derivative.

In fractional coordinates the wave vectors are integer triples ``n``, the same for every cell:

.. math::
    S_n(q, s) = \sum_i q_i e^{2\pi i\, n \cdot s_i}, \qquad
    \phi_i(c, s) = \mathrm{Re} \sum_n \bar c_n e^{2\pi i\, n \cdot s_i}

``dS/dq`` transposed is ``phi``, ``d phi/dc`` transposed is ``S``, and derivatives in ``s`` are the
same maps with coefficients times ``2 pi i n``. So the two autograd functions below call each
other, and whatever evaluates the sums (:class:`Transform`) is differentiable to any order without
storing phases. Only ``n_1 >= 0`` is kept: ``S_{-n}`` is the conjugate of ``S_n``.

Complex gradients follow torch: the gradient G of a real L in a complex S means ``dL = Re sum_n
conj(G_n) dS_n``. With ``e_ni = exp(2 pi i n . s_i)`` the rules are, for L through S

.. math::
    dL = \mathrm{Re} \sum_n \bar G_n \sum_i (dq_i + q_i\, 2\pi i\, n \cdot ds_i)\, e_{ni}
       = \sum_i \phi_i(G)\, dq_i + q_i \nabla\phi_i(G) \cdot ds_i,

and for L through ``phi`` and its slopes ``d_a phi``, with real gradients h and g of them,

.. math::
    G^c_n = \sum_i \Bigl(h_i + \sum_a 2\pi i\, n_a\, g_{ia}\Bigr) e_{ni}
          = S_n(h) + \sum_a 2\pi i\, n_a S_n(g_a), \qquad
    \frac{dL}{ds_{ib}} = h_i\, \partial_b \phi_i(c)
          + \sum_a g_{ia}\, \partial_b \phi_i(-2\pi i\, n_a c),

as ``d_a phi(c) = phi(-2 pi i n_a c)``: phi takes the conjugate of its coefficients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class Grid:
    """Integer triples: 0..limits[0], -limits[1]..limits[1], -limits[2]..limits[2].

    Attributes:
        limits: Largest index along each reciprocal lattice vector.
    """

    limits: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of indices along each axis."""
        return self.limits[0] + 1, 2 * self.limits[1] + 1, 2 * self.limits[2] + 1

    @property
    def size(self) -> int:
        """Number of triples."""
        return math.prod(self.shape)

    def indices(self, axis: int, like: Tensor) -> Tensor:
        """Indices along one axis, with the type and device of ``like``."""
        low = 0 if axis == 0 else -self.limits[axis]
        return torch.arange(low, self.limits[axis] + 1, dtype=like.dtype, device=like.device)

    def along(self, axis: int, like: Tensor) -> Tensor:
        """Indices along one axis, shaped to broadcast over the grid."""
        shape = [1, 1, 1]
        shape[axis] = -1
        return self.indices(axis, like).view(shape)


class Transform(ABC):
    """An evaluator of the two sums; plain numbers in and out, no autograd."""

    @abstractmethod
    def sum(self, q: Tensor, s: Tensor, grid: Grid) -> Tensor:
        """Structure factor, (n_systems, n_channels, *grid.shape), complex.

        Args:
            q: (n_systems, n_channels, n_atoms) weights.
            s: (n_systems, n_atoms, 3) fractional coordinates.
            grid: Wave vectors.
        """

    @abstractmethod
    def field(self, c: Tensor, s: Tensor, grid: Grid, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """Adjoint sum, (n_systems, n_channels, n_atoms), and its gradient in s, (..., 3).

        Args:
            c: (n_systems, n_channels, *grid.shape) complex coefficients.
            s: (n_systems, n_atoms, 3) fractional coordinates.
            grid: Wave vectors.
            gradient: Whether the gradient is needed; zeros otherwise.
        """


def structure_factor(q: Tensor, s: Tensor, grid: Grid, transform: Transform) -> Tensor:
    """``S_n`` of padded systems, (n_systems, n_channels, *grid.shape), differentiable.

    Args:
        q: (n_systems, n_channels, n_atoms) in e, zero for padding.
        s: (n_systems, n_atoms, 3) fractional coordinates.
        grid: Wave vectors.
        transform: The evaluator.
    """
    return _Sum.apply(q, s, grid, transform)  # pyright: ignore[reportReturnType]


class _Sum(Function):
    """``(q, s) -> S``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, s: Tensor, grid: Grid, transform: Transform) -> Tensor:
        ctx.save_for_backward(q, s)
        ctx.grid, ctx.transform = grid, transform
        return transform.sum(q, s, grid)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, s = ctx.saved_tensors
        need_s = ctx.needs_input_grad[1]
        # dL/dq = phi(G); dL/ds = q grad phi(G), summed over the channels that share the points
        phi, d_phi = _Field.apply(grad, s, ctx.grid, ctx.transform, need_s)  # pyright: ignore[reportGeneralTypeIssues]
        # [system, channel, atom, axis] -> [system, atom, axis]
        return phi, (q[..., None] * d_phi).sum(1) if need_s else None, None, None


def site_sum(c: Tensor, s: Tensor, grid: Grid, transform: Transform) -> tuple[Tensor, Tensor]:
    """``phi_i`` and its gradient in s, of padded systems, differentiable.

    Args:
        c: (n_systems, n_channels, *grid.shape) complex coefficients.
        s: (n_systems, n_atoms, 3) fractional coordinates.
        grid: Wave vectors.
        transform: The evaluator.

    Returns:
        (n_systems, n_channels, n_atoms), and (..., 3).
    """
    return _Field.apply(c, s, grid, transform, True)  # pyright: ignore[reportReturnType]


class _Field(Function):
    """``(c, s) -> (phi, grad phi)``."""

    @staticmethod
    def forward(
        ctx: Any, c: Tensor, s: Tensor, grid: Grid, transform: Transform, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # an output without gradient saves its sums
        phi, d_phi = transform.field(c, s, grid, gradient=gradient)
        ctx.save_for_backward(c, s)
        ctx.grid, ctx.transform = grid, transform
        return phi, d_phi

    @staticmethod
    def backward(ctx: Any, h: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        c, s = ctx.saved_tensors
        grid, transform = ctx.grid, ctx.transform
        grad_c = _coefficient_gradient(h, dh, s, grid, transform)
        grad_s = None
        if ctx.needs_input_grad[1]:
            grad_s = _point_gradient(h, dh, c, s, grid, transform)
        return grad_c, grad_s, None, None, None


def _two_pi_n(grid: Grid, axis: int, like: Tensor) -> Tensor:
    """``2 pi n_a``, shaped to broadcast over the grid."""
    return 2.0 * math.pi * grid.along(axis, like)


def _coefficient_gradient(
    h: Tensor | None, dh: Tensor | None, s: Tensor, grid: Grid, transform: Transform
) -> Tensor | None:
    """``sum_i (h_i + sum_a dh_ia 2 pi i n_a) e^{2 pi i n s_i}``, the shape of c.

    Args:
        h: (n_systems, n_channels, n_atoms) gradient of phi, None for zero.
        dh: (n_systems, n_channels, n_atoms, 3) gradient of its slopes (g above), None for zero.
        s: (n_systems, n_atoms, 3) fractional coordinates.
        grid: Wave vectors.
        transform: The evaluator.
    """
    weights = ([] if h is None else [h]) + ([] if dh is None else list(dh.unbind(-1)))
    if not weights:
        return None
    # up to four structure factors as channels of one sum: [system, (h, g1, g2, g3) c, n1, n2, n3]
    sums = structure_factor(torch.cat(weights, dim=1), s, grid, transform)
    parts = list(sums.chunk(len(weights), dim=1))
    total = torch.zeros_like(parts[0]) if h is None else parts.pop(0)
    for axis, part in enumerate(parts):  # those of dh: h was taken off the list
        total = total + 1j * _two_pi_n(grid, axis, s) * part
    return total


def _point_gradient(
    h: Tensor | None, dh: Tensor | None, c: Tensor, s: Tensor, grid: Grid, transform: Transform
) -> Tensor:
    """``h_i grad phi_i + sum_a dh_ia grad d_a phi_i``, summed over channels, the shape of s.

    Arguments as for :func:`_coefficient_gradient`, and c, the coefficients of phi.
    """
    # weight and coefficients of each term; d_a phi is phi of -2 pi i n_a c
    pairs = [] if h is None else [(h, c)]
    if dh is not None:
        pairs += [(dh[..., a], -1j * _two_pi_n(grid, a, s) * c) for a in range(3)]
    total = torch.zeros_like(s)
    if not pairs:
        return total
    coefficients = torch.cat([c for _, c in pairs], dim=1)
    _, d_phi = _Field.apply(coefficients, s, grid, transform, True)  # pyright: ignore[reportGeneralTypeIssues]
    weights = torch.cat([h for h, _ in pairs], dim=1)
    # [s, terms and channels, atom, 1] x [.., axis] -> [s, atom, axis]
    return total + (weights[..., None] * d_phi).sum(1)
