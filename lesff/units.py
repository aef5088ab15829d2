"""Physical constants and conversions. Inside lesff: eV, Angstrom, elementary charge.

Values are CODATA 2018 (``scipy.constants`` reproduces them in ``tests/test_units.py``).
"""

from __future__ import annotations

import math

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
"""Bohr radius in A."""

HARTREE = 27.211386245988
"""In eV."""

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
