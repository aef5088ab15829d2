"""Convolution of features with fewer channels the higher their order.

Channels with the same orders form a group: of ``128x0e+64x1o+32x2e+32x3o`` the channels 0 to 31
have orders up to 3, the channels 32 to 63 orders up to 1, and the other 64 are scalars. A group is
an ordinary :class:`lesff.nn.convolution.Convolution`, so that kernels need to know of one number of
channels only.

.. code-block:: text

    channel   0 ... 31   32 ... 63   64 ... 127
    l = 0     group 0    group 1     group 2
    l = 1     group 0    group 1
    l = 2     group 0
    l = 3     group 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lesff.nn.convolution import Convolution
from lesff.nn.coupling import convolution_paths
from lesff.nn.edge_tables import Topology
from lesff.nn.linear import join_orders
from lesff.nn.radial_table import TabulatedWeights


@dataclass(frozen=True)
class ChannelGroup:
    """Channels ``start:stop``, which have the orders 0 .. ``feature_l``."""

    start: int
    stop: int
    feature_l: int

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.stop - self.start


def channel_groups(channels: tuple[int, ...]) -> tuple[ChannelGroup, ...]:
    """Groups of channels with the same orders, those with most orders first.

    Args:
        channels: Channels of order 0, 1, ..; none larger than the one before.

    Raises:
        ValueError: if a number is larger than the one before.
    """
    if list(channels) != sorted(channels, reverse=True):
        raise ValueError(f"`channels` must not grow with the order, got {channels}")
    groups, start = [], 0
    for order in reversed(range(len(channels))):
        if channels[order] > start:
            groups.append(ChannelGroup(start, channels[order], order))
            start = channels[order]
    return tuple(groups)


class GroupedConvolution(nn.Module):
    """Messages of features with channels by order; one convolution per group of channels.

    Radial weights and message channels are ordered (group, path, channel), with the paths of
    :func:`lesff.nn.coupling.convolution_paths`.

    Args:
        channels: Channels of the sender features of order 0, 1, ..; none larger than the one
            before.
        max_ell: Highest order of the harmonics.
        message_l: Highest order of the message.
    """

    def __init__(self, *, channels: tuple[int, ...], max_ell: int, message_l: int) -> None:
        super().__init__()
        self.groups = channel_groups(channels)
        self.convolutions = nn.ModuleList(
            Convolution(
                channels=group.size,
                feature_l=group.feature_l,
                max_ell=max_ell,
                message_l=message_l,
            )
            for group in self.groups
        )
        paths = [convolution_paths(group.feature_l, max_ell, message_l) for group in self.groups]
        self.radial_blocks = tuple(
            (len(rows), group.size) for rows, group in zip(paths, self.groups, strict=True)
        )
        """Paths and channels of each group."""
        self.message_channels = tuple(
            sum(
                group.size * sum(path.l3 == order for path in rows)
                for rows, group in zip(paths, self.groups, strict=True)
            )
            for order in range(message_l + 1)
        )
        """Channels of the message of each order."""

    @property
    def n_weights(self) -> int:
        """Radial weights of a pair."""
        return sum(n_paths * size for n_paths, size in self.radial_blocks)

    def forward(
        self,
        blocks: list[Tensor],
        harmonics: Tensor,
        radial: Sequence[Tensor | TabulatedWeights],
        topology: Topology,
    ) -> list[Tensor]:
        """Messages by order, (n_nodes, 2 l + 1, message_channels[l]) in element order.

        Args:
            blocks: Sender features, (n_nodes, 2 l + 1, channels[l]) per order, element order.
            harmonics: (n_pairs, (max_ell + 1)^2) of the vectors along the pairs' edges.
            radial: Weights of each group, as :class:`Convolution` takes them.
            topology: Index tables.
        """
        found = []
        for group, convolution, weights in zip(self.groups, self.convolutions, radial, strict=True):
            # h[j, (l, m), c] of the group's channels, then A[i, m, (path, c)] per order
            own = [x[:, :, group.start : group.stop] for x in blocks[: group.feature_l + 1]]
            found.append(convolution(join_orders(own), harmonics, weights, topology))
        # [i, m, (group, path, c)] per order
        return [torch.cat(parts, dim=2) for parts in zip(*found, strict=True)]
