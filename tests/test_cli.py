"""The command line, run in process."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from click.testing import CliRunner

from lesff.cli import main

BUNDLED = "off-small"


@pytest.fixture
def run():
    """Call ``lesff`` with arguments."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, [str(a) for a in arguments])


def test_list_names_the_bundled_model(run):
    result = run("list")
    assert result.exit_code == 0
    assert f"{BUNDLED}@" in result.output
    entries = json.loads(run("list", "--json").output)
    assert BUNDLED in [entry["name"] for entry in entries]


def test_info_shows_the_card(run):
    result = run("info", BUNDLED)
    assert result.exit_code == 0
    assert "level of theory" in result.output
    assert "# off-small" in result.output
    assert json.loads(run("info", BUNDLED, "--json").output)["format_version"] == 1


def test_predict_prints_units(run, tmp_path):
    path = tmp_path / "water.xyz"
    ase.io.write(path, molecule("H2O"))
    result = run("predict", path, "-p", "energy,dipole,charges")
    assert result.exit_code == 0
    for text in ("energy (eV)", "dipole (e*A)", "charges (e)"):
        assert text in result.output


def test_predict_writes_extxyz_that_ase_reads(run, tmp_path):
    source, target = tmp_path / "in.xyz", tmp_path / "out.extxyz"
    ase.io.write(source, [molecule("H2O"), molecule("CH4")])
    result = run(
        "predict", source, "-m", BUNDLED, "-o", target,
        "-p", "energy,forces,dipole,quadrupole,born_effective_charges",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    frames = ase.io.read(target, ":")
    assert len(frames) == 2
    assert frames[0].get_forces().shape == (3, 3)
    assert frames[0].get_dipole_moment().shape == (3,)
    assert np.shape(frames[0].info["quadrupole"]) == (3, 3)
    # a name that ASE knows, so it is among the results
    assert np.size(frames[1].calc.results["born_effective_charges"]) == 5 * 9


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["predict", "WATER", "-m", "off-smal"], "did you mean off-small"),
        (["predict", "none.xyz"], "structure file none.xyz does not exist"),
        (["predict", "WATER", "-p", "energie"], "unknown property 'energie'"),
        (["predict", "WATER", "-o", "out.cif"], "must end in .extxyz or .xyz"),
        (["predict", "WATER", "--charge", "1", "--spin", "1"], "need an even spin"),
        (["evaluate", BUNDLED, "none.npz"], "data file none.npz does not exist"),
        (["train", "none.toml", "--data", ".", "-o", "x"], "recipe none.toml does not exist"),
    ],
)
def test_errors_are_one_line_and_exit_with_1(run, tmp_path, arguments, text):
    path = tmp_path / "water.xyz"
    ase.io.write(path, molecule("H2O"))
    result = run(*[path if a == "WATER" else a for a in arguments])
    assert result.exit_code == 1
    assert text in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_charge_outside_the_range_warns_or_is_refused(run, tmp_path):
    path = tmp_path / "water.xyz"
    ase.io.write(path, molecule("H2O"))
    result = run("predict", path, "--charge", "6")
    assert result.exit_code == 0
    assert "Warning: structure 0 has total_charge 6" in result.output
    assert run("predict", path, "--charge", "6", "--strict").exit_code == 1


def test_evaluate_prints_and_writes_the_table(run, tmp_path):
    data, table = tmp_path / "data.npz", tmp_path / "table.json"
    water = molecule("H2O")
    np.savez(
        data,
        n=np.array([3, 2]),
        numbers=np.array([*water.numbers, 53, 53]),  # iodine is not covered
        positions=np.concatenate([water.positions, [[0, 0, 0], [0, 0, 2.7]]]),
        forces=np.zeros((5, 3)),
        energy=np.zeros(2),
    )
    result = run("evaluate", BUNDLED, data, "--json", table)
    assert result.exit_code == 0, result.output
    assert "1 frames left out" in result.output
    errors = json.loads(table.read_text())["errors"]["all"]
    assert errors["n_frames"] == 1
    assert errors["energy_mae"] > 100  # label zero, energy of atomization missing
