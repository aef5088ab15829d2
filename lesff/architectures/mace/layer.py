"""Layers of the MACE architecture: interaction (messages) and product (many-body features)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.mace.config import MACEConfig
from lesff.atoms.segments import segment_sum
from lesff.nn.contraction import SymmetricContraction
from lesff.nn.convolution import Convolution
from lesff.nn.coupling import convolution_paths
from lesff.nn.edge_tables import Topology
from lesff.nn.linear import ElementLinear, OrderLinear, split_orders
from lesff.nn.radial import EdgePerceptron, RadialNetwork
from lesff.nn.radial_table import RadialTabulator, TableSource


@dataclass(frozen=True)
class PairFeatures:
    """Radial functions of undirected pairs.

    Attributes:
        basis: (n_pairs, n_radial) radial functions.
        envelope: (n_pairs, 1) cutoff that is still to be multiplied, or None.
        source: Where tables of radial weights are looked up, or None for exact weights.
    """

    basis: Tensor
    envelope: Tensor | None
    source: TableSource | None = None

    def enveloped(self, values: Tensor) -> Tensor:
        """(n_pairs, k), or (2 n_pairs, k) for both directions, times the envelope if any."""
        if self.envelope is None:
            return values
        # the cutoff depends on the distance, so it is the same for both directions
        n_pairs = len(self.envelope)
        if len(values) == n_pairs:
            return values * self.envelope
        return values * torch.cat([self.envelope, self.envelope])


class MACELayer(nn.Module, ABC):
    """Interaction block (messages) and product block (many-body features) of one layer.

    What the kinds of interaction share: the first linear map, the convolution's index tables, the
    product block. A subclass adds the modules of :meth:`message` and :meth:`residual`.

    Args:
        config: Hyper-parameters.
        n_elements: Rows of element tables.
        index: Position of the layer; the first one reads invariants only, the last one keeps only
            invariants.
    """

    def __init__(self, config: MACEConfig, *, n_elements: int, index: int) -> None:
        super().__init__()
        # the embedding has invariants only, and only invariants are read off the last layer
        is_first, is_last = index == 0, index == config.n_layers - 1
        self.l_in = 0 if is_first else config.feature_l
        self.l_out = 0 if is_last else config.feature_l
        self.max_ell = config.max_ell
        self.channels = channels = config.channels
        edge_channels = config.first_edge_channels if is_first else config.edge_channels
        self.edge_channels = edge_channels or channels
        same = (channels,)
        # h[j, (l, m), c] -> the channels of the convolution
        self.linear_up = OrderLinear(
            channels_in=same * (self.l_in + 1), channels_out=(self.edge_channels,) * (self.l_in + 1)
        )
        self.convolution = Convolution(
            channels=self.edge_channels, feature_l=self.l_in, max_ell=config.max_ell
        )
        self.n_weights = self.convolution.n_paths * self.edge_channels
        # inputs that the normalisation of the message map counts: published models count paths from
        # sender orders that are always zero
        edge_l = max(self.l_in, 0 if is_first else config.edge_l or 0)
        counted = [path.l3 for path in convolution_paths(edge_l, config.max_ell)]
        self.message_channels = tuple(
            n * self.edge_channels for n in self.convolution.blocks_per_order
        )
        self.message_fan_in = tuple(
            counted.count(order) * self.edge_channels for order in range(config.max_ell + 1)
        )
        # one contraction per order of the result, B[i, l m, c]
        self.contractions = nn.ModuleList(
            SymmetricContraction(
                channels=channels,
                max_ell=config.max_ell,
                l_out=order,
                correlation=config.correlation,
                n_elements=1 if config.agnostic_product else n_elements,
                stores_basis=config.stores_couplings,
                n_paths=config.coupling_paths[order] if config.coupling_paths else None,
            )
            for order in range(self.l_out + 1)
        )
        self.product_linear = OrderLinear(
            channels_in=same * (self.l_out + 1), channels_out=same * (self.l_out + 1)
        )

    def forward(
        self, features: Tensor, harmonics: Tensor, pairs: PairFeatures, topology: Topology
    ) -> Tensor:
        """(n_nodes, (l_in + 1)^2, c) to (n_nodes, (l_out + 1)^2, c), element order."""
        # two-body messages, their products up to the correlation order, a mix of channels
        message = self.message(features, harmonics, pairs, topology)
        products = [contraction(message, topology) for contraction in self.contractions]
        mixed = self.product_linear(products)
        residual = self.residual(features, topology)
        if residual is None:
            return mixed
        # orders above those of the residual have nothing to be added to them
        n_residual = residual.shape[1]
        if n_residual == mixed.shape[1]:
            return mixed + residual
        return torch.cat([mixed[:, :n_residual] + residual, mixed[:, n_residual:]], dim=1)

    @abstractmethod
    def message(
        self, features: Tensor, harmonics: Tensor, pairs: PairFeatures, topology: Topology
    ) -> Tensor:
        """Input of the contraction, (n_nodes, (max_ell + 1)^2, c).

        Args:
            features: (n_nodes, (l_in + 1)^2, c), element order.
            harmonics: (n_pairs, (max_ell + 1)^2).
            pairs: Radial functions.
            topology: Index tables.
        """

    @abstractmethod
    def residual(self, features: Tensor, topology: Topology) -> Tensor | None:
        """What is added to the product, its lowest orders (n_nodes, (l + 1)^2, c), or None."""


@final
class LinearLayer(MACELayer):
    """Messages of MACE: ``m_i = W sum_j R(r_ij) (h_j x Y_ij) / n`` (arXiv 2206.07697, eq. 8).

    ``n`` is the mean number of neighbours, or one plus a learned local density. The first layer
    may act on its message with an element-wise map instead of adding a residual.
    """

    def __init__(self, config: MACEConfig, *, n_elements: int, index: int) -> None:
        super().__init__(config, n_elements=n_elements, index=index)
        self.is_residual = config.first_residual or index > 0
        self.scale = 1.0 / config.avg_num_neighbors
        self.radial = RadialNetwork(sizes=(config.n_radial, *config.radial_mlp, self.n_weights))
        self.tabulator = RadialTabulator(blocks=((self.convolution.n_paths, self.edge_channels),))
        self.density = (
            RadialNetwork(sizes=(config.n_radial, 1))
            if config.message_normalization == "density"
            else None
        )
        self.linear = _message_linear(self)
        self.self_connection = ElementLinear(
            channels=self.channels,
            channels_out=self.channels,
            n_elements=n_elements,
            max_l=min(self.l_in, self.l_out) if self.is_residual else config.max_ell,
        )

    def message(
        self, features: Tensor, harmonics: Tensor, pairs: PairFeatures, topology: Topology
    ) -> Tensor:
        """See :class:`MACELayer`."""
        # A[i, l m, (path, c)] from weights R[p, (path, c)], looked up or computed
        up = self.linear_up(split_orders(features, self.l_in))
        if pairs.source is not None:
            (weights,) = self.tabulator.weights(pairs.source, self.radial)
        else:
            weights = pairs.enveloped(self.radial(pairs.basis))
        messages = self.convolution(up, harmonics, weights, topology)
        # (path, c) -> c for every order; all nodes have the same divisor, or each its density
        message = self.linear(messages) * self._normalization(pairs, topology)
        return message if self.is_residual else self.self_connection(message, topology)

    def residual(self, features: Tensor, topology: Topology) -> Tensor | None:
        """See :class:`MACELayer`; one channel mix per element."""
        return self.self_connection(features, topology) if self.is_residual else None

    def _normalization(self, pairs: PairFeatures, topology: Topology) -> Tensor | float:
        """Factor of the summed messages, (n_nodes, 1, 1) or one number."""
        if self.density is None:
            return self.scale
        # rho_i = sum_j tanh(f(r_ij)^2): a smooth count of neighbours, each worth less than one
        values = pairs.enveloped(torch.tanh(self.density(pairs.basis).square()))
        return 1.0 / (1.0 + sum_pairs(values, topology)[:, None])


@final
class AttentionLayer(MACELayer):
    """As :class:`LinearLayer`, but the radial network reads invariants of both atoms too."""

    _REDUCED = 64
    _SIZES = (256, 256, 256)

    def __init__(self, config: MACEConfig, *, n_elements: int, index: int) -> None:
        super().__init__(config, n_elements=n_elements, index=index)
        self.scale = 1.0 / config.avg_num_neighbors
        n_inputs = config.n_radial + 2 * self._REDUCED
        self.linear_down = OrderLinear(channels_in=(self.channels,), channels_out=(self._REDUCED,))
        self.radial = RadialNetwork(sizes=(n_inputs, *self._SIZES, self.n_weights))
        self.linear = _message_linear(self)
        self.self_connection = _plain_connection(self)

    def message(
        self, features: Tensor, harmonics: Tensor, pairs: PairFeatures, topology: Topology
    ) -> Tensor:
        """See :class:`MACELayer`."""
        up = self.linear_up(split_orders(features, self.l_in))
        # invariants x[n, c] -> 64 of them; the network sees those of sender and receiver
        down = self.linear_down([features[:, :1]])[:, 0]
        sender, receiver = directed_edges(topology)
        # rows along the pairs' edges, then against them: weights of the two directions differ
        basis = torch.cat([pairs.basis, pairs.basis])
        inputs = torch.cat([basis, down[sender], down[receiver]], dim=1)
        weights = pairs.enveloped(self.radial(inputs))
        return self.linear(self.convolution(up, harmonics, weights, topology)) * self.scale

    def residual(self, features: Tensor, topology: Topology) -> Tensor:
        """See :class:`MACELayer`; one channel mix for all elements."""
        return self.self_connection(split_orders(features, self.l_in))


@final
class GatedLayer(MACELayer):
    """Gated nonlinearity on the message, radial networks that know both elements.

    ``m = W2 gate(W1 sum_j R(r, z_j, z_i) (h_j x Y) / (alpha + beta rho_i) + Wr h_i)`` with the
    learned density ``rho`` (MACE-OMOL and MACE-MH, arXiv 2510.25380).
    """

    _DENSITY_SIZE = 64

    divided_by_root_elements = ("source", "target")

    def __init__(self, config: MACEConfig, *, n_elements: int, index: int) -> None:
        super().__init__(config, n_elements=n_elements, index=index)
        channels, n_basis = self.channels, config.n_radial
        # scalars of the first map: c of them go on, c more for each order above are its gates
        gates = (channels * (1 + self.max_ell), *(channels,) * self.max_ell)
        self.source = nn.Parameter(torch.empty(n_elements, channels).uniform_(-1e-3, 1e-3))
        self.target = nn.Parameter(torch.empty(n_elements, channels).uniform_(-1e-3, 1e-3))
        self.radial = EdgePerceptron(
            n_basis=n_basis, channels=channels, sizes=(*config.radial_mlp, self.n_weights)
        )
        self.density = EdgePerceptron(
            n_basis=n_basis, channels=channels, sizes=(self._DENSITY_SIZE, 1)
        )
        self.alpha = nn.Parameter(torch.tensor(20.0))
        self.beta = nn.Parameter(torch.tensor(0.0))
        self.linear_residual = OrderLinear(
            channels_in=(self.edge_channels,) * (min(self.l_in, self.max_ell) + 1),
            channels_out=gates,
        )
        self.linear_1 = OrderLinear(
            channels_in=self.message_channels, channels_out=gates, fan_in=self.message_fan_in
        )
        self.linear_2 = OrderLinear(
            channels_in=(channels,) * (self.max_ell + 1),
            channels_out=(channels,) * (self.max_ell + 1),
        )
        self.self_connection = _plain_connection(self)
        self.gate_norms = config.gate_norms

    def message(
        self, features: Tensor, harmonics: Tensor, pairs: PairFeatures, topology: Topology
    ) -> Tensor:
        """See :class:`MACELayer`."""
        up = self.linear_up(split_orders(features, self.l_in))
        sender, receiver = directed_edges(topology)
        # weights R[e, (path, c)] of directed edges e from radial basis and both elements
        element = topology.node_element
        edge = element[sender], element[receiver]
        basis = torch.cat([pairs.basis, pairs.basis])
        # as e3nn's linear map of one-hot elements is normalised
        scale = len(self.source) ** -0.5
        tables = self.source * scale, self.target * scale
        weights = pairs.enveloped(self.radial(basis, *tables, edge))
        messages = self.convolution(up, harmonics, weights, topology)
        # density of the receiver; messages are divided by alpha + beta rho_i
        rho = pairs.enveloped(torch.tanh(self.density(basis, *tables, edge).square()))
        rho = segment_sum(rho, receiver, len(features))[:, None]
        factor = 1.0 / (rho * self.beta + self.alpha)
        # (path, c) -> gates and c channels of every order, plus the node's own features
        blocks = [block * factor for block in self.linear_1.blocks(messages)]
        for order, block in enumerate(
            self.linear_residual.blocks(split_orders(up, self.linear_residual.max_l))
        ):
            blocks[order] = blocks[order] + block
        return self.linear_2(self._gate(blocks))

    def _gate(self, blocks: list[Tensor]) -> list[Tensor]:
        """Silu on scalars, orders above times the sigmoid of a scalar each."""
        # x[n, 1, (gate, c)] -> scalars and one gate [n, 1, c] per order above; a gate is invariant,
        # so multiplying by it keeps the block equivariant
        silu_norm, sigmoid_norm = self.gate_norms
        scalars, *gates = torch.split(blocks[0], self.channels, dim=2)
        out = [functional.silu(scalars) * silu_norm]
        for block, gate in zip(blocks[1:], gates, strict=True):
            out.append(block * (torch.sigmoid(gate) * sigmoid_norm))
        return out

    def residual(self, features: Tensor, topology: Topology) -> Tensor:
        """See :class:`MACELayer`; one channel mix for all elements."""
        return self.self_connection(split_orders(features, self.l_in))


LAYERS: dict[str, type[MACELayer]] = {
    "linear": LinearLayer,
    "attention": AttentionLayer,
    "gated": GatedLayer,
}
"""``MACEConfig.interaction`` -> layer."""


def _message_linear(layer: MACELayer) -> OrderLinear:
    return OrderLinear(
        channels_in=layer.message_channels,
        channels_out=(layer.channels,) * (layer.max_ell + 1),
        fan_in=layer.message_fan_in,
    )


def _plain_connection(layer: MACELayer) -> OrderLinear:
    same = (layer.channels,) * (min(layer.l_in, layer.l_out) + 1)
    return OrderLinear(channels_in=same, channels_out=same)


def directed_edges(topology: Topology) -> tuple[Tensor, Tensor]:
    """Sender and receiver (element order) of every pair along its edge, then against it."""
    first = topology.node_rank[topology.pair_sender]
    second = topology.node_rank[topology.pair_receiver]
    return torch.cat([first, second]), torch.cat([second, first])


def sum_pairs(values: Tensor, topology: Topology) -> Tensor:
    """Sum (n_pairs, k) over the pairs of each node, element order, (n_nodes, k)."""
    n_nodes = len(topology.node_rank)
    # a pair counts at both of its ends; graph order until the last line
    total = segment_sum(values, topology.pair_sender, n_nodes)
    total = total + segment_sum(values, topology.pair_receiver, n_nodes)
    return total[topology.node_order]
