"""Free latent charges, and the same shifted to the total charge."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lesff.heads.base import ChargeModel, HeadInput, HeadOutput, HeadSizes
from lesff.heads.config import LongRangeConfig
from lesff.nn.charge_heads import ChargeHead


class FreeHead(ChargeHead, ChargeModel):
    """``"latent"`` and ``"shifted"``; see :class:`lesff.nn.charge_heads.ChargeHead`."""

    is_local: ClassVar[bool] = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__(
            name="latent" if config.head == "latent" else "shifted",
            channels=sizes.channels,
            n_layers=sizes.n_layers,
            readouts=config.readouts,
        )

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        return self.raw(x.invariants)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        local, graph = self.local(x), x.graph
        charges = self.constrain(local, graph.batch, graph.total_charge, graph.atoms_per_system())
        return HeadOutput(local=local, charges=charges, latent=charges, coulomb=charges)
