"""Normal modes against closed forms and against the zero-point energies of the evaluation."""

import ase
import numpy as np
import pytest
from ase.build import molecule
from scipy import constants

import lesff
from lesff.errors import DataError
from lesff.evaluation.relaxation import relaxed, zero_point_energy
from lesff.spectra.normal_modes import KM_PER_MOL, normal_modes

K = 30.0
"""Of a spring, eV/A^2."""


def diatomic(direction: np.ndarray) -> np.ndarray:
    """Hessian of a spring between two atoms, at rest along a direction."""
    block = K * np.outer(direction, direction)
    return np.block([[block, -block], [-block, block]]).reshape(2, 3, 2, 3)


def test_a_diatomic_molecule_is_a_spring():
    axis = np.array([1.0, 2.0, -2.0]) / 3.0
    masses = np.array([12.011, 15.999])
    born = np.array([0.5 * np.eye(3), -0.5 * np.eye(3)])
    modes = normal_modes(diatomic(axis), masses, np.array([0.0 * axis, 1.13 * axis]), born=born)
    reduced = masses.prod() / masses.sum()
    # omega = sqrt(k / mu), in SI
    omega = np.sqrt(K * constants.e * 1e20 / (reduced * constants.atomic_mass))
    wavenumber = omega / (2.0 * np.pi * constants.c) / 100.0
    assert modes.wavenumbers == pytest.approx([wavenumber], rel=1e-8)
    # d mu / dQ = 0.5 e / sqrt(mu)
    assert modes.intensities == pytest.approx([KM_PER_MOL * 0.25 / reduced], rel=1e-10)
    assert abs(modes.displacements[0, 0] @ axis) > abs(modes.displacements[0, 1] @ axis)


def test_the_unit_of_intensities():
    """``N_A e^2 / (12 eps0 c^2 u)`` in km/mol."""
    si = constants.N_A * constants.e**2 / constants.atomic_mass
    si /= 12.0 * constants.epsilon_0 * constants.c**2
    assert pytest.approx(si / 1e3, rel=1e-5) == KM_PER_MOL


def test_modes_of_molecules_add_up_to_the_zero_point_energy():
    model = lesff.load("off-small", dtype="float64")
    for name, n_free in (("H2O", 6), ("C2H2", 5)):
        atoms = relaxed(molecule(name), model.calculator(), fmax=1e-4)
        found = model.predict(atoms, ["hessian", "born_effective_charges"])
        modes = normal_modes(
            found.hessian, atoms.get_masses(), atoms.positions, born=found.born_effective_charges
        )
        assert len(modes.wavenumbers) == 3 * len(atoms) - n_free
        cm = constants.h * constants.c * 100.0 / constants.e  # 1/cm in eV
        assert 0.5 * cm * modes.wavenumbers.sum() == pytest.approx(
            zero_point_energy(atoms), rel=1e-3
        )
    # acetylene has a centre of inversion: of its seven modes the two trans bendings and the two
    # symmetric stretchings are not infrared active
    assert np.count_nonzero(modes.intensities < 1e-3 * modes.intensities.max()) == 4


def test_turning_a_molecule_changes_nothing():
    model = lesff.load("off-small", dtype="float64")
    found = []
    for angle in (0.0, 40.0):
        atoms = molecule("H2O")
        atoms.rotate(angle, "x")
        one = model.predict(atoms, ["hessian", "born_effective_charges"])
        modes = normal_modes(
            one.hessian, atoms.get_masses(), atoms.positions, born=one.born_effective_charges
        )
        found.append(np.concatenate([modes.wavenumbers, modes.intensities]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_crystals_keep_their_librations():
    """Only translations are free where images hold a molecule."""
    rng = np.random.default_rng(1)
    half = rng.normal(size=(6, 6))
    modes = normal_modes(
        (half @ half.T).reshape(2, 3, 2, 3), np.ones(2), np.eye(3)[:2], is_periodic=True
    )
    assert len(modes.wavenumbers) == 3


def test_arrays_must_belong_together():
    atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    with pytest.raises(DataError, match=r"`hessian` must be \(2, 3, 2, 3\)"):
        normal_modes(np.zeros((1, 3, 1, 3)), atoms.get_masses(), atoms.positions)
    with pytest.raises(DataError, match=r"`born` must be \(2, 3, 3\)"):
        normal_modes(
            np.zeros((2, 3, 2, 3)), atoms.get_masses(), atoms.positions, born=np.zeros((1, 3, 3))
        )
