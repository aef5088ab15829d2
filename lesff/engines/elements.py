"""Atom types of an engine -> atomic numbers that the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from lesff.atoms.elements import symbols
from lesff.errors import UnsupportedInputError

_MASS_TOLERANCE = 0.1
"""u: tables of standard masses agree within this; isotopes differ by 1."""


def numbers_of_types(
    elements: Sequence[str] | Mapping[int, str], n_types: int, known: Sequence[int]
) -> np.ndarray:
    """Atomic numbers of the types 1..n_types, (n_types,) int64.

    Args:
        elements: One symbol for each type, in order, or a dictionary from type to symbol.
        n_types: Number of types.
        known: Atomic numbers that the model knows.

    Raises:
        UnsupportedInputError: for another number of symbols, something that is no symbol, and
            elements that the model does not know; naming the type.
    """
    if isinstance(elements, str):
        elements = elements.split()
    if not isinstance(elements, Mapping):
        elements = dict(enumerate(elements, start=1))
    if sorted(elements) != list(range(1, n_types + 1)):
        raise UnsupportedInputError(
            f"`elements` must name one element for each of the {n_types} atom types, got "
            f"{dict(elements)}"
        )
    numbers = []
    for kind in range(1, n_types + 1):
        symbol = elements[kind]
        number = atomic_numbers.get(symbol, 0) if isinstance(symbol, str) else 0
        if number == 0:
            raise UnsupportedInputError(
                f"`elements`: type {kind} must be the symbol of an element, got {symbol!r}"
            )
        if number not in known:
            raise UnsupportedInputError(
                f"`elements`: type {kind} is {symbol}, but the model covers {symbols(known)} only"
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def elements_of_masses(masses: Sequence[float], known: Sequence[int]) -> list[str]:
    """Elements that have these masses.

    Args:
        masses: In u, one for each type.
        known: Atomic numbers that the model knows.

    Raises:
        UnsupportedInputError: naming a type whose mass is that of no element, or of none that the
            model knows.
    """
    found = []
    for kind, mass in enumerate(masses, start=1):
        number = int(np.abs(atomic_masses - mass).argmin())
        near = [z for z in known if abs(atomic_masses[z] - mass) < _MASS_TOLERANCE]
        if len(near) != 1:
            is_known_mass = abs(atomic_masses[number] - mass) < _MASS_TOLERANCE
            what = f"that of {chemical_symbols[number]}" if is_known_mass else "that of no element"
            raise UnsupportedInputError(
                f"the mass {mass:g} of atom type {kind} is {what}, and the model covers "
                f"{symbols(known)}: name the element of each type with `elements` (`lesff lammps "
                "--elements`)"
            )
        found.append(chemical_symbols[near[0]])
    return found
