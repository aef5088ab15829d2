"""One model along trajectories: arrays in, arrays out; what the ASE calculator and engines share.

An engine (ASE, LAMMPS, i-PI, ...) converts its units and its cell, asks an :class:`Evaluator` and
converts back. The evaluator keeps what steps share (neighbours, plans, the last results) and judges
what is asked: elements, charge and spin, close contacts, quantities that are not to be trusted,
atoms outside of what the model was calibrated on. Inside: eV, A, e, V/A; cells by rows, of either
handedness and any orientation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import ase
import numpy as np
import torch

from lesff import kernels
from lesff.atoms.batching import plan_batches
from lesff.atoms.contacts import ContactRule
from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.atoms.structure import Structure, check_cell, check_positions, to_structure
from lesff.atoms.verlet import VerletList
from lesff.autograd import plain_arithmetic
from lesff.electrostatics.sums.plan import SLAB
from lesff.errors import ExtrapolationWarning, OutOfDomainError, PropertyError, StructureError, warn
from lesff.memory import keep_freed_memory
from lesff.potential.domain import (
    OutOfDomain,
    Outside,
    check_caveats,
    check_charge_elements,
    check_domain,
    find_outside,
    warn_of_background,
)
from lesff.potential.plan import PLANNED
from lesff.potential.potential import Potential
from lesff.potential.predict import predict_graph
from lesff.potential.replay import RepeatedStep, is_alike
from lesff.quantities import DEFAULT_PROPERTIES, QUANTITIES, SPREADS

VIRIAL = "virial"
"""``-V`` times the stress, (3, 3) in eV, symmetric: what engines add to the kinetic part, so that
``P = (sum m v v + virial) / V``. Periodic in three directions only, as the stress."""
_MOST_ATOMS = 256
"""Atoms up to which steps on CPUs are repeated: the more there are, the less is gained, and all
intermediate results stay in memory."""
_MOST_STRAIN = 1e-3
"""Share by which a cell changes from step to step at most where steps are repeated: barostats do,
finite strains do not."""
_LEAST_SKIN = 0.2
"""A: with less, plans serve too few steps."""
_ALONG = frozenset({"stress", "charges", *SPREADS})
"""What costs next to nothing beside forces: computed with them if it was asked for a step before,
so that an engine that asks for forces and then for stress pays for one evaluation."""


@dataclass
class _Slot:
    """What is kept of one trajectory.

    Attributes:
        neighbors: Its list.
        structure: The last one that was evaluated, or None.
        model: Version of the weights then.
        row: Its results by name.
        asked: What was asked about it.
        follower: What repeats its steps, of all but the first.
    """

    neighbors: VerletList
    structure: Structure | None = None
    model: tuple = ()
    row: dict[str, np.ndarray] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    follower: RepeatedStep | None = None

    def is_at(self, structure: Structure, model: tuple) -> bool:
        """Whether the results are those of this structure."""
        return self.model == model and _same(self.structure, structure)

    def along(self, structure: Structure) -> set[str]:
        """What a trajectory that goes on with this structure will ask for besides forces."""
        old = self.structure
        is_next = old is not None and (
            _equal(old.numbers, structure.numbers)
            and _equal(old.pbc, structure.pbc)
            and (old.external_field is None) == (structure.external_field is None)
        )
        return self.asked & _ALONG if is_next else set()


class Evaluator:
    """Properties of structures along trajectories.

    Args:
        potential: The model.
        total_charge: Total charge in e of structures given as arrays; 0 if not given.
        spin_multiplicity: 2S+1 of those; the lowest that the electrons allow if not given.
        external_field: (3,) in V/A for those.
        strict: Raise instead of warn outside the trained range of charge and spin, for quantities
            that are not to be trusted, and stop where ``on_out_of_domain`` is ``"warn"`` and the
            model is calibrated.
        allow_close: Compute also where atoms overlap, see :mod:`lesff.atoms.contacts`.
        skin: Neighbours are searched anew only when an atom has moved half of this, in A; the
            results do not depend on it. 0 searches at each call.
        replay: Whether steps are planned once and then repeated, see :mod:`lesff.potential.replay`.
            None: on GPUs, for models that can, and on CPUs for trajectories of up to 256 atoms (all
            of a batch together), from the second step on, where radial functions come from tables.
            Steps that cannot (slabs, fields, dipoles, larger batches, crystals with D3) are
            computed as without it.
        caveats: Quantities that are not to be trusted, and why; a warning when one is computed.
        on_out_of_domain: What is done where atoms are outside of what the model was calibrated on:
            ``"warn"`` once, ``"stop"`` with an error, or ``"ignore"``.

    Attributes:
        outside: What was outside at the last evaluation that looked, or None.
        n_evaluations: How many structures were computed, and not taken from the last results.

    Raises:
        PropertyError: for a bad option.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        total_charge: int | None = None,
        spin_multiplicity: int | None = None,
        external_field: Sequence[float] | np.ndarray | None = None,
        strict: bool = False,
        allow_close: bool = False,
        skin: float = 0.5,
        replay: bool | None = None,
        caveats: Mapping[str, str] | None = None,
        on_out_of_domain: OutOfDomain = "warn",
    ) -> None:
        self.total_charge = total_charge
        self.spin_multiplicity = spin_multiplicity
        self.external_field = external_field
        self.caveats = dict(caveats or {})
        self.outside: Outside | None = None
        self.n_evaluations = 0
        self.contacts = ContactRule(allow_close=allow_close)
        self._strict = strict
        self._mode: OutOfDomain = _checked_mode(on_out_of_domain, potential)
        self._warned_of_background = False
        self._warned_of_domain = False
        self._told: set[str] = set()
        self._start: tuple[str, Structure] | None = None  # options and atoms of the last arrays
        self._last: tuple[tuple, Structure] | None = None  # the same of the last ASE atoms
        self._build(potential, skin, replay)

    def _build(self, potential: Potential, skin: float, replay: bool | None) -> None:
        """Everything that depends on the model, the skin and the replay."""
        if not 0.0 <= skin <= 10.0:
            raise PropertyError(f"`skin` must be from 0 to 10 A, got {skin!r}")
        if replay and not potential.can_plan:
            raise PropertyError(
                "`replay` must be False or None for a model with charge equilibration, "
                "multipoles or the joint embedding of published models, on a GPU also for one with "
                "D3 or charges of molecules, got True"
            )
        self._choice = replay
        can_follow = replay is None and potential.can_plan and skin >= _LEAST_SKIN
        if replay is None:
            replay = potential.device.type == "cuda" and potential.can_plan
        self._skin = skin
        self._slots = [_Slot(VerletList(potential.cutoff, skin))]
        self.repeated = RepeatedStep(potential, skin, self.contacts) if replay else None
        # small systems on CPUs, without being asked
        can_follow &= not replay and kernels.is_active(next(potential.parameters()))
        self._follower = RepeatedStep(potential, skin, self.contacts) if can_follow else None
        self._potential = potential
        self._weights = [(weight, weight.is_inference()) for weight in potential.parameters()]

    def __getstate__(self) -> dict[str, Any]:
        """State without lists and results, which a copy finds anew."""
        cutoff = self._potential.cutoff
        return {**vars(self), "_slots": [_Slot(VerletList(cutoff, self._skin))]}

    # options

    @property
    def potential(self) -> Potential:
        """The model."""
        return self._potential

    @potential.setter
    def potential(self, potential: Potential) -> None:
        self._mode = _checked_mode(self._mode, potential)
        self._warned_of_domain = False
        choice = self._choice if potential.can_plan else None
        self._build(potential, self.skin, choice)

    @property
    def skin(self) -> float:
        """How far atoms move, twice, before neighbours are searched anew, in A."""
        return self._skin

    @skin.setter
    def skin(self, skin: float) -> None:
        self._build(self._potential, skin, self._choice)

    @property
    def replay(self) -> bool:
        """Whether steps are planned once and then repeated."""
        return self.repeated is not None

    @replay.setter
    def replay(self, replay: bool | None) -> None:
        self._build(self._potential, self._skin, replay)

    @property
    def neighbors(self) -> VerletList:
        """The list of a single trajectory, which is the first of a batch."""
        return self._slots[0].neighbors

    @property
    def strict(self) -> bool:
        """Whether what is only warned of otherwise is refused."""
        return self._strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self._strict = strict
        self.forget()

    @property
    def allow_close(self) -> bool:
        """Whether atoms that are too close to be meant are computed all the same."""
        return self.contacts.allow_close

    @allow_close.setter
    def allow_close(self, allow_close: bool) -> None:
        self.contacts.allow_close = allow_close
        self.forget()

    @property
    def on_out_of_domain(self) -> OutOfDomain:
        """What is done outside of what the model was calibrated on."""
        return self._mode

    @on_out_of_domain.setter
    def on_out_of_domain(self, mode: OutOfDomain) -> None:
        self._mode = _checked_mode(mode, self._potential)
        self._warned_of_domain = False
        self.forget()

    def forget(self) -> None:
        """Forget the last results; lists of neighbours stay."""
        for slot in self._slots:
            slot.structure, slot.row, slot.asked = None, {}, set()

    # evaluation

    def __call__(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray | None = None,
        pbc: Sequence[bool] | np.ndarray | bool = False,
        properties: Collection[str] = DEFAULT_PROPERTIES,
    ) -> dict[str, Any]:
        """Properties of one configuration.

        Args:
            numbers: (n_atoms,) atomic numbers.
            positions: (n_atoms, 3) in A, wrapped or not.
            cell: (3, 3) in A, rows are lattice vectors; not needed where nothing is periodic.
            pbc: Which axes are periodic.
            properties: Names from :data:`lesff.quantities.QUANTITIES`, and ``"virial"``.

        Returns:
            Results by name, scalars as float, others as float64 arrays that belong to the caller.

        Raises:
            StructureError, ChargeSpinError, UnsupportedInputError, PropertyError: as
                :meth:`lesff.Model.predict`.
            OutOfDomainError: with ``"stop"`` or ``strict``, naming the atom.
        """
        return self.evaluate(self.structure(numbers, positions, cell, pbc), properties)

    def structure(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray | None = None,
        pbc: Sequence[bool] | np.ndarray | bool = False,
    ) -> Structure:
        """The arrays checked, with the evaluator's charge, spin and field; as :meth:`__call__`."""
        shapes = np.shape(numbers), np.shape(positions)
        if len(shapes[0]) != 1 or shapes[1] != (*shapes[0], 3):
            raise StructureError(
                "`numbers` must be (n_atoms,) and `positions` (n_atoms, 3), got "
                f"{shapes[0]} and {shapes[1]}"
            )
        if cell is not None and np.shape(cell) != (3, 3):
            raise StructureError(f"`cell` must be (3, 3) or None, got {np.shape(cell)}")
        field = self.external_field
        field = None if field is None else np.asarray(field).tolist()
        options = repr((self.total_charge, self.spin_multiplicity, field))
        if self._start is not None:
            before, start = self._start
            # a step of a trajectory: atoms, charge and spin were looked at before
            if (
                before == options
                and np.array_equal(start.numbers, numbers)
                and np.array_equal(start.pbc, np.broadcast_to(pbc, 3))
            ):
                return self.moved(start, positions, np.zeros((3, 3)) if cell is None else cell)
        structure = to_structure(
            ase.Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc),
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            external_field=self.external_field,
            told=self._told,
        )
        self._start = options, structure
        return structure

    def of_atoms(self, atoms: Any, where: str = "structure") -> Structure:
        """Atoms checked; what the evaluator does not say of charge, spin and field, they do.

        Args:
            atoms: As for :func:`lesff.atoms.structure.to_structure`, with its errors.
            where: Name of the structure in error messages.
        """
        key = self._simple_state(atoms)
        if key is not None and self._last is not None:
            before, last = self._last
            # a step of a trajectory: elements, charge and spin were looked at before
            if (
                before == key
                and _equal(last.pbc, atoms.pbc)
                and last.numbers.shape == atoms.numbers.shape
                and bool((last.numbers == atoms.numbers).all())
            ):
                return self.moved(last, atoms.positions, atoms.cell.array, where)
        structure = to_structure(
            atoms,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            external_field=self.external_field,
            where=where,
        )
        self._last = None if key is None else (key, structure)
        return structure

    def _simple_state(self, atoms: Any) -> tuple | None:
        """What atoms and options say of charge, spin and field if that is plain, else None."""
        if not isinstance(atoms, ase.Atoms) or self.external_field is not None:
            return None
        has_more = "initial_charges" in atoms.arrays or "initial_magmoms" in atoms.arrays
        if has_more or any(type(x) not in (int, float, str, bool) for x in atoms.info.values()):
            return None
        said = tuple((name, type(x), x) for name, x in atoms.info.items())
        return said, self.total_charge, self.spin_multiplicity

    def moved(
        self,
        structure: Structure,
        positions: np.ndarray,
        cell: np.ndarray,
        where: str = "structure",
    ) -> Structure:
        """The same atoms elsewhere: what an engine has at each step.

        Args:
            structure: The atoms, checked before.
            positions: (n_atoms, 3) in A.
            cell: (3, 3) in A.
            where: Name of the structure in error messages.

        Raises:
            StructureError: for another number of atoms, or positions or a cell that are not finite
                or span no volume.
        """
        positions = np.array(positions, dtype=np.float64)
        if positions.shape != structure.positions.shape:
            raise StructureError(
                f"`positions` must be those of the same {len(structure)} atoms, "
                f"{structure.positions.shape}, got {positions.shape}"
            )
        check_positions(positions, where)
        if np.array_equal(cell, structure.cell):
            return replace(structure, positions=positions)
        cell = np.array(cell, dtype=np.float64)
        check_cell(cell, structure.pbc, where)
        return replace(structure, positions=positions, cell=cell)

    def evaluate(
        self, structure: Structure, properties: Collection[str], also: Collection[str] = ()
    ) -> dict[str, Any]:
        """Properties of one checked structure, with its own charge, spin and field.

        Args:
            structure: The structure.
            properties: As for :meth:`__call__`.
            also: Given, too, without a word about whether they are to be trusted.
        """
        (row,) = self.evaluate_batch([structure], properties, also)
        return row

    def evaluate_batch(
        self,
        structures: Sequence[Structure],
        properties: Collection[str],
        also: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        """Properties of many structures in one call, such as beads of a ring polymer.

        Each place in the list is a trajectory of its own, with its own neighbours.

        Args:
            structures: The structures; of the same atoms, to be of use.
            properties: As for :meth:`__call__`.
            also: As for :meth:`evaluate`.
        """
        wanted = {"stress" if name == VIRIAL else name for name in properties}
        uncertainty = self._potential.uncertainty
        quiet = uncertainty is not None or self._mode == "ignore"
        if self._strict or not self._are_known(structures):
            check_domain(self._potential.config, structures, strict=self._strict, quiet=quiet)
        if not self._warned_of_background:
            self._warned_of_background = warn_of_background(self._potential.config, structures)
        check_caveats("this model", self.caveats, sorted(wanted), strict=self._strict)
        check_charge_elements(
            self._potential.config, structures, sorted(wanted), strict=self._strict
        )
        while len(self._slots) < len(structures):
            cutoff = self._potential.cutoff
            self._slots.append(_Slot(VerletList(cutoff, self._skin)))
        names = {*properties, *also}
        self._fill(structures, wanted | set(also))
        for slot in self._slots[: len(structures)]:
            slot.asked |= wanted
        return [
            _results(structure, slot.row, names)
            for structure, slot in zip(structures, self._slots, strict=False)
        ]

    def along(self, structure: Structure) -> set[str]:
        """What is computed besides forces, as the trajectory so far asked for it."""
        return self._slots[0].along(structure) if self._slots else set()

    def read(self, name: str) -> None:
        """Note that a property is asked for that was computed already."""
        if self._slots:
            self._slots[0].asked.add(name)

    def _are_known(self, structures: Sequence[Structure]) -> bool:
        """Whether the slots have computed the same atoms in the same state before."""
        return len(structures) <= len(self._slots) and all(
            slot.structure is not None and _is_same_system(slot.structure, structure)
            for slot, structure in zip(self._slots, structures, strict=False)
        )

    def _fill(self, structures: Sequence[Structure], wanted: set[str]) -> None:
        """Compute what the slots do not hold."""
        uncertainty, model = self._potential.uncertainty, self.model_state()
        known = [
            slot.is_at(structure, model)
            for slot, structure in zip(self._slots, structures, strict=False)
        ]
        absent = [
            index
            for index, is_known in enumerate(known)
            if not is_known or not wanted <= self._slots[index].row.keys()
        ]
        if not absent:
            return
        asked = set(wanted)
        if "forces" in wanted:
            asked |= set.union(*(self._slots[i].along(structures[i]) for i in absent))
        # once said, "warn" has nothing left to say
        looks = uncertainty is not None and self._mode != "ignore"
        looks &= self._mode == "stop" or self._strict or not self._warned_of_domain
        # novelty needs what the energy needs, and next to nothing more
        asked |= {"novelty"} if looks else set()
        rows = self._computed([structures[i] for i in absent], absent, sorted(asked))
        if uncertainty is not None and looks:
            found = (
                find_outside(uncertainty, structures[i], row["novelty"], i)
                for i, row in zip(absent, rows, strict=True)
            )
            self.outside = next((outside for outside in found if outside is not None), None)
            self._tell_of_outside(len(structures))
        for index, row in zip(absent, rows, strict=True):
            slot, structure = self._slots[index], structures[index]
            if not known[index]:
                slot.structure, slot.model, slot.row, slot.asked = structure, model, {}, set()
            slot.row.update(row)

    def _computed(
        self, structures: Sequence[Structure], slots: Sequence[int], asked: list[str]
    ) -> list[dict[str, np.ndarray]]:
        """Results of structures, each with the neighbours of its slot."""
        self.n_evaluations += len(structures)
        with plain_arithmetic(self._potential.device):
            rows: list[dict[str, np.ndarray]] = [{} for _ in structures]
            few = sum(len(structure) for structure in structures) <= _MOST_ATOMS
            for index, (structure, slot) in enumerate(zip(structures, slots, strict=True)):
                is_plain = structure.pbc.sum() != SLAB and structure.external_field is None
                is_plain &= not (self._potential.plans_molecules_only and structure.pbc.any())
                if not is_plain or not PLANNED.issuperset(asked):
                    continue
                repeated = self.repeated if len(structures) == 1 else None
                if repeated is None and few:
                    repeated = self._following(structure, slot)
                if repeated is not None:
                    rows[index] = _of_one(repeated(structure, asked))
            rest = np.array([index for index, row in enumerate(rows) if not row], dtype=np.int64)
            if not len(rest):
                return rows
            sizes = np.array([len(structures[i]) for i in rest])
            for places in plan_batches(sizes, "auto"):
                chosen = rest[places]
                graph = collate([self._graph(structures[i], slots[i]) for i in chosen])
                # a trajectory that goes on will need the same memory again
                goes_on = any(self._slots[slots[i]].structure is not None for i in chosen)
                if goes_on and not few and graph.positions.device.type == "cpu":
                    keep_freed_memory()
                found = predict_graph(self._potential, graph, asked)
                for index, row in zip(chosen, found, strict=True):
                    rows[index] = row
        return rows

    def may_repeat(self, n_atoms: int) -> bool:
        """Whether steps of so many atoms may be repeated: they then depend by rounding on others.

        Args:
            n_atoms: Atoms of a structure.
        """
        is_small = n_atoms <= _MOST_ATOMS and self._potential.radial == "table"
        return self.repeated is not None or (self._follower is not None and is_small)

    def _following(self, structure: Structure, slot: int) -> RepeatedStep | None:
        """What repeats the steps of a small system, from the second one of a trajectory on."""
        last = self._slots[slot].structure
        follows = (
            self._follower is not None
            and last is not None
            and len(structure) <= _MOST_ATOMS
            and self._potential.radial == "table"
            and is_alike(last, structure, in_cells=True)
            and np.abs(structure.cell - last.cell).max() <= _MOST_STRAIN * np.abs(last.cell).max()
        )
        if not follows or slot == 0:
            return self._follower if follows else None
        own = self._slots[slot]
        if own.follower is None:
            where = f"structure {slot}"
            own.follower = RepeatedStep(self._potential, self._skin, self.contacts, where)
        return own.follower

    def _graph(self, structure: Structure, slot: int) -> AtomGraph:
        neighbors = self._slots[slot].neighbors
        found = neighbors.find(structure.positions, structure.cell, structure.pbc)
        where = "structure" if len(self._slots) == 1 else f"structure {slot}"
        cutoff = self._potential.cutoff
        return build_graph(structure, cutoff, found, contacts=self.contacts, where=where)

    def _tell_of_outside(self, count: int) -> None:
        """Stop or warn where the atoms are outside of the domain.

        Raises:
            OutOfDomainError: naming the atom.
        """
        if self.outside is None:
            return
        of = "" if count == 1 else f" of structure {self.outside.index}"
        text = (
            f"the atoms{of} are outside of what this model was calibrated on: "
            f"{self.outside.cause()}"
        )
        if self._mode == "stop" or self._strict:
            raise OutOfDomainError(
                f"{text}; this ends the run with the last good step (in ASE `calc.atoms`). Look at "
                "its atoms, label such structures and train on them (`lesff finetune`), or go on "
                "with on_out_of_domain='warn' and without `strict`, where results are "
                "extrapolations"
            )
        self._warned_of_domain = True
        warn(f"{text}; results are extrapolations from here on", ExtrapolationWarning)

    def model_state(self) -> tuple:
        """Changes when the weights do, in place or as a whole."""
        # weights made in inference mode count no versions
        versions = [0 if is_frozen else w._version for w, is_frozen in self._weights]
        return self._potential.radial, [w.data_ptr() for w, _ in self._weights], versions


def _is_same_system(first: Structure, second: Structure) -> bool:
    """Whether elements, charge and spin are the same."""
    same_state = (first.total_charge, first.spin_multiplicity) == (
        second.total_charge,
        second.spin_multiplicity,
    )
    # mostly the very same array
    return same_state and (
        first.numbers is second.numbers or np.array_equal(first.numbers, second.numbers)
    )


def _of_one(out: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Results of a batch of one as arrays."""
    return {
        name: (value if QUANTITIES[name].level == "atom" else value[0]).cpu().numpy().copy()
        for name, value in out.items()
    }


def _results(
    structure: Structure, row: Mapping[str, np.ndarray], names: Collection[str]
) -> dict[str, Any]:
    """Copies of what is asked for: float, or contiguous float64 arrays."""
    results: dict[str, Any] = {}
    for name in names:
        if name == VIRIAL:
            volume = abs(np.linalg.det(structure.cell))
            results[name] = -volume * row["stress"].astype(np.float64)
            continue
        # databases of ASE write the bytes of an array as they are
        value = np.array(row[name], dtype=np.float64, order="C")
        results[name] = float(value) if value.ndim == 0 else value
    return results


def _same(first: Structure | None, second: Structure) -> bool:
    """Whether two structures are equal by value."""
    if first is None or not np.array_equal(first.positions, second.positions):
        return False
    fields = [
        np.zeros(3) if one.external_field is None else one.external_field for one in (first, second)
    ]
    return (
        np.array_equal(fields[0], fields[1])
        and first.total_charge == second.total_charge
        and first.spin_multiplicity == second.spin_multiplicity
        and _equal(first.numbers, second.numbers)
        and _equal(first.cell, second.cell)
        and _equal(first.pbc, second.pbc)
    )


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are equal; of the same structure they are often one."""
    return first is second or np.array_equal(first, second)


def _checked_mode(mode: OutOfDomain, potential: Potential) -> OutOfDomain:
    """The mode, if the model has what it needs; PropertyError for others."""
    if mode not in get_args(OutOfDomain):
        raise PropertyError(
            f"`on_out_of_domain` must be one of {', '.join(get_args(OutOfDomain))}, got {mode!r}"
        )
    if mode == "stop" and potential.uncertainty is None:
        raise PropertyError(
            "`on_out_of_domain` must be 'warn' or 'ignore' for a model without calibration, got "
            "'stop': calibrate it with `lesff calibrate NAME --train FILE --validation FILE -o "
            "DIR` and load DIR"
        )
    return mode
