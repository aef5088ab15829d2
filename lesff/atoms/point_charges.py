"""``PointCharges``: charges around the structures of a batch that are no atoms of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PointCharges:
    """Fixed charges that act on the atoms of a batch, such as those of a force field.

    Attributes:
        positions: (n, 3) in A, float64.
        charges: (n,) in e, float64.
        batch: (n,) int64, the system on which each acts, ascending.
    """

    positions: Tensor
    charges: Tensor
    batch: Tensor

    def to(self, device: torch.device | str) -> PointCharges:
        """A copy on ``device``."""
        return PointCharges(
            positions=self.positions.to(device),
            charges=self.charges.to(device),
            batch=self.batch.to(device),
        )

    def cloned(self) -> PointCharges:
        """A copy of the tensors."""
        return PointCharges(
            positions=self.positions.clone(),
            charges=self.charges.clone(),
            batch=self.batch.clone(),
        )

    def moved(self, shift: Tensor) -> PointCharges:
        """All charges moved by the (n_systems, 3) shift of their system."""
        return PointCharges(
            positions=self.positions + shift[self.batch], charges=self.charges, batch=self.batch
        )


def join(parts: Sequence[PointCharges | None]) -> PointCharges | None:
    """Point charges of a batch from those of its systems, one each."""
    found = [(index, part) for index, part in enumerate(parts) if part is not None]
    if not found:
        return None
    return PointCharges(
        positions=torch.cat([part.positions for _, part in found]),
        charges=torch.cat([part.charges for _, part in found]),
        batch=torch.cat([part.batch + index for index, part in found]),
    )
