"""Ensembles: means and standard deviations of members, one folder, one error for what differs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from click.testing import CliRunner
from helpers import tiny_potential

import lesff
from lesff.atoms import neighbors
from lesff.cli import main
from lesff.errors import ConfigError, PropertyError
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.verify import verify_parity
from lesff.potential.edit import with_head
from lesff.potential.ensemble import Ensemble
from lesff.potential.potential import Potential
from lesff.quantities import SPREADS

NAMES = ["energy", "forces", "charges", "dipole"]
ROUNDING = 1e-12
"""eV, eV/A, e: sums of three float64 numbers."""


@pytest.fixture
def members() -> list[Potential]:
    """Three random models of one kind."""
    return [tiny_potential(seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def folders(members, tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"member-{i}" for i in range(len(members))]
    for potential, folder in zip(members, found, strict=True):
        save_model(potential, folder, card=f"# {folder.name}\n", license_text="Yours.\n")
    return found


@pytest.fixture
def structures() -> list[ase.Atoms]:
    bent = molecule("H2O")
    bent.rattle(0.1, seed=0)
    return [molecule("H2O"), bent, molecule("H2O2")]


@pytest.fixture
def crystal() -> ase.Atoms:
    ice = ase.Atoms("OHH", [[0.1, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
    ice.set_cell([4.0, 4.2, 4.4])
    ice.pbc = True
    return ice


def test_means_and_standard_deviations_of_single_predictions(folders, structures):
    """ddof 1: ``s^2 = sum_k (x_k - x)^2 / (N - 1)``."""
    names = [*NAMES, *(f"{name}_spread" for name in NAMES)]
    together = lesff.load_ensemble(folders).predict(structures, names)
    single = [lesff.load(folder).predict(structures, NAMES) for folder in folders]
    for name in NAMES:
        for i in range(len(structures)):
            values = np.stack([p[name][i] for p in single])
            assert np.ptp(values, axis=0).max() > 1e-6  # the members differ
            np.testing.assert_allclose(together[name][i], values.mean(0), atol=ROUNDING)
            spread = together[f"{name}_spread"][i]
            np.testing.assert_allclose(spread, values.std(0, ddof=1), atol=ROUNDING)


def test_stress_born_charges_and_their_spread_in_a_crystal(folders, crystal):
    names = ["stress", "born_effective_charges", "stress_spread"]
    together = lesff.load_ensemble(folders).predict(crystal, names)
    single = [lesff.load(folder).predict(crystal, names[:2]) for folder in folders]
    for name in names[:2]:
        mean = np.mean([p[name] for p in single], axis=0)
        np.testing.assert_allclose(together[name], mean, atol=ROUNDING)
    spread = np.std([p.stress for p in single], axis=0, ddof=1)
    np.testing.assert_allclose(together.stress_spread, spread, atol=ROUNDING)


def test_forces_are_the_slope_of_the_mean_energy(folders):
    model, step = lesff.load_ensemble(folders), 1e-4
    atoms = molecule("H2O")
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        energies.append(model.predict(moved, "energy").energy)
    slope = (energies[0] - energies[1]) / (2.0 * step)
    assert model.predict(atoms, "forces").forces[1, 2] == pytest.approx(-slope, abs=1e-6)


def test_the_calculator_gives_what_predict_gives(folders, crystal):
    model = lesff.load_ensemble(folders)
    crystal.calc = model.calculator()
    expected = model.predict(crystal, ["energy", "forces", "forces_spread", "stress_spread"])
    assert crystal.get_potential_energy() == pytest.approx(expected.energy, abs=ROUNDING)
    np.testing.assert_allclose(crystal.get_forces(), expected.forces, atol=ROUNDING)
    found = crystal.calc.get_property("forces_spread", crystal)
    np.testing.assert_allclose(found, expected.forces_spread, atol=ROUNDING)
    voigt = [0, 4, 8, 5, 2, 1]
    found = crystal.calc.get_property("stress_spread", crystal)
    np.testing.assert_allclose(found, expected.stress_spread.ravel()[voigt], atol=ROUNDING)


def test_neighbours_are_searched_once(folders, structures, monkeypatch):
    calls = []
    original = neighbors.find_neighbors

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr("lesff.atoms.graph.find_neighbors", counted)
    lesff.load_ensemble(folders).predict(structures[0], ["energy", "energy_spread"])
    assert len(calls) == 1


def test_an_ensemble_is_one_folder(folders, structures, tmp_path: Path):
    model = lesff.load_ensemble(folders)
    model.save(tmp_path / "all")
    again = lesff.load(tmp_path / "all")
    names = [*NAMES, "forces_spread"]
    before, after = model.predict(structures, names), again.predict(structures, names)
    for name in names:
        for first, second in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(first, second)
    assert verify_parity(tmp_path / "all").ok
    assert "member-0, member-1, member-2" in again.card
    assert again.license_text.count("Yours.") == 1


def test_a_changed_member_is_noticed(folders, tmp_path: Path):
    lesff.load_ensemble(folders).save(tmp_path / "all")
    path = tmp_path / "all" / "config.json"
    data = json.loads(path.read_text())
    data["members"][1]["energy_scale"] = 2.0
    path.write_text(json.dumps(data))
    with pytest.raises(lesff.IntegrityError, match="config.json is not the one that was saved"):
        lesff.load(tmp_path / "all")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"members": []}, "must be alone there, a list of 2 to 64"),
        ({"members": [1, 2]}, "must be alone there, a list of 2 to 64"),
        ({"members": [{}, {}], "more": 1}, "must be alone there, a list of 2 to 64"),
        ({"members": [{}, {}]}, r"config.json, member 0.* lacks|config.json, member 0"),
    ],
)
def test_members_that_are_no_configurations_are_refused(folders, data, message):
    (folders[0] / "config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        load_model(folders[0])


def test_different_members_are_refused_with_one_error(members, tmp_path: Path):
    """All that differs at once: elements, cutoff, level of theory, what they give."""
    other = tiny_potential(seed=4, elements=(1, 6, 8), head=None)
    changed = replace(other.config, level_of_theory="PBE")
    changed = replace(changed, architecture={**changed.architecture, "cutoff": 3.25})
    with pytest.raises(ConfigError) as caught:
        Ensemble([members[0], Potential(changed)])
    for name in ("elements", "cutoff", "level_of_theory", "properties"):
        assert f"`{name}` is " in str(caught.value)
    assert "`total_charge`" not in str(caught.value)
    with pytest.raises(ConfigError, match="must be at least two models, got 1"):
        Ensemble(members[:1])


def test_one_model_has_no_spread(folders):
    with pytest.raises(PropertyError, match="no energy_spread: it is no ensemble"):
        lesff.load(folders[0]).predict(molecule("H2O"), "energy_spread")


def test_parts_of_members_are_not_taken_for_the_whole(members, tmp_path: Path):
    """What works on one potential must not work on the first member unnoticed."""
    ensemble = Ensemble(members)
    for name in ("architecture", "charge_head", "reference_energies"):
        with pytest.raises(PropertyError, match=f"an ensemble has no `{name}`"):
            getattr(ensemble, name)
    assert not hasattr(ensemble, "nothing_has_this")
    with pytest.raises(PropertyError, match="an ensemble has no"):
        with_head(ensemble, "shifted")
    assert "energy_uncertainty" not in ensemble.available_properties()
    assert set(SPREADS) <= set(ensemble.available_properties())


def test_an_ensemble_travels(members):
    ensemble = Ensemble(members)
    again = copy.deepcopy(ensemble)
    before, after = ensemble.state_dict(), again.state_dict()
    assert len(again.members) == len(members)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_command_line_takes_the_folder(folders, tmp_path: Path):
    lesff.load_ensemble(folders).save(tmp_path / "all")
    molecule("H2O").write(tmp_path / "in.xyz")
    command = ["predict", str(tmp_path / "in.xyz"), "-m", str(tmp_path / "all"),
               "-p", "energy,energy_spread", "-o", str(tmp_path / "out.extxyz")]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found = ase.io.read(tmp_path / "out.extxyz")
    expected = lesff.load(tmp_path / "all").predict(molecule("H2O"), "energy_spread")
    key = next(key for key in found.info if key.endswith("energy_spread"))
    assert found.info[key] == pytest.approx(expected.energy_spread, abs=1e-7)
