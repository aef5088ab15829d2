r"""Charges and spin populations that share out what is missing by Fukui weights.

Two channels, ``p_up`` and ``p_down``, with ``q = p_up + p_down`` the charge and ``p_up - p_down``
the spin population, are brought to their targets ``(Q + S) / 2`` and ``(Q - S) / 2``, S the number
of unpaired electrons:

.. math::
    p_i^\sigma \leftarrow p_i^\sigma + \frac{f_i^\sigma}{\sum_j f_j^\sigma}
        \Bigl(T^\sigma - \sum_j p_j^\sigma\Bigr)

(AIMNet-NSE, arXiv 2009.13265; MACE-POLAR-1, arXiv 2602.19411). Linear cost and no equations to
solve. The weights are normalised over the system: not size consistent for distant fragments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.graph import AtomGraph
from lesff.heads.base import Anchored, ChargeModel, HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import LongRangeConfig
from lesff.ops import segment_sum

_TINY = 1e-30
"""Added to every weight: without any susceptible atom the rest is shared equally."""


class FukuiHead(ChargeModel):
    """``"fukui"``: see the module's text. The weights start out equal, the spin channel at zero."""

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.readouts = make_readouts(config, sizes)
        self.spin_readouts = make_readouts(config, sizes, starts_at_zero=True)
        self.weights = nn.ModuleList(
            make_readouts(config, sizes, starts_at_zero=True) for _ in range(2)
        )
        self.anchored = Anchored(config, sizes) if config.residual else None

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        return self.readouts(x.invariants)

    def populations(self, x: HeadInput) -> Tensor:
        """Both channels, (n_atoms, 2) in e, each with its target as the sum."""
        half, spin = 0.5 * self.local(x), 0.5 * self.spin_readouts(x.invariants)
        channels = torch.stack([half + spin, half - spin], dim=1)
        weights = torch.stack(
            [functional.softplus(readout(x.invariants)) for readout in self.weights], dim=1
        )
        graph = x.graph
        unpaired = (graph.spin_multiplicity - 1).to(channels.dtype)
        targets = torch.stack([graph.total_charge + unpaired, graph.total_charge - unpaired], 1)
        return fukui_equilibrated(channels, weights, 0.5 * targets, graph)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        local, charges = self.local(x), self.populations(x).sum(1)
        latent = charges
        if self.anchored is not None:
            latent = charges + self.anchored(local, x.graph)[1]
        return HeadOutput(local=local, charges=charges, latent=latent, coulomb=latent)


def fukui_equilibrated(
    populations: Tensor, weights: Tensor, targets: Tensor, graph: AtomGraph
) -> Tensor:
    """Populations with the targets as their sums, (n_atoms, channels).

    Args:
        populations: (n_atoms, channels) in e.
        weights: (n_atoms, channels), f >= 0; equal shares where all of a system are zero.
        targets: (n_systems, channels) in e.
        graph: The batch.
    """
    f = weights + _TINY
    missing = targets - segment_sum(populations, graph.batch, graph.n_systems)
    share = f / segment_sum(f, graph.batch, graph.n_systems)[graph.batch]
    return populations + share * missing[graph.batch]
