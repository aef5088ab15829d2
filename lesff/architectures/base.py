"""What every architecture takes and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from lesff.atoms.graph import AtomGraph, edge_vectors
from lesff.atoms.molecules import largest_extent
from lesff.electrostatics.charges.sharing import CarriedCharges
from lesff.nn.contacts import ClosePairs, Elements
from lesff.nn.edge_tables import Topology


class FirstLayerState(Protocol):
    """What an architecture calls when its first layer is done."""

    def __call__(self, features: Tensor, pairs: ClosePairs, /) -> Tensor | None:
        """Increment of the invariants that the next layer reads, (n_atoms, channels), or None.

        Args:
            features: Invariants of the first layer, (n_atoms, channels).
            pairs: Pairs of neighbours.
        """
        ...

    @property
    def charges(self) -> Tensor:
        """Charges of the local state in e, (n_atoms,), once it was called."""
        ...


@dataclass(frozen=True)
class ArchitectureOutput:
    """Result of the short-range model, rows in the order of the graph's atoms.

    Attributes:
        node_energy: (n_atoms,) interaction energy in eV, without reference energies.
        invariants: one (n_atoms, channels) tensor per layer; charge heads read them.
        state_energy: (n_atoms,) energy of the embedding of element, charge and spin in eV, not
            scaled like ``node_energy``; None for models without.
        equivariants: features of orders l = 1.. in e3nn's real basis, natural parity: one list per
            order asked for, of one (n_atoms, 2 l + 1, c_l) tensor per layer that has it;
            dipole and quadrupole readouts read them.
        pairs: pairs of neighbours at the distances that the architecture learns of, none left out
            that is closer than the cutoff; None: not handed out.
        exact_pairs: the same at their distances, where those level off; None: they do not.
        carried: charges that the layers pass on; None for an architecture without.
    """

    node_energy: Tensor
    invariants: list[Tensor]
    state_energy: Tensor | None = None
    equivariants: list[list[Tensor]] = field(default_factory=list)
    pairs: ClosePairs | None = None
    exact_pairs: ClosePairs | None = None
    carried: CarriedCharges | None = None


class Architecture(nn.Module, ABC):
    """A short-range model. Knows nothing of electrostatics, reference energies or derivatives.

    Most know nothing of charges either. One that carries charges from layer to layer, which sum to
    the total charge, hands them out (:class:`CarriedCharges`); the head ``"carried"`` makes them
    those of the potential. All its results are then functions of the receptive field at given
    ``potentials``.

    Attributes:
        cutoff: Edge cutoff in A.
        n_layers: Message-passing layers; the receptive field is that many edges and
            :meth:`extra_reach`.
        channels: Channels of each layer's invariants.
        equivariant_layers: Layers that hand out features of order l = 1, 2, ...: one number per
            order, empty for a model of invariants only.
        equivariant_channels: Channels of these features, one number per order; as many as of the
            invariants if not given.
        has_layer_features: Whether ``forward`` takes ``layer_features``.
        readout_names: Attributes whose weights turn invariants into energies; the finetuning
            strategies ``head``, ``last_layer`` and ``lora`` train them in full.
        layers_name: Attribute with the list of ``n_layers`` layers, of which ``last_layer`` trains
            the last.
        n_potentials: Numbers per system by which carried charges depend on their whole system; 0
            for an architecture without, whose ``forward`` takes no ``potentials``.
        n_shared: How often molecules share charge among all of their atoms
            (:func:`lesff.electrostatics.charges.sharing.shared_in_molecules`).
        join_until: Share of covalent radii up to which strong bonds join molecules
            (:meth:`lesff.nn.contacts.Elements.joined`).
        carries_charges: Whether it hands out :class:`CarriedCharges`.
        asks_host: Whether its plain PyTorch looks at numbers, which a GPU would wait for.
    """

    cutoff: float
    n_layers: int
    channels: int
    equivariant_layers: tuple[int, ...] = ()
    equivariant_channels: tuple[int, ...] | None = None
    has_layer_features: bool = False
    n_potentials: int = 0
    n_shared: int = 0
    join_until: float | None = None
    carries_charges: bool = False
    asks_host: bool = False
    readout_names: tuple[str, ...] = ("readouts",)
    layers_name: str = "layers"

    def extra_reach(self, graph: AtomGraph) -> float:
        """By how many A results in crystals reach further than ``n_layers`` edges.

        Across the largest molecule, as often as molecules share charge; inf where bonds go on for
        ever.
        """
        if not self.n_shared:
            return 0.0
        pairs = ClosePairs(
            distance=edge_vectors(graph).norm(dim=1),
            first=graph.edge_index[0],
            second=graph.edge_index[1],
            z=graph.atomic_numbers,
        )
        elements = Elements().to(graph.positions.device)
        is_bond = elements.joined(pairs, self.cutoff, self.join_until) > 0.0
        is_bond &= graph.pbc.all(1)[graph.batch[pairs.first]]
        return self.n_shared * largest_extent(graph, is_bond)

    @abstractmethod
    def topology(self, graph: AtomGraph) -> Topology:
        """Index tables of a batch; they hold as long as its atoms and edges stay the same."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of :meth:`last_layer_features`."""

    @abstractmethod
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
        """Evaluate.

        Args:
            graph: The batch; derivatives are taken with respect to its positions and cell.
            node_state: (n_atoms, channels) increment of the initial node features, or None.
            tabulated: Whether radial functions may come from tables where that is faster; only
                first derivatives with respect to positions and cell are wanted then.
            topology: That of the batch, if it is known. Edges longer than the cutoff then count
                nothing.
            max_order: Highest order of the equivariant features to hand out; at most
                ``len(equivariant_layers)``.
            first_layer_state: Called once, between the first layer and the second; what it gives is
                added to what the second one reads, and to nothing else.

        An architecture that carries charges takes ``potentials``, (n_systems, n_potentials), too:
        those that are given instead of the ones that the total charges ask for.
        """

    @abstractmethod
    def last_layer_features(self, invariants: list[Tensor]) -> Tensor:
        """Features that the interaction energy is linear in, (n_atoms, n_features).

        Args:
            invariants: One (n_atoms, channels) tensor per layer, as :meth:`forward` gives them.
        """
