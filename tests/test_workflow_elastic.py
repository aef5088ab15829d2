"""Equations of state and elastic constants: magnesia as measured, each against the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.eos import EquationOfState
from ase.io import write
from click.testing import CliRunner
from pymatgen.analysis.elasticity.elastic import ElasticTensor

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, ConvergenceError
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.evaluation.checks.solids import equation_of_state as one_by_one
from lesff.units import EV_PER_A3_TO_GPA
from lesff.workflows.elastic import ElasticOptions, ElasticResult, elastic_constants
from lesff.workflows.eos import EosOptions, EosResult, equation_of_state

MAGNESIA = (297.9, 95.8)
"""C11 and C12 of MgO, GPa: Sinogeikin, Bass, Phys. Earth Planet. Inter. 120, 43 (2000)."""


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("mat-small", dtype="float64")


@pytest.fixture(scope="module")
def eos(model) -> EosResult:
    return equation_of_state(model, crystal(SOLIDS["MgO"]))


@pytest.fixture(scope="module")
def elastic(model) -> ElasticResult:
    return elastic_constants(model, crystal(SOLIDS["MgO"]))


def test_fit_is_that_of_ase(model, eos):
    energies = []
    for volume in eos.volumes:
        atoms = eos.atoms.copy()
        factor = (volume / atoms.get_volume()) ** (1.0 / 3.0)
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        atoms.calc = model.calculator()
        energies.append(atoms.get_potential_energy())
    np.testing.assert_allclose(eos.energies, energies, atol=1e-9)
    volume, energy, modulus = EquationOfState(eos.volumes, energies, "birchmurnaghan").fit()
    assert eos.volume == pytest.approx(volume, rel=1e-6)
    assert eos.energy == pytest.approx(energy, abs=1e-6)
    assert eos.bulk_modulus == pytest.approx(modulus * EV_PER_A3_TO_GPA, rel=1e-4)
    # the check of the suite, which looks for the minimum by itself
    a, other = one_by_one(SOLIDS["MgO"], model.calculator())
    assert (4.0 * eos.volume) ** (1.0 / 3.0) == pytest.approx(a, rel=1e-4)
    assert eos.bulk_modulus == pytest.approx(other, rel=0.01)


def test_magnesia_as_measured(eos, elastic):
    # the table of solids has its sources; what mat-small is good for: 1 %, 10 %
    assert (4.0 * eos.volume) ** (1.0 / 3.0) == pytest.approx(SOLIDS["MgO"].a, rel=0.01)
    assert eos.bulk_modulus == pytest.approx(SOLIDS["MgO"].bulk_modulus, rel=0.1)
    np.testing.assert_allclose(elastic.constants[0, :2], MAGNESIA, rtol=0.1)
    assert elastic.is_stable


def test_both_find_one_bulk_modulus(eos, elastic):
    # stresses against energies; the fits reach to different strains
    assert elastic.bulk[2] == pytest.approx(eos.bulk_modulus, rel=0.01)
    assert elastic.bulk[0] == pytest.approx(elastic.bulk[1])  # cubic
    assert elastic.shear[0] > elastic.shear[1]


def test_constants_are_slopes_of_the_calculators_stress(model, elastic):
    atoms, slopes = elastic.atoms.copy(), []
    for strain in (-1e-3, 1e-3):
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ np.diag([1.0 + strain, 1.0, 1.0]), scale_atoms=True)
        copy.calc = model.calculator()
        slopes.append(EV_PER_A3_TO_GPA * copy.get_stress()[:2])
    c11, c12 = (slopes[1] - slopes[0]) / 2e-3
    assert elastic.constants[0, 0] == pytest.approx(c11, rel=0.01)
    assert elastic.constants[0, 1] == pytest.approx(c12, rel=0.01)


def test_averages_are_those_of_pymatgen_and_symmetry_holds(elastic):
    again = ElasticTensor.from_voigt(elastic.constants)
    assert again.k_vrh == pytest.approx(elastic.bulk[2])
    assert again.g_vrh == pytest.approx(elastic.shear[2])
    c = elastic.constants
    np.testing.assert_allclose(c, c.T, atol=1e-9)
    np.testing.assert_allclose(np.diag(c), np.repeat([c[0, 0], c[3, 3]], 3), rtol=1e-9)
    # cubic: C11 + 2 C12, C11 - C12 and 2 C44 in Mandel's form
    expected = [c[0, 0] + 2 * c[0, 1], *2 * [c[0, 0] - c[0, 1]], *3 * [2 * c[3, 3]]]
    np.testing.assert_allclose(elastic.eigenvalues, np.sort(expected))


def test_clamped_ions_are_stiffer_where_ions_can_move(model):
    start = bulk("ZnS", "zincblende", a=SOLIDS["ZnS"].a)
    relaxed = elastic_constants(model, start)
    clamped = elastic_constants(model, start, ElasticOptions(relaxes_atoms=False))
    # the internal strain of zincblende lowers C44 only
    assert clamped.constants[3, 3] > relaxed.constants[3, 3] + 1.0
    assert clamped.constants[0, 0] == pytest.approx(relaxed.constants[0, 0], rel=0.01)


@pytest.mark.parametrize(("command", "key"), [("eos", "bulk_modulus_gpa"),
                                              ("elastic", "bulk_modulus_gpa")])  # fmt: skip
def test_commands(tmp_path: Path, command, key, eos):
    write(tmp_path / "in.extxyz", crystal(SOLIDS["MgO"]))
    output = tmp_path / "out"
    line = [command, str(tmp_path / "in.extxyz"), "-m", "mat-small", "-o", str(output)]
    first = CliRunner().invoke(main, line)
    assert first.exit_code == 0, first.output
    report = json.loads((output / f"{command}.json").read_text())
    found = report[key]["Hill"] if command == "elastic" else report[key]
    assert found == pytest.approx(eos.bulk_modulus, rel=0.01)
    assert "<img" in (output / f"{command}.html").read_text()
    stage = output / ("energies.npz" if command == "eos" else "stresses.npz")
    stamp = stage.stat().st_mtime_ns
    assert CliRunner().invoke(main, line).exit_code == 0
    assert stage.stat().st_mtime_ns == stamp


def test_what_cannot_be_is_refused(model):
    with pytest.raises(ConfigError, match="`points` must be at least 5, got 3"):
        EosOptions(points=3)
    with pytest.raises(ConfigError, match="`strain` must be above 0 and at most 0.1, got 0.5"):
        ElasticOptions(strain=0.5)
    with pytest.raises(ConfigError, match="must have a crystal"):
        elastic_constants(model, molecule("H2O"))
    far = bulk("MgO", "rocksalt", a=4.8)
    with pytest.raises(ConvergenceError, match="must enclose the minimum"):
        equation_of_state(model, far, EosOptions(start="none", strain=0.01))
