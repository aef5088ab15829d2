r"""What is missing to a total, shared out by weights and within limits.

Without limits ``q_i = p_i + f_i lambda`` with ``lambda = (T - sum p) / sum f``. With limits L_i the
charges level off, ``q_i = sat(sat(p_i; L_i) + f_i lambda; L_i)``, and lambda solves

.. math:: \sum_i \mathrm{sat}(\mathrm{sat}(p_i; L_i) + f_i \lambda; L_i) = T

which is the same lambda as long as no charge is beyond 0.8 of its limit. What is beyond it already
levels off before anything is shared out: Newton's steps would not come back from there. At a given
lambda charges are functions of the receptive field.

Models whose protons are shared solve this to the last digit. Older ones take a fixed number of
Newton steps, and keep doing so: two electrons too many on a water need more than those.
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
_MOST_STEPS, _FAR, _CLOSE = 200, 1e6, 1e-14
"""Of a solution. Potentials beyond are those of totals that limits cannot hold; a last step from
where a total is off by so much of 1 e is exact."""
_MIN_SLOPE = 0.05
"""Least slope of a charge in its argument that a step without gradient assumes."""
_TINY, _TINIEST = 1e-6, 1e-14
"""The same of steps with gradient, and of a solution."""


def at_shares(
    p: Tensor, weights: Tensor, potential: Tensor, limits: Tensor, batch: Tensor
) -> Tensor:
    """Charges at a given potential of each system, (n_atoms,) in e."""
    start = saturated(p, limits)
    return saturated(start + weights * potential.index_select(0, batch), limits)


def shared_within(
    p: Tensor,
    weights: Tensor,
    totals: Tensor,
    limits: Tensor,
    batch: Tensor,
    *,
    solved: bool = False,
) -> tuple[Tensor, Tensor]:
    """Charges that sum to the totals, (n_atoms,), and the potential of each system, (n_systems,).

    Where the limits of all atoms together are less than the total, the rest goes beyond them.

    Args:
        p: (n_atoms,) charges before, in e.
        weights: (n_atoms,), positive.
        totals: (n_systems,) in e.
        limits: (n_atoms,) in e.
        batch: (n_atoms,) system of each atom.
        solved: Whether the potentials are solutions, however many steps that takes.
    """
    x = ShareInputs(
        p=p,
        weights=weights,
        totals=totals.to(p.dtype),
        limits=limits.to(p.dtype),
        batch=batch,
        n_steps=0 if solved else _STEPS,
        least=_MIN_SLOPE,
        tiny=_TINIEST if solved else _TINY,
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
        if x.n_steps == 0:
            potential = _solution(x, start)
        for _ in range(x.n_steps):
            potential = step(potential, x.least)
    for _ in range(2):
        potential = step(potential, x.tiny)
    charges = at_shares(x.p, x.weights, potential, x.limits, x.batch)
    # rounding, and what limits leave over
    rest = x.totals - segment_sum(charges, x.batch, n_systems)
    share = x.weights / segment_sum(x.weights, x.batch, n_systems).index_select(0, x.batch)
    return charges + share * rest.index_select(0, x.batch), potential


def _solution(x: ShareInputs, start: Tensor) -> Tensor:
    """Potentials with which charges have their totals, (n_systems,), in float64 steps."""
    n_systems, totals = len(x.totals), x.totals.double()
    start, weights, limits = start.double(), x.weights.double(), x.limits.double()
    found = torch.zeros_like(totals)
    low, high = torch.full_like(totals, -_FAR), torch.full_like(totals, _FAR)
    is_recorded = start.is_cuda and torch.cuda.is_current_stream_capturing()
    for k in range(_MOST_STEPS):
        argument = start + weights * found.index_select(0, x.batch)
        missing = totals - segment_sum(saturated(argument, limits), x.batch, n_systems)
        slope = weights * saturation_slope(argument, limits).clamp(min=x.tiny)
        low, high = (
            torch.where(missing > 0.0, found, low),
            torch.where(missing > 0.0, high, found),
        )
        # Newton's step, or half of the way between too small and too large
        step = found + missing / segment_sum(slope, x.batch, n_systems)
        is_close = missing.abs() <= _CLOSE * (1.0 + totals.abs())
        stays = is_close | ((step > low) & (step < high) & (k % 4 != 3))
        step = torch.where(stays, step, 0.5 * (low + high))
        is_done = is_close | ((step - found).abs() <= 1e-15 * step.abs())
        found = step
        if not is_recorded and bool(is_done.all()):
            break
    return found.to(x.totals.dtype)


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
