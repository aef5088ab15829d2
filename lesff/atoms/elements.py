"""Elements: rows of tables by atomic number, sets of elements, symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from ase.data import chemical_symbols


def symbols(numbers: Sequence[int]) -> str:
    """Chemical symbols of atomic numbers, separated by spaces."""
    return " ".join(chemical_symbols[z] for z in numbers)


class HasNumbers(Protocol):
    """A structure or ASE's atoms."""

    @property
    def numbers(self) -> np.ndarray:
        """(n_atoms,) atomic numbers."""
        ...


def elements_of(*structures: HasNumbers) -> frozenset[int]:
    """Atomic numbers that occur in structures."""
    # of small arrays, a set of Python's numbers is made in a fifth of the time of np.unique
    return frozenset(z for structure in structures for z in structure.numbers.tolist())


NOT_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 53, 54, 86))
"""Elements of molecules, and noble gases."""


def metals_of(elements: Sequence[int]) -> list[int]:
    """Those of some atomic numbers that are metals."""
    return [z for z in elements if z not in NOT_METALS]
