"""Charges that the architecture itself makes and carries from layer to layer."""

from __future__ import annotations

from typing import final

from torch import Tensor

from lesff.atoms.segments import segment_sum
from lesff.electrostatics.charges.sharing import CarriedCharges
from lesff.errors import ConfigError
from lesff.heads.base import ChargeModel, HeadInput, HeadOutput, HeadSizes
from lesff.heads.config import LongRangeConfig
from lesff.heads.sharing import at_shares, shared_within
from lesff.nn.saturation import LINEAR_SHARE, smooth_step

_FROM, _LEAST = 0.5, 1e-3
"""Share of its limit from which on an atom takes what others have too much, and the little that
all others take: what is wrong in one place stays there."""


@final
class CarriedHead(ChargeModel):
    """``"carried"``: the charges of an architecture whose layers pass charges on, such as AIMNet2.

    Without weights of its own. Other heads can be laid on top; at given potentials of the
    architecture its charges are functions of the receptive field. Within limits charges level off,
    and what that takes away is shared out by atoms that are near their own limits, so that the sum
    stays: nothing changes as long as all charges are below 0.8 of them.

    Args:
        config: The long-range part.
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
        charges = _carried(x).charges
        if x.limits is None or potentials is None:
            return charges
        weights = _weights(charges, x.limits)
        return at_shares(charges, weights, potentials[:, 0], x.limits, x.graph.batch)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        found, batch = _carried(x), x.graph.batch
        charges, potentials = found.charges, None
        if x.limits is not None:
            totals = segment_sum(charges, batch, x.graph.n_systems)
            weights = _weights(charges, x.limits)
            charges, potential = shared_within(
                charges, weights, totals, x.limits, batch, solved=x.solves_limits
            )
            potentials = potential[:, None]
        return HeadOutput(
            local=found.local,
            charges=charges,
            latent=charges,
            coulomb=charges,
            potentials=potentials,
        )


def _weights(charges: Tensor, limits: Tensor) -> Tensor:
    """How much of what is too much for others an atom takes, (n_atoms,)."""
    share = (charges.abs() / limits - _FROM) / (LINEAR_SHARE - _FROM)
    return limits * (_LEAST + smooth_step(share))


def _carried(x: HeadInput) -> CarriedCharges:
    if x.carried is None:
        raise ConfigError("`long_range.head` 'carried' needs an architecture that carries charges")
    return x.carried
