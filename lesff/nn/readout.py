"""Readouts from invariant features to one number per atom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lesff.nn.activations import normalised_silu


class LinearReadout(nn.Module):
    """``x @ W / sqrt(channels)``; ``weight`` has shape (channels, 1)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.n_features = channels
        self.weight = nn.Parameter(torch.randn(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels) to (n,)."""
        # E[n] = sum_c x[n, c] W[c] / sqrt(c)
        return (x @ (self.weight * self.weight.shape[0] ** -0.5)).squeeze(-1)

    def features(self, x: Tensor) -> Tensor:
        """What the output is linear in: the input, (n, channels)."""
        return x


class GatedReadout(nn.Module):
    """One hidden layer: ``1.679 silu(x @ W1 / sqrt(c)) @ W2 / sqrt(h n_heads)``, bias-free.

    Args:
        channels: Channels of the invariants.
        hidden: Hidden units.
        n_heads: Heads that a published readout was trained with; one of them is here, but its
            normalisation counts the units of all.
    """

    def __init__(self, *, channels: int, hidden: int, n_heads: int = 1) -> None:
        super().__init__()
        self.n_features = hidden
        self.scale = (hidden * n_heads) ** -0.5
        self.weight_1 = nn.Parameter(torch.randn(channels, hidden))
        self.weight_2 = nn.Parameter(torch.randn(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels) to (n,)."""
        return (self.features(x) @ (self.weight_2 * self.scale)).squeeze(-1)

    def features(self, x: Tensor) -> Tensor:
        """What the output is linear in: the hidden units, (n, hidden)."""
        return normalised_silu(x @ (self.weight_1 * self.weight_1.shape[0] ** -0.5))


class BiasedReadout(nn.Module):
    """Two hidden layers, the second and the output with a bias; the rest as GatedReadout.

    Args:
        channels: Channels of the invariants.
        hidden: Hidden units of both layers.
        n_heads: See :class:`GatedReadout`.
    """

    def __init__(self, *, channels: int, hidden: int, n_heads: int = 1) -> None:
        super().__init__()
        self.n_features = hidden
        self.scale = (hidden * n_heads) ** -0.5
        self.weight_1 = nn.Parameter(torch.randn(channels, hidden))
        self.weight_mid = nn.Parameter(torch.randn(hidden, hidden))
        self.bias_mid = nn.Parameter(torch.zeros(hidden))
        self.weight_2 = nn.Parameter(torch.randn(hidden, 1))
        self.bias_2 = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels) to (n,)."""
        return (self.features(x) @ (self.weight_2 * self.scale) + self.bias_2).squeeze(-1)

    def features(self, x: Tensor) -> Tensor:
        """What the output is linear in: the second layer of hidden units, (n, hidden)."""
        # first hidden layer without bias, the second with one
        hidden = normalised_silu(x @ (self.weight_1 * self.weight_1.shape[0] ** -0.5))
        return normalised_silu(hidden @ (self.weight_mid * self.scale) + self.bias_mid)


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """Readouts of all layers.

    Attributes:
        hidden: Hidden units of the last layer's readout, or None for a linear one.
        has_bias: Whether the last layer's readout is a :class:`BiasedReadout`.
        last_layer_only: Whether only the last layer has a readout.
        n_heads: See :class:`GatedReadout`.
    """

    hidden: int | None = 16
    has_bias: bool = False
    last_layer_only: bool = False
    n_heads: int = 1


class LayerReadouts(nn.Module):
    """One readout per layer, linear for all but the last; outputs summed.

    Args:
        channels: Channels of the invariants of each layer.
        n_layers: Number of layers.
        config: What the readouts are.
    """

    def __init__(self, *, channels: int, n_layers: int, config: ReadoutConfig) -> None:
        super().__init__()
        count = 1 if config.last_layer_only else n_layers
        # linear readouts; the last layer's is replaced by one with hidden units
        layers: list[nn.Module] = [LinearReadout(channels=channels) for _ in range(count)]
        if config.hidden is not None:
            kind = BiasedReadout if config.has_bias else GatedReadout
            layers[-1] = kind(channels=channels, hidden=config.hidden, n_heads=config.n_heads)
        self.layers = nn.ModuleList(layers)

    @property
    def n_features(self) -> int:
        """Number of features that the output is linear in."""
        return sum(layer.n_features for layer in self.layers)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def forward(self, invariants: list[Tensor]) -> Tensor:
        """One (n, channels) tensor per layer to (n,)."""
        # the energy is a sum over layers: one linear readout each, hidden units in the last
        parts = [layer(x) for layer, x in self._pairs(invariants)]
        return torch.stack(parts).sum(0)

    def features(self, invariants: list[Tensor]) -> Tensor:
        """What the output is linear in, of all layers side by side, (n, n_features)."""
        parts = [layer.features(x) for layer, x in self._pairs(invariants)]  # pyright: ignore[reportCallIssue]
        return torch.cat(parts, dim=1)

    def _pairs(self, invariants: list[Tensor]) -> Iterator[tuple[nn.Module, Tensor]]:
        # with a readout of the last layer only, that is the last of the invariants
        return zip(self.layers, invariants[-len(self.layers) :], strict=True)
