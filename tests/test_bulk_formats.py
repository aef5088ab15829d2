"""Files of results: what was computed stands in each of them, with units."""

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ase.db import connect
from bulk_structures import MODEL, predict, rattled

import lesff
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
