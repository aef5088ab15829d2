"""Free latent charges, and the same shifted to the total charge."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from lesff.atoms.segments import shift_to_total
from lesff.heads.base import ChargeModel, HeadInput, HeadOutput, HeadSizes
from lesff.heads.config import LongRangeConfig
from lesff.nn.readout import LayerReadouts


@final
class FreeHead(ChargeModel):
    """Latent charges as the sum of one readout per layer (KING25, arXiv 2412.15455).

    ``"latent"``: the free sum, size consistent. ``"shifted"``: additionally shifted uniformly to
    the total charge, exact for charged and neutral systems alike, but the (small) residual is
    spread over the whole system.

    Args:
        config: Which of the two, and what the readouts are.
        sizes: Layers and channels of the architecture.
    """

    is_local: ClassVar[bool] = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.is_shifted = config.head == "shifted"
        self.readouts = LayerReadouts(
            channels=sizes.channels, n_layers=sizes.n_layers, config=config.readouts
        )

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        return self.readouts(x.invariants)

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; there are none."""
        return self.local(x)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        local, graph = self.local(x), x.graph
        charges = local
        if self.is_shifted:
            # every charge of a system moves by the same amount: (sum q - Q) / N
            charges = shift_to_total(
                local, graph.batch, graph.total_charge, graph.atoms_per_system()
            )
        return HeadOutput(local=local, charges=charges, latent=charges, coulomb=charges)
