"""The command line, run in process."""

import json
import subprocess
import sys

import ase.io
import click
import numpy as np
import pytest
from ase.build import molecule
from click.testing import CliRunner

import lesff
from lesff.cli import main
from lesff.cli.main import COMMANDS

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
    assert "Warning: structure 0 is outside of what off-medium@" in result.output
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
    assert "--fit-energy-zero fits it" in result.output
    # one frame: an energy of its elements explains all of the difference
    result = run("evaluate", BUNDLED, data, "--json", table, "--fit-energy-zero")
    assert result.exit_code == 0, result.output
    found = json.loads(table.read_text())
    assert found["errors"]["all"]["energy_mae"] < 1e-6
    zero = found["energy_zero"]
    assert 2 * zero["H"] + zero["O"] == pytest.approx(-3e-3 * errors["energy_mae"])


def test_every_command_is_in_the_table_under_its_own_name():
    """The table of names and help texts is what `lesff --help` reads instead of the commands."""
    for section in COMMANDS.values():
        for name, entry in section.items():
            command = main.get_command(click.Context(main), name)
            assert command is not None
            assert command.name == name
            # the first word of both texts says that they mean the same thing
            own = (command.help or "").split()[0]
            assert entry.help.split()[0] == own


def test_unknown_commands_are_refused(run):
    result = run("lists")
    assert result.exit_code == 2
    assert "No such command 'lists'" in result.output


IMPORTS = """
import sys
import click, importlib
{code}
heavy = {{"torch", "e3nn", "ase", "scipy", "numpy", "huggingface_hub"}} & set(sys.modules)
print(sorted(heavy))
"""


@pytest.mark.parametrize(
    "code",
    [
        "import lesff; dir(lesff); lesff.__version__; lesff.PropertyError",
        "from lesff.cli.main import main; main(['--help'], standalone_mode=False)",
        "from lesff.cli.main import main; main(['--version'], standalone_mode=False)",
        "from lesff.cli.main import main\n"
        "from click.shell_completion import BashComplete\n"
        "print([c.value for c in BashComplete(main, {}, 'lesff', 'X').get_completions([], 'ca')])",
    ],
)
def test_help_and_completion_import_nothing_heavy(code):
    command = [sys.executable, "-c", IMPORTS.format(code=code)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.splitlines()[-1] == "[]"
    if "Complete" in code:
        assert "['calibrate', 'cache']" in found.stdout


def test_names_of_the_package_are_imported_when_used():
    assert set(lesff.__all__) <= set(dir(lesff))
    for name in lesff.__all__:
        assert getattr(lesff, name) is not None
    with pytest.raises(AttributeError, match="module 'lesff' has no attribute 'lode'"):
        lesff.lode  # noqa: B018
