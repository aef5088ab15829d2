"""NequIP (Batzner et al., Nat. Commun. 13, 2453 (2022)): equivariant messages and gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.architectures.nequip.config import NequIPConfig
from lesff.architectures.nequip.layer import NequIPLayer, PairFeatures
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import AtomGraph, vectors_between
from lesff.nn.contacts import ClosePairs, InnerCutoff
from lesff.nn.edge_tables import Topology, build_topology
from lesff.nn.harmonics import pair_harmonics
from lesff.nn.radial import BesselBasis
from lesff.nn.radial_table import TableSource
from lesff.nn.readout import LayerReadouts, ReadoutConfig


@final
class NequIP(Architecture):
    """Elements as one-hot features, layers of messages and gates, a readout of the last one.

    Args:
        config: Hyper-parameters.
        elements: Atomic numbers covered, ascending; their position is the one-hot channel.
    """

    has_layer_features = True

    def __init__(self, config: NequIPConfig, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_layers = config.n_layers
        self.channels, *above = config.hidden_channels
        # the last layer keeps only invariants
        if config.n_layers > 1:
            self.equivariant_layers = (config.n_layers - 1,) * len(above)
            self.equivariant_channels = tuple(above)
        self.n_elements = len(elements)
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.element_row: Tensor
        self.radial_basis = BesselBasis(
            cutoff=config.cutoff,
            n_basis=config.n_radial,
            p=config.cutoff_power,
            frequencies=config.radial_frequencies,
            prefactor=config.radial_prefactor or 2.0 / config.cutoff,
        )
        inner = config.inner_cutoff
        self.inner_cutoff = None if inner is None else InnerCutoff(inner)
        self.layers = nn.ModuleList(
            NequIPLayer(
                config,
                channels_in=config.hidden_channels if index else (self.n_elements,),
                is_last=index == config.n_layers - 1,
            )
            for index in range(config.n_layers)
        )
        self.readouts = LayerReadouts(
            channels=self.channels,
            n_layers=config.n_layers,
            config=ReadoutConfig(hidden=None, last_layer_only=True),
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
        layer_features: Callable[[Tensor], Tensor] | None = None,
    ) -> ArchitectureOutput:
        """See :class:`Architecture`; ``node_state`` enters with the first self-connection.

        ``layer_features`` is called with the features of all atoms after every layer, (n_atoms,
        n_features) in the order of the graph; what it gives takes their place.
        """
        topology = topology or self.topology(graph)
        neighbours, learned, pairs = self._pairs(graph, topology, tabulated=tabulated)
        # one-hot elements x[i, 1, z]; rows in element order from here on
        one_hot = functional.one_hot(topology.node_element, self.n_elements)
        blocks = [one_hot.to(graph.positions.dtype)[:, None]]
        increment = None if node_state is None else node_state[topology.node_order]
        invariants, inner = [], []
        for index, layer in enumerate(self.layers):
            blocks = layer(blocks, pairs, topology, increment=None if index else increment)
            if layer_features is not None:
                blocks = _replaced(blocks, topology, layer_features)
            invariants.append(blocks[0][:, 0].index_select(0, topology.node_rank))
            inner.append(blocks)
            # charge and spin that the atoms' own environment says; of scalars, for the next layer
            if index == 0 and first_layer_state is not None:
                added = first_layer_state(invariants[0], neighbours)
                if added is not None:
                    blocks = [blocks[0] + added[topology.node_order, None], *blocks[1:]]
        return ArchitectureOutput(
            node_energy=self.readouts(invariants),
            invariants=invariants,
            # equivariants by order, then layer; the last layer has invariants only
            equivariants=[
                [x[order].index_select(0, topology.node_rank) for x in inner[:-1]]
                for order in range(1, max_order + 1)
            ],
            pairs=learned,
            exact_pairs=neighbours,
        )

    @property
    def n_features(self) -> int:
        """See :class:`Architecture`."""
        return self.readouts.n_features

    def last_layer_features(self, invariants: list[Tensor]) -> Tensor:
        """See :class:`Architecture`; the invariants of the last layer."""
        return self.readouts.features(invariants)

    def _pairs(
        self, graph: AtomGraph, topology: Topology, *, tabulated: bool
    ) -> tuple[ClosePairs, ClosePairs, PairFeatures]:
        """Pairs as they are and as the layers learn of them, and their functions.

        Once for both directions of a pair.
        """
        first, second = topology.pair_sender, topology.pair_receiver
        vectors = vectors_between(graph, first, second, topology.pair_shift)
        # |r|, Y[p, (l, m)], radial basis[p, k]
        distance, harmonics = pair_harmonics(vectors, self.config.max_ell)
        z = graph.atomic_numbers
        neighbours = ClosePairs(distance=distance, first=first, second=second, z=z)
        learned = neighbours
        if self.inner_cutoff is not None:
            distance = self.inner_cutoff(neighbours)
            learned = replace(neighbours, distance=distance)
        basis = self.radial_basis
        source = None
        if tabulated:
            source = TableSource.of(distance, basis, self.cutoff, stays_apart=topology.stays_apart)
        features = PairFeatures(harmonics, basis(distance, distance), source)
        return neighbours, learned, features


def _replaced(
    blocks: list[Tensor], topology: Topology, function: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """What a function of the features in the order of the graph gives, block by block."""
    # x[n, m, c] of all orders -> [n, (l, m, c)], and back
    flat = [block.flatten(1) for block in blocks]
    given = function(torch.cat(flat, dim=1).index_select(0, topology.node_rank))
    parts = torch.split(given[topology.node_order], [part.shape[1] for part in flat], dim=1)
    return [part.reshape(block.shape) for part, block in zip(parts, blocks, strict=True)]
