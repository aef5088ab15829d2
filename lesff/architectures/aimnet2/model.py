r"""AIMNet2: features of atoms, messages of scalars and vectors, charges that all passes share.

Before each pass ``t`` an atom has features ``a_i`` (A rows, G columns) and, from the second pass
on, a charge ``q_i``. Both send messages through the radial functions, and a network of all of them
gives increments. Charges are brought to the total charge after every pass but the last (neural
charge equilibration):

.. math::
    q_i = \tilde q_i + f_i^2 \lambda, \qquad
    \lambda = \frac{Q - \sum_j \tilde q_j}{\sum_j f_j^2 + \epsilon}

with ``\tilde q_i`` the charge before plus its increment. With ``local_charges`` the sums are those
over the molecule, with the charges of the local state for Q
(:func:`lesff.electrostatics.charges.sharing.shared_in_molecules`): nothing is shared with atoms
that no bonds lead to. The last pass gives the features that the energy is read off. Anstine,
Zubatyuk, Isayev, Chem. Sci. 2025.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.architectures.aimnet2.layer import GaussianShells, Mixing, Network
from lesff.architectures.aimnet2.messages import Messages, pair_shells
from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import AtomGraph, vectors_between
from lesff.electrostatics.charges.sharing import (
    Bonds,
    CarriedCharges,
    shared,
    shared_in_molecules,
)
from lesff.nn.contacts import ClosePairs, Elements, InnerCutoff
from lesff.nn.edge_tables import Topology, build_topology

_FLOOR = 1e-9
"""Least floor of the weights that share out charge in molecules: without any, those whose weights
vanish have no solution."""


@final
class AIMNet2(Architecture):
    """Embedding of elements, message passes with charges, a network of the last features.

    Args:
        config: Hyper-parameters.
        elements: Atomic numbers covered, ascending; their position is the element table row.
    """

    readout_names = ("energy",)
    layers_name = "passes"

    def __init__(self, config: AIMNet2Config, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_layers = len(config.hidden)
        self.channels = config.channels
        # every pass has vectors of its own
        self.equivariant_layers = (self.n_layers,)
        self.carries_charges = True
        self.asks_host = config.local_charges
        self.n_potentials = 0 if config.local_charges else self.n_layers - 1
        self.n_shared = self.n_layers - 1 if config.local_charges else 0
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.element_row: Tensor
        self.embedding = nn.Parameter(torch.randn(len(elements), config.channels))
        self.shells = GaussianShells(config)
        self.feature_mixing = Mixing(config.n_features, config)
        self.charge_mixing = Mixing(1, config)
        self.passes = nn.ModuleList(
            Network((config.inputs(k), *hidden, config.outputs(k)), is_active=is_active)
            for k, (hidden, is_active) in enumerate(
                zip(config.hidden, config.active_outputs, strict=True)
            )
        )
        self.energy = Network((config.channels, *config.energy_hidden, 1))
        inner = config.inner_cutoff
        self.inner_cutoff = None if inner is None else InnerCutoff(inner)
        self.elements = Elements() if config.local_charges else None
        self.join_until = config.join_until

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
        potentials: Tensor | None = None,
    ) -> ArchitectureOutput:
        """See :class:`Architecture`; radial functions are exact, ``tabulated`` or not."""
        topology = topology or self.topology(graph)
        vectors = vectors_between(
            graph, topology.pair_sender, topology.pair_receiver, topology.pair_shift
        )
        distance, units, shells = pair_shells(vectors, self.shells)
        neighbours = ClosePairs(
            distance=distance,
            first=topology.pair_sender,
            second=topology.pair_receiver,
            z=graph.atomic_numbers,
        )
        learned = neighbours
        if self.inner_cutoff is not None:
            learned = replace(neighbours, distance=self.inner_cutoff(neighbours))
            shells = self.shells(learned.distance)
        messages = Messages(topology, shells, units)

        # a[i, (a, g)] = W[z_i], rows in element order from here on
        features = self.embedding.index_select(0, topology.node_element)
        if node_state is not None:
            features = features + node_state[topology.node_order]
        batch = graph.batch[topology.node_order]
        read, charges, raw, state = features, None, None, None
        invariants, sums, found = [], [], []
        bonds = self._bonds(neighbours)
        for index, network in enumerate(self.passes):
            inputs, summed = self._inputs(read, charges, messages, with_sums=max_order > 0)
            if summed is not None:
                sums.append(summed)
            out = network(inputs)
            if index == self.n_layers - 1:
                invariants.append(out)
                break
            # increments of the charge, of the features, and the weight f
            own, weight, change = torch.split(out, [1, 1, self.channels], dim=1)
            own, weight = own.squeeze(1), weight.squeeze(1)
            raw = own if charges is None else charges + own
            read = features = features + change
            invariants.append(features)
            if index == 0 and first_layer_state is not None:
                read, state = self._with_state(features, first_layer_state, neighbours, topology)
            if bonds is not None:
                charges = self._shared_in_molecules(raw, weight, state, bonds, topology)
                continue
            given = None if potentials is None else potentials[:, index]
            charges, potential = shared(
                raw, weight.square(), graph.total_charge, batch, given, self.config.share_floor
            )
            found.append(potential)
        # everything back in the order of the graph
        order = topology.node_rank
        invariants = [x.index_select(0, order) for x in invariants]
        carried = None
        if charges is not None and raw is not None:
            carried = CarriedCharges(
                local=raw.index_select(0, order),
                charges=charges.index_select(0, order),
                potentials=torch.stack(found, dim=1) if found else None,
            )
        return ArchitectureOutput(
            node_energy=self.energy(invariants[-1]).squeeze(1),
            invariants=invariants,
            equivariants=[[self._vectors(x).index_select(0, order) for x in sums]]
            if max_order
            else [],
            pairs=learned,
            exact_pairs=neighbours,
            carried=carried,
        )

    @staticmethod
    def _with_state(
        features: Tensor, state: FirstLayerState, neighbours: ClosePairs, topology: Topology
    ) -> tuple[Tensor, Tensor]:
        """Features with charge and spin that the atoms' own environment says, and the charges.

        For the next pass only; features in element order, charges in that of the graph.
        """
        increment = state(features.index_select(0, topology.node_rank), neighbours)
        if increment is not None:
            features = features + increment[topology.node_order]
        return features, state.charges

    def _bonds(self, neighbours: ClosePairs) -> Bonds | None:
        """Which atoms are joined, if molecules share charge among themselves alone."""
        if self.elements is None:
            return None
        strength = self.elements.joined(neighbours, self.cutoff, self.join_until)
        return Bonds(strength=strength, first=neighbours.first, second=neighbours.second)

    def _shared_in_molecules(
        self,
        charges: Tensor,
        weights: Tensor,
        state: Tensor | None,
        bonds: Bonds,
        topology: Topology,
    ) -> Tensor:
        """What molecules lack to their charge in the local state, shared out in each."""
        rank = topology.node_rank
        charges = charges.index_select(0, rank)
        found = shared_in_molecules(
            charges,
            weights.square().index_select(0, rank),
            torch.zeros_like(charges) if state is None else state,
            bonds,
            max(self.config.share_floor, _FLOOR),
        )
        return found.index_select(0, topology.node_order)

    def _inputs(
        self, features: Tensor, charges: Tensor | None, messages: Messages, *, with_sums: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Inputs of a network, and the messages of the features, (n, G, 4, A), if asked for."""
        config = self.config
        # [n, (a, g)] -> [n, a, g]
        table = features.view(-1, config.n_features, config.n_radial)
        x = (table, charges, self.feature_mixing.weight, self.charge_mixing.weight)
        return messages.plain_inputs(*x) if with_sums else (messages.inputs(*x), None)

    @staticmethod
    def _vectors(sums: Tensor) -> Tensor:
        """Vectors of the messages in e3nn's order x, y, z, (n, 3, A G)."""
        # [n, g, (1, x, y, z), a] -> [n, (x, y, z), (a, g)]
        return sums[:, :, 1:].permute(0, 2, 3, 1).flatten(2)

    @property
    def n_features(self) -> int:
        """See :class:`Architecture`."""
        return self.config.energy_hidden[-1]

    def last_layer_features(self, invariants: list[Tensor]) -> Tensor:
        """See :class:`Architecture`; the last hidden layer of the network of the energy."""
        return self.energy.hidden(invariants[-1])
