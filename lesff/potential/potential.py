"""``Potential``: architecture + charge head + electrostatics + reference energies + derivatives."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.architectures import ARCHITECTURES
from lesff.architectures.base import Architecture
from lesff.atoms.cell import cell_volume
from lesff.atoms.elements import element_rows
from lesff.atoms.graph import AtomGraph, strained
from lesff.atoms.segments import segment_sum
from lesff.autograd import gradients
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.dispersion import Dispersion
from lesff.electrostatics.moments.born import CHUNK_ATOMS, BornMode
from lesff.electrostatics.moments.field import (
    dipole_field_energy,
    field_energy,
    has_field,
    site_potential,
    with_field_leaf,
)
from lesff.electrostatics.moments.totals import (
    dipole_moment,
    moment_origin,
    neutralised,
    quadrupole_moment,
)
from lesff.electrostatics.sums.pair_sum import check_boundaries
from lesff.electrostatics.sums.plan import SLAB, plan_coulomb
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.heads import HEADS, ChargeModel, HeadInput, HeadSizes, MultipoleHead
from lesff.nn.state_embedding import JointEmbedding, StateEmbedding
from lesff.potential.config import ModelConfig
from lesff.potential.energy import EnergyTerms, atomic_energies
from lesff.potential.plan import PLANNED, StepPlan
from lesff.potential.response import (
    BornOptions,
    LocalCharges,
    born_charges,
    check_crystal_response,
    check_response,
    crystal_field_forces,
    polarizability,
)
from lesff.potential.uncertainty import Uncertainty
from lesff.quantities import QUANTITIES, UNCERTAINTIES

_MOMENTS = {"dipole", "quadrupole", "born_effective_charges", "polarizability"}
_LATER = {"node_energy", "born_effective_charges", "polarizability", "forces_uncertainty"}
"""Need another backward pass after that of the energy."""
_DERIVATIVES = {"forces", "stress", *_LATER}

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
        _, architecture_class = ARCHITECTURES[config.architecture["type"]]
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
        self.state_embedding = (
            StateEmbedding(n_elements=n_elements, channels=channels)
            if config.state_embedding
            else None
        )
        self.joint_embedding = (
            JointEmbedding(inputs=config.joint_embedding, channels=channels)
            if config.joint_embedding
            else None
        )
        self.charge_head: ChargeModel | None = None
        self.multipole_head: MultipoleHead | None = None
        self.ewald: EwaldSettings | None = None
        if config.long_range is not None:
            self.charge_head = self.make_head()
            self.ewald = config.long_range.settings()
            if config.long_range.multipoles is not None:
                self.multipole_head = self.make_multipole_head()

    def make_head(self) -> ChargeModel:
        """A new charge head as the configuration says, with initial weights.

        Raises:
            ConfigError: for a model without long-range part.
        """
        long_range = self.config.long_range
        if long_range is None:
            raise ConfigError("`long_range` must be given for a charge head, got null")
        return HEADS[long_range.head](long_range, self._head_sizes())

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
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def cast_parameters(self, dtype: torch.dtype) -> None:
        """Change the type of the weights; tables and reference energies stay in float64."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)

    def available_properties(self) -> tuple[str, ...]:
        """Names this potential can compute."""
        absent: set[str] = set() if self.uncertainty is not None else set(UNCERTAINTIES)
        if self.charge_head is None:
            short = ("energy", "energy_sr", "node_energy", "forces", "stress", *UNCERTAINTIES)
            if self.config.dispersion is not None:
                short += ("energy_lr", "energy_dispersion")
            return tuple(n for n in QUANTITIES if n in short and n not in absent)
        if self.config.dispersion is None:
            absent.add("energy_dispersion")
        chosen = None if self.multipole_head is None else self.multipole_head.config
        if not self.responds_to_field:
            absent.add("polarizability")
        if chosen is None or not chosen.has_dipoles:
            absent.add("atomic_dipoles")
        if chosen is None or not chosen.quadrupoles:
            absent.add("atomic_quadrupoles")
        return tuple(n for n in QUANTITIES if n not in absent)

    @property
    def responds_to_field(self) -> bool:
        """Whether moments depend on an external field, so that there is a polarizability."""
        if self.charge_head is None:
            return False
        induces = self.multipole_head is not None and self.multipole_head.induces
        return self.charge_head.responds_to_field or induces

    @property
    def has_periodic_polarizability(self) -> bool:
        """Whether atomic dipoles respond to a field and charges do not: a sum without origin."""
        if self.charge_head is None or self.multipole_head is None:
            return False
        chosen = self.multipole_head.config
        charges = self.charge_head.responds_to_field or chosen.induces_charges
        return chosen.induces_dipoles and not charges

    @property
    def has_local_charges(self) -> bool:
        """Whether charges, apart from a uniform shift, are functions of the receptive field."""
        if self.charge_head is None or not self.charge_head.is_local:
            return False
        return self.multipole_head is None or not self.multipole_head.config.induces_charges

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
                again, the host decides nothing, and radial functions are exact.

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
            self._check_properties(wanted, graph)
        elif wanted - PLANNED:
            raise PropertyError(
                f"a planned step computes {', '.join(sorted(PLANNED))}; got "
                f"{', '.join(sorted(wanted - PLANNED))}: leave out `plan`"
            )
        with torch.set_grad_enabled(bool(wanted & _DERIVATIVES) or create_graph):
            return self._compute(
                graph, wanted, born or BornOptions(), create_graph=create_graph, plan=plan
            )

    def plan(self, graph: AtomGraph) -> StepPlan:
        """All that the host has to find out about a batch, for many steps with its edges.

        Args:
            graph: The batch on the model's device. Edges may be longer than the cutoff: such a plan
                serves until an atom has moved half of what they exceed it by.

        Raises:
            PropertyError: for a model whose steps need the host, see :meth:`can_plan`.
            UnsupportedInputError: as :meth:`forward`; for slabs and external fields, too.
        """
        if not self.can_plan:
            raise PropertyError(
                "steps of a model with charge equilibration, multipoles or the joint embedding of "
                "published models cannot be planned: leave out `plan`"
            )
        self._check_elements(graph)
        self._check_properties({"energy", "forces"}, graph)
        if graph.external_field is not None or bool((graph.pbc.sum(1) == SLAB).any()):
            raise UnsupportedInputError(
                "a planned step is for crystals and molecules without `external_field`, got a slab "
                "or a field: leave out `plan`"
            )
        topology = self.architecture.topology(graph)
        topology.prepare(fused=kernels.backend(graph.positions) is not None)
        coulomb = None if self.ewald is None else plan_coulomb(graph, self.ewald)[0]
        chosen = self.config.dispersion
        dispersion = None if chosen is None else plan_coulomb(graph, chosen)[0]
        return StepPlan(topology, coulomb, dispersion)

    @property
    def can_plan(self) -> bool:
        """Whether steps run without a look at the numbers, so that :meth:`plan` is possible."""
        asks = self.charge_head is not None and self.charge_head.asks_host
        return self.joint_embedding is None and self.multipole_head is None and not asks

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
        self._check_properties({"born_effective_charges"}, graph)
        graph = graph.replace(positions=graph.positions.detach().requires_grad_())
        with torch.enable_grad():
            terms = self.energy_terms(graph, tabulated=self.radial == "table")
            if terms.charges is None:
                raise PropertyError("this model has no charges: it was trained without LES")
            physical = neutralised(terms.charges, graph)
            local = self._local(graph, terms)
            return born_charges(
                physical, graph, local, options, directions, dipoles=terms.dipoles
            ).detach()

    def energy_terms(
        self, graph: AtomGraph, *, tabulated: bool = False, plan: StepPlan | None = None,
        dispersion: bool = True,
    ) -> EnergyTerms:  # fmt: skip
        """Energies and charges, differentiable in positions, cell and parameters.

        Args:
            graph: The batch.
            tabulated: Whether radial functions may come from tables: first derivatives only.
            plan: See :meth:`forward`.
            dispersion: Whether dispersion, which has no parameters, is part of it.
        """
        topology, coulomb_plan = (None, None) if plan is None else (plan.topology, plan.coulomb)
        element = self.element_row[graph.atomic_numbers]
        state = self.node_state(graph)
        multipoles = self.multipole_head
        output = self.architecture(
            graph,
            state,
            tabulated=tabulated,
            topology=topology,
            max_order=0 if multipoles is None else multipoles.max_order,
        )
        node_energy = output.node_energy.to(torch.float64) * self.config.energy_scale
        node_energy = node_energy + self.reference_energies[element]
        if output.state_energy is not None:
            node_energy = node_energy + output.state_energy.to(torch.float64)
        energy_sr = segment_sum(node_energy, graph.batch, graph.n_systems)
        coefficients, attraction = None, None
        if dispersion and self.dispersion is not None:
            groups = None if plan is None else plan.dispersion
            coefficients, attraction = self.dispersion(graph, element, groups)
        if self.charge_head is None or self.ewald is None:
            energy_lr = torch.zeros_like(energy_sr) if attraction is None else attraction
            return EnergyTerms(
                node_energy, energy_sr, energy_lr, None, None, dispersion_energy=attraction,
                dispersion_coefficients=coefficients, invariants=output.invariants,
            )  # fmt: skip
        responds = self.charge_head.responds_to_field
        inputs = HeadInput(
            invariants=output.invariants,
            element=element,
            graph=graph,
            settings=self.ewald,
            site_potential=site_potential(graph) if responds else None,
            equivariants=output.equivariants,
        )
        head = self.charge_head(inputs)
        if multipoles is not None:
            head = multipoles(inputs, head)
        coulomb = head.coulomb_energy
        if coulomb is None and head.coulomb is not None:
            coulomb = latent_energy(head.coulomb, graph, self.ewald, plan=coulomb_plan)
        energy_lr = graph.positions.new_zeros(graph.n_systems) if coulomb is None else coulomb
        if head.response_energy is not None:
            energy_lr = energy_lr + head.response_energy
        energy_lr = energy_lr.to(torch.float64)
        if attraction is not None:
            energy_lr = energy_lr + attraction
        return EnergyTerms(
            node_energy, energy_sr, energy_lr, head.local, head.charges, head, coulomb,
            dispersion_energy=attraction, dispersion_coefficients=coefficients,
            invariants=output.invariants,
        )  # fmt: skip

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
        self, graph: AtomGraph, node_state: Tensor | None, potentials: Tensor | None = None
    ) -> Tensor:
        """Charges as functions of the receptive field only, (n_atoms,).

        At given (n_systems, k) ``potentials`` of :class:`lesff.heads.base.HeadOutput`, or before
        any constraint. Raises PropertyError for a model without charges.
        """
        if self.charge_head is None or self.ewald is None:
            raise PropertyError("this model has no charges: it was trained without LES")
        tabulated = self.radial == "table"
        output = self.architecture(graph, node_state, tabulated=tabulated)
        element = self.element_row[graph.atomic_numbers]
        x = HeadInput(
            invariants=output.invariants, element=element, graph=graph, settings=self.ewald
        )
        return self.charge_head.at_potentials(x, potentials)

    def reference_charges(self, graph: AtomGraph) -> Tensor | None:
        """``long_range.reference_charges`` of the atoms, (n_atoms,) in e, or None without them."""
        if self.charge_head is None:
            return None
        return self.charge_head.element_charges(self.element_row[graph.atomic_numbers])

    @property
    def charge_reach(self) -> float:
        """Receptive field of a local charge in A."""
        extra = 0 if self.charge_head is None else self.charge_head.extra_hops
        return (self.architecture.n_layers + extra) * self.architecture.cutoff

    def _local(self, graph: AtomGraph, terms: EnergyTerms) -> LocalCharges:
        return LocalCharges(
            function=self.local_charges,
            node_state=self.node_state(graph),
            potentials=None if terms.head is None else terms.head.potentials,
            reach=self.charge_reach,
            cutoff=self.architecture.cutoff,
        )

    def _check_elements(self, graph: AtomGraph) -> None:
        unknown = graph.atomic_numbers[self.element_row[graph.atomic_numbers] < 0]
        if len(unknown):
            raise UnsupportedInputError(
                f"`atomic_numbers` must be among {list(self.config.elements)}, "
                f"got {sorted(set(unknown.tolist()))}"
            )

    def _check_properties(self, wanted: set[str], graph: AtomGraph) -> None:
        unknown = sorted(wanted - set(QUANTITIES))
        if unknown:
            raise PropertyError(
                f"unknown property {', '.join(map(repr, unknown))}; known: {', '.join(QUANTITIES)}"
            )
        if self.uncertainty is None and wanted & set(UNCERTAINTIES):
            raise PropertyError(
                f"this model has no {', '.join(sorted(wanted & set(UNCERTAINTIES)))}: calibrate "
                "it with `lesff calibrate NAME --train FILE --validation FILE -o DIR` and load DIR"
            )
        absent = sorted(wanted - set(self.available_properties()))
        if self.charge_head is None and absent:
            raise PropertyError(
                f"this model has no {', '.join(absent)}: it was trained without LES; "
                f"available: {', '.join(self.available_properties())}"
            )
        moments = [name for name in absent if name.startswith("atomic_")]
        if moments:
            raise PropertyError(
                f"this model has no {' and '.join(moments)}: its `long_range.multipoles` do not "
                f"select them; available: {', '.join(self.available_properties())}"
            )
        if "energy_dispersion" in absent:
            raise PropertyError(
                "this model has no energy_dispersion: its configuration has no `dispersion`; "
                f"available: {', '.join(self.available_properties())}"
            )
        if self.charge_head is not None or self.config.dispersion is not None:
            check_boundaries(graph.pbc)
        check_response(
            wanted,
            graph,
            has_charges=self.charge_head is not None,
            responds=self.responds_to_field,
            only_dipoles_respond=self.has_periodic_polarizability,
        )
        if self.charge_head is not None and not self.has_local_charges:
            check_crystal_response(wanted, graph)

    def _compute(
        self, graph: AtomGraph, wanted: set[str], born: BornOptions, *, create_graph: bool,
        plan: StepPlan | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        positions = graph.positions
        strain = torch.zeros_like(graph.cell)
        if torch.is_grad_enabled():
            if not (create_graph and positions.requires_grad):
                positions = positions.detach().requires_grad_()
            graph = graph.replace(positions=positions)
        graph = with_field_leaf(graph) if "polarizability" in wanted else graph
        moved = graph
        if "stress" in wanted:
            strain.requires_grad_()
            moved = strained(graph, strain)
        tabulated = self.radial == "table" and not create_graph and plan is None
        terms = self.energy_terms(moved, tabulated=tabulated, plan=plan)
        coupling = _field_coupling(terms, moved)
        energy = terms.energy_sr + terms.energy_lr
        if coupling is not None:
            energy = energy + segment_sum(coupling, graph.batch, graph.n_systems)
        out = {"energy": energy, **terms.parts()}
        later = coupling is not None or bool(wanted & _LATER)

        inputs = [positions] if "forces" in wanted else []
        inputs += [strain] if "stress" in wanted else []
        if inputs:
            grads = gradients(energy, inputs, create_graph=create_graph, keep_graph=later)
            if "forces" in wanted:
                out["forces"] = self._with_crystal_forces(
                    -grads[0], terms, moved, create_graph=create_graph
                )
            if "stress" in wanted:
                out["stress"] = grads[-1] / cell_volume(graph.cell)[:, None, None]
        if "node_energy" in wanted:
            node_energy = atomic_energies(terms, create_graph=create_graph, keep_graph=later)
            out["node_energy"] = node_energy if coupling is None else node_energy + coupling
        if self.uncertainty is not None and wanted & set(UNCERTAINTIES):
            self._add_uncertainty(out, self.uncertainty, terms, graph, wanted)
        self._add_moments(out, terms, moved, wanted, born, create_graph=create_graph)
        result = {name: out[name] for name in properties_in_order(wanted)}
        return result if create_graph else {k: v.detach() for k, v in result.items()}

    def _with_crystal_forces(
        self, forces: Tensor, terms: EnergyTerms, graph: AtomGraph, *, create_graph: bool
    ) -> Tensor:
        """Forces of a field on crystals, which have no energy in it, added."""
        if terms.charges is None or graph.external_field is None:
            return forces
        if not bool((has_field(graph) & graph.pbc.all(1)).any()):
            return forces
        if create_graph:
            raise PropertyError(
                "`forces` of a crystal in an external field cannot be differentiated further; "
                "leave the field out of training on crystals"
            )
        charges = neutralised(terms.charges, graph)
        return forces + crystal_field_forces(charges, graph, self._local(graph, terms))

    def _add_uncertainty(
        self, out: dict[str, Tensor], uncertainty: Uncertainty, terms: EnergyTerms,
        graph: AtomGraph, wanted: set[str],
    ) -> None:  # fmt: skip
        features = self.architecture.last_layer_features(terms.invariants)
        where = graph.batch, graph.n_systems
        if "forces_uncertainty" in wanted:
            spread = uncertainty.forces(features, graph.positions, *where)
            out["forces_uncertainty"] = spread
        out["energy_uncertainty"] = uncertainty.energy(features, *where)
        out["novelty"] = uncertainty.distance(features.detach(), graph.atomic_numbers)

    def _add_moments(
        self, out: dict[str, Tensor], terms: EnergyTerms, graph: AtomGraph, wanted: set[str],
        born: BornOptions, *, create_graph: bool,
    ) -> None:  # fmt: skip
        if terms.charges is None or terms.head is None:
            return
        out["latent_charges"] = terms.head.latent
        out["charges"] = terms.charges
        dipoles, quadrupoles = terms.dipoles, terms.quadrupoles
        if dipoles is not None:
            out["atomic_dipoles"] = dipoles
        if quadrupoles is not None:
            out["atomic_quadrupoles"] = quadrupoles
        if not wanted & _MOMENTS:
            return
        physical = neutralised(terms.charges, graph)
        if wanted & {"dipole", "quadrupole", "polarizability"}:
            origin = moment_origin(graph)
            out["dipole"] = dipole_moment(physical, graph, origin, dipoles)
            out["quadrupole"] = quadrupole_moment(physical, graph, origin, dipoles, quadrupoles)
        if "polarizability" in wanted and graph.external_field is not None:
            out["polarizability"] = polarizability(
                out["dipole"], graph.external_field, create_graph=create_graph
            )
        if "born_effective_charges" in wanted:
            out["born_effective_charges"] = born_charges(
                physical, graph, self._local(graph, terms), born, dipoles=dipoles
            )


def _field_coupling(terms: EnergyTerms, graph: AtomGraph) -> Tensor | None:
    """``-q_i E.r_i - u_i.E`` of every atom, (n_atoms,); None without a field."""
    if terms.charges is None or graph.external_field is None:
        return None
    energy = field_energy(neutralised(terms.charges, graph), graph)
    if terms.dipoles is not None:
        energy = energy + dipole_field_energy(terms.dipoles, graph)
    return energy


def properties_in_order(wanted: Collection[str]) -> list[str]:
    """Names in the order of the table of quantities."""
    return [name for name in QUANTITIES if name in wanted]
