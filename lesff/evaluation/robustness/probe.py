"""Energies and charges of many systems at once, whatever the method; failures are NaN."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from tqdm.auto import tqdm

from lesff.errors import LesffError
from lesff.evaluation.coverage import require
from lesff.methods import FAILURES, XTB, Method
from lesff.model import Model

ERRORS = (LesffError, *FAILURES)
"""What a method may raise for one system without the others being wrong."""
_CHUNK = 500
"""Systems between two moves of the progress bar."""
_EXTENT = 45.0
"""A: larger systems are computed one by one, as batches are padded."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is done.

    Attributes:
        quick: A few items of each check only.
        seed: Of everything that is random.
    """

    quick: bool = False
    seed: int = 0

    def some(self, full: int, quick: int) -> int:
        """Number of items: ``quick`` or ``full``."""
        return quick if self.quick else full


@dataclass(frozen=True, kw_only=True)
class System:
    """Atoms in a state.

    Attributes:
        name: What it is.
        atoms: The atoms.
        charge: Total charge, e.
        spin: 2S+1; None for the lowest.
    """

    name: str
    atoms: ase.Atoms
    charge: int = 0
    spin: int | None = None

    def with_atoms(self, atoms: ase.Atoms) -> System:
        """Other positions in the same state."""
        return System(name=self.name, atoms=atoms, charge=self.charge, spin=self.spin)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a method says of a system.

    Attributes:
        energy: eV; NaN where the method fails.
        charges: (n_atoms,) physical charges, e; None where there are none.
        largest_charge: Largest latent charge by size, e (of a method without them, the largest
            charge); NaN where there are none.
    """

    energy: float = nan
    charges: np.ndarray | None = None
    largest_charge: float = nan


class Probe:
    """A method that is asked about systems far from its data.

    Models are asked in batches and in float64; distances and states are the caller's business, so
    warnings of them are not shown.

    Args:
        subject: The method.
    """

    def __init__(self, subject: Method) -> None:
        self.subject = subject

    def lacks(self, system: System) -> str:
        """Why a system is not covered; empty if it is."""
        if self.subject.name == XTB and system.atoms.pbc.any():
            return f"{XTB} is for molecules"
        return require(self.subject, system.atoms, system.charge, system.spin)

    def ask(self, systems: Sequence[System], desc: str = "") -> list[Answer]:
        """Energies and charges.

        Args:
            systems: What to compute.
            desc: Text of the progress bar.
        """
        model = self.subject.model
        answers: list[Answer] = []
        with tqdm(total=len(systems), desc=desc, unit="structure", leave=False) as bar, quiet():
            for part in _chunks(systems):
                answers += map(self._alone, part) if model is None else self._together(model, part)
                bar.update(len(part))
        return answers

    def energies(self, systems: Sequence[System], desc: str = "") -> np.ndarray:
        """(n_systems,) energies, eV; NaN where the method fails."""
        return np.array([answer.energy for answer in self.ask(systems, desc)])

    def fast_calculator(self, system: System) -> BaseCalculator:
        """Calculator for many steps, in the state of the system."""
        return self.subject.fast_calculator(system.charge, system.spin)

    def _together(self, model: Model, systems: Sequence[System]) -> list[Answer]:
        """One call of a model; one by one if it refuses some of them."""
        known = model.potential.available_properties()
        names = ["energy", *(name for name in ("charges", "latent_charges") if name in known)]
        spins = [lowest(s) for s in systems]
        try:
            found = model.predict(
                [s.atoms for s in systems], names, total_charge=[s.charge for s in systems],
                spin_multiplicity=spins, allow_close=True, progress=False,
            )  # fmt: skip
        except ERRORS:
            if len(systems) == 1:
                return [Answer()]
            return [self._together(model, [system])[0] for system in systems]
        rows = found.per_structure()
        return [
            Answer(
                energy=_finite(row["energy"]),
                charges=row.get("charges"),
                largest_charge=_largest(row.get("latent_charges")),
            )
            for row in rows
        ]

    def _alone(self, system: System) -> Answer:
        """One system with an ASE calculator."""
        atoms = system.atoms.copy()
        try:
            atoms.calc = self.subject.calculator(system.charge, system.spin)
            energy = _finite(atoms.get_potential_energy())
            has_charges = "charges" in atoms.calc.implemented_properties
            charges = atoms.get_charges() if has_charges else None
        except ERRORS:
            return Answer()
        return Answer(energy=energy, charges=charges, largest_charge=_largest(charges))


def lowest(system: System) -> int:
    """The multiplicity of a system: as given, or the lowest."""
    if system.spin is not None:
        return system.spin
    return 1 + (int(system.atoms.numbers.sum()) - system.charge) % 2


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings inside: everything here is far from what a model was made for."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _chunks(systems: Sequence[System]) -> Iterator[Sequence[System]]:
    start = 0
    for index, system in enumerate(systems):
        is_large = np.ptp(system.atoms.positions, axis=0).max() > _EXTENT
        if is_large or index - start >= _CHUNK:
            if index > start:
                yield systems[start:index]
            start = index
            if is_large:
                yield systems[index : index + 1]
                start = index + 1
    if start < len(systems):
        yield systems[start:]


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else nan


def _largest(charges: np.ndarray | None) -> float:
    return nan if charges is None else float(np.abs(charges).max())
