"""MACE (Batatia et al., arXiv 2206.07697): two-body messages, many-body products, few layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.architectures.mace.config import MACEConfig
from lesff.architectures.mace.layer import LAYERS, PairFeatures
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import AtomGraph, vectors_between
from lesff.nn.contacts import ClosePairs, InnerCutoff, plain_wall
from lesff.nn.coupling import lm_slice
from lesff.nn.edge_tables import Topology, build_topology
from lesff.nn.harmonics import pair_harmonics
from lesff.nn.radial import (
    AgnesiTransform,
    BesselBasis,
    ChebyshevBasis,
    GaussianBasis,
    RadialBasis,
    ScreenedRepulsion,
    SoftTransform,
)
from lesff.nn.radial_table import TableSource
from lesff.nn.readout import LayerReadouts, LinearReadout


@final
class MACE(Architecture):
    """Embedding of elements, layers of messages and products, readouts of the invariants.

    Args:
        config: Hyper-parameters.
        elements: Atomic numbers covered, ascending; their position is the element table row.
    """

    has_layer_features = True
    readout_names = ("readouts", "state_readout")
    divided_by_root_elements = ("embedding",)

    def __init__(self, config: MACEConfig, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_layers = config.n_layers
        self.channels = config.channels
        # the last layer keeps only invariants
        self.equivariant_layers = (config.n_layers - 1,) * (
            config.feature_l if config.n_layers > 1 else 0
        )
        n_elements = len(elements)
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.element_row: Tensor
        self.embedding = nn.Parameter(torch.randn(n_elements, config.channels))
        self.radial_basis = _radial_basis(config)
        self.transform = _transform(config)
        layer_class = LAYERS[config.interaction]
        self.layers = nn.ModuleList(
            layer_class(config, n_elements=n_elements, index=index)
            for index in range(config.n_layers)
        )
        self.readouts = LayerReadouts(
            channels=config.channels, n_layers=config.n_layers, config=config.readouts
        )
        self.state_readout = (
            LinearReadout(channels=config.channels) if config.state_readout else None
        )
        self.repulsion = ScreenedRepulsion(p=config.cutoff_power) if config.repulsion else None
        inner = config.inner_cutoff
        self.inner_cutoff = None if inner is None else InnerCutoff(inner)

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
        """See :class:`Architecture`.

        ``layer_features`` is called with the features of all atoms after every layer,
        (n_atoms, (l, m), channels) in the order of the graph; what it gives takes their place.
        """
        # functions of pairs, once for both directions: |r|, Y[p, (l, m)], radial basis[p, k]
        topology = topology or self.topology(graph)
        vectors = pair_vectors(graph, topology)
        distance, harmonics = pair_harmonics(vectors, self.config.max_ell)
        neighbours = ClosePairs(
            distance=distance,
            first=topology.pair_sender,
            second=topology.pair_receiver,
            z=graph.atomic_numbers,
        )
        learned = neighbours
        if self.inner_cutoff is not None:
            distance = self.inner_cutoff(neighbours)
            learned = replace(neighbours, distance=distance)
        pairs = self._pair_features(graph, topology, distance, tabulated=tabulated)

        # h[i, c] = W[z_i, c] / sqrt(n_elements), rows in element order from here on
        features = (
            self.embedding.index_select(0, topology.node_element) * self.embedding.shape[0] ** -0.5
        )
        # charge and spin enter as an increment of the embedding
        if node_state is not None:
            features = features + node_state[topology.node_order]
        state_energy = None
        if self.state_readout is not None:
            state_energy = self.state_readout(features)[topology.node_rank]
        # [i, c] -> [i, (l, m) = 1, c]: invariants so far
        features = features[:, None, :]
        invariants, inner = [], []
        for index, layer in enumerate(self.layers):
            features = layer(features, harmonics, pairs, topology)
            if layer_features is not None:
                given = layer_features(features.index_select(0, topology.node_rank))
                features = given.index_select(0, topology.node_order)
            # the readouts read the row l = 0 of every layer
            invariants.append(features[:, 0])
            inner.append(features)
            # charge and spin that the atoms' own environment says; of scalars, for the next layer
            if index == 0 and first_layer_state is not None:
                first = features[:, 0].index_select(0, topology.node_rank)
                increment = first_layer_state(first, neighbours)
                if increment is not None:
                    scalars = features[:, :1] + increment[topology.node_order, None]
                    features = torch.cat([scalars, features[:, 1:]], dim=1)
        # interaction energy of every atom, back in the order of the graph
        node_energy = self.readouts(invariants).index_select(0, topology.node_rank)
        if self.repulsion is not None:
            node_energy = node_energy + plain_wall(neighbours.distance, neighbours, self.repulsion)
        # equivariants by order, then layer; the last layer has invariants only
        return ArchitectureOutput(
            node_energy=node_energy,
            invariants=[x.index_select(0, topology.node_rank) for x in invariants],
            state_energy=state_energy,
            equivariants=[
                [x[:, lm_slice(order)].index_select(0, topology.node_rank) for x in inner[:-1]]
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
        """See :class:`Architecture`; the inputs of the readouts' last linear maps."""
        return self.readouts.features(invariants)

    def _pair_features(
        self, graph: AtomGraph, topology: Topology, distance: Tensor, *, tabulated: bool
    ) -> PairFeatures:
        x, source = distance, None
        if self.transform is not None:
            # a transform depends on the two elements; the cutoff is one of the distance itself
            z = graph.atomic_numbers
            x = self.transform(distance, z[topology.pair_sender], z[topology.pair_receiver])
        elif tabulated:  # a table knows the distance only, not the elements of a transform
            source = TableSource.of(
                distance, self.radial_basis, self.cutoff, stays_apart=topology.stays_apart
            )
        basis = self.radial_basis
        # the cutoff is part of the basis, or still to be multiplied to the weights
        envelope = None if basis.has_envelope else basis.envelope(distance)
        return PairFeatures(basis=basis(x, distance), envelope=envelope, source=source)


def _radial_basis(config: MACEConfig) -> RadialBasis:
    common: dict[str, Any] = {
        "cutoff": config.cutoff,
        "p": config.cutoff_power,
        "has_envelope": config.envelope_on == "basis",
    }
    # the configuration gives centres and exponent for Gaussians, and for them only
    if config.radial_centers is not None and config.radial_exponent is not None:
        return GaussianBasis(
            centers=config.radial_centers, exponent=config.radial_exponent, **common
        )
    if config.radial_basis == "chebyshev":
        return ChebyshevBasis(n_basis=config.n_radial, **common)
    return BesselBasis(
        n_basis=config.n_radial,
        frequencies=config.radial_frequencies,
        prefactor=config.radial_prefactor,
        **common,
    )


def _transform(config: MACEConfig) -> nn.Module | None:
    if config.agnesi is not None:
        return AgnesiTransform(*config.agnesi)
    return None if config.soft_transform is None else SoftTransform(config.soft_transform)


def pair_vectors(graph: AtomGraph, topology: Topology) -> Tensor:
    """Edge vectors sender to receiver of every undirected pair, (n_pairs, 3) in A."""
    return vectors_between(graph, topology.pair_sender, topology.pair_receiver, topology.pair_shift)
