r"""What is missing to a total, shared out by weights and within limits.

Without limits ``q_i = p_i + f_i lambda`` with ``lambda = (T - sum p) / sum f``. With limits L_i the
charges level off, ``q_i = sat(sat(p_i; L_i) + f_i lambda; L_i)``, and lambda solves

.. math:: \sum_i \mathrm{sat}(\mathrm{sat}(p_i; L_i) + f_i \lambda; L_i) = T

which is the same lambda as long as no charge is beyond 0.8 of its limit. What is beyond it already
levels off before anything is shared out: Newton's steps would not come back from there. At a given
lambda charges are functions of the receptive field.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.atoms.segments import segment_sum
from lesff.autograd import recorded_gradients
from lesff.kernels import ShareInputs
from lesff.nn.saturation import saturated, saturation_slope

_STEPS = 6
"""Newton steps without gradient, and two with: derivatives up to the second are then those of the
solution. Without charges near their limits the first step is the solution."""
_MIN_SLOPE = 0.05
"""Least slope of a charge in its argument that a step without gradient assumes."""
_TINY = 1e-6


def at_shares(
    p: Tensor, weights: Tensor, potential: Tensor, limits: Tensor, batch: Tensor
) -> Tensor:
    """Charges at a given potential of each system, (n_atoms,) in e."""
    start = saturated(p, limits)
    return saturated(start + weights * potential.index_select(0, batch), limits)


def shared_within(
    p: Tensor, weights: Tensor, totals: Tensor, limits: Tensor, batch: Tensor
) -> tuple[Tensor, Tensor]:
    """Charges that sum to the totals, (n_atoms,), and the potential of each system, (n_systems,).

    Where the limits of all atoms together are less than the total, the rest goes beyond them.

    Args:
        p: (n_atoms,) charges before, in e.
        weights: (n_atoms,), positive.
        totals: (n_systems,) in e.
        limits: (n_atoms,) in e.
        batch: (n_atoms,) system of each atom.
    """
    x = ShareInputs(
        p=p,
        weights=weights,
        totals=totals.to(p.dtype),
        limits=limits.to(p.dtype),
        batch=batch,
        n_steps=_STEPS,
        least=_MIN_SLOPE,
        tiny=_TINY,
    )
    fused = kernels.backend(p)
    if fused is None or not fused.has_contacts:
        return plain_shares(x)
    return _FusedShares.apply(x.p, x.weights, x.totals, x, fused)  # pyright: ignore[reportReturnType]


def plain_shares(x: ShareInputs) -> tuple[Tensor, Tensor]:
    """See :func:`shared_within`; in plain PyTorch, differentiable twice."""
    n_systems = len(x.totals)
    start = saturated(x.p, x.limits)

    def step(potential: Tensor, least: float) -> Tensor:
        # lambda + (T - sum q) / sum dq/dlambda, the slope without gradient
        argument = start + x.weights * potential.index_select(0, x.batch)
        slope = x.weights * saturation_slope(argument.detach(), x.limits).clamp(min=least)
        missing = x.totals - segment_sum(saturated(argument, x.limits), x.batch, n_systems)
        return potential + missing / segment_sum(slope, x.batch, n_systems)

    potential = torch.zeros_like(x.totals)
    with torch.no_grad():
        for _ in range(x.n_steps):
            potential = step(potential, x.least)
    for _ in range(2):
        potential = step(potential, x.tiny)
    charges = at_shares(x.p, x.weights, potential, x.limits, x.batch)
    # rounding, and what limits leave over
    rest = x.totals - segment_sum(charges, x.batch, n_systems)
    share = x.weights / segment_sum(x.weights, x.batch, n_systems).index_select(0, x.batch)
    return charges + share * rest.index_select(0, x.batch), potential


class _FusedShares(torch.autograd.Function):
    """Compiled :func:`plain_shares`, which gives second derivatives."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        p: Tensor,
        weights: Tensor,
        totals: Tensor,
        x: ShareInputs,
        fused: kernels.Backend,
    ) -> tuple[Tensor, Tensor]:
        charges, potential = fused.shares(x)
        ctx.save_for_backward(p, weights, totals, potential)
        ctx.rest = x, fused
        return charges, potential

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inputs, potential = ctx.saved_tensors
        x, fused = ctx.rest
        if torch.is_grad_enabled():
            out = recorded_gradients(
                lambda p, w, t: plain_shares(replace(x, p=p, weights=w, totals=t)),
                inputs,
                ctx.needs_input_grad[:3],
                grads,
            )
            return *out, None, None
        given = replace(x, p=inputs[0], weights=inputs[1], totals=inputs[2])
        return *fused.shares_backward(grads, given, potential), None, None
