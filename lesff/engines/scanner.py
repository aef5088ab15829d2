"""Scanner: symbols and coordinates in, energy and gradient out, in hartree and bohr.

What programs of quantum chemistry call to optimise geometries and to follow reaction paths::

    scanner = Scanner("off-medium")
    energy, gradient = scanner(["O", "H", "H"], coordinates)
    energy, gradient = scanner(molecule)      # PySCF's Mole, with its charge and spin

The second form is what PySCF asks of a method (``pyscf.geomopt.as_pyscf_method(mol, scanner)``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from lesff.engines.units import UNITS
from lesff.errors import StructureError, UnsupportedInputError
from lesff.model import Model, load

_UNITS = UNITS["atomic"]


class Scanner:
    """Energy and gradient of one molecule after the other.

    Args:
        model: A model or its name.
        dtype: Precision of a model given by name, its own if not given.
        device: Where such a model computes.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`, such as ``total_charge``,
            ``spin_multiplicity``, ``external_field`` (V/A). A PySCF molecule has a charge and a
            spin of its own.

    Attributes:
        evaluator: What computes.
        e_tot: The last energy in hartree, or None.
        converged: True, as programs ask.
    """

    converged = True

    def __init__(
        self,
        model: Model | str | Path,
        *,
        dtype: Any = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        if isinstance(model, (str, Path)):
            model = load(model, dtype=dtype, device=device)
        self.evaluator = model.evaluator(**options)
        self.e_tot: float | None = None
        self._charge = self.evaluator.total_charge
        self._spin = self.evaluator.spin_multiplicity

    def __call__(self, atoms: Any, coordinates: Any = None) -> tuple[float, np.ndarray]:
        """Energy and gradient.

        Args:
            atoms: Symbols or atomic numbers (n_atoms,), or a PySCF molecule.
            coordinates: (n_atoms, 3) in bohr; not given with a PySCF molecule.

        Returns:
            Energy in hartree and its gradient, (n_atoms, 3) in hartree/bohr.

        Raises:
            StructureError, ChargeSpinError, UnsupportedInputError: as
                :meth:`lesff.Model.predict`; also for a periodic PySCF cell.
        """
        charge, spin = self._charge, self._spin
        if coordinates is None:
            atoms, coordinates, charge, spin = _of_pyscf(atoms)
        self.evaluator.total_charge, self.evaluator.spin_multiplicity = charge, spin
        numbers = _numbers(atoms)
        positions = np.asarray(coordinates, dtype=np.float64) * _UNITS.length
        out = self.evaluator(numbers, positions, properties=["energy", "forces"])
        energy = self.e_tot = out["energy"] / _UNITS.energy
        return energy, -out["forces"] / _UNITS.force


def _of_pyscf(molecule: Any) -> tuple[list[str], np.ndarray, int, int | None]:
    """Symbols, coordinates in bohr, charge and multiplicity 2S+1 of a PySCF ``Mole``."""
    needed = ("natm", "atom_pure_symbol", "atom_coords", "charge", "spin")
    if not all(hasattr(molecule, name) for name in needed):
        raise StructureError(
            "a scanner must be called with symbols and coordinates in bohr, or with a PySCF "
            f"molecule, got {type(molecule).__name__} alone"
        )
    if hasattr(molecule, "lattice_vectors"):
        raise UnsupportedInputError(
            "a scanner must be called with a molecule, got a periodic PySCF cell: use the ASE "
            "calculator"
        )
    # not `atom_charges`: those of an effective core potential are smaller
    symbols = [molecule.atom_pure_symbol(i) for i in range(molecule.natm)]
    # PySCF's spin is the number of unpaired electrons, 2S
    spin = None if molecule.spin is None else int(molecule.spin) + 1
    return symbols, np.array(molecule.atom_coords()), int(molecule.charge), spin


def _numbers(atoms: Sequence[Any]) -> np.ndarray:
    """Atomic numbers of symbols or numbers."""
    if isinstance(atoms, str):
        raise StructureError(f"symbols must be a list, such as ['O', 'H', 'H'], got {atoms!r}")
    rows = []
    for index, atom in enumerate(atoms):
        if isinstance(atom, str) and atomic_numbers.get(atom, 0) == 0:
            raise StructureError(f"atom {index} must be the symbol of an element, got {atom!r}")
        rows.append(atomic_numbers[atom] if isinstance(atom, str) else int(atom))
    return np.array(rows, dtype=np.int64)
