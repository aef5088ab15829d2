"""Parquet: columns with units, compressed with zstd, a row group a chunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        """Write the rows of a chunk."""
        records, schema = [record_of(row) for row in rows], _schema(self.table)
        arrays = [
            _array([record[column.name] for record in records], column)
            for column in self.table.columns
        ]
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression=_COMPRESSION)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file."""
        with pq.ParquetWriter(path, _schema(self.table), compression=_COMPRESSION) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part, partitioning=None))


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


def _array(values: list[Any], column: Column) -> pa.Array:
    """Values of a column; nested ones from flat arrays, much faster than from lists."""
    return _nested(values, _type(column), column.ndim)


def _nested(values: list[Any], kind: pa.DataType, depth: int) -> pa.Array:
    import numpy as np

    if depth == 0:
        return pa.array(values, type=kind)
    present = [np.asarray(value) for value in values if value is not None]
    offsets: list[int | None] = [0]
    for value in values:
        last = next(x for x in reversed(offsets) if x is not None)
        offsets.append(last + (0 if value is None else len(value)))
    # all inner rows behind each other
    if depth == 1:
        flat = np.concatenate(present) if present else np.zeros(0)
        inner = pa.array(flat, type=kind.value_type)
    else:
        inner = _nested([row for value in present for row in value], kind.value_type, depth - 1)
    mask = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), inner, type=kind, mask=mask)
