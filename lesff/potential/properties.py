"""What may be asked of a model, and how it is computed: one row a quantity.

A row of :data:`PROPERTIES` says what the model must have, in which boundaries the quantity is
defined, and which function of an :class:`Evaluation` gives it. Units, shapes and signs stand in
:mod:`lesff.quantities`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lesff.atoms.cell import cell_volume
from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.autograd import gradients
from lesff.electrostatics.moments.field import (
    NO_RESPONSE,
    check_field,
    dipole_field_energy,
    field_energy,
    has_field,
)
from lesff.electrostatics.moments.point_charges import check_point_charges, coupling
from lesff.electrostatics.moments.totals import (
    along_slab_normals,
    dipole_moment,
    moment_origin,
    neutralised,
    quadrupole_moment,
)
from lesff.electrostatics.sums.pair_sum import check_boundaries
from lesff.electrostatics.sums.plan import SLAB
from lesff.errors import PropertyError, UnsupportedInputError
from lesff.potential.energy import EnergyTerms, atomic_energies
from lesff.potential.response import (
    BornOptions,
    LocalCharges,
    born_charges,
    crystal_field_forces,
    polarizability,
)
from lesff.potential.uncertainty import Uncertainty
from lesff.quantities import QUANTITIES, SPREADS

_NO_LOCAL_CHARGES = (
    "are not defined for charges that flow between any two atoms of a crystal; use a model "
    "with the head 'latent', 'shifted', 'edge' or 'fukui' and without induced charges"
)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a model has, as far as it decides what may be asked of it.

    Attributes:
        has_charges: Latent charges, so that there are moments and electrostatics.
        has_dispersion: Dispersion between all atoms.
        has_uncertainty: A calibrated uncertainty.
        has_atomic_dipoles: Latent or induced dipoles on atoms.
        has_atomic_quadrupoles: Latent quadrupoles on atoms.
        responds_to_field: Moments depend on an external field, so that there is a polarizability.
        only_dipoles_respond: Atomic dipoles respond to a field and charges do not: their sum has
            one value in any cell, so that crystals have a polarizability, too.
        has_local_charges: Charges, apart from a uniform shift, are functions of the receptive
            field, so that crystals have Born effective charges.
        is_ensemble: Several members, so that there are spreads.
    """

    has_charges: bool
    has_dispersion: bool
    has_uncertainty: bool
    has_atomic_dipoles: bool
    has_atomic_quadrupoles: bool
    responds_to_field: bool
    only_dipoles_respond: bool
    has_local_charges: bool
    is_ensemble: bool = False


@dataclass(kw_only=True)
class Evaluation:
    """A batch, its energies with graph, and what several quantities are computed from.

    Attributes:
        graph: The batch; positions, and cells if strained, carry a graph.
        terms: Energies and charges of the batch.
        positions: (n_atoms, 3) in A, the leaf that forces are derivatives by.
        offset: (n_atoms, 3) in A, what the graph's positions leave out of these; None: nothing.
        strain: (n_systems, 3, 3), the leaf that stress is a derivative by.
        wanted: What is asked for.
        born: How Born effective charges are computed.
        create_graph: Whether results keep their graph.
        local: Charges as a local function.
        hessian: Second derivatives of the batch by positions.
        features: (n_atoms, n_features) of the last layer.
        uncertainty: Calibrated uncertainty, if the model has one.
        known: Atoms by known element, if a plan has them.
    """

    graph: AtomGraph
    terms: EnergyTerms
    positions: Tensor
    offset: Tensor | None
    strain: Tensor
    wanted: Collection[str]
    born: BornOptions
    create_graph: bool
    local: Callable[[], LocalCharges]
    hessian: Callable[[], Tensor]
    features: Callable[[], Tensor]
    uncertainty: Uncertainty | None
    known: tuple[tuple[int, Tensor], ...] | None = None

    @cached_property
    def field_coupling(self) -> Tensor | None:
        """Work of a field and of point charges on every atom in eV, (n_atoms,); None without."""
        parts = [x for x in (self._of_field, self._of_point_charges) if x is not None]
        return sum(parts[1:], parts[0]) if parts else None

    @property
    def _of_point_charges(self) -> Tensor | None:
        """``q Phi + u.grad Phi + Q:grad grad Phi / 2`` of every atom."""
        if self.terms.surroundings is None:
            return None
        terms = self.terms
        return coupling(self.terms.surroundings, self.charges, terms.dipoles, terms.quadrupoles)

    @property
    def _of_field(self) -> Tensor | None:
        """``-q_i E.r_i - u_i.E`` of every atom."""
        if self.terms.charges is None or self.graph.external_field is None:
            return None
        work = field_energy(self.charges, self.graph)
        # E.r counts from the coordinate origin: of a charged system the energy depends on it
        if self.offset is not None:
            away = self.graph.replace(positions=self.offset)
            # summing to the total charge in float64: E.r may be large
            charges = neutralised(self.charges.to(self.offset.dtype), self.graph)
            work = work + field_energy(charges, away)
        if self.terms.dipoles is not None:
            work = work + dipole_field_energy(self.terms.dipoles, self.graph)
        return work

    @cached_property
    def energy(self) -> Tensor:
        """(n_systems,) in eV; in a field the enthalpy ``U - E.P``."""
        energy = self.terms.energy_sr + self.terms.energy_lr
        if self.field_coupling is None:
            return energy
        return energy + segment_sum(self.field_coupling, self.graph.batch, self.graph.n_systems)

    @cached_property
    def keeps_graph(self) -> bool:
        """Whether another backward pass follows that of the energy."""
        later = any(PROPERTIES[name].is_later for name in self.wanted)
        return self.field_coupling is not None or later

    @cached_property
    def slopes(self) -> dict[str, Tensor]:
        """Derivatives of the energy by positions and strain, if wanted, in one backward pass."""
        leaves = {"forces": self.positions, "stress": self.strain}
        chosen = {name: leaf for name, leaf in leaves.items() if name in self.wanted}
        found = gradients(
            self.energy,
            list(chosen.values()),
            create_graph=self.create_graph,
            keep_graph=self.keeps_graph,
        )
        return dict(zip(chosen, found, strict=True))

    @cached_property
    def charges(self) -> Tensor:
        """Physical charges that sum to the total charge, (n_atoms,) in e."""
        return neutralised(_given(self.terms.charges), self.graph)

    @cached_property
    def origin(self) -> Tensor:
        """(n_systems, 3) in A, what moments are taken about."""
        return moment_origin(self.graph)

    @cached_property
    def dipole(self) -> Tensor:
        """(n_systems, 3) in e A."""
        return dipole_moment(self.charges, self.graph, self.origin, self.terms.dipoles)


def _given(value: Tensor | None) -> Tensor:
    """A part of the model that its requirements have promised."""
    if value is None:
        raise PropertyError("this model has no charges: it was trained without LES")
    return value


def _node_energy(x: Evaluation) -> Tensor:
    energy = atomic_energies(x.terms, create_graph=x.create_graph, keep_graph=x.keeps_graph)
    return energy if x.field_coupling is None else energy + x.field_coupling


def _forces(x: Evaluation) -> Tensor:
    """Minus the slope of the energy; a field acts on crystals, which have no energy in it, too."""
    graph = x.graph
    forces = -x.slopes["forces"].to(graph.positions.dtype)
    if x.terms.charges is None or graph.external_field is None:
        return forces
    if not bool((has_field(graph) & graph.pbc.all(1)).any()):
        return forces
    if x.create_graph:
        raise PropertyError(
            "`forces` of a crystal in an external field cannot be differentiated further; "
            "leave the field out of training on crystals"
        )
    return forces + crystal_field_forces(x.charges, graph, x.local(), x.positions)


def _stress(x: Evaluation) -> Tensor:
    # (1/V) dE/d(strain); the strain is zero, so that the strained cells are those given
    return x.slopes["stress"] / cell_volume(x.graph.cell.detach())[:, None, None]


def _hessian(x: Evaluation) -> Tensor:
    if x.create_graph:
        raise PropertyError(
            "`hessian` is made of differences and cannot be differentiated further: ask for it "
            "without `create_graph`"
        )
    return x.hessian()


def _dipole(x: Evaluation) -> Tensor:
    return along_slab_normals(x.dipole, x.graph)


def _quadrupole(x: Evaluation) -> Tensor:
    terms = x.terms
    return quadrupole_moment(x.charges, x.graph, x.origin, terms.dipoles, terms.quadrupoles)


def _polarizability(x: Evaluation) -> Tensor:
    field = _given(x.graph.external_field)
    return polarizability(x.dipole, field, create_graph=x.create_graph)


def _born_effective_charges(x: Evaluation) -> Tensor:
    return born_charges(
        x.charges, x.graph, x.local(), x.born, dipoles=x.terms.dipoles, positions=x.positions
    )


def _latent_charges(x: Evaluation) -> Tensor:
    return _given(None if x.terms.head is None else x.terms.head.latent)


def _calibrated(x: Evaluation) -> Uncertainty:
    if x.uncertainty is None:
        raise PropertyError("this model has no uncertainty: calibrate it with `lesff calibrate`")
    return x.uncertainty


def _energy_uncertainty(x: Evaluation) -> Tensor:
    return _calibrated(x).energy(x.features(), x.graph.batch, x.graph.n_systems)


def _forces_uncertainty(x: Evaluation) -> Tensor:
    where = x.graph.batch, x.graph.n_systems
    return _calibrated(x).forces(x.features(), x.positions, *where)


def _spread(x: Evaluation) -> Tensor:
    """Refused: :class:`lesff.potential.ensemble.Ensemble` computes spreads from its members."""
    del x
    raise PropertyError("spreads are those of an ensemble, not of one of its members")


def _novelty(x: Evaluation) -> Tensor:
    with torch.no_grad():
        return _calibrated(x).distance(x.features(), x.graph.atomic_numbers, x.known)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelRule:
    """Something that a model must have.

    Attributes:
        holds: Whether a model has it.
        message: Error, with ``{names}`` of what is asked for and what is ``{available}``.
    """

    holds: Callable[[Traits], bool]
    message: str


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRule:
    """Something that all structures of a batch must be.

    Attributes:
        holds: Whether they are, for a model.
        message: Error, with ``{names}`` of what is asked for.
    """

    holds: Callable[[AtomGraph, Traits], bool]
    message: str


CALIBRATED = ModelRule(
    holds=lambda model: model.has_uncertainty,
    message="this model has no {names}: calibrate it with `lesff calibrate NAME --train FILE "
    "--validation FILE -o DIR` and load DIR",
)
CHARGED = ModelRule(
    holds=lambda model: model.has_charges,
    message="this model has no {names}: it was trained without LES; available: {available}",
)
LONG_RANGED = ModelRule(
    holds=lambda model: model.has_charges or model.has_dispersion, message=CHARGED.message
)
DISPERSIVE = ModelRule(
    holds=lambda model: model.has_dispersion,
    message="this model has no {names}: its configuration has no `dispersion`; available: "
    "{available}",
)
DIPOLAR = ModelRule(
    holds=lambda model: model.has_atomic_dipoles,
    message="this model has no {names}: its `long_range.multipoles` do not select them; "
    "available: {available}",
)
QUADRUPOLAR = ModelRule(holds=lambda model: model.has_atomic_quadrupoles, message=DIPOLAR.message)
RESPONDING = ModelRule(holds=lambda model: model.responds_to_field, message=NO_RESPONSE)

OF_MEMBERS = ModelRule(
    holds=lambda model: model.is_ensemble,
    message="this model has no {names}: it is no ensemble; load several models of the same kind "
    "with `lesff.load_ensemble`",
)

IN_CRYSTALS = BatchRule(
    holds=lambda graph, _: bool(graph.pbc.all()),
    message="`stress` needs structures periodic in all three directions; leave it out for "
    "molecules and slabs",
)
NOT_IN_SLABS = BatchRule(
    # P has many values in the plane and one along the normal: neither the dipole of molecules nor
    # the unfolding of crystals does for both
    holds=lambda graph, _: not bool((graph.pbc.any(1) & ~graph.pbc.all(1)).any()),
    message="`born_effective_charges` need structures periodic in all three directions or in "
    "none; leave them out for slabs",
)
IN_MOLECULES = BatchRule(
    # sums of q r depend on which image of each atom is in the list
    holds=lambda graph, _: not bool(graph.pbc.any()),
    message="{names} of a periodic structure depend on the choice of cell; ask for "
    "born_effective_charges, or set pbc=False for a molecule",
)
IN_MOLECULES_AND_SLABS = BatchRule(
    # along the normal of a slab positions are unwrapped, and the dipole is a number
    holds=lambda graph, _: not bool((graph.pbc.any(1) & (graph.pbc.sum(1) != SLAB)).any()),
    message="{names} of a periodic structure depends on the choice of cell; ask for "
    "born_effective_charges, or set pbc=False for a molecule and for the open direction of a slab",
)
IN_MOLECULES_UNLESS_DIPOLES = BatchRule(
    # sums of atomic dipoles do not
    holds=lambda graph, model: model.only_dipoles_respond or not bool(graph.pbc.any()),
    message=IN_MOLECULES.message,
)
NOT_IN_A_POLARISED_CRYSTAL = BatchRule(
    # None first: .any() waits for the device
    holds=lambda graph, _: (
        graph.external_field is None or not bool((has_field(graph) & graph.pbc.all(1)).any())
    ),
    message="{names} of a crystal in an external field are not defined: its polarisation has many "
    "values; ask for forces, energy_sr and energy_lr, or integrate E.Z* along unwrapped positions",
)
NO_FIELD_ON_A_CRYSTAL = BatchRule(
    holds=NOT_IN_A_POLARISED_CRYSTAL.holds,
    message="{names} of a crystal in an external field cannot be computed: its forces hold "
    "born_effective_charges, which are no derivative of an energy of the cell; leave the field out",
)
WITHOUT_POINT_CHARGES = BatchRule(
    holds=lambda graph, _: graph.point_charges is None,
    message="{names} of a structure among point charges are not implemented: leave them out; an "
    "engine's barostat works by energies (OpenMM's MonteCarloBarostat)",
)
OF_LOCAL_CHARGES = BatchRule(
    holds=lambda graph, model: model.has_local_charges or not bool(graph.pbc.all(1).any()),
    message="`born_effective_charges` " + _NO_LOCAL_CHARGES,
)


@dataclass(frozen=True, kw_only=True)
class Property:
    """How a quantity is computed, and when it may be asked for.

    Attributes:
        compute: The quantity of a batch, as :data:`lesff.quantities.QUANTITIES` describes it.
        model: What the model must have.
        batch: What structures must be.
        is_derivative: Whether it takes a backward pass.
        is_later: Whether that pass follows the one of the energy.
    """

    compute: Callable[[Evaluation], Tensor | None]
    model: tuple[ModelRule, ...] = ()
    batch: tuple[BatchRule, ...] = ()
    is_derivative: bool = False
    is_later: bool = False


PROPERTIES: dict[str, Property] = {
    "energy": Property(compute=lambda x: x.energy, batch=(NOT_IN_A_POLARISED_CRYSTAL,)),
    "energy_sr": Property(compute=lambda x: x.terms.energy_sr),
    "energy_lr": Property(compute=lambda x: x.terms.energy_lr, model=(LONG_RANGED,)),
    "energy_dispersion": Property(
        compute=lambda x: x.terms.dispersion_energy, model=(LONG_RANGED, DISPERSIVE)
    ),
    "node_energy": Property(
        compute=_node_energy,
        batch=(NOT_IN_A_POLARISED_CRYSTAL,),
        is_derivative=True,
        is_later=True,
    ),
    "forces": Property(compute=_forces, is_derivative=True),
    "stress": Property(
        compute=_stress,
        batch=(IN_CRYSTALS, WITHOUT_POINT_CHARGES, NOT_IN_A_POLARISED_CRYSTAL),
        is_derivative=True,
    ),
    "hessian": Property(
        compute=_hessian,
        batch=(WITHOUT_POINT_CHARGES, NO_FIELD_ON_A_CRYSTAL),
        is_derivative=True,
    ),
    "latent_charges": Property(compute=_latent_charges, model=(CHARGED,)),
    "charges": Property(compute=lambda x: x.terms.charges, model=(CHARGED,)),
    "dipole": Property(compute=_dipole, model=(CHARGED,), batch=(IN_MOLECULES_AND_SLABS,)),
    "quadrupole": Property(compute=_quadrupole, model=(CHARGED,), batch=(IN_MOLECULES,)),
    "atomic_dipoles": Property(compute=lambda x: x.terms.dipoles, model=(CHARGED, DIPOLAR)),
    "atomic_quadrupoles": Property(
        compute=lambda x: x.terms.quadrupoles, model=(CHARGED, QUADRUPOLAR)
    ),
    "born_effective_charges": Property(
        compute=_born_effective_charges,
        model=(CHARGED,),
        batch=(NOT_IN_SLABS, WITHOUT_POINT_CHARGES, OF_LOCAL_CHARGES),
        is_derivative=True,
        is_later=True,
    ),
    "polarizability": Property(
        compute=_polarizability,
        model=(CHARGED, RESPONDING),
        batch=(IN_MOLECULES_UNLESS_DIPOLES,),
        is_derivative=True,
        is_later=True,
    ),
    "energy_uncertainty": Property(compute=_energy_uncertainty, model=(CALIBRATED,)),
    "forces_uncertainty": Property(
        compute=_forces_uncertainty, model=(CALIBRATED,), is_derivative=True, is_later=True
    ),
    "novelty": Property(compute=_novelty, model=(CALIBRATED,)),
}
PROPERTIES |= {
    name: replace(PROPERTIES[of], compute=_spread, model=(*PROPERTIES[of].model, OF_MEMBERS))
    for name, of in SPREADS.items()
}
"""Every quantity of :data:`lesff.quantities.QUANTITIES`, in its order."""

_MODEL_RULES = (
    OF_MEMBERS, CALIBRATED, CHARGED, LONG_RANGED, DIPOLAR, QUADRUPOLAR, DISPERSIVE, RESPONDING,
)  # fmt: skip
_BATCH_RULES = (
    IN_CRYSTALS,
    NOT_IN_SLABS,
    IN_MOLECULES,
    IN_MOLECULES_AND_SLABS,
    IN_MOLECULES_UNLESS_DIPOLES,
    WITHOUT_POINT_CHARGES,
)
_LAST_RULES = (NOT_IN_A_POLARISED_CRYSTAL, NO_FIELD_ON_A_CRYSTAL, OF_LOCAL_CHARGES)
"""In the order in which they are looked at: the last ones once a field is known to make sense."""


def properties_in_order(wanted: Collection[str]) -> list[str]:
    """Names in the order of the table of quantities."""
    return [name for name in QUANTITIES if name in wanted]


def available_properties(model: Traits) -> tuple[str, ...]:
    """What a model can compute, for some structures at least."""
    return tuple(
        name for name, row in PROPERTIES.items() if all(rule.holds(model) for rule in row.model)
    )


def needs_gradients(wanted: Collection[str]) -> bool:
    """Whether a backward pass is needed."""
    return any(PROPERTIES[name].is_derivative for name in wanted)


def check_available(wanted: Collection[str], model: Traits) -> None:
    """Refuse quantities that the model has for no structure.

    Raises:
        PropertyError: naming the quantities and the reason.
    """
    unknown = sorted(set(wanted) - set(QUANTITIES))
    if unknown:
        raise PropertyError(
            f"unknown property {', '.join(map(repr, unknown))}; known: {', '.join(QUANTITIES)}"
        )
    _refuse(wanted, [rule for rule in _MODEL_RULES if not rule.holds(model)], model)


def check_properties(wanted: Collection[str], graph: AtomGraph, model: Traits) -> None:
    """Refuse quantities and fields that the model lacks or the boundaries leave undefined.

    Raises:
        PropertyError: naming the quantities and the reason.
        UnsupportedInputError: for wires with long-range interactions, and for a field that has no
            defined effect or meets a model without charges.
    """
    check_available(wanted, model)
    if model.has_charges or model.has_dispersion:
        check_boundaries(graph.pbc)
    _refuse(wanted, _broken(wanted, _BATCH_RULES, graph, model), model)
    if graph.external_field is not None and bool(has_field(graph).any()):
        _check_field(graph, model)
    if graph.point_charges is not None:
        if not model.has_charges:
            raise UnsupportedInputError(
                "`point_charges` must be absent for a model without charges (trained without "
                "LES): there is nothing that they act on"
            )
        check_point_charges(graph)
    _refuse(wanted, _broken(wanted, _LAST_RULES, graph, model), model)


def _broken(
    wanted: Collection[str], rules: Iterable[BatchRule], graph: AtomGraph, model: Traits
) -> list[BatchRule]:
    """Rules that concern what is wanted and do not hold; others may wait for the device."""
    used = {rule for name in wanted for rule in PROPERTIES[name].batch}
    return [rule for rule in rules if rule in used and not rule.holds(graph, model)]


def _refuse(
    wanted: Collection[str], broken: Iterable[ModelRule | BatchRule], model: Traits
) -> None:
    """Raise the message of the first broken rule that concerns what is wanted."""
    names: dict[str, list[str]] = {}
    for rule in broken:
        for name in sorted(wanted):
            if rule in (*PROPERTIES[name].model, *PROPERTIES[name].batch):
                names.setdefault(rule.message, []).append(name)
    for message, concerned in names.items():
        text = " and ".join(filter(None, [", ".join(concerned[:-1]), concerned[-1]]))
        available = ", ".join(available_properties(model))
        raise PropertyError(message.format(names=text, available=available))


def _check_field(graph: AtomGraph, model: Traits) -> None:
    """Refuse fields without a defined effect on these structures and this model."""
    field, present = _given(graph.external_field), has_field(graph)
    if not model.has_charges:
        raise UnsupportedInputError(
            "`external_field` must be absent or zero for a model without charges (trained without "
            f"LES), got {field[present][0].tolist()}"
        )
    check_field(graph)
    if not model.has_local_charges and bool((present & graph.pbc.all(1)).any()):
        raise UnsupportedInputError(f"forces of an `external_field` {_NO_LOCAL_CHARGES}")


def compute(x: Evaluation) -> dict[str, Tensor]:
    """What is wanted, in the order of the table; detached unless the graph is asked for."""
    found = {name: _given(PROPERTIES[name].compute(x)) for name in properties_in_order(x.wanted)}
    return found if x.create_graph else {name: value.detach() for name, value in found.items()}
