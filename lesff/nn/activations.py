"""Activations scaled to unit second moment."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

SILU_NORM = 1.6791767923989418
"""1 / sqrt(E[silu(x)^2]) for normal x, e3nn's ``normalize2mom`` constant (a random sample)."""

QUANTILE_SILU_NORM = 1.6765620560798837
"""The same by the mean over a million quantiles of the normal distribution, as in e3nn-jax; the
integral itself is 1.6765325."""


SIGMOID_NORM = 1.8467055342154763
"""1 / sqrt(E[sigmoid(x)^2]) for normal x, likewise."""


def normalised_silu(x: Tensor) -> Tensor:
    """``silu(x)`` scaled to unit second moment for normal ``x``."""
    return functional.silu(x) * SILU_NORM
