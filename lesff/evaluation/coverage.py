"""What a method covers and gives, asked with atoms."""

from __future__ import annotations

import ase
import numpy as np

from lesff.methods import Method


def require(subject: Method, atoms: ase.Atoms, charge: int = 0, spin: int | None = None) -> str:
    """Why atoms are not covered; empty if they are."""
    # electrons of a cell say nothing of the spin of a crystal
    spin = 1 if spin is None and atoms.pbc.all() else spin
    return subject.lacks(atoms.numbers.tolist(), charge, spin)


def dipole_of(subject: Method, atoms: ase.Atoms) -> float:
    """Size of the dipole of a neutral molecule, e A."""
    copy = atoms.copy()
    copy.calc = subject.calculator()
    return float(np.linalg.norm(copy.get_dipole_moment()))


def has_dipole(subject: Method) -> bool:
    """Whether a method gives dipoles."""
    return "dipole" in subject.calculator().implemented_properties
