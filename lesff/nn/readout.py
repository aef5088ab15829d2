"""Readouts from invariant features to one number per atom."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lesff.ops import normalised_silu


class LinearReadout(nn.Module):
    """``x @ W / sqrt(channels)``; ``weight`` has shape (channels, 1)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels) to (n,)."""
        return (x @ (self.weight * self.weight.shape[0] ** -0.5)).squeeze(-1)


class GatedReadout(nn.Module):
    """One hidden layer: ``1.679 silu(x @ W1 / sqrt(c)) @ W2 / sqrt(h)``, bias-free."""

    def __init__(self, *, channels: int, hidden: int) -> None:
        super().__init__()
        self.weight_1 = nn.Parameter(torch.randn(channels, hidden))
        self.weight_2 = nn.Parameter(torch.randn(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels) to (n,)."""
        hidden = normalised_silu(x @ (self.weight_1 * self.weight_1.shape[0] ** -0.5))
        return (hidden @ (self.weight_2 * self.weight_2.shape[0] ** -0.5)).squeeze(-1)


class LayerReadouts(nn.Module):
    """One readout per layer, linear for all but the last; outputs summed.

    Args:
        channels: Channels of the invariants of each layer.
        n_layers: Number of layers.
        hidden: Hidden units of the last readout, which is gated; None for a linear one.
    """

    def __init__(self, *, channels: int, n_layers: int, hidden: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = [LinearReadout(channels=channels) for _ in range(n_layers)]
        if hidden is not None:
            layers[-1] = GatedReadout(channels=channels, hidden=hidden)
        self.layers = nn.ModuleList(layers)

    def forward(self, invariants: list[Tensor]) -> Tensor:
        """One (n, channels) tensor per layer to (n,)."""
        parts = [layer(x) for layer, x in zip(self.layers, invariants, strict=True)]
        return torch.stack(parts).sum(0)
