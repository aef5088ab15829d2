"""``Potential``: architecture + charge head + electrostatics + reference energies + derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.architectures import find_architecture
from lesff.architectures.base import Architecture, ArchitectureOutput
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import AtomGraph, ExactGeometry, lattice_offset, strained
from lesff.atoms.segments import segment_sum
from lesff.autograd import plain_arithmetic
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.d3 import D3
from lesff.electrostatics.dispersion import Dispersion
from lesff.electrostatics.moments.born import CHUNK_ATOMS, BornMode
from lesff.electrostatics.moments.field import site_potential, with_field_leaf
from lesff.electrostatics.moments.point_charges import SitePotential, potential_of
from lesff.electrostatics.moments.totals import neutralised
from lesff.electrostatics.onset import onset_energy
from lesff.electrostatics.sums.plan import SLAB, plan_coulomb
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.heads import (
    ChargeModel,
    HasPolarization,
    HeadInput,
    HeadOutput,
    HeadSizes,
    MultipoleHead,
    make_head,
)
from lesff.nn.contacts import AtomContacts, Contacts
from lesff.nn.local_state import LocalState, LocalStates, constants_of
from lesff.nn.radial_table import TABLE_START
from lesff.nn.saturation import from_below
from lesff.nn.state_embedding import JointEmbedding, StateEmbedding
from lesff.potential.config import ModelConfig
from lesff.potential.energy import EnergyTerms
from lesff.potential.first_layer import FirstLayer
from lesff.potential.hessian import hessian
from lesff.potential.plan import PLANNED, StepPlan
from lesff.potential.properties import (
    Evaluation,
    Traits,
    available_properties,
    check_properties,
    compute,
    needs_gradients,
)
from lesff.potential.response import BornOptions, LocalCharges, born_charges
from lesff.potential.uncertainty import Uncertainty

FLOOR_WIDTH = 1.0
"""eV by which what is learned of an atom can go below ``energy_floor``."""

RADIAL_MODES = ("table", "exact")
RadialMode = Literal["table", "exact"]
"""``"table"``: radial functions from tables where compiled kernels run (errors of forces below
1e-6 eV/A), except for second derivatives; ``"exact"``: always evaluated."""


class Potential(nn.Module):
    """One energy; everything else is its derivative or a moment of its charges.

    ``E = sum_i (E0[z_i] + scale * e_i) + E_LES(q)`` with ``e_i`` from the architecture and latent
    charges ``q`` from the charge head (LES, arXiv 2412.15455), and with further moments from the
    multipole head and dispersion if the configuration asks for them.

    Args:
        config: The model's configuration.

    Attributes:
        radial: How radial functions are evaluated; may be changed at any time.
        uncertainty: Calibrated uncertainty of these weights, or None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.radial: RadialMode = "exact"
        self.uncertainty: Uncertainty | None = None
        _, architecture_class = find_architecture(config.architecture["type"])
        self.architecture: Architecture = architecture_class(
            config.architecture_config(), config.elements
        )
        n_elements, channels = len(config.elements), self.architecture.channels
        self.register_buffer("element_row", element_rows(config.elements), persistent=False)
        self.register_buffer(
            "reference_energies",
            torch.tensor(config.reference_energies, dtype=torch.float64),
            persistent=False,
        )
        self.element_row: Tensor
        self.reference_energies: Tensor
        self.dispersion = (
            None if config.dispersion is None else Dispersion(config.dispersion, config.elements)
        )
        self.d3 = None if config.d3 is None else D3(config.d3, config.elements)
        self.state_embedding = (
            StateEmbedding(n_elements=n_elements, channels=channels)
            if config.state_embedding
            else None
        )
        self.local_state = self.make_local_state() if config.local_state else None
        self.contacts = self.make_contacts()
        self.joint_embedding = (
            JointEmbedding(inputs=config.joint_embedding, channels=channels)
            if config.joint_embedding
            else None
        )
        limits = None if config.long_range is None else config.long_range.charge_limits
        self.register_buffer(
            "charge_limits",
            None if limits is None else torch.tensor(limits, dtype=torch.float64),
            persistent=False,
        )
        self.charge_limits: Tensor | None
        floors = config.energy_floor
        self.register_buffer(
            "energy_floors",
            torch.tensor(floors, dtype=torch.float64) if isinstance(floors, tuple) else None,
            persistent=False,
        )
        self.energy_floors: Tensor | None
        self.charge_head: ChargeModel | None = None
        self.multipole_head: MultipoleHead | None = None
        self.ewald: EwaldSettings | None = None
        if config.long_range is not None:
            self.charge_head = self.make_head()
            self.ewald = config.long_range.settings()
            if config.long_range.multipoles is not None:
                self.multipole_head = self.make_multipole_head()

    def make_local_state(self) -> LocalState:
        """A new local state of charge and spin, without any effect yet.

        Raises:
            ConfigError: for an architecture of one layer, which has no second one to enter.
        """
        if self.architecture.n_layers < 2:
            raise ConfigError(
                "`local_state` must be false for an architecture of one layer: the state is made "
                "of the first layer's features and enters the second; use `architecture.n_layers` "
                "of at least 2"
            )
        return LocalState(
            n_elements=len(self.config.elements),
            channels=self.architecture.channels,
            constants=constants_of(
                self.config.state_charge,
                self.config.full_weight,
                shares_protons=self.config.shared_protons,
            ),
        )

    def make_contacts(self) -> Contacts | None:
        """What close pairs are asked for, or None for nothing."""
        has_wall = self.config.wall is not None
        if not has_wall and not self.config.local_state:
            return None
        is_inner = self.config.wall == "zbl-inner"
        return Contacts(
            has_wall=has_wall,
            counts_bonds=self.config.crowding,
            wall_from=self.config.architecture["inner_cutoff"] if is_inner else 0.0,
            wall_stiffness=self.config.wall_stiffness,
            shares_protons=self.config.shared_protons,
        )

    def make_head(self) -> ChargeModel:
        """A new charge head as the configuration says, with initial weights.

        Raises:
            ConfigError: for a model without long-range part.
        """
        long_range = self.config.long_range
        if long_range is None:
            raise ConfigError("`long_range` must be given for a charge head, got null")
        return make_head(long_range, self._head_sizes())

    def make_multipole_head(self) -> MultipoleHead:
        """A new head for further moments as the configuration says, without any effect yet.

        Raises:
            ConfigError: for a model without, and for an architecture that lacks the features.
        """
        long_range = self.config.long_range
        if long_range is None:
            raise ConfigError("`long_range` must be given for multipoles, got null")
        return MultipoleHead(long_range, self._head_sizes())

    def _head_sizes(self) -> HeadSizes:
        return HeadSizes(
            channels=self.architecture.channels,
            n_layers=self.architecture.n_layers,
            n_elements=len(self.config.elements),
            cutoff=self.architecture.cutoff,
            equivariant_layers=self.architecture.equivariant_layers,
            equivariant_channels=self.architecture.equivariant_channels,
            carries_charges=self.architecture.carries_charges,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters and tables are."""
        return self.element_row.device

    @property
    def cutoff(self) -> float:
        """Distance up to which atoms are neighbours, A."""
        return self.architecture.cutoff

    def cast_parameters(self, dtype: torch.dtype) -> None:
        """Change the type of the weights; tables and reference energies stay in float64."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)

    @property
    def traits(self) -> Traits:
        """What the model has, as far as it decides what may be asked of it."""
        head, multipoles = self.charge_head, self.multipole_head
        chosen = None if multipoles is None else multipoles.config
        charges_respond = head is not None and head.responds_to_field
        charges_respond |= chosen is not None and chosen.induces_charges
        dipoles_respond = chosen is not None and chosen.induces_dipoles
        return Traits(
            has_charges=head is not None,
            has_dispersion=self.dispersion is not None or self.d3 is not None,
            has_uncertainty=self.uncertainty is not None,
            has_atomic_dipoles=chosen is not None and chosen.has_dipoles,
            has_atomic_quadrupoles=chosen is not None and chosen.quadrupoles,
            responds_to_field=charges_respond or dipoles_respond,
            only_dipoles_respond=dipoles_respond and not charges_respond,
            has_local_charges=head is not None
            and head.is_local
            and not (chosen is not None and chosen.induces_charges),
        )

    def available_properties(self) -> tuple[str, ...]:
        """Names this potential can compute, for some structures at least."""
        return available_properties(self.traits)

    def forward(
        self,
        graph: AtomGraph,
        properties: Collection[str] = ("energy", "forces"),
        *,
        create_graph: bool = False,
        born: BornOptions | None = None,
        plan: StepPlan | None = None,
    ) -> dict[str, Tensor]:
        """Compute properties of a batch.

        Args:
            graph: The batch, in the model's dtype.
            properties: Names from :data:`lesff.quantities.QUANTITIES`.
            create_graph: Keep the graph, so that results can be differentiated further.
            born: How Born effective charges are computed.
            plan: From :meth:`plan`, for a batch that differs in positions only: nothing is checked
                again, and the host decides nothing.

        Returns:
            The properties asked for, units and shapes as in ``keys``; energies in float64.

        Raises:
            PropertyError: for a property that the model or a system's boundaries do not allow.
            UnsupportedInputError: for an element that the model does not cover, for wires
                and wrapped slabs with long-range electrostatics, and for an external field that
                has no defined effect or meets a model without charges.
        """
        wanted = set(properties)
        if plan is None:
            self._check_elements(graph)
            check_properties(wanted, graph, self.traits)
        elif wanted - PLANNED:
            raise PropertyError(
                f"a planned step computes {', '.join(sorted(PLANNED))}; got "
                f"{', '.join(sorted(wanted - PLANNED))}: leave out `plan`"
            )
        needs_graph = needs_gradients(wanted) or create_graph
        if needs_graph:
            self._check_graph_possible()
        with plain_arithmetic(self.device), torch.set_grad_enabled(needs_graph):
            evaluation = self._evaluate(
                graph.outside_inference(),
                wanted,
                born or BornOptions(),
                create_graph=create_graph,
                plan=plan,
            )
            return compute(evaluation)

    def plan(self, graph: AtomGraph, *, closest: float = 0.0) -> StepPlan:
        """All that the host has to find out about a batch, for many steps with its edges.

        Args:
            graph: The batch on the model's device. Edges may be longer than the cutoff: such a plan
                serves until an atom has moved half of what they exceed it by.
            closest: Distance in A below which no pair comes as long as the plan serves. Radial
                functions are exact where tables do not reach as far down.

        Raises:
            PropertyError: for a model whose steps need the host, see :meth:`can_plan`.
            UnsupportedInputError: as :meth:`forward`; for slabs and external fields, too, and for
                crystals where :attr:`plans_molecules_only` holds.
        """
        if not self.can_plan:
            raise PropertyError(
                "steps of a model with charge equilibration, multipoles or the joint embedding of "
                "published models, and on a GPU with D3 or charges of molecules, cannot be "
                "planned: leave out `plan`"
            )
        self._check_elements(graph)
        check_properties({"energy", "forces"}, graph, self.traits)
        is_plain = graph.external_field is None and graph.point_charges is None
        if not is_plain or bool((graph.pbc.sum(1) == SLAB).any()):
            raise UnsupportedInputError(
                "a planned step is for crystals and molecules without `external_field` or "
                "`point_charges`, got a slab, a field or point charges: leave out `plan`"
            )
        if self.plans_molecules_only and bool(graph.pbc.any()):
            raise UnsupportedInputError(
                "a planned step of a model with D3 is for molecules, got a crystal, whose pairs "
                "the host searches: leave out `plan`"
            )
        chosen = self.config.dispersion
        with plain_arithmetic(self.device):
            graph = graph.outside_inference()
            topology = self.architecture.topology(graph)
            topology = replace(topology, stays_apart=closest >= TABLE_START)
            topology.prepare(fused=kernels.backend(graph.positions) is not None)
            interacts = self.config.long_range is not None and self.config.long_range.in_energy
            coulomb = None
            if self.ewald is not None and interacts:
                coulomb = plan_coulomb(graph, self.ewald)[0]
            dispersion = None if chosen is None else plan_coulomb(graph, chosen)[0]
            known = None
            if self.uncertainty is not None:
                known = self.uncertainty.known(graph.atomic_numbers)
        return StepPlan(topology, coulomb, dispersion, known)

    @property
    def can_plan(self) -> bool:
        """Whether steps run without a look at the numbers, so that :meth:`plan` is possible."""
        asks = self.charge_head is not None and self.charge_head.asks_host
        # on a GPU, D3 makes its table of pairs on the host, and molecules are searched there
        searches = self.d3 is not None or self.architecture.asks_host
        asks |= searches and self.device.type != "cpu"
        return self.joint_embedding is None and self.multipole_head is None and not asks

    @property
    def plans_molecules_only(self) -> bool:
        """Whether steps of crystals need the host: D3 searches pairs of theirs at each step."""
        return self.d3 is not None

    def born_effective_charges(
        self,
        graph: AtomGraph,
        *,
        mode: BornMode = "exact",
        sum_rule: bool = False,
        directions: Tensor | None = None,
        chunk_atoms: int = CHUNK_ATOMS,
    ) -> Tensor:
        """Born effective charges, (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.

        Args:
            graph: Molecules and crystals, in the model's dtype.
            mode: See :class:`lesff.potential.response.BornOptions`, as ``sum_rule`` and
                ``chunk_atoms``.
            sum_rule: Subtract the mean excess over the acoustic sum rule.
            directions: (n_systems, m, 3), components of P to take instead of x, y, z: one backward
                pass each; the result is then (n_atoms, m, 3).
            chunk_atoms: Atoms of a crystal whose charges are evaluated at a time.

        Raises:
            PropertyError, UnsupportedInputError: as :meth:`forward`.
        """
        options = BornOptions(mode=mode, sum_rule=sum_rule, chunk_atoms=chunk_atoms)
        self._check_elements(graph)
        check_properties({"born_effective_charges"}, graph, self.traits)
        self._check_graph_possible()
        with plain_arithmetic(self.device), torch.enable_grad():
            graph, positions, _ = _with_leaf(graph.outside_inference())
            terms = self.energy_terms(graph, tabulated=self.radial == "table")
            if terms.charges is None:
                raise PropertyError("this model has no charges: it was trained without LES")
            physical = neutralised(terms.charges, graph)
            local = self._local(graph, terms)
            return born_charges(
                physical,
                graph,
                local,
                options,
                directions,
                dipoles=terms.dipoles,
                positions=positions,
            ).detach()

    def energy_terms(
        self,
        graph: AtomGraph,
        *,
        tabulated: bool = False,
        plan: StepPlan | None = None,
        dispersion: bool = True,
    ) -> EnergyTerms:
        """Energies and charges, differentiable in positions, cell and parameters.

        Args:
            graph: The batch.
            tabulated: Whether radial functions may come from tables: first derivatives only.
            plan: See :meth:`forward`.
            dispersion: Whether dispersion, which has no parameters, is part of it.
        """
        element = self.element_row[graph.atomic_numbers]
        multipoles = self.multipole_head
        # features and short-range energies of all atoms, and what the first layer says of charges
        local = self._first_layer_state(graph, element)
        output = self.architecture(
            graph,
            self.node_state(graph),
            tabulated=tabulated,
            topology=None if plan is None else plan.topology,
            max_order=0 if multipoles is None else multipoles.max_order,
            **({} if local is None else {"first_layer_state": local}),
        )
        # E_i = E0[z_i] + scale e_i, in float64: energies of large systems need the digits
        node_energy = output.node_energy.to(torch.float64) * self.config.energy_scale
        # F[z_i], or F
        floor = self.config.energy_floor
        if self.energy_floors is not None:
            node_energy = from_below(node_energy, -self.energy_floors[element], FLOOR_WIDTH)
        elif floor is not None and not isinstance(floor, tuple):
            node_energy = from_below(node_energy, -floor, FLOOR_WIDTH)
        node_energy = node_energy + self.reference_energies[element]
        if output.state_energy is not None:
            node_energy = node_energy + output.state_energy.to(torch.float64)
        if self.contacts is not None and self.contacts.has_wall:
            contacts = local.contacts if local is not None else self._contacts(output)
            node_energy = node_energy + contacts.wall.to(torch.float64)
        energy_sr = segment_sum(node_energy, graph.batch, graph.n_systems)
        # dispersion depends on elements and positions only
        coefficients, attraction, shares = None, None, None
        if dispersion and self.dispersion is not None:
            groups = None if plan is None else plan.dispersion
            coefficients, attraction = self.dispersion(graph, element, groups)
        if dispersion and self.d3 is not None:
            shares = self.d3(graph, element)
            attraction = segment_sum(shares, graph.batch, graph.n_systems)
        # charges, and the energy of their interaction
        head, coulomb, energy_lr = None, None, torch.zeros_like(energy_sr)
        surroundings = self._surroundings(graph)
        if self.charge_head is not None and self.ewald is not None:
            states = None if local is None else local.states
            head = self._charges(graph, output, element, states, surroundings)
            coulomb, energy_lr = self._electrostatics(graph, head, output, plan)
        if attraction is not None:
            energy_lr = energy_lr + attraction
        return EnergyTerms(
            node_energy=node_energy,
            energy_sr=energy_sr,
            energy_lr=energy_lr,
            local_charges=None if head is None else head.local,
            charges=None if head is None else head.charges,
            head=head,
            coulomb_energy=coulomb,
            dispersion_energy=attraction,
            dispersion_coefficients=coefficients,
            dispersion_shares=shares,
            invariants=output.invariants,
            states=None if local is None else local.states,
            surroundings=surroundings,
            carried=output.carried,
        )

    def _surroundings(self, graph: AtomGraph) -> SitePotential | None:
        """Potential of the graph's point charges at the atoms, with what the moments need."""
        if graph.point_charges is None or self.ewald is None:
            return None
        chosen = None if self.multipole_head is None else self.multipole_head.config
        order = 0
        if chosen is not None and (chosen.has_dipoles or chosen.quadrupoles):
            order = 2 if chosen.quadrupoles else 1
        return potential_of(graph.point_charges, graph, self.ewald, order)

    def _first_layer_state(
        self, graph: AtomGraph, element: Tensor, potentials: Tensor | None = None
    ) -> FirstLayer | None:
        """The local state of a batch, for the architecture to call; None for a model without."""
        if self.local_state is None or self.contacts is None:
            return None
        return FirstLayer(self.local_state, self.contacts, graph, element, potentials)

    def _contacts(self, output: ArchitectureOutput) -> AtomContacts:
        """What close pairs say of the atoms."""
        pairs = output.pairs if output.exact_pairs is None else output.exact_pairs
        if pairs is None or self.contacts is None:
            raise ConfigError(
                "`wall` must be null for an architecture that does not hand out its pairs"
            )
        return self.contacts(pairs)

    def _charges(
        self,
        graph: AtomGraph,
        output: ArchitectureOutput,
        element: Tensor,
        states: LocalStates | None,
        surroundings: SitePotential | None,
    ) -> HeadOutput:
        """Charges and further moments of the heads."""
        charge_head, _ = self._electrostatic_parts()
        at_sites = site_potential(graph) if charge_head.responds_to_field else None
        if charge_head.responds_to_field and surroundings is not None:
            value = surroundings.value.to(graph.positions.dtype)
            at_sites = value if at_sites is None else at_sites + value
        # equilibration differentiates by the graph's own positions
        if charge_head.asks_host:
            graph = graph.replace(exact=None)
        inputs = replace(
            self._head_input(graph, output, element, states),
            site_potential=at_sites,
            surroundings=surroundings,
            equivariants=output.equivariants,
        )
        head = charge_head(inputs)
        if self.multipole_head is not None:
            return self.multipole_head(inputs, head)
        # charges that depend on nothing: shares of the Coulomb energy are derivatives by them
        if head.coulomb is not None and torch.is_grad_enabled() and not head.coulomb.requires_grad:
            head = replace(head, coulomb=head.coulomb.detach().requires_grad_())
        return head

    def _head_input(
        self,
        graph: AtomGraph,
        output: ArchitectureOutput,
        element: Tensor,
        states: LocalStates | None,
    ) -> HeadInput:
        """What a charge head reads, without fields and features of order 1 and higher."""
        _, settings = self._electrostatic_parts()
        return HeadInput(
            invariants=output.invariants,
            element=element,
            graph=graph,
            settings=settings,
            pairs=output.pairs,
            limits=self._limits(element, graph.positions.dtype),
            solves_limits=self.config.shared_protons,
            state_charges=None if states is None else states.charges,
            carried=output.carried,
        )

    def _electrostatics(
        self, graph: AtomGraph, head: HeadOutput, output: ArchitectureOutput, plan: StepPlan | None
    ) -> tuple[Tensor | None, Tensor]:
        """Coulomb energy of the permanent moments, if any, and the whole electrostatic energy.

        Both (n_systems,) in eV, the second in float64.
        """
        if self.config.long_range is not None and not self.config.long_range.in_energy:
            return None, torch.zeros_like(graph.total_charge, dtype=torch.float64)
        coulomb = head.coulomb_energy
        if coulomb is None and head.coulomb is not None:
            groups = None if plan is None else plan.coulomb
            _, settings = self._electrostatic_parts()
            coulomb = latent_energy(head.coulomb, graph, settings, plan=groups)
            if self.onset is not None:
                coulomb = coulomb + self._onset_energy(head.coulomb, graph, output)
        energy = graph.positions.new_zeros(graph.n_systems) if coulomb is None else coulomb
        # what it costs to charge and polarise the atoms
        if head.response_energy is not None:
            energy = energy + head.response_energy
        return coulomb, energy.to(torch.float64)

    @property
    def onset(self) -> float | None:
        """Distance in A up to which the interaction of charges fades in, or None."""
        return None if self.config.long_range is None else self.config.long_range.onset

    def _onset_energy(
        self, charges: Tensor, graph: AtomGraph, output: ArchitectureOutput
    ) -> Tensor:
        """Coulomb energy of close pairs beyond that of Gaussian charges, (n_systems,) in eV."""
        _, settings = self._electrostatic_parts()
        pairs = output.pairs if output.exact_pairs is None else output.exact_pairs
        if self.onset is None or pairs is None:
            raise ConfigError(
                "`long_range.onset` must be null for an architecture that does not hand out its "
                "pairs"
            )
        return onset_energy(
            charges, pairs.distance, pairs.first, pairs.second, graph, settings, self.onset
        )

    def _limits(self, element: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Largest latent charges, (n_atoms,) in e, or None for charges without limit."""
        limits = self.charge_limits
        return None if limits is None else limits.index_select(0, element).to(dtype)

    def _electrostatic_parts(self) -> tuple[ChargeModel, EwaldSettings]:
        """Charge head and constants of the Coulomb sums; PropertyError without charges."""
        if self.charge_head is None or self.ewald is None:
            raise PropertyError("this model has no charges: it was trained without LES")
        return self.charge_head, self.ewald

    def node_state(self, graph: AtomGraph) -> Tensor | None:
        """Charge and spin increment of the node features, (n_atoms, channels) or None."""
        if self.joint_embedding is not None:
            return self.joint_embedding(graph.batch, graph.total_charge, graph.spin_multiplicity)
        if self.state_embedding is None:
            return None
        element = self.element_row[graph.atomic_numbers]
        return self.state_embedding(
            element, graph.batch, graph.total_charge, graph.spin_multiplicity
        )

    def local_charges(
        self,
        graph: AtomGraph,
        node_state: Tensor | None,
        potentials: Tensor | None = None,
        layer_features: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Charges as functions of the receptive field only, (n_atoms,).

        ``layer_features`` may take part, see :attr:`Architecture.has_layer_features`.

        At given (n_systems, k) ``potentials``, those of the architecture and of a local state if
        the model has such and then of :class:`lesff.heads.base.HeadOutput`, or before any
        constraint. Raises PropertyError for a model without charges.
        """
        charge_head, _ = self._electrostatic_parts()
        element = self.element_row[graph.atomic_numbers]
        n_carried = self.architecture.n_potentials
        n_own = 0 if self.local_state is None else LocalState.N_POTENTIALS
        if potentials is None:
            potentials = graph.positions.new_zeros(graph.n_systems, n_carried + n_own)
        carried, own, rest = torch.tensor_split(potentials, [n_carried, n_carried + n_own], dim=1)
        local = self._first_layer_state(graph, element, own)
        output = self.architecture(
            graph,
            node_state,
            tabulated=self.radial == "table",
            **({} if local is None else {"first_layer_state": local}),
            **({} if layer_features is None else {"layer_features": layer_features}),
            **({"potentials": carried} if n_carried else {}),
        )
        states = None if local is None else local.states
        x = self._head_input(graph, output, element, states)
        return charge_head.at_potentials(x, rest if rest.shape[1] else None)

    @property
    def has_polarization(self) -> bool:
        """Whether :meth:`polarization` is there: transfers between neighbours make all charges."""
        head = self.charge_head
        return head is not None and head.has_polarization and self.local_state is None

    def polarization(self, graph: AtomGraph, *, tabulated: bool = False) -> Tensor:
        """Function of positions whose derivatives are Born charges, (n_systems, 3) in e A.

        ``Z*[a, i, j] = dP_i / dr_aj`` in crystals, too; that of the charges, without dipoles of
        atoms.

        Args:
            graph: The batch.
            tabulated: Whether radial functions may come from tables: first derivatives only.

        Raises:
            PropertyError: for a model without charges.
            ConfigError: for one whose charges have none.
        """
        charge_head, _ = self._electrostatic_parts()
        if not isinstance(charge_head, HasPolarization):
            raise ConfigError("`long_range.head` must be 'edge' for a polarization of crystals")
        element = self.element_row[graph.atomic_numbers]
        output = self.architecture(graph, self.node_state(graph), tabulated=tabulated)
        return charge_head.polarization(self._head_input(graph, output, element, None))

    def reference_charges(self, graph: AtomGraph) -> Tensor | None:
        """``long_range.reference_charges`` of the atoms, (n_atoms,) in e, or None without them."""
        if self.charge_head is None:
            return None
        return self.charge_head.element_charges(self.element_row[graph.atomic_numbers])

    @property
    def charge_hops(self) -> int:
        """Edges by which a local charge reaches further than the invariants."""
        head = self.charge_head
        if head is None:
            return 0
        return head.extra_hops + (0 if self.charge_limits is None else head.limited_hops)

    @property
    def charge_reach(self) -> float:
        """Receptive field of a local charge in A, but for :meth:`Architecture.extra_reach`."""
        hops = self.architecture.n_layers + self.charge_hops
        return hops * self.architecture.cutoff

    def _extra_reach(self, graph: AtomGraph) -> float:
        """:meth:`Architecture.extra_reach` of crystals, which alone are unfolded."""
        if not bool(graph.pbc.all(1).any()):
            return 0.0
        extra = self.architecture.extra_reach(graph)
        if math.isinf(extra):
            raise PropertyError(
                "Born effective charges and forces in a field need molecules that end: bonds of "
                "this crystal go on through its cell, and the model shares charge along them; use "
                "another model"
            )
        return extra

    def _local(self, graph: AtomGraph, terms: EnergyTerms) -> LocalCharges:
        return LocalCharges(
            function=self.local_charges,
            node_state=self.node_state(graph),
            potentials=terms.potentials,
            reach=lambda: self.charge_reach + self._extra_reach(graph),
            cutoff=self.architecture.cutoff,
            polarization=partial(self.polarization, tabulated=self.radial == "table")
            if self.has_polarization
            else None,
            by_layers=self.architecture.has_layer_features
            and self.local_state is None
            and self.charge_hops <= 1,
        )

    def _check_graph_possible(self) -> None:
        """Raise PropertyError for weights that autograd cannot work with."""
        if next(self.parameters()).is_inference():
            raise PropertyError(
                "this model was made inside torch.inference_mode(), where nothing can be "
                "differentiated: make it outside, or with `lesff.load`"
            )

    def _check_elements(self, graph: AtomGraph) -> None:
        unknown = graph.atomic_numbers[self.element_row[graph.atomic_numbers] < 0]
        if len(unknown):
            raise UnsupportedInputError(
                f"`atomic_numbers` must be among {list(self.config.elements)}, "
                f"got {sorted(set(unknown.tolist()))}"
            )

    def _evaluate(
        self,
        graph: AtomGraph,
        wanted: set[str],
        born: BornOptions,
        *,
        create_graph: bool,
        plan: StepPlan | None,
    ) -> Evaluation:
        """Energies of a batch, with leaves for all derivatives that are wanted."""
        strain, given = torch.zeros_like(graph.cell), graph
        graph, positions, offset = _with_leaf(graph, keep_graph=create_graph)
        if "polarizability" in wanted:
            graph = with_field_leaf(graph)
        if "stress" in wanted:
            strain.requires_grad_()
            graph = strained(graph, strain)
        # tables of radial functions have first derivatives only
        tabulated = self.radial == "table" and not create_graph
        tabulated &= plan is None or plan.topology.stays_apart
        terms = self.energy_terms(graph, tabulated=tabulated, plan=plan)
        return Evaluation(
            graph=graph,
            terms=terms,
            positions=positions,
            offset=offset,
            strain=strain,
            wanted=wanted,
            born=born,
            create_graph=create_graph,
            local=lambda: self._local(graph, terms),
            hessian=lambda: hessian(given, lambda moved: self(moved, ("forces",))["forces"]),
            features=lambda: self.architecture.last_layer_features(terms.invariants),
            uncertainty=self.uncertainty,
            known=None if plan is None else plan.known,
        )


def _with_leaf(
    graph: AtomGraph, *, keep_graph: bool = False
) -> tuple[AtomGraph, Tensor, Tensor | None]:
    """A batch whose positions are functions of a leaf, if gradients are recorded.

    Rounded positions are replaced by those about the centre of each system, wrapped into its cell,
    which keep more digits. Neither changes anything but the energy of a charge in a field.

    Args:
        graph: The batch.
        keep_graph: Whether positions that somebody else differentiates by stay theirs.

    Returns:
        The batch, the leaf in A, and what the positions leave out of it, or None for nothing.
    """
    theirs = keep_graph and graph.positions.requires_grad
    if graph.exact is None or theirs:
        positions = graph.positions
        if torch.is_grad_enabled() and not theirs:
            positions = positions.detach().requires_grad_()
        return graph.replace(positions=positions), positions, None
    positions = graph.exact.positions.detach()
    if torch.is_grad_enabled():
        positions.requires_grad_()
    offset = lattice_offset(graph, positions, graph.exact.cell)
    rounded = (positions - offset).to(graph.positions.dtype)
    exact = ExactGeometry(positions=positions, cell=graph.exact.cell)
    charges = graph.point_charges
    if charges is not None:
        # those of each system move with one of its atoms: lattice vectors make no difference
        first = torch.searchsorted(graph.batch, torch.arange(graph.n_systems).to(graph.batch))
        charges = charges.moved(-offset[first])
    moved = graph.replace(positions=rounded, exact=exact, point_charges=charges)
    return moved, positions, offset
