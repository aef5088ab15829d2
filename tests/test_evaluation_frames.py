"""Evaluation on labelled frames, and of forces between molecules."""

import json

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from helpers import tiny_potential

import lesff
from lesff.cli import main
from lesff.evaluation.checks.long_range import aligned_pair
from lesff.evaluation.fragments import fragment_table
from lesff.evaluation.molecules import add_proton
from lesff.evaluation.tables import table_of
from lesff.model_folder.folder import save_model
from lesff.train.data import read_frames
from lesff.train.metrics import predict_frames
from lesff.units import COULOMB_CONSTANT, EV_TO_KCAL_PER_MOL


def test_labelled_frames_end_to_end(tmp_path):
    model = lesff.load("off-small")
    frames = []
    for index in range(10):
        atoms = molecule("H2O")
        atoms.rattle(0.02, seed=index)
        p = model.predict(atoms, ["energy", "forces"])
        energy = p.energy + 0.3 * (index == 0)  # one label is off by 0.3 eV
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=p.forces + 0.05)
        atoms.info |= {"molecule": f"m{index // 2}", "subset": "water"}
        frames.append(atoms)
    frames.append(molecule("SiH4"))
    frames[-1].calc = SinglePointCalculator(frames[-1], energy=0.0, forces=np.zeros((5, 3)))
    frames[-1].info |= {"molecule": "silane", "subset": "other"}
    write(tmp_path / "data.extxyz", frames)
    command = ["evaluate", "off-small", "--suite", "standard", "--only", "frames", "--only",
               "conformers", "--data", str(tmp_path / "data.extxyz"), "--json",
               str(tmp_path / "out.json")]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["data"]["counts"]["water"]["validation_molecules"] == 2
    found = data["results"][model.name]
    assert found["frames"]["left_out"] == {"1 frames of data.extxyz": "no Si"}
    values = {q["name"]: q["value"] for q in found["frames"]["quantities"]}
    assert values["forces MAE, water (4)"] == pytest.approx(50.0, rel=1e-3)
    assert values["energy MAE, mean over subsets, all frames"] == pytest.approx(10.0, rel=1e-2)
    rows = {row["molecule"]: row["mae_kcal_per_mol"] for row in found["conformers"]["rows"]}
    assert rows["m0"] == pytest.approx(0.3 * EV_TO_KCAL_PER_MOL, rel=1e-3)
    assert max(rows[f"m{i}"] for i in range(1, 5)) < 0.01


def test_a_baseline_leaves_out_the_frames_that_it_does_not_cover(tmp_path):
    """The model knows silicon, what it is compared with does not."""
    folder = tmp_path / "wide"
    save_model(
        tiny_potential(elements=(1, 8, 14)), folder,
        card="---\nname: wide\nlicense: mit\n---\n# wide\n", license_text="x",
    )  # fmt: skip
    frames = []
    for index, name in enumerate(["H2O"] * 4 + ["SiH4"] * 2):
        atoms = molecule(name)
        atoms.rattle(0.02, seed=index)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((len(atoms), 3)))
        atoms.info |= {"molecule": f"m{index // 2}", "subset": name}
        frames.append(atoms)
    write(tmp_path / "data.extxyz", frames)
    command = ["evaluate", str(folder), "--suite", "standard", "--only", "frames", "--only",
               "conformers", "--data", str(tmp_path / "data.extxyz"), "--json",
               str(tmp_path / "out.json"), "--baseline", "off-small"]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    ours, theirs = (found[name] for name in found)
    for check in ("frames", "conformers"):
        assert ours[check]["left_out"] == {}
        assert theirs[check]["left_out"] == {"2 frames of data.extxyz": "no Si"}


def test_energies_of_other_states_are_left_out(tmp_path):
    """The energy of an ion is labelled 5 eV off: it counts, or only its forces do."""
    model = lesff.load("off-small")
    frames = []
    for charge, atoms in enumerate((molecule("NH3"), add_proton(molecule("NH3"), 0))):
        atoms.info["charge"] = charge
        p = model.predict(atoms, ["energy", "forces"])
        energy = p.energy + 5.0 * charge
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=p.forces + 0.02 * charge)
        frames.append(atoms)
    write(tmp_path / "data.extxyz", frames)
    command = ["evaluate", "off-small", str(tmp_path / "data.extxyz"), "--json"]
    found = []
    for name, more in (("all", []), ("neutral", ["--energy-state", "0", "1"])):
        path = tmp_path / f"{name}.json"
        result = CliRunner().invoke(main, [*command, str(path), *more])
        assert result.exit_code == 0, result.output
        found.append(json.loads(path.read_text()))
    assert "energy_states" not in found[0]
    assert found[1]["energy_states"] == [[0, 1]]
    before, after = (data["errors"]["all"] for data in found)
    assert before["energy_mae"] == pytest.approx(1e3 * 5.0 / 5 / 2, rel=1e-3)
    assert after["energy_mae"] < 0.1
    assert before["forces_mae"] == pytest.approx(20.0 * 5 / 9, rel=1e-3)
    assert after["forces_mae"] == before["forces_mae"]
    write(tmp_path / "ion.extxyz", frames[1])
    more = ["--without", str(tmp_path / "ion.extxyz")]
    result = CliRunner().invoke(main, [*command, str(path), *more])
    assert result.exit_code == 0, result.output
    data = json.loads(path.read_text())
    assert data["without"] == "ion.extxyz"
    assert data["errors"]["all"]["n_frames"] == 1
    assert data["errors"]["all"]["energy_mae"] < 0.1
    result = CliRunner().invoke(main, [*command, str(path), "--validation-only"])
    assert "no frame of data.extxyz is left" in result.output
    result = CliRunner().invoke(main, [*command, str(path), "--energy-state", "-1", "1"])
    assert "got (-1, 1) (total charge, spin multiplicity)" in result.output


def test_net_forces_are_those_between_molecules(tmp_path):
    """Labels: Coulomb forces of whole charges (ke q q' / r^2), hidden under forces within bonds.

    A short-ranged model has no force between molecules beyond its reach: its error is the label.
    """
    gap = 8.0
    pair = aligned_pair(molecule("H2O"), np.array([0.0, 0.0, 1.0]), gap)
    inner = np.random.default_rng(0).normal(size=(3, 3))
    inner -= inner.mean(0)
    pull = COULOMB_CONSTANT * 0.25 / gap**2
    forces = np.concatenate([inner, inner])
    forces[0, 2] += pull
    forces[3, 2] -= pull
    pair.calc = SinglePointCalculator(pair, energy=0.0, forces=forces)
    write(tmp_path / "pair.extxyz", pair)
    frames = read_frames(tmp_path / "pair.extxyz")
    save_model(tiny_potential(head=None), tmp_path / "m", card="", license_text="")
    predictions = predict_frames(lesff.load(tmp_path / "m").potential, frames)
    table = fragment_table(predictions, 4.0)
    assert list(table) == ["neutral, a gap over 4 A"]
    row = table["neutral, a gap over 4 A"]
    assert row["net_force"] == pytest.approx(1e3 * pull, abs=1e-4)
    assert row["net_force_error"] == pytest.approx(1e3 * pull, abs=1e-4)
    assert list(fragment_table(predictions, 10.0)) == ["neutral, in contact"]
    assert fragment_table(predict_frames(lesff.load(tmp_path / "m").potential, []), 4.0) == {}
    out = CliRunner().invoke(main, [
        "evaluate", str(tmp_path / "m"), str(tmp_path / "pair.extxyz"), "--fragments", "--gap", "4",
        "--json", str(tmp_path / "r.json"),
    ])  # fmt: skip
    assert out.exit_code == 0, out.output
    assert f"| neutral, a gap over 4 A | 1 | {1e3 * pull:.1f} |" in out.output
    assert table_of(tmp_path / "r.json") in out.output
