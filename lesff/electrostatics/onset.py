r"""Coulomb interaction of point charges that fades in with distance, as in AIMNet2.

.. math::
    E = \frac{k_e}{2} \sum_{i \ne j} q_i q_j \frac{1 - f(r_{ij})}{r_{ij}}, \qquad
    f(r) = \exp\Bigl(1 - \frac{1}{1 - (r / r_o)^2}\Bigr) \text{ for } r < r_o, \text{ else } 0

(Anstine, Zubatyuk, Isayev, Chem. Sci. 2025): none at contact, where the short-range model says
everything, and that of point charges from the onset ``r_o`` on. The sums of
:mod:`lesff.electrostatics.sums` give the energy of Gaussian charges at all distances and in all
boundaries; what is missing to ``(1 - f) / r`` is a sum over close pairs,

.. math:: \frac{\mathrm{erfc}(r / \sqrt2 \sigma) - f(r)}{r},

which has to reach ``4.4 sqrt(2) sigma`` for 1e-9 of a pair's energy, and which the neighbours of
the short-range model are enough for. Images of crystals count as other pairs do.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.autograd import recorded_gradients
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.kernels.passes import OnsetPairs, onset_sums

_NEARLY_ONE = 1.0 - 1e-6
"""Largest r / r_o; f is zero there to any precision."""


def onset(distance: Tensor, end: float) -> Tensor:
    """The f of the module's text: one at contact, zero from ``end`` on, smooth to any order."""
    x = (distance / end).clamp(max=_NEARLY_ONE)
    return torch.exp(1.0 - 1.0 / (1.0 - x.square()))


def onset_energy(
    charges: Tensor,
    distance: Tensor,
    first: Tensor,
    second: Tensor,
    graph: AtomGraph,
    settings: EwaldSettings,
    end: float,
) -> Tensor:
    """What is missing to the energy of Gaussian charges, (n_systems,) in eV.

    Args:
        charges: (n_atoms,) in e.
        distance: (n_pairs,) in A, each pair of neighbours once, images among them.
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
        graph: The batch.
        settings: Constants of the Gaussian charges.
        end: ``r_o`` in A.
    """
    rate = 1.0 / (math.sqrt(2.0) * settings.sigma)
    pairs = OnsetPairs(
        first=first,
        second=second,
        batch=graph.batch,
        n_systems=graph.n_systems,
        rate=rate,
        end=end,
        constant=settings.coulomb_constant,
    )
    if kernels.is_active(charges) and distance.dtype == charges.dtype:
        return _OnsetEnergy.apply(charges, distance, pairs)  # pyright: ignore[reportReturnType]
    return _plain_energy(charges, distance, pairs)


def _plain_energy(charges: Tensor, distance: Tensor, pairs: OnsetPairs) -> Tensor:
    """The sum in plain PyTorch, differentiable to any order."""
    kernel = (torch.erfc(pairs.rate * distance) - onset(distance, pairs.end)) / distance
    # [p]: q_i q_j K(r_p)
    product = charges.index_select(0, pairs.first) * charges.index_select(0, pairs.second)
    energy = pairs.constant * product * kernel
    return segment_sum(energy, pairs.batch.index_select(0, pairs.first), pairs.n_systems)


class _OnsetEnergy(torch.autograd.Function):
    """The sum of the compiled library; keeps its gradient from the same call."""

    @staticmethod
    def forward(ctx: Any, charges: Tensor, distance: Tensor, pairs: OnsetPairs) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        energy, potential, slope = onset_sums(charges, distance, pairs)
        ctx.save_for_backward(charges, distance, potential, slope)
        ctx.pairs = pairs
        return energy

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        charges, distance, potential, slope = ctx.saved_tensors
        pairs, need = ctx.pairs, ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            plain = partial(_plain_energy, pairs=pairs)
            return *recorded_gradients(plain, (charges, distance), need, (grad,)), None
        of_atoms = grad.index_select(0, pairs.batch)
        of_distance = of_atoms.index_select(0, pairs.first) * slope
        return of_atoms * potential, of_distance, None
