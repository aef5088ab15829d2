r"""Parts of AIMNet2: radial basis, invariants of messages, networks.

Index letters: n receiver, a feature, g radial function, h vector, d one of (1, x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.autograd import recorded_gradients
from lesff.kernels.passes import FAINT, ShellConstants

_MOST = -math.log(FAINT)


class GaussianShells(nn.Module):
    """``exp(-eta (r - s_g)^2) (1 + cos(pi r / rc)) / 2``, zero from the cutoff on."""

    def __init__(self, config: AIMNet2Config) -> None:
        super().__init__()
        centers = torch.tensor(config.centers, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)
        self.centers: Tensor
        self.cutoff, self.exponent = config.cutoff, config.exponent

    @property
    def constants(self) -> ShellConstants:
        """What compiled kernels take."""
        return ShellConstants(centers=self.centers, exponent=self.exponent, cutoff=self.cutoff)

    def forward(self, distance: Tensor) -> Tensor:
        """(n_pairs,) distances in A to (n_pairs, G)."""
        centers = self.centers.to(distance.dtype)
        away = self.exponent * (distance[:, None] - centers).square()
        if distance.dtype == torch.float32:
            # numbers that no sum sees; subnormal ones cost a hundred times the time of others
            shell = torch.exp(-away.clamp(max=_MOST)).where(away < _MOST, 0.0)
        else:
            shell = torch.exp(-away)
        # smooth to first order at the cutoff
        x = (distance / self.cutoff).clamp(max=1.0)
        return shell * (0.5 * torch.cos(math.pi * x) + 0.5)[:, None]


class Mixing(nn.Module):
    """Invariants of messages: the scalars, and squared norms of combinations of the vectors.

    Args:
        n_features: A.
        config: Numbers of radial functions and vectors.
    """

    def __init__(self, n_features: int, config: AIMNet2Config) -> None:
        super().__init__()
        size = (n_features, config.n_radial, config.n_vectors)
        self.weight = nn.Parameter(torch.randn(size) * config.n_radial**-0.5)

    def forward(self, sums: Tensor) -> Tensor:
        """(n, G, 4, A) to (n, A (G + H))."""
        return invariants(sums, self.weight)


def invariants(sums: Tensor, weight: Tensor) -> Tensor:
    """See :class:`Mixing`."""
    scalars = sums[:, :, 0].transpose(1, 2)  # [n, a, g]
    # v[n, a, d, h] = sum_g s[n, g, d, a] W[a, g, h]
    vectors = torch.einsum("ngda,agh->nadh", sums[:, :, 1:], weight)
    norms = vectors.square().sum(2)  # [n, a, h]
    return torch.cat([scalars.flatten(1), norms.flatten(1)], dim=1)


class Network(nn.Module):
    """Linear maps with the activation x Phi(x) (GELU) between them.

    Args:
        sizes: Of the input, the hidden layers and the output.
        is_active: Whether the output has the activation, too.
    """

    def __init__(self, sizes: tuple[int, ...], *, is_active: bool = False) -> None:
        super().__init__()
        self.is_active = is_active
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def hidden(self, x: Tensor) -> Tensor:
        """(n, inputs) to the last hidden layer, which the output's linear map reads."""
        # a slice of a list of modules would be a new module
        return _layers(x, list(self.linears)[:-1], is_active=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return _layers(x, list(self.linears), is_active=self.is_active)


def _layers(x: Tensor, linears: Sequence[nn.Module], *, is_active: bool) -> Tensor:
    """Linear maps with the activation between them, and at the end if it ``is_active``."""
    pairs = [(linear.weight, linear.bias) for linear in linears]
    if x.requires_grad and not any(w.requires_grad or b.requires_grad for w, b in pairs):
        return _FrozenLayers.apply(x, pairs, is_active)  # pyright: ignore[reportReturnType]
    return _plain_layers(x, pairs, is_active)


def _plain_layers(x: Tensor, pairs: Sequence[Any], is_active: bool) -> Tensor:
    for index, (weight, bias) in enumerate(pairs):
        x = functional.linear(x, weight, bias)
        if is_active or index < len(pairs) - 1:
            x = functional.gelu(x)
    return x


class _FrozenLayers(torch.autograd.Function):
    """Layers whose weights nobody differentiates by: one step of a backward pass for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Sequence[Any], is_active: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = [x]
        for index, (weight, bias) in enumerate(pairs):
            x = functional.linear(x, weight, bias)
            if is_active or index < len(pairs) - 1:
                kept.append(x)
                x = functional.gelu(x)
        ctx.save_for_backward(*kept)
        ctx.rest = pairs, is_active
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, *before), (pairs, is_active) = ctx.saved_tensors, ctx.rest
        if torch.is_grad_enabled():
            plain = partial(_plain_layers, pairs=pairs, is_active=is_active)
            return *recorded_gradients(plain, (x,), (True,), (grad,)), None, None
        for weight, _ in reversed(pairs):
            # the last layer may have no activation
            if is_active:
                grad = torch.ops.aten.gelu_backward(grad, before.pop())
            grad, is_active = grad @ weight, True
        return grad, None, None
