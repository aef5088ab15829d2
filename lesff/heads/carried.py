"""Charges that the architecture itself makes and carries from layer to layer."""

from __future__ import annotations

from typing import final

from torch import Tensor

from lesff.electrostatics.charges.sharing import CarriedCharges
from lesff.errors import ConfigError
from lesff.heads.base import ChargeModel, HeadInput, HeadOutput, HeadSizes
from lesff.heads.config import LongRangeConfig


@final
class CarriedHead(ChargeModel):
    """``"carried"``: the charges of an architecture whose layers pass charges on, such as AIMNet2.

    Without weights of its own. Other heads can be laid on top; at given potentials of the
    architecture its charges are functions of the receptive field.

    Args:
        config: The long-range part, without limits of charges.
        sizes: Of an architecture that carries charges.
    """

    is_local = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        if not sizes.carries_charges:
            raise ConfigError(
                "`long_range.head` must not be 'carried' for an architecture that carries no "
                "charges; use another head, or an architecture such as 'aimnet2'"
            )

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        return _carried(x).local

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; the architecture has its potentials already."""
        return _carried(x).charges

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        found = _carried(x)
        return HeadOutput(
            local=found.local, charges=found.charges, latent=found.charges, coulomb=found.charges
        )


def _carried(x: HeadInput) -> CarriedCharges:
    if x.carried is None:
        raise ConfigError("`long_range.head` 'carried' needs an architecture that carries charges")
    return x.carried
