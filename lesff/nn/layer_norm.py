"""Layer norm of equivariant features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EquivariantRMSNorm(nn.Module):
    """Features of an atom divided by one number, that of their size, and scaled by channel.

    ``y[l m c] = w_l[c] x[l m c] / sqrt(mean_l sum_mc (x[l m c] / (2 l + 1))^2 + eps)``, the layer
    norm of Nequix (arXiv 2508.16067): after EquiformerV2 (arXiv 2306.12059) and eSEN (arXiv
    2502.12147), without centring, but with a sum over channels where they have a mean, and with
    orders that count less the higher they are.

    The parameter ``weights[l]`` has shape (channels[l],).

    Args:
        channels: Channels per order.
        epsilon: eps.
    """

    def __init__(self, *, channels: tuple[int, ...], epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(n)) for n in channels)

    def forward(self, blocks: list[Tensor]) -> list[Tensor]:
        """Map one block (n, 2 l + 1, c_l) per order to the same shapes."""
        # sum over m and c of every order l, then the mean of the orders: [n]
        sums = [x.square().sum(dim=(1, 2)) / x.shape[1] ** 2 for x in blocks]
        mean = torch.stack(sums).mean(0)
        factor = (mean + self.epsilon).rsqrt()[:, None, None]
        # x[n, m, c] f[n] w_l[c]
        return [
            block * (factor * weight) for block, weight in zip(blocks, self.weights, strict=True)
        ]
