"""Another head, state, wall, dispersion, more elements on a pretrained potential."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import get_args

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import nn

from lesff.electrostatics.dispersion import Dispersion, DispersionConfig
from lesff.errors import ConfigError
from lesff.heads import HeadName, LongRangeConfig, MultipoleConfig
from lesff.heads.config import Layers, charge_limits_of
from lesff.potential.config import ModelConfig, Wall
from lesff.potential.potential import Potential

ENERGY_FLOOR = 5.0
"""eV below the reference energy. Those are fitted, so that atoms of stable molecules lie within one
or two eV of them, and those of anions within three or four."""

INNER_CUTOFF = 0.75
"""Share of the sum of covalent radii: no bond of a stable molecule is shorter than N2's, 0.77."""

_FREE = ("latent", "shifted")
_FIRST_CHARGE = 1e-6
"""e, size of the first charges of a potential without."""
_LAST_MAPS = (".weight", ".weight_2")
"""Parameters of readouts that the charges are linear in."""
_BASELESS = (
    *((old, new) for old in _FREE for new in ("qeq", "qeq-local", "fukui")),
    ("latent", "edge"),
)
"""Changes that leave the readouts of a free head where they are; others lay the old head below."""
_PLAIN = ("shifted", "fukui")
"""With its equal weights at the start, the second head is the first one without a residual."""


def with_head(potential: Potential, name: str, *, fresh: bool = False) -> Potential:
    """A copy with another charge head that starts out with the same energies and forces.

    Everything but the head is copied, and the head keeps the charge readouts; what is new starts
    such that energies agree to rounding. See :mod:`lesff.heads.base` for how charges start.

    A potential without charges gets latent electrostatics: charges of 1e-6 e, whose energy is
    below rounding. They are not zero because the Coulomb energy is quadratic in them: from zero,
    training on energies and forces would never leave.

    Args:
        potential: A potential with any head but ``"qeq"``, or without charges; not modified.
        name: The new head; ``"latent"`` or ``"shifted"`` for a potential without charges.
        fresh: Whether the new head forgets the old one: with initial weights of its own, other
            energies, and nothing below it. The copy must be trained.

    Raises:
        ConfigError: for another head than a free one without charges to start from, from ``"qeq"``
            unless ``fresh``, for ``"qeq"`` with further moments, and for more than ``MAX_BASES``
            changes in a row.
    """
    if name not in get_args(HeadName):
        raise ConfigError(f"`head` must be one of {', '.join(get_args(HeadName))}, got {name!r}")
    long_range = potential.config.long_range
    head: HeadName = name  # pyright: ignore[reportAssignmentType]
    if long_range is None or potential.charge_head is None:
        return _with_first_head(potential, head)
    if fresh:
        return with_fresh_head(potential, head)
    if long_range.head == head:
        return copy.deepcopy(potential)
    if long_range.head == "qeq":
        raise ConfigError(
            f"`head` cannot change from 'qeq' to {name!r}: its charges minimise an energy, so that "
            "the dipole is its derivative by a field; no other head gives the same charges, and "
            "with one on top they would not minimise it; start from the model before 'qeq'"
        )
    has_base = bool(long_range.bases) or (long_range.head, name) not in _BASELESS
    if has_base:
        new = long_range.topped_by(head)
    else:
        new = replace(long_range, head=head, residual=(long_range.head, name) != _PLAIN)
    result = copy.deepcopy(potential)
    result.config = replace(potential.config, long_range=new)
    result.uncertainty = None  # it was calibrated with the other head
    result.charge_head = result.make_head()
    if has_base:
        result.charge_head.put_on(copy.deepcopy(potential.charge_head))
    else:
        own = result.charge_head.state_dict()
        own.update(potential.charge_head.state_dict())
        if long_range.head == "shifted" and "anchored.anchor" in own:
            own["anchored.anchor"] = torch.zeros_like(own["anchored.anchor"])
        result.charge_head.load_state_dict(own, strict=True)
    _adopt(result, result.charge_head, potential)
    return result


def _with_first_head(potential: Potential, head: HeadName) -> Potential:
    """A copy of a potential without charges that has a free head."""
    if head not in _FREE:
        raise ConfigError(
            f"`head` must be one of {', '.join(_FREE)} for a model without `long_range`, got "
            f"{head!r}: there are no charges to start from; change to it afterwards"
        )
    long_range = LongRangeConfig(head=head, cutoff="smooth")
    result = Potential(replace(potential.config, long_range=long_range))
    result.load_state_dict(potential.state_dict(), strict=False)
    result.radial = potential.radial
    # the last linear map of every readout, the same numbers at every call
    generator = torch.Generator().manual_seed(0)
    for name, parameter in result.charge_head.named_parameters():  # pyright: ignore[reportOptionalMemberAccess]
        if name.endswith(_LAST_MAPS):
            start = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(_FIRST_CHARGE * start)
    _adopt(result, result, potential)
    return result


def with_fresh_head(
    potential: Potential, head: HeadName, *, transfer_layers: Layers = "last"
) -> Potential:
    """A copy with a charge head that knows nothing yet, see :func:`with_head`.

    Args:
        potential: A potential with charges; not modified.
        head: The head.
        transfer_layers: See :class:`lesff.heads.LongRangeConfig`.

    Raises:
        ConfigError: for a potential without charges, or options of another head.
    """
    long_range = potential.config.long_range
    if long_range is None:
        raise ConfigError("`long_range` must be given for a charge head, got null")
    result = copy.deepcopy(potential)
    result.config = replace(
        potential.config,
        long_range=replace(
            long_range,
            head=head,
            residual=False,
            bases=(),
            transfer_layers=transfer_layers,
            reference_charges=None if head != "edge" else long_range.reference_charges,
        ),
    )
    result.uncertainty = None  # it was calibrated with the other head
    result.charge_head = result.make_head()
    _adopt(result, result.charge_head, potential)
    return result


def with_local_state(potential: Potential) -> Potential:
    """A copy whose total charge and spin enter locally, see :mod:`lesff.nn.local_state`.

    Energies of neutral closed-shell systems do not change. What the model had learned of charge and
    spin states through an embedding of the whole system is forgotten: such states have to be
    trained again.

    Args:
        potential: A potential with any of our states or none; not modified.

    Raises:
        ConfigError: for the joint embedding of published models, whose neutral systems depend on
            it, and for an architecture of one layer.
    """
    if potential.config.joint_embedding:
        raise ConfigError(
            "`local_state` cannot replace the joint embedding of a published model, which acts on "
            "neutral systems, too: start from another model"
        )
    if potential.config.local_state:
        return copy.deepcopy(potential)
    result = copy.deepcopy(potential)
    result.config = replace(potential.config, state_embedding=False, local_state=True)
    result.state_embedding = None
    result.uncertainty = None  # it was calibrated with the other state
    result.local_state = result.make_local_state()
    result.contacts = result.make_contacts()
    _adopt(result, result.local_state, potential)
    if result.contacts is not None:
        result.contacts.to(potential.device)
    return result


def _rebuilt(potential: Potential, config: ModelConfig) -> Potential:
    """The same weights under another configuration with the same parameters."""
    result = Potential(config)
    result.cast_parameters(potential.dtype)  # before: no digit of a weight is lost
    result.load_state_dict(potential.state_dict(), strict=True)
    result.radial = potential.radial
    _adopt(result, result, potential)
    return result


def with_local_charges(potential: Potential) -> Potential:
    """A copy whose passes bring every molecule to its charge in the local state.

    Nothing of the copy depends on a sum over all atoms any more but for the shares of the local
    state, which full atoms have next to nothing of. Single molecules keep their energies, those of
    several have to be trained.

    Args:
        potential: AIMNet2 with a local state; not modified.

    Raises:
        ConfigError: for an architecture that carries no charges, and a potential without local
            state.
    """
    config = potential.config
    if not potential.architecture.carries_charges:
        raise ConfigError(
            "`local_charges` needs an architecture that carries charges, got "
            f"{config.architecture['type']!r}"
        )
    if config.architecture.get("local_charges"):
        return copy.deepcopy(potential)
    architecture = {**config.architecture, "local_charges": True}
    return _rebuilt(potential, replace(config, architecture=architecture))


def with_longer_joins(potential: Potential, until: float) -> Potential:
    """A copy in which atoms of B, C, N and O are joined to one molecule up to longer distances.

    Molecules near their minima keep their energies; bonds on their way apart have to be trained.

    Args:
        potential: One that shares charge in molecules; not modified.
        until: Share of the sum of covalent radii, see ``join_until`` of AIMNet2's configuration.

    Raises:
        ConfigError: for a potential that shares none, and for a share out of range.
    """
    config = potential.config
    if not config.architecture.get("local_charges"):
        raise ConfigError(
            "`join_until` needs `architecture.local_charges`, whose molecules it is of"
        )
    architecture = {**config.architecture, "join_until": until}
    return _rebuilt(potential, replace(config, architecture=architecture))


def with_shared_protons(potential: Potential) -> Potential:
    """A copy in which a hydrogen between two atoms is shared by them when bonds are counted.

    Nothing changes where every atom's bonds are full or wholly open; protons that are shared, short
    hydrogen bonds of ions and bonds half broken have to be trained. Charges beyond their limits are
    solved for where a fixed number of steps was taken.

    Args:
        potential: One with a local state; not modified.

    Raises:
        ConfigError: for a potential without.
    """
    return _rebuilt(potential, replace(potential.config, shared_protons=True))


def with_state_limits(
    potential: Potential, charge: float | None = None, full_weight: float | None = None
) -> Potential:
    """A copy whose local state gives atoms less charge, and full atoms less of all.

    Nothing changes where no atom has more than some 0.8 of the charge and where all atoms are open
    or all are full. Where a charged molecule is beside full ones it keeps more of its charge.

    Args:
        potential: One with a local state; not modified.
        charge: ``state_charge`` of its configuration; None leaves it as it is.
        full_weight: ``full_weight``, likewise.

    Raises:
        ConfigError: for a potential without a local state, and for numbers out of range.
    """
    given = {"state_charge": charge, "full_weight": full_weight}
    given = {name: value for name, value in given.items() if value is not None}
    return _rebuilt(potential, replace(potential.config, **given))


def with_wall(
    potential: Potential,
    *,
    wall: Wall = "zbl",
    inner_cutoff: float | None = INNER_CUTOFF,
    wall_stiffness: float = 0.0,
    energy_floor: float | tuple[float, ...] | None = ENERGY_FLOOR,
    crowding: bool = True,
) -> Potential:
    """A copy with a wall below what is learned: atoms that come too close or too many repel.

    Energies change where atoms are closer than the sum of their covalent radii, bonds of every
    molecule among them: the copy has to be trained. With ``"zbl-inner"`` they stay as they are but
    for pairs below the inner cutoff, for crowds, and for atoms below the floor.

    Args:
        potential: A potential without wall, or whose wall is to be this one; not modified.
        wall: See :class:`lesff.potential.config.ModelConfig`.
        inner_cutoff: Share of the sum of covalent radii below which what is learned levels off; see
            :class:`lesff.nn.contacts.InnerCutoff`. None: it does not.
        wall_stiffness: See :class:`lesff.potential.config.ModelConfig`.
        energy_floor: Likewise.
        crowding: Likewise; false for solids.

    Raises:
        ConfigError: for an architecture with a repulsion of its own, or without inner cutoff, and
            for a stiffness of another wall than ``"zbl-inner"``.
    """
    architecture = dict(potential.config.architecture)
    if architecture.get("repulsion"):
        raise ConfigError("`wall` must be null for an architecture with `repulsion`, which is one")
    if inner_cutoff is not None:
        architecture["inner_cutoff"] = inner_cutoff
    config = replace(
        potential.config,
        wall=wall,
        crowding=crowding,
        wall_stiffness=wall_stiffness,
        energy_floor=energy_floor,
        architecture=architecture,
    )
    return _rebuilt(potential, config)


def with_reference_energies(potential: Potential, energies: Sequence[float]) -> Potential:
    """A copy with other energies of the elements, and all else the same.

    Args:
        potential: A potential; not modified.
        energies: In eV, in the order of its elements.
    """
    config = replace(potential.config, reference_energies=tuple(energies))
    with torch.random.fork_rng(devices=[]):
        return _rebuilt(potential, config)


def with_charge_limits(potential: Potential, limits: tuple[float, ...] | None = None) -> Potential:
    """A copy whose latent charges level off; the same charges up to 0.8 of the limits.

    Args:
        potential: A potential with charges; not modified.
        limits: Largest latent charge of each element in e; those of
            :func:`lesff.heads.config.charge_limits_of` if not given.

    Raises:
        ConfigError: for a model without charges.
    """
    config = potential.config
    if config.long_range is None:
        raise ConfigError("`charge_limits` must not be given for a model without `long_range`")
    limits = charge_limits_of(config.elements) if limits is None else limits
    result = copy.deepcopy(potential)
    result.config = replace(config, long_range=replace(config.long_range, charge_limits=limits))
    result.uncertainty = None  # it was calibrated without
    result.charge_limits = torch.tensor(limits, dtype=torch.float64, device=potential.device)
    return result


def with_elements(potential: Potential, like: Mapping[str, str]) -> Potential:
    """A copy that knows further elements, each of which starts out as a copy of a known one.

    Energies of structures of the known elements stay the same to rounding. Reference energies,
    reference charges and floors of new elements are those of the elements they are like, limits of
    charges and dispersion coefficients their own. The copy has to be trained on structures with
    them.

    Args:
        potential: A potential; not modified.
        like: New symbol to known symbol, such as ``{"Br": "Cl"}``.

    Raises:
        ConfigError: for a symbol that is no element, a new one that is known already, and a known
            one that is not.
    """
    config = potential.config
    known = {z: row for row, z in enumerate(config.elements)}
    order = _rows(known, like)
    elements = tuple(order)
    rows = list(order.values())
    long_range = config.long_range
    if long_range is not None:
        charges, limits = long_range.reference_charges, long_range.charge_limits
        if charges is not None:
            charges = tuple(charges[row] for row in rows)
        if limits is not None:
            own = dict(zip(elements, charge_limits_of(elements), strict=True))
            limits = tuple(limits[known[z]] if z in known else own[z] for z in elements)
        long_range = replace(long_range, reference_charges=charges, charge_limits=limits)
    energies = tuple(config.reference_energies[row] for row in rows)
    floor = config.energy_floor
    result = Potential(
        replace(
            config,
            elements=elements,
            reference_energies=energies,
            long_range=long_range,
            energy_floor=tuple(floor[row] for row in rows) if isinstance(floor, tuple) else floor,
        )
    )
    result.cast_parameters(potential.dtype)  # before: no digit of a weight is lost
    # parameters that a module divides by the root of the number of elements
    divided = tuple(
        f"{name}.{parameter}"
        for name, module in result.named_modules()
        for parameter in getattr(module, "divided_by_root_elements", ())
    )
    state = potential.state_dict()
    for key, value in result.state_dict().items():
        old = state[key]
        axes = [i for i, n in enumerate(value.shape) if n != old.shape[i]]
        if not axes:
            continue
        sizes = [(value.shape[i], old.shape[i]) for i in axes]
        if sizes != [(len(elements), len(known))]:
            raise ConfigError(f"`elements` of a model with {key} cannot be extended")
        state[key] = old.index_select(axes[0], torch.tensor(rows, device=old.device))
        if key.startswith(divided):
            state[key] = state[key] * (len(elements) / len(known)) ** 0.5
    result.load_state_dict(state, strict=True)
    result.radial = potential.radial
    _adopt(result, result, potential)
    return result


def _rows(known: Mapping[int, int], like: Mapping[str, str]) -> dict[int, int]:
    """Row of the known element that each element takes over, by ascending atomic number."""
    rows = dict(known)
    for new, old in like.items():
        for symbol in (new, old):
            if atomic_numbers.get(symbol, 0) < 1:
                raise ConfigError(f"`elements` must map chemical symbols, got {symbol!r}")
        if atomic_numbers[new] in known or atomic_numbers[old] not in known:
            symbols = " ".join(chemical_symbols[z] for z in known)
            raise ConfigError(
                f"`elements` must map elements that the model does not know to some of {symbols}, "
                f"got {new} like {old}"
            )
        rows[atomic_numbers[new]] = known[atomic_numbers[old]]
    return dict(sorted(rows.items()))


@dataclass(frozen=True, kw_only=True)
class Redesign:
    """Changes of a model that training goes on from, in this order.

    Attributes:
        elements: New elements and known ones that they start out like, see :func:`with_elements`.
        local_state: See :func:`with_local_state`.
        wall: See :func:`with_wall`.
        inner_cutoff: Of the wall.
        wall_stiffness: Of the wall ``"zbl-inner"``, in eV.
        fresh_head: A head that knows nothing yet, see :func:`with_fresh_head`.
        transfer_layers: Of the fresh head ``"edge"``.
        local_charges: See :func:`with_local_charges`.
        join_until: See :func:`with_longer_joins`; None leaves it as it is.
        bounded_charges: See :func:`with_charge_limits`.
        shared_protons: See :func:`with_shared_protons`.
        state_charge: See :func:`with_state_limits`; None leaves it as it is.
        full_weight: Likewise.
    """

    elements: dict[str, str] = field(default_factory=dict)
    local_state: bool = False
    wall: Wall | None = None
    inner_cutoff: float | None = INNER_CUTOFF
    wall_stiffness: float = 0.0
    fresh_head: HeadName | None = None
    transfer_layers: Layers = "last"
    local_charges: bool = False
    join_until: float | None = None
    bounded_charges: bool = False
    shared_protons: bool = False
    state_charge: float | None = None
    full_weight: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would have no effect; raises ConfigError."""
        of_wall = {"inner_cutoff": INNER_CUTOFF, "wall_stiffness": 0.0}
        for name, default in of_wall.items():
            if self.wall is None and getattr(self, name) != default:
                raise ConfigError(
                    f"`redesign.{name}` is that of a wall: give `redesign.wall` = 'zbl', too"
                )
        if self.fresh_head is None and self.transfer_layers != "last":
            raise ConfigError(
                "`redesign.transfer_layers` is that of a fresh head: give `redesign.fresh_head`"
            )
        apart = {*of_wall, "transfer_layers"}
        changes = [field.name for field in fields(self) if field.name not in apart]
        if not any(getattr(self, name) for name in changes):
            names = ", ".join(f"`{name}`" for name in changes[:-1])
            raise ConfigError(f"`redesign` must change something: {names} or `{changes[-1]}`")

    def of(self, potential: Potential) -> Potential:
        """The changed copy."""
        if self.elements:
            potential = with_elements(potential, self.elements)
        if self.local_state:
            potential = with_local_state(potential)
        if self.wall is not None:
            potential = with_wall(
                potential,
                wall=self.wall,
                inner_cutoff=self.inner_cutoff,
                wall_stiffness=self.wall_stiffness,
            )
        if self.fresh_head is not None:
            potential = with_fresh_head(
                potential, self.fresh_head, transfer_layers=self.transfer_layers
            )
        if self.local_charges:
            potential = with_local_charges(potential)
        if self.join_until is not None:
            potential = with_longer_joins(potential, self.join_until)
        if self.bounded_charges:
            potential = with_charge_limits(potential)
        if self.shared_protons:
            potential = with_shared_protons(potential)
        if self.state_charge is not None or self.full_weight is not None:
            potential = with_state_limits(potential, self.state_charge, self.full_weight)
        return potential


def with_multipoles(potential: Potential, multipoles: MultipoleConfig) -> Potential:
    """A copy with moments beyond charges that start out with the same energies and forces.

    Args:
        potential: A potential with charges and without multipoles; not modified.
        multipoles: The moments.

    Raises:
        ConfigError: if there are no charges to start from, for a head whose charges equilibrate,
            if there are other multipoles already, and for features that the architecture lacks.
    """
    long_range = potential.config.long_range
    if long_range is None:
        raise ConfigError(
            "`multipoles` must not be given for a model without `long_range`: there are no charges "
            "to start from"
        )
    if long_range.multipoles == multipoles:
        return copy.deepcopy(potential)
    if long_range.multipoles is not None:
        raise ConfigError(
            f"`multipoles` cannot change from {long_range.multipoles} to {multipoles}; start from "
            "a model without"
        )
    new = replace(long_range, multipoles=multipoles)
    result = copy.deepcopy(potential)
    result.config = replace(potential.config, long_range=new)
    result.uncertainty = None  # it was calibrated without
    result.multipole_head = result.make_multipole_head()
    _adopt(result, result.multipole_head, potential)
    return result


def with_dispersion(potential: Potential, dispersion: DispersionConfig) -> Potential:
    """A copy with dispersion added; energies change by it until the copy is trained further.

    Args:
        potential: A potential without dispersion; not modified.
        dispersion: The dispersion.

    Raises:
        ConfigError: if there is another dispersion already, or no coefficient for an element.
    """
    before = potential.config.dispersion
    if before not in (None, dispersion):
        raise ConfigError(
            f"`dispersion` cannot change from {before} to {dispersion}; start from a model without"
        )
    config = replace(potential.config, dispersion=dispersion)
    result = copy.deepcopy(potential)
    result.config = config
    result.dispersion = Dispersion(dispersion, config.elements).to(potential.device)
    result.uncertainty = None  # it was calibrated without
    return result


def _adopt(result: Potential, head: nn.Module, potential: Potential) -> None:
    """Give a new head the type, place and mode of the potential that it was made for."""
    frozen = not any(parameter.requires_grad for parameter in potential.parameters())
    result.cast_parameters(potential.dtype)
    head.to(potential.device).requires_grad_(not frozen).train(potential.training)
