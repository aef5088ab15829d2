"""Files that hold results: a part for every chunk, joined into one file without all in memory."""

from __future__ import annotations

import csv
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesff.bulk.columns import Column, columns_of, plain_record, record_of
from lesff.bulk.compute import Row
from lesff.errors import MissingDependencyError, PropertyError
from lesff.quantities import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class Table:
    """What all rows of a file have in common.

    Attributes:
        properties: Names of the results.
        model: Resolved name of the model.
        digest: Digest of the model.
    """

    properties: tuple[str, ...]
    model: str
    digest: str

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the table."""
        return columns_of(self.properties)

    @property
    def units(self) -> dict[str, str]:
        """Units by column, of those that have one."""
        return {column.name: column.unit for column in self.columns if column.unit}


@dataclass
class Format(ABC):
    """One kind of file.

    Attributes:
        table: What all rows have in common.
        dropped: Names of labels that structures came with and that are not written.
    """

    table: Table
    dropped: set[str] = field(default_factory=set)

    @abstractmethod
    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk."""

    @abstractmethod
    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file."""


class ExtXYZ(Format):
    """Extended xyz, as every other command of lesff reads it."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk."""
        from lesff.bulk.extxyz import frame_of_row  # start-up: imports scipy, 0.7 s of CPU

        frames = [frame_of_row(row, self.table.model, self.dropped) for row in rows]
        path.write_text("".join(frames), encoding="utf-8", newline="\n")

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file."""
        _concatenate(parts, path)


class JSONLines(Format):
    """One JSON object a line; units are those of :data:`lesff.quantities.QUANTITIES`."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk."""
        columns = self.table.columns
        lines = [json.dumps(plain_record(record_of(row), columns)) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one file."""
        _concatenate(parts, path)


class CSV(Format):
    """One line a structure; units in the heads of columns, lists as JSON."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk, without heads."""
        columns = self.table.columns
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            for row in rows:
                plain = plain_record(record_of(row), columns)
                writer.writerow(
                    [
                        json.dumps(value) if isinstance(value, list) else value
                        for value in plain.values()
                    ]
                )

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write the heads and all parts, in their order, into one file."""
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerow(
                f"{column.name} ({column.unit})" if column.name in QUANTITIES else column.name
                for column in self.table.columns
            )
        _concatenate(parts, path, append=True)


def format_of(path: Path, table: Table) -> Format:
    """The format that the ending of a file's name stands for.

    Raises:
        PropertyError: for an unknown ending.
        MissingDependencyError: if a library is missing that the format needs.
    """
    # imported where they are used: pyarrow, and ASE's databases import scipy
    kind = path.suffix.lower()
    if kind in (".xyz", ".extxyz"):
        return ExtXYZ(table)
    if kind in (".jsonl", ".ndjson"):
        return JSONLines(table)
    if kind == ".csv":
        return CSV(table)
    if kind == ".parquet":
        from lesff.bulk.parquet import Parquet

        return Parquet(table)
    if kind == ".npz":
        from lesff.bulk.npz import Npz

        return Npz(table)
    if kind == ".db":
        from lesff.bulk.database import Database

        return Database(table)
    raise PropertyError(
        f"`--output` must end in .extxyz or .xyz, .parquet, .jsonl, .csv, .npz or .db, got "
        f"{path.name}"
    )


def _concatenate(parts: Sequence[Path], path: Path, *, append: bool = False) -> None:
    """Write the bytes of files behind each other."""
    with path.open("ab" if append else "wb") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, 2**20)


def missing(library: str, extra: str) -> MissingDependencyError:
    """The error for a library of an extra that is not installed."""
    return MissingDependencyError(
        f'{library} is not installed; install it with `pip install "lesff[{extra}]"`'
    )
