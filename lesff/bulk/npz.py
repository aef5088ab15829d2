"""npz: arrays over all structures and over all atoms, written piece by piece."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesff.bulk.columns import record_of
from lesff.bulk.compute import Row
from lesff.bulk.formats import Format
from lesff.quantities import QUANTITIES

_NAMES = {"n_atoms": "n", "total_charge": "charge"}
"""Names of columns that the data files of training have, by ours."""
_TEXT = ("source", "key", "smiles", "formula", "info", "out_of_domain")


class Npz(Format):
    """Arrays of numpy: ``n`` (n_structures,) atoms of each; arrays over atoms are concatenated."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk."""
        records = [record_of(row) for row in rows]
        arrays: dict[str, np.ndarray] = {}
        for column in self.table.columns:
            values = [record[column.name] for record in records]
            arrays[_NAMES.get(column.name, column.name)] = _joined(column.name, values)
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file; one array of one part in memory."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as target:
            names = [_NAMES.get(column.name, column.name) for column in self.table.columns]
            for name in names:
                _join_array(name, parts, target)
            about = {"units": self.table.units, "model": self.table.model}
            with target.open("about.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(json.dumps(about)))


def _joined(name: str, values: list[Any]) -> np.ndarray:
    """One array of the values of a column."""
    if name in _TEXT:
        return np.array([value or "" for value in values], dtype=np.str_)
    if name == "external_field":
        return np.array([np.zeros(3) if v is None else v for v in values]).reshape(-1, 3)
    level = QUANTITIES[name].level if name in QUANTITIES else "system"
    if name in ("numbers", "positions") or level == "atom":
        return np.concatenate([np.asarray(value) for value in values])
    if level == "pair":
        return np.concatenate([np.ravel(value) for value in values])
    return np.stack([np.asarray(value) for value in values])


def _join_array(name: str, parts: Sequence[Path], target: zipfile.ZipFile) -> None:
    """Write one array, the parts of it behind each other."""
    shapes, types = [], []
    for part in parts:
        with np.load(part, allow_pickle=False) as arrays:
            array = arrays[name]
            shapes.append(array.shape)
            types.append(array.dtype)
    dtype = np.result_type(*types) if types else np.dtype(np.float64)
    length = sum(shape[0] for shape in shapes)
    shape = (length, *shapes[0][1:]) if shapes else (0,)
    with target.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(
            stream,
            {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
        )
        for part in parts:
            with np.load(part, allow_pickle=False) as arrays:
                stream.write(np.ascontiguousarray(arrays[name], dtype=dtype).tobytes())
