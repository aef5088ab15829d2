"""Physical constants and conversions. Inside lesff: eV, Angstrom, elementary charge.

Values are CODATA 2018 (``scipy.constants`` reproduces them in ``tests/test_units.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesff.errors import PropertyError

COULOMB_CONSTANT = 14.3996454784
"""e^2 / (4 pi eps0) in eV A / e^2."""

EWALD_PREFACTOR = 2.0 * math.pi * COULOMB_CONSTANT
"""2 pi ke = 1 / (2 eps0) = 90.4756 eV A / e^2, in front of the sum over the whole k sphere."""

VACUUM_PERMITTIVITY = 1.0 / (4.0 * math.pi * COULOMB_CONSTANT)
"""eps0 = 5.526e-3 e / (V A)."""

EA_TO_DEBYE = 4.803204712570263
"""1 e A in Debye."""

EV_PER_A3_TO_GPA = 160.2176634
"""1 eV / A^3 in GPa."""

EV_TO_KCAL_PER_MOL = 23.060547830619026
"""1 eV in kcal / mol."""

BOHR = 0.529177210903
"""1 bohr in A."""

HARTREE = 27.211386245988
"""1 hartree in eV."""

BOLTZMANN = 8.617333262145179e-5
"""k_B in eV / K."""

SPEED_OF_LIGHT = 2997.92458
"""c in A / fs."""

HBAR = 0.6582119569509067
"""Reduced Planck constant in eV fs."""

DALTON = 103.64269652680505
"""1 u in eV fs^2 / A^2."""

CONDUCTIVITY_TO_S_PER_M = 1.602176634e6
"""1 e^2 / (eV A fs) in S / m: e / (1e-10 m x 1e-15 s)."""

JOULE_NM6_PER_MOL = 10.364269656262173
"""1 J nm^6 / mol in eV A^6, the unit of tables of dispersion coefficients."""


@dataclass(frozen=True)
class Unit:
    """A unit that results can be given in.

    Attributes:
        base: The unit of :data:`lesff.quantities.QUANTITIES` that it replaces.
        factor: Values in this unit for 1 in the other.
    """

    base: str
    factor: float


_EV_TO_J = 1.602176634e-19

UNITS: dict[str, Unit] = {
    # energies
    "ev": Unit("eV", 1.0),
    "mev": Unit("eV", 1e3),
    "hartree": Unit("eV", 1.0 / HARTREE),
    "rydberg": Unit("eV", 2.0 / HARTREE),
    "kcal/mol": Unit("eV", EV_TO_KCAL_PER_MOL),
    "kj/mol": Unit("eV", 4.184 * EV_TO_KCAL_PER_MOL),
    "j": Unit("eV", _EV_TO_J),
    # forces
    "ev/a": Unit("eV/A", 1.0),
    "mev/a": Unit("eV/A", 1e3),
    "hartree/bohr": Unit("eV/A", BOHR / HARTREE),
    "kcal/mol/a": Unit("eV/A", EV_TO_KCAL_PER_MOL),
    "kj/mol/nm": Unit("eV/A", 41.84 * EV_TO_KCAL_PER_MOL),
    "nn": Unit("eV/A", 1e19 * _EV_TO_J),
    # second derivatives
    "ev/a^2": Unit("eV/A^2", 1.0),
    "hartree/bohr^2": Unit("eV/A^2", BOHR**2 / HARTREE),
    "kcal/mol/a^2": Unit("eV/A^2", EV_TO_KCAL_PER_MOL),
    "n/m": Unit("eV/A^2", 1e20 * _EV_TO_J),
    # stresses
    "ev/a^3": Unit("eV/A^3", 1.0),
    "gpa": Unit("eV/A^3", EV_PER_A3_TO_GPA),
    "mpa": Unit("eV/A^3", 1e3 * EV_PER_A3_TO_GPA),
    "kbar": Unit("eV/A^3", 1e1 * EV_PER_A3_TO_GPA),
    "bar": Unit("eV/A^3", 1e4 * EV_PER_A3_TO_GPA),
    "atm": Unit("eV/A^3", 1e9 * EV_PER_A3_TO_GPA / 101325.0),
    # charges
    "e": Unit("e", 1.0),
    "coulomb": Unit("e", _EV_TO_J),
    # dipoles
    "e*a": Unit("e*A", 1.0),
    "debye": Unit("e*A", EA_TO_DEBYE),
    "e*bohr": Unit("e*A", 1.0 / BOHR),
    "c*m": Unit("e*A", 1e-10 * _EV_TO_J),
    # quadrupoles
    "e*a^2": Unit("e*A^2", 1.0),
    "debye*a": Unit("e*A^2", EA_TO_DEBYE),
    "buckingham": Unit("e*A^2", EA_TO_DEBYE),
    "e*bohr^2": Unit("e*A^2", 1.0 / BOHR**2),
    # polarizabilities; as a volume alpha / (4 pi eps0)
    "e*a^2/v": Unit("e*A^2/V", 1.0),
    "a^3": Unit("e*A^2/V", COULOMB_CONSTANT),
    "bohr^3": Unit("e*A^2/V", HARTREE / BOHR**2),
}
"""Units by name in lower case."""

_ALIASES = {
    "ha": "hartree", "eh": "hartree", "ry": "rydberg", "d": "debye", "c": "coulomb",
    "ea": "e*a", "ha/bohr": "hartree/bohr", "eh/bohr": "hartree/bohr",
    "ha/bohr^2": "hartree/bohr^2", "eh/bohr^2": "hartree/bohr^2",
}  # fmt: skip


def find_unit(name: str) -> tuple[str, Unit]:
    """A unit by its name: case, spaces and the sign of angstrom do not matter.

    >>> find_unit("Debye")[1].base
    'e*A'

    Returns:
        Its name in :data:`UNITS`, and the unit.

    Raises:
        PropertyError: if there is none of this name.
    """
    lower = name.strip().lower().replace(" ", "").replace("å", "a").replace("angstrom", "a")
    lower = lower.replace("**", "^").replace("\N{MIDDLE DOT}", "*")
    key = _ALIASES.get(lower, lower)
    if key not in UNITS:
        known: dict[str, list[str]] = {}
        for other, unit in UNITS.items():
            known.setdefault(unit.base, []).append(other)
        text = "; ".join(f"for {base}: {', '.join(names)}" for base, names in known.items())
        raise PropertyError(f"unknown unit {name!r}; known are, {text}")
    return key, UNITS[key]
