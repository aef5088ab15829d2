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

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.sums.settings import EwaldSettings

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
    a = 1.0 / (math.sqrt(2.0) * settings.sigma)
    kernel = (torch.erfc(a * distance) - onset(distance, end)) / distance
    # [p]: q_i q_j K(r_p)
    product = charges.index_select(0, first) * charges.index_select(0, second)
    energy = settings.coulomb_constant * product * kernel
    return segment_sum(energy, graph.batch.index_select(0, first), graph.n_systems)
