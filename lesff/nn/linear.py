"""Linear maps on features laid out (n_nodes, (l, m), channels); weights as in e3nn's layouts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lesff.nn.coupling import lm_slice
from lesff.nn.edge_tables import Topology


class OrderLinear(nn.Module):
    """One channel mix per order l: ``y[l m] = x[l m] @ W_l / sqrt(c_in)`` (e3nn ``o3.Linear``).

    Args:
        channels_in: Channels per order; orders without output are dropped.
        channels_out: Channels per order.
        fan_in: Inputs per order that the normalisation counts, if not ``channels_in``: published
            models count inputs that are always zero.

    The parameter ``weights[l]`` has shape (channels_in[l], channels_out[l]).
    """

    def __init__(
        self,
        *,
        channels_in: tuple[int, ...],
        channels_out: tuple[int, ...],
        fan_in: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.max_l = min(len(channels_in), len(channels_out)) - 1
        self.scales = tuple(n**-0.5 for n in (fan_in or channels_in))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(c_in, c_out))
            for c_in, c_out in zip(channels_in, channels_out, strict=False)
        )

    def blocks(self, blocks: list[Tensor]) -> list[Tensor]:
        """Map one block (n, 2 l + 1, c_in) per order to one (n, 2 l + 1, c_out)."""
        return [
            # y[n, m, d] = sum_c x[n, m, c] W_l[c, d] / sqrt(fan in), the same for all m of an order
            block @ (weight * scale)
            for block, weight, scale in zip(blocks, self.weights, self.scales, strict=False)
        ]

    def forward(self, blocks: list[Tensor]) -> Tensor:
        """Map one block (n, 2 l + 1, c_in) per order to (n, (l, m), c_out)."""
        return join_orders(self.blocks(blocks))


def join_orders(blocks: list[Tensor]) -> Tensor:
    """(n, (l, m), c) of one block (n, 2 l + 1, c) per order."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def split_orders(features: Tensor, max_l: int) -> list[Tensor]:
    """Blocks (n, 2 l + 1, c) of (n, (l, m), c), for l = 0..max_l."""
    return [features[:, lm_slice(order)] for order in range(max_l + 1)]


class ElementLinear(nn.Module):
    """One channel mix per element and order (e3nn ``FullyConnectedTensorProduct`` with one-hots).

    ``y_l = x_l @ W_l[:, z, :] / sqrt(channels * n_elements)``.

    The parameter ``weights[l]`` has shape (channels, n_elements, channels_out).
    """

    divided_by_root_elements = ("weights",)

    def __init__(self, *, channels: int, channels_out: int, n_elements: int, max_l: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(channels, n_elements, channels_out)) for _ in range(max_l + 1)
        )
        self.scale = (channels * n_elements) ** -0.5

    def forward(self, features: Tensor, topology: Topology) -> Tensor:
        """Map (n, (l, m), channels), element order, to (n, (l, m), channels_out)."""
        out = []
        # nodes of an element are contiguous: one matrix product per element and order
        for part in topology.elements:
            rows = features[part.start : part.stop]
            blocks = [
                # y[n, m, d] = sum_c x[n, m, c] W_l[c, z, d] / sqrt(channels n_elements)
                rows[:, lm_slice(order)] @ (weight[:, part.element] * self.scale)
                for order, weight in enumerate(self.weights)
            ]
            # [n, m, d] of all orders side by side: [n, (l, m), d]
            out.append(blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1))
        # elements one after the other: element order again
        return torch.cat(out)
