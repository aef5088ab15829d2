"""Phonons: phonopy's from the same forces, salt and magnesia as measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ase
import numpy as np
import phonopy
import pytest
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, MissingDependencyError, UnsupportedInputError
from lesff.evaluation.checks.solids import BORN, SOLIDS, crystal
from lesff.spectra.lo_to import non_analytic_term
from lesff.units import COULOMB_CONSTANT, DALTON
from lesff.workflows.phonons import (
    THZ_TO_PER_CM,
    PhononOptions,
    PhononResult,
    phonons,
    screening,
)

KITTEL = (164.6, 265.4)
"""Transverse and longitudinal optical modes of NaCl, 1/cm: 3.1e13 and 5.0e13 rad/s in Kittel,
Introduction to Solid State Physics, 8th ed. (2005), polaritons."""
ENTROPY = 26.95
"""MgO at 298.15 K, J/(K mol): CODATA key values (Cox, Wagman, Medvedev 1989)."""


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("mat-medium", dtype="float64")


@pytest.fixture(scope="module")
def salt(model) -> PhononResult:
    options = PhononOptions(dielectric=BORN["NaCl"][1], supercell=(2, 2, 2), mesh=30.0)
    return phonons(model, crystal(SOLIDS["NaCl"]), options)


def at(phonon: Any, point: list[float]) -> np.ndarray:
    """Frequencies at a point of the zone, THz."""
    return phonon.run_qpoints([point]).frequencies[0].copy()


def test_frequencies_are_phonopys_from_the_calculators_forces(model, salt):
    alone = phonopy.Phonopy(salt.phonon.unitcell, np.diag([2, 2, 2]), primitive_matrix="auto")
    alone.generate_displacements(distance=0.01)
    forces = []
    for cell in alone.supercells_with_displacements or []:
        atoms = ase.Atoms(
            cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True
        )
        atoms.calc = model.calculator()
        forces.append(atoms.get_forces())
    alone.forces = forces
    alone.produce_force_constants()
    alone.symmetrize_force_constants()
    point = [0.3, 0.1, 0.2]
    plain = salt.phonon.replicate()
    plain.force_constants = salt.phonon.force_constants
    np.testing.assert_allclose(at(plain, point), at(alone, point), atol=1e-6)


def test_splitting_is_that_of_the_non_analytic_term(salt):
    primitive = salt.phonon.primitive
    direction = np.linalg.inv(primitive.cell)[:, 0]
    added = non_analytic_term(
        direction, salt.born, salt.dielectric, primitive.masses,
        abs(np.linalg.det(primitive.cell)),
    )  # fmt: skip
    # 1/fs^2 to THz^2
    shift = np.linalg.eigvalsh(added).max() / DALTON * (1e3 / (2.0 * np.pi)) ** 2
    assert salt.longitudinal[-1] ** 2 - salt.gamma[-1] ** 2 == pytest.approx(shift, rel=1e-4)
    np.testing.assert_allclose(salt.longitudinal[3:5], salt.gamma[3:5], rtol=1e-6)


def test_salt_as_measured(salt):
    # what mat-medium is good for: 20 % of a phonon frequency
    assert THZ_TO_PER_CM * salt.gamma[-1] == pytest.approx(KITTEL[0], rel=0.2)
    assert THZ_TO_PER_CM * salt.longitudinal[-1] == pytest.approx(KITTEL[1], rel=0.2)
    assert salt.minimum_frequency > -0.05


def test_charges_of_the_model_are_screened(model, salt):
    """``Z* = sqrt(eps_inf) Z_latent`` (arXiv 2504.05169): the splitting of a cubic crystal is
    ``4 pi ke Z_latent^2 / (V mu)`` and knows nothing of eps_inf."""
    cell = salt.phonon.primitive
    atoms = ase.Atoms(
        cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True
    )
    latent = model.predict(atoms, "born_effective_charges").born_effective_charges
    np.testing.assert_allclose(salt.born, BORN["NaCl"][1] ** 0.5 * latent, atol=1e-6)
    mass = 1.0 / np.sum(1.0 / cell.masses)
    shift = 4.0 * np.pi * COULOMB_CONSTANT * latent[0, 0, 0] ** 2 / (atoms.get_volume() * mass)
    shift *= (1e3 / (2.0 * np.pi)) ** 2 / DALTON  # 1/fs^2 to THz^2
    assert salt.longitudinal[-1] ** 2 - salt.gamma[-1] ** 2 == pytest.approx(shift, rel=1e-4)


def test_what_the_dipoles_of_a_model_screen_is_not_screened_again():
    """With eps_inf from induced dipoles alone, its charges are those of nature."""
    own = np.diag([2.0, 2.0, 3.5])
    assert screening(2.5 * np.eye(3)) == pytest.approx(2.5)
    assert screening(own, own) == pytest.approx(1.0)
    assert screening(5.0 * np.eye(3), own) == pytest.approx(2.0)


def test_measured_charges_in_place_of_the_models(model, tmp_path: Path):
    from lesff.spectra.lo_to import write_born

    charge, eps = BORN["NaCl"]
    born = charge * np.array([1.0, -1.0])[:, None, None] * np.eye(3)
    write_born(tmp_path / "BORN", born, eps * np.eye(3))
    options = PhononOptions(born_file=tmp_path / "BORN", supercell=(2, 2, 2), mesh=20.0)
    found = phonons(model, crystal(SOLIDS["NaCl"]), options)
    squares = (THZ_TO_PER_CM * found.longitudinal[-1]) ** 2 - (THZ_TO_PER_CM * found.gamma[-1]) ** 2
    # of the measured charge the splitting is the measured one, up to the volume
    assert squares == pytest.approx(KITTEL[1] ** 2 - KITTEL[0] ** 2, rel=0.15)


def test_entropy_of_magnesia():
    model = lesff.load("mat-small", dtype="float64")
    options = PhononOptions(nac=False, supercell=(3, 3, 3), temperatures=(298.15,))
    found = phonons(model, crystal(SOLIDS["MgO"]), options)
    # mat-small is soft: its entropy may lie 15 % above
    assert found.thermal["entropy"][0] == pytest.approx(ENTROPY, rel=0.15)
    assert found.longitudinal is None


@pytest.mark.filterwarnings("ignore:born_effective_charges of mat-small")
def test_command(tmp_path: Path):
    write(tmp_path / "in.extxyz", crystal(SOLIDS["MgO"]))
    output = tmp_path / "out"
    line = ["phonons", str(tmp_path / "in.extxyz"), "-m", "mat-small", "-o", str(output)]
    line += ["--supercell", "2", "2", "2"]
    first = CliRunner().invoke(main, line)
    assert first.exit_code == 1
    assert "give `--dielectric EPS`, or leave the field out" in first.output
    line += ["--dielectric", "2.95"]
    second = CliRunner().invoke(main, line)
    assert second.exit_code == 0, second.output
    report = json.loads((output / "phonons.json").read_text())
    assert report["is_stable"]
    assert len(report["gamma_per_cm"]) == 6
    again = phonopy.load(output / "phonopy_params.yaml")
    np.testing.assert_allclose(
        THZ_TO_PER_CM * at(again, [0, 0, 0]), report["gamma_per_cm"], atol=1e-2
    )
    assert (output / "bands.png").stat().st_size > 0
    stamp = (output / "forces_00000.npz").stat().st_mtime_ns
    assert CliRunner().invoke(main, line).exit_code == 0
    assert (output / "forces_00000.npz").stat().st_mtime_ns == stamp


def test_what_cannot_be_is_refused(model, monkeypatch):
    with pytest.raises(ConfigError, match="`dielectric` must be given"):
        phonons(model, crystal(SOLIDS["NaCl"]))
    with pytest.raises(ConfigError, match=r"must have a crystal, periodic in three directions"):
        phonons(model, molecule("H2O"))
    with pytest.raises(ConfigError, match="with values from 1, got 0.5"):
        PhononOptions(dielectric=0.5)
    with pytest.raises(ConfigError, match="`dielectric` must be left out without `nac`"):
        PhononOptions(dielectric=5.0, nac=False)
    with pytest.raises(ConfigError, match="`born_file` has its own"):
        PhononOptions(dielectric=5.0, born_file=Path("BORN"))
    charged = crystal(SOLIDS["NaCl"])
    charged.info["charge"] = 1
    with pytest.raises(UnsupportedInputError, match="phonons need a neutral crystal"):
        phonons(model, charged)
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "lesff\[workflows\]"'):
        phonons(model, crystal(SOLIDS["NaCl"]))
