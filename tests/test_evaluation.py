"""The evaluation suite: its pure parts on cases solved by hand, one check end to end."""

import json

import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner

from lesff.cli import main
from lesff.errors import DataError
from lesff.evaluation.splits import split_by_molecule

LABELS = [("a", f"a{i}") for i in range(10)] * 2 + [("b", f"b{i}") for i in range(5)]


def test_the_same_share_of_every_subset_is_held_out():
    split = split_by_molecule(LABELS, 0.4)
    assert split.counts["a"] == {
        "train_molecules": 6,
        "validation_molecules": 4,
        "train_frames": 12,
        "validation_frames": 8,
    }
    assert split.counts["b"]["validation_molecules"] == 2


def test_the_split_depends_on_names_only():
    split = split_by_molecule(LABELS, 0.4)
    assert split_by_molecule(list(reversed(LABELS)), 0.4) == split
    # first ranks of the SHA-256 of b0 ... b4, from coreutils' sha256sum
    assert [name for name in split.validation if name[0] == "b"] == ["b2", "b4"]


def test_a_molecule_of_two_subsets_stays_on_one_side():
    both = [("a", "shared"), ("b", "shared"), ("a", "x"), ("b", "y"), ("b", "z")]
    counts = split_by_molecule(both, 0.5).counts
    assert counts["b"]["train_molecules"] + counts["b"]["validation_molecules"] == 3
    n_a, n_b = counts["a"]["validation_frames"], counts["b"]["validation_frames"]
    assert n_a + n_b == (3 if split_by_molecule(both, 0.5).holds_out("shared") else 2)


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        split_by_molecule(LABELS, 1.0)
    with pytest.raises(DataError, match="1 molecules cannot be divided"):
        split_by_molecule([("a", "a0")], 0.4)


def test_split_command_keeps_labels_and_molecules_apart(tmp_path):
    frames = []
    for index in range(10):
        atoms = molecule("H2O")
        atoms.rattle(0.01, seed=index)
        atoms.info |= {"molecule": f"m{index // 2}", "subset": "water", "charge": 0}
        atoms.calc = SinglePointCalculator(atoms, energy=-float(index), forces=atoms.positions)
        frames.append(atoms)
    write(tmp_path / "data.extxyz", frames)
    command = ["split", str(tmp_path / "data.extxyz"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    parts = [read(tmp_path / "out" / f"{n}.extxyz", ":") for n in ("train", "validation")]
    names = [{a.info["molecule"] for a in part} for part in parts]
    assert (len(parts[0]), len(parts[1])) == (6, 4)
    assert not names[0] & names[1]
    energies = sorted(a.get_potential_energy() for part in parts for a in part)
    assert energies == [-float(index) for index in reversed(range(10))]
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    assert set(record["validation"]) == names[1]


def test_split_command_names_the_missing_key(tmp_path):
    write(tmp_path / "data.extxyz", [molecule("H2O")])
    result = CliRunner().invoke(main, ["split", str(tmp_path / "data.extxyz"), "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "frame 0: no info['molecule']" in result.output
