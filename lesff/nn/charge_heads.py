"""Charge heads: from per-layer invariants to latent charges. Names are listed in CHARGE_HEADS."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lesff.atoms.segments import shift_to_total
from lesff.nn.readout import LayerReadouts, ReadoutConfig

ChargeHeadName = Literal["latent", "shifted"]
CHARGE_HEADS: tuple[ChargeHeadName, ...] = ("latent", "shifted")


class ChargeHead(nn.Module):
    """Latent charges as the sum of one readout per layer (KING25, arXiv 2412.15455).

    Args:
        name: ``"latent"``: free sum, size consistent. ``"shifted"``: additionally shifted
            uniformly to the total charge, exact for charged and neutral systems alike, but the
            (small) residual is spread over the whole system.
        channels: Channels of the invariants.
        n_layers: Layers of the architecture.
        readouts: What the readouts are.
    """

    responds_to_field = False
    """Whether charges depend on the graph's external field."""

    def __init__(
        self, *, name: ChargeHeadName, channels: int, n_layers: int, readouts: ReadoutConfig
    ) -> None:
        super().__init__()
        self.name = name
        self.readouts = LayerReadouts(channels=channels, n_layers=n_layers, config=readouts)

    def raw(self, invariants: list[Tensor]) -> Tensor:
        """Local charges before any constraint, (n_atoms,)."""
        return self.readouts(invariants)

    def constrain(self, raw: Tensor, batch: Tensor, total_charge: Tensor, counts: Tensor) -> Tensor:
        """Latent charges of the model from local ones, (n_atoms,)."""
        if self.name == "latent":
            return raw
        return shift_to_total(raw, batch, total_charge, counts)
