"""ASE calculator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lesff.atoms.ase_errors import AsePropertyError, ase_errors
from lesff.atoms.contacts import ContactRule
from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import VerletList
from lesff.atoms.structure import Structure, to_structure
from lesff.autograd import plain_arithmetic
from lesff.electrostatics.sums.plan import SLAB
from lesff.errors import ExtrapolationWarning, OutOfDomainError, PropertyError, warn
from lesff.potential.domain import (
    OutOfDomain,
    Outside,
    check_caveats,
    check_domain,
    find_outside,
    warn_of_background,
)
from lesff.potential.plan import PLANNED
from lesff.potential.potential import Potential
from lesff.potential.predict import predict_graph
from lesff.potential.replay import RepeatedStep
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN, QUANTITIES

ASE_NAMES = {
    "energy": "energy",
    "free_energy": "energy",
    "energies": "node_energy",
    "forces": "forces",
    "stress": "stress",
    "charges": "charges",
    "dipole": "dipole",
}
"""ASE property -> lesff quantity."""
_STATE_KEYS = (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD)
_OPTIONS = (
    "total_charge",
    "spin_multiplicity",
    "external_field",
    "strict",
    "allow_close",
    "skin",
    "replay",
    "on_out_of_domain",
)
"""What ``calc.set`` takes."""


class LesffCalculator(Calculator):
    """ASE calculator of a model.

    Units are ASE's: eV, A, e; stress in Voigt order (xx, yy, zz, yz, xz, xy) in eV/A^3, dipole in
    e A (about the centre of nuclear charge for charged systems). Total charge and spin
    multiplicity come from the arguments, else from ``atoms.info`` (``charge``,
    ``spin_multiplicity``, ``external_field``). Results belong to the atoms that are asked for: they
    are kept only as long as atoms, charge, spin, field, options and weights are the same by value,
    however they were changed. In an external field the energy is the electric enthalpy; a crystal
    in a field has forces, but no energy and no stress (asking raises), see
    :mod:`lesff.electrostatics.moments.field`.

    A calculator, and Atoms that carry it, can be pickled, copied and sent to a worker process.

    Args:
        potential: The model.
        total_charge: Total charge in e for all structures.
        spin_multiplicity: 2S+1 for all structures.
        external_field: (3,) in V/A for all structures.
        strict: Raise instead of warn outside the trained range of charge and spin, and stop where
            ``on_out_of_domain`` is ``"warn"`` and the model is calibrated.
        allow_close: Compute also where atoms are closer than 0.45 of the sum of their covalent
            radii, which is refused as a mistake (a warning below 0.7, once a pair).
        skin: Neighbours are searched anew only when an atom has moved half of this, in A; the
            results do not depend on it. 0 searches at each call.
        replay: Whether steps are planned once and then repeated, as a CUDA graph on a GPU, until an
            atom has moved half the skin; see :mod:`lesff.potential.replay`. None: on GPUs, for
            models that can. Steps that cannot (slabs, fields, dipoles) are computed as without it.
        caveats: Quantities that are not to be trusted, and why; a warning when one is computed.
        on_out_of_domain: What is done where atoms are outside of what the model was calibrated on
            (:mod:`lesff.uncertainty`), looked at with each evaluation: ``"warn"`` once, ``"stop"``
            with an error, or ``"ignore"``. The error ends a run before its results are used:
            ``calc.atoms`` and ``calc.results`` are those of the last good step then. Of a model
            without calibration ``"warn"`` looks at the trained range of charge and spin only.

    Attributes:
        outside: What was outside at the last evaluation that looked, or None.

    Raises:
        StructureError, UnsupportedInputError, ChargeSpinError: as :meth:`lesff.Model.predict`,
            when a property is asked for; as classes that are ASE's errors, too, see
            :mod:`lesff.atoms.ase_errors`.
        OutOfDomainError: with ``"stop"``, likewise.
        PropertyError: for ``"stop"`` and a model without calibration.
    """

    @ase_errors(setup=True)
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
        super().__init__()
        self.total_charge = total_charge
        self.spin_multiplicity = spin_multiplicity
        self.external_field = external_field
        self.strict = strict
        self.caveats = dict(caveats or {})
        self._state: dict[str, Any] = {}
        self._warned_of_background = False
        self._warned_of_domain = False
        self.outside: Outside | None = None
        self._on_out_of_domain: OutOfDomain = _checked_mode(on_out_of_domain, potential)
        self.contacts = ContactRule(allow_close=allow_close)
        self._build(potential, skin, replay)

    def _build(self, potential: Potential, skin: float, replay: bool | None) -> None:
        """Everything that depends on the model, the skin and the replay."""
        if not 0.0 <= skin <= 10.0:
            raise PropertyError(f"`skin` must be from 0 to 10 A, got {skin!r}")
        if replay and not potential.can_plan:
            raise PropertyError(
                "`replay` must be False or None for a model with charge equilibration, "
                "multipoles or the joint embedding of published models, got True"
            )
        if replay is None:
            replay = potential.device.type == "cuda" and potential.can_plan
        self.neighbors = VerletList(potential.architecture.cutoff, skin)
        self.repeated = RepeatedStep(potential, skin, self.contacts) if replay else None
        self._potential = potential
        self._weights = list(potential.parameters())
        available = potential.available_properties()
        self.implemented_properties = [a for a, ours in ASE_NAMES.items() if ours in available]

    @property
    def potential(self) -> Potential:
        """The model."""
        return self._potential

    @potential.setter
    def potential(self, potential: Potential) -> None:
        self._on_out_of_domain = _checked_mode(self._on_out_of_domain, potential)
        self._warned_of_domain = False
        self._build(potential, self.skin, self.replay and potential.can_plan)

    @property
    def allow_close(self) -> bool:
        """Whether atoms that are too close to be meant are computed all the same."""
        return self.contacts.allow_close

    @allow_close.setter
    def allow_close(self, allow_close: bool) -> None:
        self.contacts.allow_close = allow_close

    @property
    def skin(self) -> float:
        """How far atoms move, twice, before neighbours are searched anew, in A."""
        return self.neighbors.skin

    @skin.setter
    def skin(self, skin: float) -> None:
        self._build(self._potential, skin, self.replay)

    @property
    def replay(self) -> bool:
        """Whether steps are planned once and then repeated."""
        return self.repeated is not None

    @replay.setter
    def replay(self, replay: bool | None) -> None:
        self._build(self._potential, self.skin, replay)

    @property
    def on_out_of_domain(self) -> OutOfDomain:
        """What is done outside of what the model was calibrated on."""
        return self._on_out_of_domain

    @on_out_of_domain.setter
    def on_out_of_domain(self, mode: OutOfDomain) -> None:
        self._on_out_of_domain = _checked_mode(mode, self._potential)
        self._warned_of_domain = False

    @ase_errors(setup=True)
    def set(self, **options: Any) -> dict[str, Any]:
        """Change options of the calculator; those that change are returned.

        Raises:
            PropertyError: for something that is no option, before anything is changed.
        """
        unknown = sorted(options.keys() - set(_OPTIONS))
        if unknown:
            raise PropertyError(
                f"unknown option {', '.join(unknown)} of the calculator; it has "
                f"{', '.join(_OPTIONS)}"
            )
        changed = {
            name: value
            for name, value in options.items()
            if not _same(_frozen(value), _frozen(getattr(self, name)))
        }
        for name, value in changed.items():
            setattr(self, name, value)
        return changed

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has the same weights in another place."""
        vars(self).update(state)
        if self._state:
            self._state["model"] = self._model_state()

    def _model_state(self) -> tuple:
        """Changes when the weights do, in place or as a whole."""
        versions = [
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in self._weights
        ]
        return self._potential.radial, versions

    def _state_of(self, atoms: ase.Atoms) -> dict[str, Any]:
        """All that results depend on, as copies of values."""
        arrays = {name: array.copy() for name, array in atoms.arrays.items() if name in all_changes}
        return {
            **arrays,
            "cell": np.array(atoms.cell),
            "pbc": np.array(atoms.pbc),
            "info": [_frozen(atoms.info.get(key)) for key in _STATE_KEYS],
            "options": [_frozen(getattr(self, name)) for name in _OPTIONS],
            "model": self._model_state(),
        }

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        """What differs from the last calculation, by value.

        Positions, numbers, cell, pbc, initial charges and moments; ``info``: charge, spin and field
        there; ``options`` of the calculator; ``model``: its weights.

        Args:
            atoms: The atoms.
            tol: Not used: any difference counts.
        """
        before, after = self._state, self._state_of(atoms)
        if not before:
            return list(all_changes)
        names = dict.fromkeys((*before, *after))
        return [name for name in names if not _same(before.get(name), after.get(name))]

    def reset(self) -> None:
        """Forget atoms and results."""
        super().reset()
        self._state = {}

    def get_property(
        self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """A property of the atoms, or of those of the last calculation.

        Raises:
            AsePropertyError: for one that the model cannot give, or if there are no atoms.
        """
        # of the last atoms, too, results are looked at only after their state
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise AsePropertyError("`atoms` must be given: nothing has been calculated yet")
        with self._kept_outside():
            return super().get_property(name, atoms, allow_calculation)

    @contextmanager
    def _kept_outside(self) -> Iterator[None]:
        """If the block stops at atoms outside of the domain, what was known before stays."""
        before = self.atoms, self.results, self._state
        try:
            yield
        except OutOfDomainError:
            self.atoms, self.results, self._state = before
            raise

    @ase_errors()
    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] | str | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute what is asked for and forces; the energy too, unless a crystal is in a field.

        What is known of the same atoms in the same state is computed again with it; nothing else
        remains in ``results``.

        Raises:
            AsePropertyError: for properties that the model cannot give for these atoms.
        AseOutOfDomainError: for atoms outside of the domain, if that stops a run.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise AsePropertyError("`atoms` must be given: nothing has been calculated yet")
        names = [properties] if isinstance(properties, str) else list(properties or [])
        unknown = [name for name in names if name not in self.implemented_properties]
        if unknown:
            raise AsePropertyError(
                f"unknown property {', '.join(map(repr, unknown))}; this calculator gives "
                f"{', '.join(self.implemented_properties)}"
            )
        names += [] if self.check_state(atoms) else list(self.results)
        with self._kept_outside():
            self.results, self._state = {}, {}
            # a copy of its own: the caller's may be edited in place
            asked = atoms.copy()
            asked.info = copy.deepcopy(atoms.info)
            super().calculate(asked, names, system_changes)
            self.results, self._state = self._results(asked, names), self._state_of(asked)

    def _results(self, atoms: ase.Atoms, names: Sequence[str]) -> dict[str, Any]:
        """Results in ASE's terms."""
        structure = to_structure(
            atoms,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            external_field=self.external_field,
        )
        uncertainty, mode = self.potential.uncertainty, self.on_out_of_domain
        # once said, "warn" has nothing left to say
        looks = uncertainty is not None and mode != "ignore"
        looks &= mode == "stop" or self.strict or not self._warned_of_domain
        quiet = uncertainty is not None or mode == "ignore"
        check_domain(self.potential.config, [structure], strict=self.strict, quiet=quiet)
        if not self._warned_of_background:
            found = warn_of_background(self.potential.config, [structure])
            self._warned_of_background = found
        asked = {ASE_NAMES[name] for name in names} | {"forces"}
        check_caveats("this model", self.caveats, sorted(asked), strict=self.strict)
        if structure.external_field is None or not structure.pbc.all():
            asked |= {"energy"}
        # novelty needs what the energy needs, and next to nothing more
        asked |= {"novelty"} if looks else set()
        with plain_arithmetic(self.potential.device):
            row = self._evaluate(structure, sorted(asked))
        if uncertainty is not None and looks:
            self.outside = find_outside(uncertainty, structure, row["novelty"])
            self._tell_of_outside()
        return self._to_ase(row)

    def _tell_of_outside(self) -> None:
        """Stop or warn where the atoms are outside of the domain.

        Raises:
            OutOfDomainError: naming the atom.
        """
        if self.outside is None:
            return
        text = f"the atoms are outside of what this model was calibrated on: {self.outside.cause()}"
        if self.on_out_of_domain == "stop" or self.strict:
            raise OutOfDomainError(
                f"{text}; `calc.atoms` are those of the last good step. Look at them, label such "
                "structures and train on them (`lesff finetune`), or go on with "
                "on_out_of_domain='warn' and without `strict`, where results are extrapolations"
            )
        self._warned_of_domain = True
        warn(f"{text}; results are extrapolations from here on", ExtrapolationWarning)

    def _evaluate(self, structure: Structure, asked: list[str]) -> dict[str, Any]:
        is_plain = structure.pbc.sum() != SLAB and structure.external_field is None
        if self.repeated is not None and is_plain and PLANNED.issuperset(asked):
            out = self.repeated(structure, asked)
            return {
                name: (value if QUANTITIES[name].level == "atom" else value[0]).cpu().numpy()
                for name, value in out.items()
            }
        found = self.neighbors.find(structure.positions, structure.cell, structure.pbc)
        graph = build_graph(
            structure, self.potential.architecture.cutoff, found, contacts=self.contacts
        )
        (row,) = predict_graph(self.potential, graph, asked)
        return row

    def _to_ase(self, row: dict[str, Any]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for ase_name, name in ASE_NAMES.items():
            if name not in row:
                continue
            # float64 and contiguous: ASE's databases write the bytes of an array as they are
            value = np.array(row[name], dtype=np.float64, order="C")
            if name == "stress":
                value = full_3x3_to_voigt_6_stress(value)
            results[ase_name] = float(value) if np.ndim(value) == 0 else value
        return results


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


def _frozen(value: Any) -> Any:
    """A copy of a number or array by value; text for anything else."""
    if value is None or isinstance(value, str):
        return value
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return repr(value)


def _same(first: Any, second: Any) -> bool:
    """Whether two values, or all of two lists of them, are equal."""
    if isinstance(first, list) and isinstance(second, list):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(_same(a, b) for a, b in pairs)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return type(first) is type(second) and bool(first == second)
