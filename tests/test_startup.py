"""What is imported on the way to an answer: start-up is imports, and these are what can be counted.

``benchmarks/startup.py`` prints the seconds.
"""

import os
import subprocess
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from lesff.atoms.files import read_images
from lesff.atoms.xyz import read_simple_xyz
from lesff.cli import options
from lesff.cli.main import COMMANDS
from lesff.evaluation.suite import CHECKS, SUITES
from lesff.train.splits import VALIDATION_FRACTION
from lesff.uncertainty.calibration import DIRECTIONS

NEVER = ("e3nn", "torch._dynamo", "torch._inductor", "sympy", "scipy", "matplotlib", "pandas")
"""Nothing of these helps to predict; each takes 0.1 to 2 s to import."""
COMPUTES = ("torch", "numpy", "ase", "safetensors")
ONLINE = ("huggingface_hub", "requests", "httpx", "tqdm.notebook", "IPython")
WATER = "3\n\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
PREDICT = """
import sys, ase, lesff
model = lesff.load({name!r}, **{options})
water = ase.Atoms("OH2", [(0, 0, 0.12), (0, 0.76, -0.48), (0, -0.76, -0.48)], **{atoms})
model.predict(water, {wanted})
"""


def imported(code: str, *names: str, **environment: str) -> list[str]:
    """Which of the modules a new process has imported after the code."""
    code += f"\nimport sys; print(*(name for name in {names!r} if name in sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(  # noqa: S603 - ours
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "LESFF_OFFLINE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def command_line(*words: str) -> str:
    """Code that runs a command in the process."""
    return f"from lesff.cli.main import main\nmain({list(words)!r}, standalone_mode=False)"


@pytest.mark.parametrize("code", ["import lesff", "import lesff; lesff.list_models()"])
def test_the_package_imports_nothing_that_computes(code):
    assert imported(code, *NEVER, *COMPUTES, *ONLINE) == []


def test_what_computes_imports_torch_only():
    """``lesff.load`` is the first name that needs tensors."""
    assert imported("import lesff; lesff.load", *NEVER, *ONLINE, "torch") == ["torch"]


@pytest.mark.parametrize("command", [name for section in COMMANDS.values() for name in section])
def test_help_of_every_command_imports_nothing_that_computes(command):
    assert imported(command_line(command, "--help"), *NEVER, *COMPUTES, *ONLINE) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["cite", "off-small"],
        ["cache", "list"],
        ["hub", "mirror", "--help"],
    ],
)
def test_answers_without_tensors_do_not_import_torch(words):
    assert imported(command_line(*words), *NEVER, *ONLINE, "torch") == []


def test_refusals_do_not_import_torch():
    code = """
from click.exceptions import UsageError
from lesff.cli.main import main
for words in (["train", "a.toml", "--data", "."], ["evaluate", "off-small"], ["finetune"]):
    try:
        main(words, standalone_mode=False)
    except UsageError:
        continue
    raise AssertionError(words)
"""
    assert imported(code, *NEVER, *COMPUTES, *ONLINE) == []


@pytest.mark.parametrize(
    ("name", "options", "atoms", "wanted", "kernels"),
    [
        ("off-small", {}, {}, ["energy", "forces", "dipole"], "auto"),
        ("off-medium", {"dtype": "float64"}, {}, ["energy", "forces", "charges"], "auto"),
        ("off-small", {}, {"cell": [9.0] * 3, "pbc": True}, ["energy", "stress"], "auto"),
        ("off-small", {}, {}, ["energy", "born_effective_charges"], "off"),
    ],
)
def test_a_prediction_imports_neither_e3nn_nor_dynamo_nor_scipy(
    name, options, atoms, wanted, kernels
):
    code = PREDICT.format(name=name, options=options, atoms=atoms, wanted=wanted)
    found = imported(code, *NEVER, *ONLINE, "torch", LESFF_KERNELS=kernels)
    assert found == ["torch"]


def test_the_command_that_predicts_imports_no_scipy(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text(WATER)
    code = command_line("predict", str(path), "-m", "off-small")
    assert imported(code, *NEVER, *ONLINE, "torch") == ["torch"]


def test_words_of_help_are_those_of_the_modules():
    assert options.HELD_OUT == VALIDATION_FRACTION
    assert options.BACKWARD_PASSES == DIRECTIONS
    assert options.SUITE_NAMES == SUITES
    assert tuple(check.name for check in CHECKS) == options.CHECK_NAMES


# --- xyz files without ASE's readers, which import scipy ----------------------------------------


SIMPLE = {
    "plain": WATER,
    "frames, blank lines at the end": WATER + WATER.replace("0.76", "0.8") + "\n  \n",
    "line ends of Windows": WATER.replace("\n", "\r\n"),
    "no line end": WATER.rstrip(),
    "words": WATER.replace("\n\n", "\nwater, at 300 K: (experiment)\n"),
    "lower case and isotopes of words": WATER.replace("O ", "o ").replace("H ", "h "),
    "cell": WATER.replace("\n\n", '\nLattice="9 0 0 1 9 0 0 2 9.5" name=a-1.b/c:d n=1_0\n'),
    "pbc": WATER.replace("\n\n", '\nLattice="9 0 0 0 9 0 0 0 9" pbc="T F T"\n'),
    "whole numbers as pbc": WATER.replace("\n\n", '\nLattice="9 0 0 0 9 0 0 0 9" pbc="1 0 1"\n'),
    "one pbc": WATER.replace("\n\n", '\nLattice="9 0 0 0 9 0 0 0 9" pbc=F\n'),
    "numbers": WATER.replace(
        "\n\n", '\ncharge=-1 spin=2 t=1e-3 x=nan field="0 0 1.5" n=1,2 big=99999999999999999999\n'
    ),
    "truth": WATER.replace("\n\n", '\na=T b=false c="T F" d e="T x" twice=1 twice=2\n'),
    "energies": WATER.replace("\n\n", "\nenergy=-1.5 free_energy=-2\n"),
    "SMILES": WATER.replace(
        "\n\n", '\nsmiles=N=C(C)C==O b="C/C=C\\\\C[NH2+]" c="b\\"c" n=-O i=I\n'
    ),
    "columns": WATER.replace("\n\n", "\nProperties=species:S:1:pos:R:3 config_type=x\n"),
    "more columns than are named": WATER.replace("0.12", "0.12 7 8"),
}
FOR_ASE = {
    "other columns": WATER.replace("\n\n", "\nProperties=species:S:1:pos:R:3:tags:I:1\n"),
    "dipole": WATER.replace("\n\n", '\ndipole="0 0 1"\n'),
    "stress": WATER.replace("\n\n", '\nstress="1 0 0 0 1 0 0 0 1"\n'),
    "energy in words": WATER.replace("\n\n", "\nenergy=low\n"),
    "short cell": WATER.replace("\n\n", '\nLattice="9 9 9"\n'),
    "brackets": WATER.replace("\n\n", "\na=[1 2]\n"),
    "escape": WATER.replace("\n\n", "\na=b\\\\c\n"),
    "an end with a mark of equality": WATER.replace("\n\n", "\na=b= c=1\n"),
    "JSON": WATER.replace("\n\n", '\na="_JSON [[1]]"\n'),
    "spaces": WATER.replace("\n\n", "\na = 1\n"),
    "beyond ASCII": WATER.replace("\n\n", "\nWasser \u00e0 la carte\n"),
    "nothing": "",
    "no atoms": "0\n\n",
    "count": WATER.replace("3\n", "4\n", 1),
    "negative": "-1\n\n",
    "element": WATER.replace("O ", "Q "),
    "number": WATER.replace("0.12", "x"),
    "short line": WATER.replace(" 0.12", ""),
    "vectors": WATER + "VEC1 9 0 0\n",
    "text behind blank lines": WATER + "\n\nend\n",
}


def same(a: ase.Atoms, b: ase.Atoms) -> None:
    """Equal bit for bit, types included."""
    assert a == b
    assert list(a.info) == list(b.info)
    for key, value in a.info.items():
        assert type(value) is type(b.info[key]), key
        assert np.asarray(value).dtype == np.asarray(b.info[key]).dtype, key
        np.testing.assert_array_equal(value, b.info[key])
    assert set(a.arrays) == set(b.arrays)
    results = [{} if atoms.calc is None else atoms.calc.results for atoms in (a, b)]
    assert list(results[0]) == list(results[1])
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key])


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_files_are_read_as_by_ase(name, tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(SIMPLE[name].encode())
    found, expected = read_simple_xyz(path), ase.io.read(path, ":")
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        same(a, b)


@pytest.mark.parametrize("name", FOR_ASE)
def test_other_files_are_left_to_ase(name, tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_bytes(FOR_ASE[name].encode())
    assert read_simple_xyz(path) is None


def test_other_names_are_left_to_ase(tmp_path):
    for name in ("a.XYZ", "a.txt", "xyz"):
        (tmp_path / name).write_text(WATER)
        assert read_simple_xyz(tmp_path / name) is None


def test_files_that_ase_writes(tmp_path):
    """With a cell, forces and an energy; of a dipole, ASE reads them."""
    atoms = ase.Atoms("OCH", np.eye(3) / 3, cell=[3.0, 4.0, 5.0], pbc=[True, False, True])
    atoms.info.update(charge=-1, name="a b", spin_multiplicity=2)
    for results in ({}, {"energy": -1.0 / 3}, {"energy": 2.0, "forces": np.ones((3, 3)) / 7}):
        atoms.calc = SinglePointCalculator(atoms, **results) if results else None
        path = tmp_path / "a.extxyz"
        ase.io.write(path, [atoms, atoms])
        found = read_simple_xyz(path)
        assert len(found) == 2
        for a, b in zip(found, ase.io.read(path, ":"), strict=True):
            same(a, b)
    atoms.calc = SinglePointCalculator(atoms, dipole=np.ones(3))
    ase.io.write(tmp_path / "b.extxyz", atoms)
    assert read_simple_xyz(tmp_path / "b.extxyz") is None
    assert read_images(tmp_path / "b.extxyz")[0].calc.results["dipole"].tolist() == [1.0] * 3


@settings(max_examples=200, deadline=None)
@given(comment=st.text(alphabet="aTF1.-e_ =\",\\'{}[]:;n", max_size=12))
def test_any_comment_is_read_as_by_ase_or_left(comment, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("comment") / "a.xyz"
    path.write_text(WATER.replace("\n\n", f"\n{comment}\n"))
    found = read_simple_xyz(path)
    if found is not None:
        same(found[0], ase.io.read(path))


@pytest.mark.parametrize(("policy", "expected"), [(None, "passive"), ("active", "active")])
def test_threads_wait_passively_unless_told_otherwise(policy, expected):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    code = "import os, lesff; print(os.environ['OMP_WAIT_POLICY'])"
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected
