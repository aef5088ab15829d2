"""Forces of many structures in one call, for algorithms of ASE that ask for one at a time.

Each structure has a calculator of its own that hands out what the last shared call computed. An
algorithm of ASE that is advanced step by step never notices; one that asks for atoms that the last
call did not see gets them, too, computed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ase
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lesff.atoms.structure import Structure
from lesff.errors import LesffError, PropertyError
from lesff.potential.evaluator import Evaluator


class SharedCalculator(Calculator):
    """What the shared call computed for one structure.

    Args:
        batch: The call that is shared.
        place: Place of the structure in it.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, batch: Batch, place: int) -> None:
        super().__init__()
        self._batch = batch
        self._place = place

    def take(self, atoms: ase.Atoms, row: dict[str, Any]) -> None:
        """Keep the results of these atoms."""
        self.atoms = atoms.copy()
        self.results = {"energy": row["energy"], "free_energy": row["energy"]}
        self.results["forces"] = row["forces"]
        if "stress" in row:
            self.results["stress"] = full_3x3_to_voigt_6_stress(row["stress"])

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute atoms that no shared call has seen, alone."""
        if atoms is None:
            raise PropertyError("`atoms` must be given to a calculator of a batch, got None")
        self._batch.compute_one(self._place, atoms, [*(properties or ())])


@dataclass
class _Place:
    atoms: ase.Atoms
    calculator: SharedCalculator
    structure: Structure


class Batch:
    """Structures whose forces are computed together.

    Args:
        evaluator: The model; each place is a trajectory of its own there, with its own neighbours.
        stress: Whether stress is computed with the forces.

    Attributes:
        n_calls: Shared calls so far.
    """

    def __init__(self, evaluator: Evaluator, *, stress: bool = False) -> None:
        self._evaluator = evaluator
        self._names = ["energy", "forces", *(["stress"] if stress else [])]
        self._places: dict[int, _Place] = {}
        self.n_calls = 0

    def put(self, place: int, atoms: ase.Atoms, where: str = "structure") -> None:
        """Place a structure, in place of one that may be there; its calculator is set.

        Args:
            place: Number of the place, from 0.
            atoms: The structure, which algorithms move.
            where: Its name in error messages.

        Raises:
            StructureError, ChargeSpinError: for something that is no usable structure.
        """
        structure = self._evaluator.of_atoms(atoms, where)
        calculator = SharedCalculator(self, place)
        atoms.calc = calculator
        self._places[place] = _Place(atoms, calculator, structure)

    def remove(self, place: int) -> None:
        """Empty a place; its atoms keep what was computed last."""
        del self._places[place]

    def compute(self) -> dict[int, LesffError]:
        """Results of all structures as they are now, in one call.

        Structures that cannot be computed, for atoms that overlap and the like, do not keep the
        others from it.

        Returns:
            Why the structure of a place could not be computed.
        """
        failed: dict[int, LesffError] = {}
        moved: dict[int, Structure] = {}
        for number, place in sorted(self._places.items()):
            try:
                moved[number] = self._moved(place, place.atoms)
            except LesffError as error:
                failed[number] = error
        try:
            rows = dict(zip(moved, self._rows(list(moved.values())), strict=True))
        except LesffError:
            rows = {}
            for number, structure in moved.items():  # which one it is
                try:
                    (rows[number],) = self._rows([structure])
                except LesffError as error:
                    # its place in this call of one means nothing
                    failed[number] = type(error)(str(error).removeprefix("structure 0: "))
        for number, row in rows.items():
            self._places[number].calculator.take(self._places[number].atoms, row)
        return failed

    def compute_one(self, number: int, atoms: ase.Atoms, properties: list[str]) -> None:
        """Results of one structure elsewhere than the shared call saw it."""
        place = self._places[number]
        names = self._names + (["stress"] if "stress" in properties else [])
        structure = self._moved(place, atoms)
        (row,) = self._evaluator.evaluate_batch([structure], sorted(set(names)))
        place.calculator.take(atoms, row)

    def _moved(self, place: _Place, atoms: ase.Atoms) -> Structure:
        return self._evaluator.moved(place.structure, atoms.positions, atoms.cell.array)

    def _rows(self, structures: list[Structure]) -> list[dict[str, Any]]:
        if not structures:
            return []
        self.n_calls += 1
        return self._evaluator.evaluate_batch(structures, self._names)
