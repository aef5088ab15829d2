"""Files of results: what was computed stands in each of them, with units."""

import csv
import io
import json
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io.extxyz import write_xyz
from bulk_structures import MODEL, predict, rattled

import lesff
from lesff.atoms.structure import to_structure
from lesff.bulk.columns import formula_of
from lesff.bulk.compute import Row
from lesff.bulk.extxyz import frame_of_atoms, frame_of_row
from lesff.bulk.frames import with_results
from lesff.bulk.items import Item
from lesff.prediction import Prediction
from lesff.train.data import read_labelled

PROPERTIES = "energy,forces,dipole,charges,born_effective_charges"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats")
    frames = rattled(11)
    frames[2].info["name"] = "two"
    frames[5].info["charge"] = 0
    ase.io.write(path / "in.xyz", frames)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> Prediction:
    return lesff.load(MODEL).predict(folder / "in.xyz", PROPERTIES)


def written(folder: Path, ending: str) -> Path:
    """The output, of chunks of four."""
    path = folder / f"out{ending}"
    text = predict(folder / "in.xyz", "-o", path, "-p", PROPERTIES, "--chunk", 4).output
    assert "11 structures written" in text
    assert not path.with_name(f"{path.name}.parts").exists()
    return path


def assert_close(found: object, expected: object) -> None:
    """To rounding in float32 of values up to some eV/A: batches are others than in one call."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=2e-5)


def test_parquet_opens_in_pandas_with_units(folder: Path, expected: Prediction) -> None:
    path = written(folder, ".parquet")
    frame = pd.read_parquet(path)
    assert len(frame) == 11
    assert frame.attrs["units"]["energy"] == "eV"
    assert frame.attrs["units"]["born_effective_charges"] == "e"
    assert frame.attrs["model"] == expected.model
    assert_close(frame["energy"], expected.energy)
    for i, row in frame.iterrows():
        assert_close(np.stack(row["forces"]), expected.forces[i])
        born = np.array([[list(line) for line in atom] for atom in row["born_effective_charges"]])
        assert_close(born, expected.born_effective_charges[i])
    assert frame["index"].tolist() == list(range(11))
    assert json.loads(frame["info"][2]) == {"name": "two"}
    file = pq.ParquetFile(path)
    assert file.schema_arrow.field("dipole").metadata[b"unit"] == b"e*A"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.metadata.num_row_groups == 3


def test_extxyz_is_labelled_data(folder: Path, expected: Prediction) -> None:
    frames, _ = read_labelled(written(folder, ".extxyz"))
    assert_close([frame.energy for frame in frames], expected.energy)
    assert_close(frames[3].forces, expected.forces[3])
    atoms = ase.io.read(folder / "out.extxyz", 2)
    assert (atoms.info["name"], atoms.info["source_index"]) == ("two", 2)


def curious() -> list[ase.Atoms]:
    """Atoms with what a frame may hold: arrays of each kind, a cell, constraints, many pairs."""
    plain = molecule("CH3CH2OH")
    n = len(plain)
    rich = molecule("CH3CH2OH", cell=[5.0, 6.0, 7.0], pbc=[True, False, True])
    rich.arrays |= {
        "tags": np.arange(n), "momenta": np.linspace(-1e3, 1e-9, 3 * n).reshape(n, 3),
        "is_end": np.arange(n) == 0, "label": np.array([f"C{i}" for i in range(n)]),
        "column": np.ones((n, 1)), "single": np.ones(n, dtype=np.float32),
    }  # fmt: skip
    rich.info |= {
        "text": "a b=c \\ \"d\"", "flag": True, "none": None, "list": [1, [2.5]],
        "key with = sign": 1, "vector": np.array([1.5, np.nan]), "matrix": np.eye(3), "whole": 3,
        "stress": np.arange(9.0).reshape(3, 3),
    }  # fmt: skip
    fixed = molecule("H2O")
    fixed.set_constraint(FixAtoms([0]))
    return [plain, rich, fixed, ase.Atoms("He"), bulk("MgO", "rocksalt", 4.21)]


@pytest.mark.parametrize("place", range(5))
def test_frames_are_byte_for_byte_those_of_ase(place: int) -> None:
    atoms = curious()[place]
    text = io.StringIO()
    write_xyz(text, atoms.copy())
    assert frame_of_atoms(atoms) == text.getvalue()


def test_frames_of_results_are_those_of_ase() -> None:
    rng = np.random.default_rng(0)
    atoms = bulk("MgO", "rocksalt", 4.21) * (2, 1, 1)
    atoms.info["REF_energy"] = 1.0  # a label, which goes
    stress = rng.normal(size=(3, 3))
    values = {
        "energy": -1.25, "forces": rng.normal(size=(4, 3)), "charges": rng.normal(size=4),
        "stress": stress + stress.T, "dipole": rng.normal(size=3),
        "born_effective_charges": rng.normal(size=(4, 3, 3)),
    }  # fmt: skip
    item = Item(source="in.cif", index=3, key="0")
    row = Row(item=item, atoms=atoms, state=to_structure(atoms), values=values)
    expected = with_results(atoms, values, row.state, "mat-small", set())
    expected.info |= {"source": "in.cif", "source_index": 3}
    text, dropped = io.StringIO(), set()
    write_xyz(text, expected)
    assert frame_of_row(row, "mat-small", dropped) == text.getvalue()
    assert dropped == {"REF_energy"}


@pytest.mark.parametrize("symbols", ["CH3CH2OH", "OH2", "NaCl", "C60", "HCN", "CuSO9H10", "ClH"])
def test_formulas_are_those_of_ase(symbols: str) -> None:
    atoms = ase.Atoms(symbols)
    assert formula_of(atoms.numbers) == atoms.get_chemical_formula()


def test_lines_of_json_and_of_csv(folder: Path, expected: Prediction) -> None:
    lines = written(folder, ".jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert_close([row["energy"] for row in rows], expected.energy)
    assert_close(rows[4]["forces"], expected.forces[4])
    with written(folder, ".csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert_close([float(row["energy (eV)"]) for row in table], expected.energy)
    assert_close(json.loads(table[6]["charges (e)"]), expected.charges[6])


def test_npz_is_a_data_file_of_training(folder: Path, expected: Prediction) -> None:
    path = written(folder, ".npz")
    with np.load(path) as arrays:
        assert arrays["n"].sum() == len(arrays["forces"])
        assert_close(arrays["forces"], np.concatenate(expected.forces))
        assert json.loads(str(arrays["about"]))["units"]["dipole"] == "e*A"
    frames, _ = read_labelled(path)
    assert_close([frame.energy for frame in frames], expected.energy)


def test_databases(folder: Path, expected: Prediction) -> None:
    database = connect(written(folder, ".db"))
    rows = list(database.select())  # pyright: ignore[reportAttributeAccessIssue]
    assert_close([row.energy for row in rows], expected.energy)
    assert_close(rows[3].forces, expected.forces[3])
    assert [row.source_index for row in rows] == list(range(11))
    # ASE keeps no such array of a calculator; it is among the data
    assert_close(
        np.reshape(rows[3].data["born_effective_charges"], (-1, 3, 3)),
        expected.born_effective_charges[3],
    )


def test_hessians_of_different_sizes(folder: Path) -> None:
    """The inner lists of pairs of atoms have lengths of their own."""
    ase.io.write(folder / "few.xyz", [rattled(5)[4], rattled(4)[3]])
    predict(folder / "few.xyz", "-o", folder / "few.parquet", "-p", "hessian")
    frame = pd.read_parquet(folder / "few.parquet")
    expected = lesff.load(MODEL).predict(folder / "few.xyz", "hessian").hessian
    for cell, matrix in zip(frame["hessian"], expected, strict=True):
        plain = np.array([[[list(c) for c in b] for b in a] for a in cell])
        assert_close(plain, matrix)


def test_smiles_and_columns_of_a_table_reach_the_output(folder: Path) -> None:
    (folder / "a.csv").write_text("id,smiles\nm1,CCO\nm2,[NH4+]\nm3,not a molecule\n")
    text = predict(folder / "a.csv", "-o", folder / "a.parquet", "--on-error", "skip").output
    assert "1 structures skipped" in text
    frame = pd.read_parquet(folder / "a.parquet")
    assert frame["smiles"].tolist() == ["CCO", "[NH4+]"]
    assert frame["total_charge"].tolist() == [0, 1]
    assert [json.loads(info) for info in frame["info"]] == [{"id": "m1"}, {"id": "m2"}]


def test_other_endings_are_refused_before_anything_is_computed(folder: Path) -> None:
    text = predict(folder / "in.xyz", "-o", folder / "out.pdb", code=1).output
    assert "must end in .extxyz or .xyz, .parquet" in text
