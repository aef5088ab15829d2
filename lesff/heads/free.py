"""Free latent charges, and the same shifted to the total charge."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lesff.atoms.segments import shift_to_total
from lesff.heads.base import Anchored, ChargeModel, HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import LongRangeConfig
from lesff.heads.sharing import at_shares, shared_within


@final
class FreeHead(ChargeModel):
    """Latent charges as the sum of one readout per layer (KING25, arXiv 2412.15455).

    ``"latent"``: the free sum, size consistent. ``"shifted"``: additionally shifted uniformly to
    the total charge, exact for charged and neutral systems alike, but the (small) residual is
    spread over the whole system. On top of another head the readouts change its charges.

    Args:
        config: Which of the two, and what the readouts are.
        sizes: Layers and channels of the architecture.
    """

    is_local = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.is_shifted = config.head == "shifted"
        # on top of another head: no change yet
        self.readouts = make_readouts(config, sizes, starts_at_zero=bool(config.bases))
        self.anchored = Anchored(config, sizes) if config.bases and self.is_shifted else None

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        own = self.read(self.readouts, x)
        return own if self.base is None else self.base.local(x) + own

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; those of the head below, if any."""
        if self.base is not None:
            return self.base_at_potentials(x, potentials) + self.read(self.readouts, x)
        local = self.local(x)
        # within limits the shift is not uniform: its potential is one number a system
        if self.is_shifted and x.limits is not None and potentials is not None:
            return at_shares(
                local, torch.ones_like(local), potentials[:, 0], x.limits, x.graph.batch
            )
        return local

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        if self.base is not None:
            return self._on_top(x)
        local, graph = self.local(x), x.graph
        charges = local
        if self.is_shifted and x.limits is not None:
            charges, potential = shared_within(
                local,
                torch.ones_like(local),
                graph.total_charge,
                x.limits,
                graph.batch,
                solved=x.solves_limits,
            )
            return HeadOutput(
                local=local,
                charges=charges,
                latent=charges,
                coulomb=charges,
                potentials=potential[:, None],
            )
        if self.is_shifted:
            # every charge of a system moves by the same amount: (sum q - Q) / N
            charges = shift_to_total(
                local, graph.batch, graph.total_charge, graph.atoms_per_system()
            )
        return HeadOutput(local=local, charges=charges, latent=charges, coulomb=charges)

    def _on_top(self, x: HeadInput) -> HeadOutput:
        """Charges of the head below and a change of them."""
        below, change, graph = self.below(x), self.read(self.readouts, x), x.graph
        charges, latent = below.charges + change, below.latent + change
        if self.anchored is not None:
            # q = q0 + d with sum d = 0; the Coulomb energy keeps the sum that it had
            start, excess = self.anchored(below.charges, graph, below.latent)
            zero = torch.zeros_like(graph.total_charge)
            charges = start + shift_to_total(change, graph.batch, zero, graph.atoms_per_system())
            latent = charges + excess
        return HeadOutput(
            local=below.local + change,
            charges=charges,
            latent=latent,
            coulomb=latent,
            potentials=below.potentials,
        )
