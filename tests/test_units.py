"""Constants against scipy.constants (CODATA; the release may be newer than 2018)."""

import math

import pytest
from scipy import constants as c

from lesff import units
from lesff.nn import radial
from lesff.quantities import QUANTITIES
from lesff.units import Unit, find_unit

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


@pytest.mark.parametrize(
    ("name", "base", "value"),
    [
        ("hartree", "eV", 1 / c.value("Hartree energy in eV")),
        ("kJ/mol", "eV", c.e * c.N_A / 1e3),
        ("rydberg", "eV", 1 / c.value("Rydberg constant times hc in eV")),
        ("nN", "eV/A", c.e * 1e10 * 1e9),
        ("kJ/mol/nm", "eV/A", c.e * c.N_A / 1e3 * 10),
        ("N/m", "eV/A^2", c.e * 1e20),
        ("GPa", "eV/A^3", c.e * 1e30 / 1e9),
        ("bar", "eV/A^3", c.e * 1e30 / 1e5),
        ("atm", "eV/A^3", c.e * 1e30 / c.atm),
        ("debye", "e*A", c.e * 1e-10 * c.c * 1e21),
        ("C*m", "e*A", c.e * 1e-10),
        ("e*bohr", "e*A", 1e-10 / c.value("Bohr radius")),
        ("A^3", "e*A^2/V", c.e * 1e-20 / (4 * math.pi * c.epsilon_0) * 1e30),
        (
            "bohr^3",
            "e*A^2/V",
            c.e * 1e-20 / c.value("atomic unit of electric polarizability"),
        ),
    ],
)
def test_units_of_results(name, base, value):
    """Units that results can be given in, from the constants of CODATA."""
    _, unit = find_unit(name)
    assert unit.base == base
    assert unit.factor == pytest.approx(value, rel=2e-9)


def test_every_quantity_has_its_own_unit_in_the_table():
    for row in QUANTITIES.values():
        if row.unit != "1":
            assert find_unit(row.unit)[1] == Unit(row.unit, 1.0)
