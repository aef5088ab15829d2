"""What every architecture takes and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from lesff.graph import AtomGraph


@dataclass(frozen=True)
class ArchitectureOutput:
    """Result of the short-range model, rows in the order of the graph's atoms.

    Attributes:
        node_energy: (n_atoms,) interaction energy in eV, without reference energies.
        invariants: one (n_atoms, channels) tensor per layer; charge heads read them.
        state_energy: (n_atoms,) energy of the embedding of element, charge and spin in eV, not
            scaled like ``node_energy``; None for models without.
    """

    node_energy: Tensor
    invariants: list[Tensor]
    state_energy: Tensor | None = None


class Architecture(nn.Module, ABC):
    """A short-range model. Knows nothing of charges, reference energies or derivatives.

    Attributes:
        cutoff: Edge cutoff in A.
        n_layers: Message-passing layers; the receptive field is ``n_layers * cutoff``.
        channels: Channels of each layer's invariants.
    """

    cutoff: float
    n_layers: int
    channels: int

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of :meth:`last_layer_features`."""

    @abstractmethod
    def forward(
        self, graph: AtomGraph, node_state: Tensor | None, *, tabulated: bool = False
    ) -> ArchitectureOutput:
        """Evaluate.

        Args:
            graph: The batch; derivatives are taken with respect to its positions and cell.
            node_state: (n_atoms, channels) increment of the initial node features, or None.
            tabulated: Whether radial functions may come from tables where that is faster; only
                first derivatives with respect to positions and cell are wanted then.
        """

    @abstractmethod
    def last_layer_features(self, invariants: list[Tensor]) -> Tensor:
        """Features that the interaction energy is linear in, (n_atoms, n_features).

        Args:
            invariants: One (n_atoms, channels) tensor per layer, as :meth:`forward` gives them.
        """
