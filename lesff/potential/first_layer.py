"""Charges and spins of a batch, made when the architecture has finished its first layer."""

from __future__ import annotations

from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.errors import ConfigError
from lesff.kernels.recording import all_zero
from lesff.nn.contacts import AtomContacts, ClosePairs, Contacts
from lesff.nn.local_state import LocalState, LocalStates, Totals


class FirstLayer:
    """The local state of one batch, made between the first layer and the second.

    Attributes:
        found: Charges and spins, repulsion and openness, as soon as the architecture has called.
    """

    def __init__(
        self,
        module: LocalState,
        contacts: Contacts,
        graph: AtomGraph,
        element: Tensor,
        potentials: Tensor | None,
    ) -> None:
        self._module, self._contacts = module, contacts
        self._graph, self._element, self._potentials = graph, element, potentials
        self.found: tuple[LocalStates, AtomContacts] | None = None

    def __call__(self, features: Tensor, pairs: ClosePairs) -> Tensor | None:
        """See :class:`lesff.architectures.base.FirstLayerState`."""
        graph, dtype = self._graph, features.dtype
        contacts = self._contacts(pairs)
        totals = Totals(
            batch=graph.batch,
            charge=graph.total_charge.to(dtype),
            unpaired=(graph.spin_multiplicity - 1).to(dtype),
            potentials=self._potentials,
        )
        states = self._module(features, self._element, contacts, totals)
        self.found = states, contacts
        # neutral closed shells have no charges, nor derivatives of them
        if all_zero(states.charges, states.spins):
            return None
        return self._module.increment(states, features, self._element)

    @property
    def states(self) -> LocalStates:
        """Charges and spins."""
        return self._given()[0]

    @property
    def charges(self) -> Tensor:
        """See :class:`lesff.architectures.base.FirstLayerState`."""
        return self._given()[0].charges

    @property
    def contacts(self) -> AtomContacts:
        """What close pairs say of the atoms."""
        return self._given()[1]

    def _given(self) -> tuple[LocalStates, AtomContacts]:
        if self.found is None:
            raise ConfigError(
                "`local_state` must be false for an architecture that ignores `first_layer_state`"
            )
        return self.found
