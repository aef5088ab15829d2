r"""Charges and spin populations that share out what is missing by Fukui weights.

Two channels, ``p_up`` and ``p_down``, with ``q = p_up + p_down`` the charge and ``p_up - p_down``
the spin population, are brought to their targets ``(Q + S) / 2`` and ``(Q - S) / 2``, S the number
of unpaired electrons:

.. math::
    p_i^\sigma \leftarrow p_i^\sigma + f_i^\sigma \lambda^\sigma, \qquad
    \lambda^\sigma = \frac{T^\sigma - \sum_j p_j^\sigma}{\sum_j f_j^\sigma}

(AIMNet-NSE, arXiv 2009.13265; MACE-POLAR-1, arXiv 2602.19411). Linear cost and no equations to
solve. The weights are normalised over the system: distant fragments are size consistent only as far
as the weights say which of them has the charge.

At given potentials ``lambda`` charges are functions of the receptive field. Born effective charges
of crystals are those at fixed potentials: like that of a uniform shift, the dipole of a change of
the potentials is not defined in a periodic cell.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.heads.base import Anchored, ChargeModel, HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import LongRangeConfig
from lesff.heads.sharing import at_shares, shared_within

_TINY = 1e-10
"""Added to every weight: without any susceptible atom the rest is shared equally."""


@final
class FukuiHead(ChargeModel):
    """``"fukui"``: see the module's text. The weights start out equal, the spin channel at zero."""

    is_local = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.readouts = None if config.bases else make_readouts(config, sizes)
        self.spin_readouts = make_readouts(config, sizes, starts_at_zero=True)
        self.weights = nn.ModuleList(
            make_readouts(config, sizes, starts_at_zero=True) for _ in range(2)
        )
        self.anchored = Anchored(config, sizes) if config.residual or config.bases else None

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        if self.readouts is None:
            return self.below(x).local
        return self.read(self.readouts, x)

    def populations(self, x: HeadInput) -> Tensor:
        """Both channels, (n_atoms, 2) in e, each with its target as the sum."""
        start = self.local(x) if self.base is None else self.below(x).charges
        channels, weights = self._channels(start, x)
        return self._shared(channels, weights, x)[0]

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; (n_systems, 2) in e, then those below."""
        if self.base is None:
            start = self.local(x)
        else:
            start = self.base_at_potentials(x, potentials, own=2)
        channels, weights = self._channels(start, x)
        if potentials is None:
            return channels.sum(1)
        if x.limits is None:
            return (channels + weights * potentials[:, :2][x.graph.batch]).sum(1)
        parts = [
            at_shares(
                channels[:, k], weights[:, k], potentials[:, k], 0.5 * x.limits, x.graph.batch
            )
            for k in range(2)
        ]
        return parts[0] + parts[1]

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        below = None if self.base is None else self.below(x)
        start = self.local(x) if below is None else below.charges
        channels, weights = self._channels(start, x)
        # p + f lambda has the targets as its sums; both channels together are the charge
        populations, potentials = self._shared(channels, weights, x)
        charges = populations.sum(1)
        local, latent = channels.sum(1), charges
        # at the start the Coulomb energy is that of the free charges, see heads/base.py
        if self.anchored is not None:
            before = None if below is None else below.latent
            latent = charges + self.anchored(local, x.graph, before)[1]
        if below is not None:
            local = below.local
            if below.potentials is not None:
                potentials = torch.cat([potentials, below.potentials], dim=1)
        return HeadOutput(
            local=local, charges=charges, latent=latent, coulomb=latent, potentials=potentials
        )

    def _channels(self, charges: Tensor, x: HeadInput) -> tuple[Tensor, Tensor]:
        """Populations of charges before any constraint, in e, and weights, both (n_atoms, 2)."""
        # p_up = (q + s) / 2, p_down = (q - s) / 2; f > 0 through softplus, [n, (up, down)]
        half, spin = 0.5 * charges, 0.5 * self.spin_readouts(x.invariants)
        weights = [functional.softplus(readout(x.invariants)) for readout in self.weights]
        return torch.stack([half + spin, half - spin], dim=1), torch.stack(weights, dim=1) + _TINY

    def _shared(self, channels: Tensor, weights: Tensor, x: HeadInput) -> tuple[Tensor, Tensor]:
        """Populations with their targets as sums, (n_atoms, 2), and potentials (n_systems, 2)."""
        targets = self._targets(channels, x.graph)
        if x.limits is None:
            potentials = fukui_potentials(channels, weights, targets, x.graph)
            return channels + weights * potentials[x.graph.batch], potentials
        # each channel within half of the limit, so that the charge is within all of it
        found = [
            shared_within(
                channels[:, k],
                weights[:, k],
                targets[:, k],
                0.5 * x.limits,
                x.graph.batch,
                solved=x.solves_limits,
            )
            for k in range(2)
        ]
        return torch.stack([q for q, _ in found], 1), torch.stack([v for _, v in found], 1)

    @staticmethod
    def _targets(channels: Tensor, graph: AtomGraph) -> Tensor:
        # T_up = (Q + S) / 2 and T_down = (Q - S) / 2 with S unpaired electrons
        unpaired = (graph.spin_multiplicity - 1).to(channels.dtype)
        targets = torch.stack([graph.total_charge + unpaired, graph.total_charge - unpaired], 1)
        return 0.5 * targets


def fukui_potentials(
    populations: Tensor, weights: Tensor, targets: Tensor, graph: AtomGraph
) -> Tensor:
    """``lambda`` with which ``p + f lambda`` have the targets as their sums, (n_systems, channels).

    Args:
        populations: (n_atoms, channels) in e.
        weights: (n_atoms, channels), f > 0.
        targets: (n_systems, channels) in e.
        graph: The batch.
    """
    # what a system lacks in each channel, per unit of weight: f lambda adds up to it
    missing = targets - segment_sum(populations, graph.batch, graph.n_systems)
    return missing / segment_sum(weights, graph.batch, graph.n_systems)
