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
