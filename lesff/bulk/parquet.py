"""Parquet: columns with units, compressed with zstd, a row group a chunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesff.bulk.columns import Column, record_of
from lesff.bulk.compute import Row
from lesff.bulk.formats import Format, Table, missing

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise missing("pyarrow, which writes Parquet,", "batch") from error

_TYPES = {"text": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "float": pa.float64()}
_COMPRESSION = "zstd"


class Parquet(Format):
    """Apache Parquet; ``pandas.read_parquet(path).attrs["units"]`` has the units."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk, as they are: :meth:`join` compresses them, once."""
        records, schema = [record_of(row) for row in rows], _schema(self.table)
        arrays = [
            _array([record[column.name] for record in records], column)
            for column in self.table.columns
        ]
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema), path,
            compression="none", use_dictionary=False, write_statistics=False,
        )  # fmt: skip

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file."""
        # numbers of structures and results hardly recur: looking for those that do takes twice the
        # time of all the rest, and larger files
        recurring = [_path(column) for column in self.table.columns if column.kind != "float"]
        options: Any = {"compression": _COMPRESSION, "use_dictionary": recurring}
        with pq.ParquetWriter(path, _schema(self.table), **options) as writer:
            for part in parts:
                writer.write_table(pq.ParquetFile(part).read())


def _schema(table: Table) -> pa.Schema:
    """Columns with their units, and what pandas reads as ``attrs``."""
    attrs = {"units": table.units, "model": table.model, "model_digest": table.digest}
    fields = [
        pa.field(
            column.name,
            _type(column),
            nullable=column.is_optional or column.kind == "float",
            metadata={"unit": column.unit} if column.unit else None,
        )
        for column in table.columns
    ]
    return pa.schema(
        fields, metadata={"PANDAS_ATTRS": json.dumps(attrs), "lesff": json.dumps(attrs)}
    )


def _type(column: Column) -> pa.DataType:
    kind = _TYPES[column.kind]
    for _ in range(column.ndim):
        kind = pa.list_(kind)
    return kind


def _path(column: Column) -> str:
    """What Parquet calls the numbers of a column."""
    return column.name + column.ndim * ".list.element"


def _array(values: list[Any], column: Column) -> pa.Array:
    """Values of a column; nested ones from flat arrays, much faster than from lists."""
    return _nested(values, _type(column), column.ndim)


def _nested(values: list[Any], kind: pa.DataType, depth: int) -> pa.Array:
    if depth == 0:
        return pa.array(values, type=kind)
    lengths = [0 if value is None else len(value) for value in values]
    present = [np.asarray(value) for value in values if value is not None]
    shapes = {array.shape[1:] for array in present}
    if len(shapes) <= 1:
        # all inner lists are of one shape: offsets are known
        shape = shapes.pop() if shapes else (0,) * (depth - 1)
        flat = np.concatenate(present) if present else np.zeros((0, *shape))
        inner = _regular(flat, kind.value_type)
    else:
        rows = [row for array in present for row in array]
        inner = _nested(rows, kind.value_type, depth - 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing_ones = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets), inner, type=kind, mask=missing_ones)


def _regular(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An array of any shape as lists of lists."""
    if array.ndim == 1:
        return pa.array(array, type=kind)
    n_lists, length = array.shape[:2]
    inner = _regular(array.reshape(n_lists * length, *array.shape[2:]), kind.value_type)
    offsets = np.arange(n_lists + 1, dtype=np.int32) * length
    return pa.ListArray.from_arrays(pa.array(offsets), inner, type=kind)
