"""Constants against scipy.constants (CODATA; the release may be newer than 2018)."""

import math

import pytest
from scipy import constants as c

from lesff import units
from lesff.nn import radial

# scipy >= 1.15 follows CODATA 2022; eps0 and the Bohr radius moved by 7e-10 relative since 2018
RELATIVE = 1e-9


def test_coulomb_constant():
    expected = c.e / (4 * math.pi * c.epsilon_0) / c.angstrom
    assert pytest.approx(expected, rel=RELATIVE) == units.COULOMB_CONSTANT


def test_ewald_prefactor_is_half_inverse_permittivity():
    expected = c.e / (2 * c.epsilon_0) / c.angstrom
    assert pytest.approx(expected, rel=RELATIVE) == units.EWALD_PREFACTOR
    # e^2 / (2 eps0) = 2 pi ke = 90.475641 eV A, from the CODATA constants
    assert pytest.approx(90.475641, abs=5e-7) == units.EWALD_PREFACTOR


def test_vacuum_permittivity():
    expected = c.epsilon_0 * c.angstrom / c.e  # F/m -> e / (V A)
    assert pytest.approx(expected, rel=RELATIVE) == units.VACUUM_PERMITTIVITY


def test_debye():
    # 1 D = 1e-21 C m^2/s / c, by definition
    expected = c.e * c.angstrom / (1e-21 / c.c)
    assert pytest.approx(expected, rel=RELATIVE) == units.EA_TO_DEBYE


def test_dispersion_coefficients():
    expected = c.nano**6 / c.N_A / c.e / c.angstrom**6
    assert pytest.approx(expected, rel=RELATIVE) == units.JOULE_NM6_PER_MOL


def test_pressure():
    assert pytest.approx(c.eV / c.angstrom**3 / 1e9, rel=RELATIVE) == units.EV_PER_A3_TO_GPA


def test_kcal_per_mol():
    expected = c.eV * c.N_A / (1000 * c.calorie)
    assert pytest.approx(expected, rel=RELATIVE) == units.EV_TO_KCAL_PER_MOL


def test_repulsion_constants_are_codata_rounded():
    """Published models carry 0.529 A and 14.3996 eV A; they must not drift from the real ones."""
    bohr = c.physical_constants["Bohr radius"][0] / c.angstrom
    assert pytest.approx(bohr, abs=5e-4) == radial._ZBL_BOHR
    assert pytest.approx(units.COULOMB_CONSTANT, abs=5e-5) == radial._ZBL_COULOMB


def test_units_of_dynamics():
    fs = 1e-15
    assert pytest.approx(c.k / c.e, rel=RELATIVE) == units.BOLTZMANN
    assert pytest.approx(c.c * fs / c.angstrom, rel=RELATIVE) == units.SPEED_OF_LIGHT
    assert pytest.approx(c.hbar / c.e / fs, rel=RELATIVE) == units.HBAR
    # the atomic mass constant moved by 1.4e-9 relative from CODATA 2018 to 2022
    mass = c.atomic_mass / c.e * (c.angstrom / fs) ** 2
    assert pytest.approx(mass, rel=2 * RELATIVE) == units.DALTON
    conductivity = c.e / (c.angstrom * fs)  # e^2 / (eV A fs), e / V per A and fs
    assert pytest.approx(conductivity, rel=RELATIVE) == units.CONDUCTIVITY_TO_S_PER_M
