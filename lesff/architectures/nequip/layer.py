"""Layer of the NequIP architecture: convolution, self-connection, layer norm, gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.nequip.config import NequIPConfig
from lesff.nn.edge_tables import Topology
from lesff.nn.grouped_convolution import GroupedConvolution
from lesff.nn.layer_norm import EquivariantRMSNorm
from lesff.nn.linear import OrderLinear
from lesff.nn.radial import RadialNetwork
from lesff.nn.radial_table import (
    RadialTabulator,
    TableSource,
    TabulatedWeights,
    split_weights,
)


@dataclass(frozen=True)
class PairFeatures:
    """Functions of undirected pairs.

    Attributes:
        harmonics: (n_pairs, (max_ell + 1)^2).
        basis: (n_pairs, n_radial) radial functions times the cutoff.
        source: Where tables of radial weights are looked up, or None for exact weights.
    """

    harmonics: Tensor
    basis: Tensor
    source: TableSource | None = None


@final
class NequIPLayer(nn.Module):
    """``gate(norm(W2 sum_j R(r_ij) (W1 h_j x Y_ij) / sqrt(n) + W0 h_i))``.

    Interaction block of NequIP (Nat. Commun. 13, 2453, Fig. 1d) with the layer norm and the
    self-connection, the same for all elements, of Nequix (arXiv 2508.16067).

    Args:
        config: Hyper-parameters.
        channels_in: Channels of the input by order.
        is_last: Whether only invariants leave the layer.
    """

    def __init__(
        self, config: NequIPConfig, *, channels_in: tuple[int, ...], is_last: bool
    ) -> None:
        super().__init__()
        self.channels_out = config.hidden_channels[:1] if is_last else config.hidden_channels
        n_scalars, *above = self.channels_out
        # scalars of the maps below: n_scalars go on, one more for each channel above is its gate
        gated = (n_scalars + sum(above), *above)
        self.gates = tuple(above)
        self.gate_norm = config.gate_norm
        self.scale = config.avg_num_neighbors**-0.5
        self.convolution = GroupedConvolution(
            channels=channels_in, max_ell=config.max_ell, message_l=len(above)
        )
        self.radial = RadialNetwork(
            sizes=(config.n_radial, *config.radial_mlp, self.convolution.n_weights),
            is_scaled=False,
        )
        self.tabulator = RadialTabulator(blocks=self.convolution.radial_blocks)
        self.linear_up = OrderLinear(channels_in=channels_in, channels_out=channels_in)
        self.linear = OrderLinear(channels_in=self.convolution.message_channels, channels_out=gated)
        self.self_connection = OrderLinear(channels_in=channels_in, channels_out=gated)
        self.norm = (
            EquivariantRMSNorm(channels=gated, epsilon=config.norm_epsilon)
            if config.layer_norm
            else None
        )

    def forward(
        self,
        blocks: list[Tensor],
        pairs: PairFeatures,
        topology: Topology,
        *,
        increment: Tensor | None = None,
    ) -> list[Tensor]:
        """One block (n_nodes, 2 l + 1, channels) per order to the same of the output.

        Args:
            blocks: Features in element order.
            pairs: Functions of pairs.
            topology: Index tables.
            increment: (n_nodes, c) what is added to the scalars before layer norm and gate.
        """
        # A[i, m, (group, path, c)] per order, then (group, path, c) -> channels and gates
        up = self.linear_up.blocks(blocks)
        messages = self.convolution(up, pairs.harmonics, self._weights(pairs), topology)
        out = [block * self.scale for block in self.linear.blocks(messages)]
        own = self.self_connection.blocks(blocks)
        # orders above those of the input have no self-connection
        out = [a + b for a, b in zip(out, own, strict=False)] + out[len(own) :]
        if increment is not None:
            n_scalars = self.channels_out[0]
            scalars, gates = out[0][:, :, :n_scalars], out[0][:, :, n_scalars:]
            out[0] = torch.cat([scalars + increment[:, None], gates], dim=2)
        if self.norm is not None:
            out = self.norm(out)
        return self._gate(out)

    def _weights(self, pairs: PairFeatures) -> Sequence[Tensor | TabulatedWeights]:
        """Radial weights of every group of channels, looked up or computed."""
        if pairs.source is not None:
            return self.tabulator.weights(pairs.source, self.radial)
        return split_weights(self.radial(pairs.basis), self.convolution.radial_blocks)

    def _gate(self, blocks: list[Tensor]) -> list[Tensor]:
        """Silu on scalars, orders above times the silu of a scalar each."""
        # x[n, 1, (scalars, gates)] -> scalars and one gate [n, 1, c] per order above; a gate is
        # invariant, so multiplying by it keeps the block equivariant
        active = functional.silu(blocks[0]) * self.gate_norm
        scalars, *gates = torch.split(active, [self.channels_out[0], *self.gates], dim=2)
        return [scalars, *(x * gate for x, gate in zip(blocks[1:], gates, strict=True))]
