"""A short-range model from outside lesff: pair features, then messages along the same pairs.

Layer 1 sums functions of distances over neighbours (two-body); every further layer lets atoms read
what their neighbours have become. All features are invariants, as in SchNet (arXiv 1706.08566).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lesff.architectures import (
    Architecture,
    ArchitectureOutput,
    FirstLayerState,
    register_architecture,
)
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import AtomGraph, vectors_between
from lesff.atoms.segments import segment_sum
from lesff.nn.contacts import ClosePairs
from lesff.nn.edge_tables import Topology, build_topology
from lesff.nn.radial import BesselBasis
from lesff.nn.readout import LayerReadouts, ReadoutConfig


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Hyper-parameters: distances in A; messages are divided by ``avg_num_neighbors``."""

    cutoff: float = 4.0
    channels: int = 16
    n_layers: int = 2
    n_radial: int = 6
    avg_num_neighbors: float = 1.0


class ToyLayer(nn.Module):
    """``h_i + A silu(B h_i + sum_j w(r_ij) * C h_j / n)``."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        n = config.channels
        self.scale = 1.0 / config.avg_num_neighbors
        self.radial = nn.Linear(config.n_radial, n, bias=False)
        self.own, self.sender, self.out = (nn.Linear(n, n, bias=False) for _ in range(3))

    def forward(self, h: Tensor, basis: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Features (n_atoms, channels) of the next layer; the rest is of pairs."""
        weights, sent = self.radial(basis) * self.scale, self.sender(h)  # w[p, c], s[i, c]
        # both directions of pair p: first[p] hears second[p], and the other way round
        messages = torch.cat([weights * sent[second], weights * sent[first]])
        return h + self.out(
            silu(self.own(h) + segment_sum(messages, torch.cat([first, second]), len(h)))
        )


@register_architecture("toy", ToyConfig)
class Toy(Architecture):
    """Embedding of elements, layers, a linear readout of each layer."""

    def __init__(self, config: ToyConfig, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.cutoff, self.channels, self.n_layers = config.cutoff, config.channels, config.n_layers
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.element_row: Tensor
        self.embedding = nn.Parameter(torch.randn(len(elements), config.channels))
        self.basis = BesselBasis(cutoff=config.cutoff, n_basis=config.n_radial, p=6)
        self.layers = nn.ModuleList(ToyLayer(config) for _ in range(config.n_layers))
        linear = ReadoutConfig(hidden=None)
        self.readouts = LayerReadouts(
            channels=config.channels, n_layers=config.n_layers, config=linear
        )

    def topology(self, graph: AtomGraph) -> Topology:
        """See :class:`Architecture`."""
        return build_topology(graph, self.element_row)

    def forward(
        self,
        graph: AtomGraph,
        node_state: Tensor | None,
        *,
        tabulated: bool = False,
        topology: Topology | None = None,
        max_order: int = 0,
        first_layer_state: FirstLayerState | None = None,
    ) -> ArchitectureOutput:
        """See :class:`Architecture`; radial functions are exact, ``tabulated`` or not."""
        topology = topology or self.topology(graph)
        first, second = topology.pair_sender, topology.pair_receiver
        distance = vectors_between(graph, first, second, topology.pair_shift).norm(dim=1)
        pairs = ClosePairs(distance=distance, first=first, second=second, z=graph.atomic_numbers)
        basis = self.basis(distance, distance)  # b[p, k], zero beyond the cutoff
        h = self.embedding[self.element_row[graph.atomic_numbers]]
        h = h if node_state is None else h + node_state
        invariants = []
        for layer in self.layers:
            h = layer(h, basis, first, second)
            invariants.append(h)
            # total charge and spin enter what the second layer reads
            if len(invariants) == 1 and first_layer_state is not None:
                added = first_layer_state(h, pairs)
                h = h if added is None else h + added
        return ArchitectureOutput(
            node_energy=self.readouts(invariants), invariants=invariants, pairs=pairs
        )

    @property
    def n_features(self) -> int:
        """See :class:`Architecture`."""
        return self.readouts.n_features

    def last_layer_features(self, invariants: list[Tensor]) -> Tensor:
        """See :class:`Architecture`."""
        return self.readouts.features(invariants)
