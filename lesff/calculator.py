"""ASE calculator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator, Parameters, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lesff.atoms.ase_errors import AsePropertyError, ase_errors
from lesff.atoms.verlet import VerletList
from lesff.errors import OutOfDomainError, PropertyError
from lesff.potential.domain import OutOfDomain, Outside
from lesff.potential.evaluator import Evaluator
from lesff.potential.potential import Potential
from lesff.potential.replay import RepeatedStep
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN, SPREADS

ASE_NAMES = {
    "energy": "energy",
    "free_energy": "energy",
    "energies": "node_energy",
    "forces": "forces",
    "stress": "stress",
    "charges": "charges",
    "dipole": "dipole",
    **{name: name for name in SPREADS},
}
"""ASE property -> lesff quantity."""
_STATE_KEYS = (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD)
_COMPARED = frozenset(all_changes)
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


class _Option:
    """An option of the calculator: the attribute of its evaluator of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, calculator: Any, owner: type | None = None) -> Any:
        return self if calculator is None else getattr(calculator.evaluator, self._name)

    def __set__(self, calculator: Any, value: Any) -> None:
        setattr(calculator.evaluator, self._name, value)


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
            models that can, and on CPUs for trajectories of up to 256 atoms; results then depend
            by rounding (some 1e-6 eV/A) on the steps before. False: they do not, bit for bit.
            Steps that cannot (slabs, fields, dipoles) are computed as without it.
        caveats: Quantities that are not to be trusted, and why; a warning when one is computed.
        on_out_of_domain: What is done where atoms are outside of what the model was calibrated on
            (:mod:`lesff.uncertainty`), looked at with each evaluation: ``"warn"`` once, ``"stop"``
            with an error, or ``"ignore"``. The error ends a run before its results are used:
            ``calc.atoms`` and ``calc.results`` are those of the last good step then. Of a model
            without calibration ``"warn"`` looks at the trained range of charge and spin only.
        model_name: What databases and logs call the model; ``name@version`` from
            :meth:`lesff.Model.calculator`.

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
        model_name: str | None = None,
    ) -> None:
        self._state: dict[str, Any] = {}
        self.model_name = model_name
        self.evaluator = Evaluator(
            potential,
            total_charge=total_charge,
            spin_multiplicity=spin_multiplicity,
            external_field=external_field,
            strict=strict,
            allow_close=allow_close,
            skin=skin,
            replay=replay,
            caveats=caveats,
            on_out_of_domain=on_out_of_domain,
        )
        super().__init__()  # asks for `parameters`
        self.use_cache = False  # `calculate` makes the copy of the atoms
        self._list_properties()

    def _list_properties(self) -> None:
        available = self.potential.available_properties()
        self.implemented_properties = [a for a, ours in ASE_NAMES.items() if ours in available]

    @property
    def potential(self) -> Potential:
        """The model."""
        return self.evaluator.potential

    @potential.setter
    def potential(self, potential: Potential) -> None:
        self.evaluator.potential = potential
        self._list_properties()

    @property
    def outside(self) -> Outside | None:
        """What was outside of the domain at the last evaluation that looked, or None."""
        return self.evaluator.outside

    @property
    def repeated(self) -> RepeatedStep | None:
        """The planned step, with ``replay``."""
        return self.evaluator.repeated

    @property
    def neighbors(self) -> VerletList:
        """The list that is kept between calls."""
        return self.evaluator.neighbors

    total_charge = _Option()
    spin_multiplicity = _Option()
    external_field = _Option()
    strict = _Option()
    allow_close = _Option()
    skin = _Option()
    replay = _Option()
    on_out_of_domain = _Option()

    @property
    def parameters(self) -> Parameters:
        """The model's name and all options as they are now: plain values, which JSON takes."""
        values = {name: getattr(self, name) for name in _OPTIONS}
        field = values["external_field"]
        values["external_field"] = None if field is None else np.asarray(field).tolist()
        return Parameters(model=self.model_name, **values)

    @parameters.setter
    def parameters(self, parameters: Any) -> None:
        """ASE's own constructor assigns defaults; options are changed with :meth:`set`."""

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What a database writes beside the results: the model and all options that are set.

        Args:
            skip_default: ASE's; not used.
        """
        return {name: value for name, value in self.parameters.items() if value is not None}

    def _get_name(self) -> str:
        """Name in databases."""
        return "lesff"

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
            self._state["model"] = self.evaluator.model_state()

    def _state_of(self, atoms: ase.Atoms) -> dict[str, Any]:
        """All that results depend on; arrays are those of the atoms."""
        arrays = {name: array for name, array in atoms.arrays.items() if name in _COMPARED}
        return {
            **arrays,
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            "info": [_frozen(atoms.info.get(key)) for key in _STATE_KEYS],
            "options": [_frozen(getattr(self, name)) for name in _OPTIONS],
            "model": self.evaluator.model_state(),
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
            found = super().get_property(name, atoms, allow_calculation)
        # None: not known, and not to be calculated, as writers of trajectories ask
        if found is not None and name in ASE_NAMES:
            self.evaluator.read(ASE_NAMES[name])
        return found

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

        What is known of the same atoms in the same state is computed again with it, and what every
        step of the trajectory so far was asked for; nothing else remains in ``results``.

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
        if self.results and not self.check_state(atoms):
            names += list(self.results)
        with self._kept_outside():
            self.results, self._state = {}, {}
            # a copy of its own: the caller's may be edited in place
            asked = atoms.copy()
            asked.info = copy.deepcopy(atoms.info)
            self.atoms = asked
            self.results = self._results(asked, names)
            state = self._state_of(asked)
            # values: whoever asks for `calc.atoms` may edit them
            self._state = {
                n: x.copy() if isinstance(x, np.ndarray) else x for n, x in state.items()
            }

    def _results(self, atoms: ase.Atoms, names: Sequence[str]) -> dict[str, Any]:
        """Results in ASE's terms."""
        structure = self.evaluator.of_atoms(atoms)
        asked = {ASE_NAMES[name] for name in names} | {"forces"}
        # a crystal in a field has no energy
        has_energy = structure.external_field is None or not structure.pbc.all()
        also = {"energy"} if has_energy else set()
        also |= self.evaluator.along(structure)
        row = self.evaluator.evaluate(structure, asked, also)
        results = {a: row[name] for a, name in ASE_NAMES.items() if name in row}
        for name in {"stress", "stress_spread"} & results.keys():
            results[name] = full_3x3_to_voigt_6_stress(results[name])
        return results


def _frozen(value: Any) -> Any:
    """A copy of a number or array by value; text for anything else."""
    if value is None or isinstance(value, str):
        return value
    if type(value) in (bool, int, float):
        return float(value)
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
        if first.shape != second.shape:
            return False
        # the common case first: `array_equal` takes its time
        return bool((first == second).all()) or np.array_equal(
            first, second, equal_nan=first.dtype.kind == "f"
        )
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (first != first and second != second)
    return type(first) is type(second) and bool(first == second)
