"""What is evaluated: a model of lesff, or a method that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from tqdm.auto import tqdm

from lesff.atoms.elements import symbols
from lesff.atoms.structure import Structure
from lesff.errors import ConfigError, MissingDependencyError
from lesff.methods import open_teacher
from lesff.model import Model, load
from lesff.train.frames import Frame
from lesff.train.metrics import FramePrediction, predict_frames

XTB = "gfn2-xtb"
"""Name of the baseline GFN2-xTB, Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652
(2019), computed with tblite."""


class Subject(Protocol):
    """Something that gives energies and forces.

    Attributes:
        name: Name in results and tables.
        elements: Atomic numbers covered.
        model: The model, or None for another method.
    """

    name: str
    elements: frozenset[int]
    model: Model | None

    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; empty if it is.

        Args:
            numbers: Atomic numbers.
            charge: Total charge, e.
            spin: 2S+1; the lowest by parity if not given.
        """
        ...

    def calculator(self, charge: int = 0, spin: int | None = None) -> Calculator:
        """ASE calculator in double precision; spin is 2S+1, the lowest if not given."""
        ...

    def fast_calculator(self) -> Calculator:
        """ASE calculator for dynamics of neutral systems, in the precision of daily use."""
        ...

    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies and forces of labelled frames."""
        ...


class ModelSubject:
    """A model of lesff.

    Args:
        name: Name, folder or address of the model.
        label: Name in results and tables; the model's own if not given.
        accept_license: Accept its licence.
    """

    def __init__(
        self, name: str, *, label: str | None = None, accept_license: bool = False
    ) -> None:
        self.model: Model | None = load(name, dtype="float64", accept_license=accept_license)
        self.precise = self.model
        self.fast = load(name, accept_license=accept_license)
        self.name = label or self.model.name
        self.elements = frozenset(self.model.config.elements)

    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; see :class:`Subject`."""
        config = self.precise.config
        unknown = sorted(set(map(int, numbers)) - self.elements)
        if unknown:
            return f"no {symbols(unknown)}"
        spin = _lowest_spin(numbers, charge) if spin is None else spin
        for what, value, (low, high) in (
            ("total charge", charge, config.total_charge),
            ("spin multiplicity", spin, config.spin_multiplicity),
        ):
            if not low <= value <= high:
                return f"{what} {value} is outside {low}..{high}"
        return ""

    def calculator(self, charge: int = 0, spin: int | None = None) -> Calculator:
        """Calculator in float64."""
        return self.precise.calculator(total_charge=charge, spin_multiplicity=spin)

    def fast_calculator(self) -> Calculator:
        """Calculator in the model's own precision."""
        return self.fast.calculator()

    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies and forces, batch by batch, in the model's own precision."""
        return predict_frames(self.fast.potential, frames, progress=True)


class CalculatorSubject:
    """An ASE calculator, as a baseline.

    Args:
        name: Name in results and tables.
        elements: Atomic numbers covered.
        make: Calculator for a total charge and 2S+1 (None: the lowest).
    """

    def __init__(
        self, name: str, elements: frozenset[int], make: Callable[[int, int | None], Any]
    ) -> None:
        self.name, self.elements, self.make = name, elements, make
        self.model: Model | None = None

    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; see :class:`Subject`."""
        unknown = sorted(set(map(int, numbers)) - self.elements)
        return f"no {symbols(unknown)}" if unknown else ""

    def calculator(self, charge: int = 0, spin: int | None = None) -> Calculator:
        """The calculator."""
        return self.make(charge, spin)

    def fast_calculator(self) -> Calculator:
        """The same calculator; it has one precision."""
        return self.calculator()

    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies (about an energy zero of its own) and forces, frame by frame."""
        results = []
        for frame in tqdm(frames, unit="frame", desc=self.name, leave=False):
            s = frame.structure
            atoms = ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
            atoms.calc = self.calculator(s.total_charge, s.spin_multiplicity)
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            results.append(FramePrediction(frame=frame, energy=float(energy), forces=forces))
        return results


def xtb_subject() -> CalculatorSubject:
    """GFN2-xTB through tblite, for molecules, silent.

    Raises:
        MissingDependencyError: if tblite is not installed.
    """
    try:
        method: Any = import_module("tblite.ase").TBLite
    except ImportError as error:
        raise MissingDependencyError(
            f"the baseline {XTB} needs the tblite library; install it with "
            '`pip install "lesff[evaluate]"`'
        ) from error

    def make(charge: int, spin: int | None) -> Calculator:
        options = {} if spin is None else {"multiplicity": spin}
        return method(method="GFN2-xTB", charge=charge, verbosity=0, **options)

    return CalculatorSubject(XTB, frozenset(range(1, 87)), make)


def calculator_subject(name: str, spec: str) -> CalculatorSubject:
    """A calculator of any installed package; neutral systems only unless it is told charges.

    Args:
        name: Name in results and tables.
        spec: As for :func:`lesff.methods.open_teacher`.

    Raises:
        ConfigError: for a specification that cannot be used, or that asks for the spin, which
            checks leave to the method.
    """
    if "{spin}" in spec:
        raise ConfigError(f"baseline {spec!r} must leave the spin to the calculator: drop {{spin}}")
    teacher = open_teacher(spec)

    def make(charge: int, spin: int | None) -> Any:
        structure = Structure(
            numbers=np.array([1]), positions=np.zeros((1, 3)), cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool), total_charge=charge, spin_multiplicity=spin or 1,
        )  # fmt: skip
        teacher.check([structure])
        return teacher.make(structure)

    return CalculatorSubject(name, frozenset(range(1, len(chemical_symbols))), make)


def find_subject(name: str, *, accept_license: bool = False) -> Subject:
    """The method :data:`XTB`, ``NAME=module:callable`` for a calculator, or a model of this name.

    Raises:
        ModelNotFoundError: if there is none.
        ConfigError: for a calculator that cannot be made.
    """
    if name == XTB:
        return xtb_subject()
    label, is_calculator, spec = name.partition("=")
    if is_calculator and ":" in spec and "/" not in label and ":" not in label:
        return calculator_subject(label, spec)
    return ModelSubject(name, accept_license=accept_license)


def require(subject: Subject, atoms: ase.Atoms, charge: int = 0, spin: int | None = None) -> str:
    """Why atoms are not covered; empty if they are."""
    return subject.lacks(atoms.numbers.tolist(), charge, spin)


def dipole_of(subject: Subject, atoms: ase.Atoms) -> float:
    """Size of the dipole of a neutral molecule, e A."""
    copy = atoms.copy()
    copy.calc = subject.calculator()
    return float(np.linalg.norm(copy.get_dipole_moment()))


def has_dipole(subject: Subject) -> bool:
    """Whether a subject gives dipoles."""
    return "dipole" in subject.calculator().implemented_properties


def missing(subject: Subject, needed: Sequence[int]) -> str:
    """Symbols of the elements that a subject lacks."""
    return " ".join(chemical_symbols[z] for z in needed if z not in subject.elements)


def _lowest_spin(numbers: Sequence[int], charge: int) -> int:
    return 1 + (sum(map(int, numbers)) - charge) % 2
