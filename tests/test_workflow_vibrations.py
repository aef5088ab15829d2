"""Vibrations: as ASE finds them by displacements, water as measured."""

from __future__ import annotations

import json
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.thermochemistry import IdealGasThermo
from ase.vibrations.data import VibrationsData
from ase.vibrations.infrared import Infrared
from click.testing import CliRunner

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, ConvergenceError
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.workflows.vibrations import VibrationsResult, _thermochemistry, rigid_modes, vibrations

HARMONIC = (1648.47, 3832.17, 3942.53)
"""Water, 1/cm: Benedict, Gailar, Plyler, J. Chem. Phys. 24, 1139 (1956)."""
ENTROPY = 188.835
"""Water vapour at 298.15 K and 1 bar, J/(mol K): CODATA key values (Cox, Wagman, Medvedev 1989)."""


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("off-small", dtype="float64")


@pytest.fixture(scope="module")
def water(model) -> VibrationsResult:
    return vibrations(model, molecule("H2O"), symmetry_number=2, pressure=1e5)


def test_modes_and_intensities_are_those_of_ase(model, water, tmp_path: Path):
    atoms = water.atoms.copy()
    atoms.calc = model.calculator()
    alone = Infrared(atoms, name=str(tmp_path / "ir"), delta=0.005)
    alone.run()
    # central differences of ASE: h^2/6 of the fourth derivative, some 1/cm
    np.testing.assert_allclose(water.frequencies[6:], alone.get_frequencies()[6:].real, atol=3.0)
    np.testing.assert_allclose(
        water.intensities[6:], 42.255 * alone.intensities[6:], rtol=0.01, atol=0.1
    )


def test_the_imaginary_mode_of_a_saddle_point_is_left_out(water):
    """Entropy is that of the other modes, with or without slow rotations left in the Hessian."""
    n = len(water.atoms)
    rigid = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    def entropy(frequencies):
        """Of a molecule at whose modes a Hessian with these wave numbers (1/cm) arrives."""
        rng = np.random.default_rng(0)
        basis, _ = np.linalg.qr(rng.normal(size=(3 * n, 3 * n)))
        masses = np.repeat(water.atoms.get_masses(), 3)
        values = np.sign(frequencies) * (np.array(frequencies) * units.invcm) ** 2
        scale = units._hbar * units.m * np.sqrt(units._e / units._amu) / units._e
        hessian = (basis * values / scale**2) @ basis.T * np.sqrt(np.outer(masses, masses))
        data = VibrationsData.from_2d(water.atoms, hessian)
        return _thermochemistry(data, 0.0, 298.15, 1e5, 2)

    saddle = entropy([-1000.0, *rigid, 3700.0, 3800.0])
    minimum = entropy([*rigid, 1600.0, 3700.0, 3800.0])
    assert saddle.n_imaginary == 1
    assert minimum.n_imaginary == 0
    # the mode of 1,600 1/cm has 0.3 J/(mol K) at 298 K, a rotation of 6 1/cm would have 38
    difference = (saddle.entropy - minimum.entropy) * units.mol / units.J
    assert difference == pytest.approx(0.0, abs=0.5)
    assert saddle.zero_point == pytest.approx(0.5 * 7500.0 * units.invcm, rel=1e-6)


def test_water_as_measured(water):
    # what off-small is good for: 4 % of a harmonic frequency
    np.testing.assert_allclose(water.frequencies[6:], HARMONIC, rtol=0.04)
    assert np.abs(water.frequencies[:6]).max() < 20.0  # translations and rotations
    # rotation and translation dominate: 0.5 %
    joule = water.thermochemistry.entropy * units.mol / units.J
    assert joule == pytest.approx(ENTROPY, rel=0.005)


def test_thermochemistry_is_that_of_ase(water):
    found = water.thermochemistry
    gas = IdealGasThermo(
        water.frequencies[6:] * units.invcm, "nonlinear", water.energy, water.atoms, 2, 0.0
    )
    assert found.kind == "ideal gas"
    assert found.free_energy == pytest.approx(gas.get_gibbs_energy(298.15, 1e5, verbose=False))
    assert found.enthalpy == pytest.approx(gas.get_enthalpy(298.15, verbose=False))
    assert found.zero_point == pytest.approx(
        0.5 * units.invcm * water.frequencies[6:].sum(), rel=1e-6
    )


def test_fixed_atoms_do_not_vibrate(model):
    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    found = vibrations(model, atoms)
    assert len(found.frequencies) == 6
    assert found.thermochemistry.kind == "harmonic"
    assert found.n_rigid == 0
    np.testing.assert_array_equal(found.data.get_modes(all_atoms=True)[:, 0], 0.0)


def test_rigid_modes():
    assert rigid_modes(molecule("CO2")) == 5
    assert rigid_modes(molecule("H2O")) == 6
    assert rigid_modes(ase.Atoms("Ar")) == 3
    assert rigid_modes(crystal(SOLIDS["MgO"])) == 3


def test_slab_has_modes_but_no_intensities():
    slab = crystal(SOLIDS["MgO"], conventional=True)
    slab.center(vacuum=4.0, axis=2)
    slab.pbc = [True, True, False]
    found = vibrations(lesff.load("mat-small", dtype="float64"), slab, relaxes=False)
    assert found.intensities is None
    assert len(found.frequencies) == 24


@pytest.mark.filterwarnings("ignore:born_effective_charges of mat-small")
def test_crystal_has_three_rigid_modes():
    model = lesff.load("mat-small", dtype="float64")
    found = vibrations(model, crystal(SOLIDS["MgO"]), relaxes=False)
    order = np.argsort(np.abs(found.frequencies))
    # translations cost nothing; the three transverse optical modes are one by symmetry
    assert np.abs(found.frequencies[order[:3]]).max() < 1.0
    np.testing.assert_allclose(found.frequencies[order[3:]], found.frequencies[-1], rtol=1e-5)
    assert found.thermochemistry.kind == "harmonic"


def test_command(tmp_path: Path):
    write(tmp_path / "in.extxyz", molecule("H2O"))
    output = tmp_path / "out"
    line = ["vibrations", str(tmp_path / "in.extxyz"), "-m", "off-small", "-o", str(output)]
    first = CliRunner().invoke(main, line)
    assert first.exit_code == 0, first.output
    report = json.loads((output / "vibrations.json").read_text())
    assert report["vibrations"] == [6, 7, 8]
    modes = read(output / "modes.extxyz", index=":")
    assert modes[8].info["frequency_cm-1"] == pytest.approx(report["frequencies_per_cm"][8])
    assert sorted(path.name for path in (output / "modes").iterdir()) == [
        "mode_0006.traj", "mode_0007.traj", "mode_0008.traj",
    ]  # fmt: skip
    assert len(read(output / "modes" / "mode_0008.traj", index=":")) == 20
    # temperature alone: nothing is differentiated again
    stamp = (output / "hessian.npz").stat().st_mtime_ns
    again = CliRunner().invoke(main, [*line, "--temperature", "500"])
    assert again.exit_code == 0, again.output
    assert (output / "hessian.npz").stat().st_mtime_ns == stamp
    hotter = json.loads((output / "vibrations.json").read_text())["thermochemistry"]
    assert hotter["entropy"] > report["thermochemistry"]["entropy"]


def test_bad_options_are_refused(model):
    with pytest.raises(ConfigError, match="`symmetry_number` must be at least 1, got 0"):
        vibrations(model, molecule("H2O"), symmetry_number=0)
    overlapping = ase.Atoms("H2", positions=np.zeros((2, 3)))
    with pytest.raises(ConvergenceError, match="must have a minimum with forces below 0.001"):
        vibrations(model, overlapping)
