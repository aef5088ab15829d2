"""Activations scaled to unit second moment."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

SILU_NORM = 1.6791767923989418
"""1 / sqrt(E[silu(x)^2]) for normal x, e3nn's ``normalize2mom`` constant."""


SIGMOID_NORM = 1.8467055342154763
"""1 / sqrt(E[sigmoid(x)^2]) for normal x, likewise."""


def normalised_silu(x: Tensor) -> Tensor:
    """``silu(x)`` scaled to unit second moment for normal ``x``."""
    return functional.silu(x) * SILU_NORM
