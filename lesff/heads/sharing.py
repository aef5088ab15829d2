r"""What is missing to a total, shared out by weights and within limits.

Without limits ``q_i = p_i + f_i lambda`` with ``lambda = (T - sum p) / sum f``. With limits L_i the
charges level off, ``q_i = sat(p_i + f_i lambda; L_i)``, and lambda solves

.. math:: \sum_i \mathrm{sat}(p_i + f_i \lambda; L_i) = T

which is the same lambda as long as no charge is beyond 0.8 of its limit. At a given lambda charges
are functions of the receptive field.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.atoms.segments import segment_sum
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
    return saturated(p + weights * potential.index_select(0, batch), limits)


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
    n_systems = len(totals)

    def step(potential: Tensor, least: float) -> Tensor:
        # lambda + (T - sum q) / sum dq/dlambda, the slope without gradient
        argument = p + weights * potential.index_select(0, batch)
        slope = weights * saturation_slope(argument.detach(), limits).clamp(min=least)
        missing = totals - segment_sum(saturated(argument, limits), batch, n_systems)
        return potential + missing / segment_sum(slope, batch, n_systems)

    potential = torch.zeros_like(totals)
    with torch.no_grad():
        for _ in range(_STEPS):
            potential = step(potential, _MIN_SLOPE)
    for _ in range(2):
        potential = step(potential, _TINY)
    charges = at_shares(p, weights, potential, limits, batch)
    # rounding, and what limits leave over
    rest = totals - segment_sum(charges, batch, n_systems)
    share = weights / segment_sum(weights, batch, n_systems).index_select(0, batch)
    return charges + share * rest.index_select(0, batch), potential
