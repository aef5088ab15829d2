"""What every charge head takes and returns, and how a head starts from a pretrained free one.

A pretrained free head gives latent charges ``p`` whose sum P need not be the total charge Q, so
no head can both keep the sum at Q and leave the charges as they are. Heads with ``residual`` start
from the shifted charges ``q0 = p - (P - Q) / N`` and have two kinds of charges:

* physical ones ``q``, which sum to Q always, equal to ``q0`` at the start: dipoles do not change;
* those of the Coulomb energy, ``q + a (p - q0)``, equal to ``p`` at the start: nor do energies.

A pretrained head of another kind lies below as it is (``bases``): its physical charges take the
place of p in q0, its Coulomb charges that of p elsewhere. No readout of invariants could give again
what is not local in them. Heads that do not constrain the sum (``"latent"``, ``"edge"``) change
both alike. ``"qeq"`` cannot lie below: its charges minimise an energy, so that the dipole is its
derivative by a field, and would no longer do so with those of another head added.

The anchor ``a`` is one trainable number, 1 at the start (0 if the pretrained head is shifted, so
that ``p = q0``); at 0 the energy, too, sees the total charge. The edge head has no anchor: its
transfers keep P, and physical charges are the shifted ones as for the free head.

With ``charge_limits`` what a head reads off the invariants levels off towards the element's limit
(:func:`lesff.nn.saturation.saturated`): exactly what it was up to 0.8 of the limit, and never
beyond it. Heads that share out what is missing to the total charge do so within the limits
(:mod:`lesff.heads.sharing`). With a local state (:mod:`lesff.nn.local_state`) every head but
``"qeq"``, whose equations start from zero charges, starts from its charges, which sum to the total
charge already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lesff.atoms.graph import AtomGraph, edge_vectors, first_edges
from lesff.atoms.segments import shift_to_total
from lesff.electrostatics.charges.sharing import CarriedCharges
from lesff.electrostatics.moments.multipoles import Multipoles
from lesff.electrostatics.moments.point_charges import SitePotential
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError
from lesff.heads.config import LongRangeConfig
from lesff.nn.contacts import ClosePairs
from lesff.nn.readout import LayerReadouts, LinearReadout
from lesff.nn.saturation import saturated


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """What a head needs to know of the architecture.

    Attributes:
        channels: Channels of the invariants.
        n_layers: Layers with invariants.
        n_elements: Rows of element tables.
        cutoff: Edge cutoff in A.
        equivariant_layers: Layers with features of order 1, 2, ...
        equivariant_channels: Channels of these features, one number per order; as many as of the
            invariants if not given.
        carries_charges: Whether the architecture makes charges itself.
    """

    channels: int
    n_layers: int
    n_elements: int
    cutoff: float
    equivariant_layers: tuple[int, ...] = ()
    carries_charges: bool = False
    equivariant_channels: tuple[int, ...] | None = None

    def channels_of(self, order: int) -> int:
        """Channels of the features of an order, 0 for invariants."""
        if order == 0 or self.equivariant_channels is None:
            return self.channels
        return self.equivariant_channels[order - 1]


@dataclass(frozen=True, kw_only=True)
class HeadInput:
    """What a head reads.

    Attributes:
        invariants: One (n_atoms, channels) tensor per layer.
        element: (n_atoms,) rows of element tables.
        graph: The batch.
        settings: Constants of the Coulomb energy.
        site_potential: (n_atoms,) external potential in V, ``-E.r`` of a uniform field and that of
            point charges, or None.
        surroundings: Potential of the graph's point charges, or None.
        equivariants: Per order from 1, one (n_atoms, 2 l + 1, c_l) tensor per layer with it.
        pairs: Pairs of neighbours at the distances that the architecture learns of; found again
            from the graph if not given.
        limits: (n_atoms,) largest latent charges in e, or None for charges without limit.
        solves_limits: Whether charges within limits are solved for, see
            :mod:`lesff.heads.sharing`.
        state_charges: (n_atoms,) charges of the local state in e, which sum to the total charge and
            which every head but ``"qeq"`` starts from; None for a model without.
        carried: Charges that the architecture makes itself, if it does.
    """

    invariants: list[Tensor]
    element: Tensor
    graph: AtomGraph
    settings: EwaldSettings
    site_potential: Tensor | None = None
    equivariants: list[list[Tensor]] = field(default_factory=list)
    pairs: ClosePairs | None = None
    limits: Tensor | None = None
    solves_limits: bool = False
    state_charges: Tensor | None = None
    surroundings: SitePotential | None = None
    carried: CarriedCharges | None = None

    def neighbours(self) -> ClosePairs:
        """Pairs of neighbours, in the order of their first edges where they are the graph's."""
        if self.pairs is not None:
            return self.pairs
        graph = self.graph
        along = first_edges(graph)
        sender, receiver = graph.edge_index[:, along]
        return ClosePairs(
            distance=edge_vectors(graph)[along].norm(dim=1),
            first=sender,
            second=receiver,
            z=graph.atomic_numbers,
        )

    def bounded(self, charges: Tensor) -> Tensor:
        """Charges of the atoms, levelling off towards their limits, if they have any."""
        return charges if self.limits is None else saturated(charges, self.limits)

    def with_state(self, charges: Tensor) -> Tensor:
        """Charges of the atoms, and those of the local state, if there is one."""
        return charges if self.state_charges is None else charges + self.state_charges


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """Charges and further moments, and the energy beyond their Coulomb energy.

    The long-range energy is the Coulomb energy of ``coulomb``, or of ``moments`` where there are
    any, plus ``response_energy``.

    Attributes:
        local: (n_atoms,) charges before any constraint.
        charges: (n_atoms,) physical charges in e.
        latent: (n_atoms,) charges of the Coulomb interaction in e, all parts.
        coulomb: (n_atoms,) charges whose latent energy is part of the energy as it stands; None if
            the response energy is all there is.
        response_energy: (n_systems,) in eV, without the work of the site potential; None: zero.
        atom_response: (n_atoms,) its shares.
        moments: Permanent moments whose Coulomb energy is part of the energy, ``coulomb`` among
            them; None for charges only.
        coulomb_energy: (n_systems,) in eV, where it is known already.
        dipoles: (n_atoms, 3) in e A, all parts, or None.
        quadrupoles: (n_atoms, 3, 3) traceless primitive second moments in e A^2, or None.
        potentials: (n_systems, k) numbers by which charges depend on their whole system, other than
            a uniform shift, or None.
    """

    local: Tensor
    charges: Tensor
    latent: Tensor
    coulomb: Tensor | None
    response_energy: Tensor | None = None
    atom_response: Tensor | None = None
    moments: Multipoles | None = None
    coulomb_energy: Tensor | None = None
    dipoles: Tensor | None = None
    quadrupoles: Tensor | None = None
    potentials: Tensor | None = None


class ChargeModel(nn.Module, ABC):
    """A charge head; subclasses take the long-range configuration and :class:`HeadSizes`.

    Args:
        reference: (n_elements,) reference charges in e, for a head that starts from such.

    Attributes:
        base: The head below, whose charges this one changes, or None; see :meth:`put_on`.
        responds_to_field: Whether charges depend on the site potential.
        is_local: Whether charges, apart from a uniform shift to the total charge, are functions of
            the receptive field at given ``potentials``: only then are Born effective charges of
            crystals defined.
        extra_hops: Edges by which charges reach further than the invariants.
        limited_hops: Edges by which they reach further still where they have limits.
        has_polarization: Whether Born charges are derivatives of :class:`HasPolarization`.
        asks_host: Whether the host has to see numbers of each step: whether a matrix is positive
            definite, an iteration converged.
    """

    responds_to_field: ClassVar[bool] = False
    is_local: bool = False
    extra_hops: int = 0
    limited_hops: int = 0
    has_polarization: bool = False
    asks_host: ClassVar[bool] = False

    def __init__(self, *, reference: Tensor | None = None) -> None:
        super().__init__()
        self.base: ChargeModel | None = None
        self.register_buffer("reference", reference, persistent=False)
        self.reference: Tensor | None

    @abstractmethod
    def local(self, x: HeadInput) -> Tensor:
        """Charges before any constraint, (n_atoms,); functions of the receptive field only."""

    @abstractmethod
    def forward(self, x: HeadInput) -> HeadOutput:
        """Charges and energy of the response."""

    @abstractmethod
    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """Charges at given :attr:`HeadOutput.potentials`, (n_atoms,), without a uniform shift.

        Functions of the receptive field if ``is_local``; a head without potentials ignores them.
        """

    def read(self, readouts: LayerReadouts, x: HeadInput) -> Tensor:
        """Bounded charges read off the invariants, on top of those of the local state."""
        own = x.bounded(readouts(x.invariants))
        return own if self.base is not None else x.with_state(own)

    def put_on(self, base: ChargeModel) -> None:
        """Lay another head below this one, which was made with ``bases`` in its configuration."""
        self.base = base
        # what the charges below depend on, those on top do, too
        self.is_local = self.is_local and base.is_local
        self.has_polarization = False
        self.extra_hops = max(self.extra_hops, base.extra_hops)
        self.limited_hops = max(self.limited_hops, base.limited_hops)

    def below(self, x: HeadInput) -> HeadOutput:
        """What the head below gives; ConfigError without one."""
        if self.base is None:
            raise ConfigError("`long_range.bases` must be given for a head below, got none")
        return self.base(x)

    def base_at_potentials(self, x: HeadInput, potentials: Tensor | None, own: int = 0) -> Tensor:
        """Charges of the head below at its potentials, which follow the ``own`` first columns."""
        if self.base is None:
            raise ConfigError("`long_range.bases` must be given for a head below, got none")
        rest = None if potentials is None or potentials.shape[1] == own else potentials[:, own:]
        return self.base.at_potentials(x, rest)

    def element_charges(self, element: Tensor) -> Tensor | None:
        """Reference charges of elements by their index, in e, or None without such charges."""
        return None if self.reference is None else self.reference.index_select(0, element)


@runtime_checkable
class HasPolarization(Protocol):
    """A head with ``has_polarization``."""

    def polarization(self, x: HeadInput) -> Tensor:
        """Function of positions whose derivatives are Born charges, (n_systems, 3) in e A.

        Of crystals, too, where a dipole is not one.
        """
        ...


class Anchored(nn.Module):
    """Charges of a pretrained free head and the anchor; see the module's text."""

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.ones(()))

    def forward(
        self, local: Tensor, graph: AtomGraph, latent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Shifted charges ``q0`` and ``a (p - q0)``, both (n_atoms,) in e.

        Args:
            local: (n_atoms,) charges that are shifted to the total charge.
            graph: The batch.
            latent: (n_atoms,) p, the charges of the Coulomb energy at the start; ``local`` if None.
        """
        # q0 has the total charge; what the shift took away, p - q0, is the anchor's
        shifted = shift_to_total(local, graph.batch, graph.total_charge, graph.atoms_per_system())
        return shifted, self.anchor * ((local if latent is None else latent) - shifted)


def make_readouts(
    config: LongRangeConfig, sizes: HeadSizes, *, starts_at_zero: bool = False
) -> LayerReadouts:
    """Readouts of the invariants as the configuration says; with zero output at the start."""
    readouts = LayerReadouts(
        channels=sizes.channels, n_layers=sizes.n_layers, config=config.readouts
    )
    # the last linear map is zero: no output yet, but a gradient
    if starts_at_zero:
        for layer in readouts.layers:
            last = layer.weight if isinstance(layer, LinearReadout) else layer.weight_2
            nn.init.zeros_(last)  # pyright: ignore[reportArgumentType]
    return readouts
