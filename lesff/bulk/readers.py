"""Readers that hold one structure at a time and go on behind a damaged one."""

from __future__ import annotations

import csv
import itertools
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lesff.atoms.files import check_size, open_text
from lesff.atoms.structure import database_atoms, read_atoms
from lesff.bulk.items import Item, faulty_item, item_of_atoms, item_of_frame, item_of_smiles
from lesff.errors import StructureError

_COUNT = re.compile(r"\s*\+?([0-9]{1,18})\s*")
"""First line of a frame: the number of its atoms."""
_ATOM = re.compile(r"\s*\S+(\s+[-+]?[0-9.][-+0-9.eEdD]*){3}(\s.*)?", re.DOTALL)
"""Line of an atom: a symbol or number, and three coordinates."""
_MAX_LINE = 2**20
_MAX_ATOMS = 10**7
"""Atoms of a frame; a count above is taken for damage."""
_SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "can_smiles", "smi")
_PAGE = 1000
"""Rows of a database that are read at a time."""


def read_xyz(path: Path) -> Iterator[Item]:
    """Frames of an xyz file as they stand there.

    A frame that does not have the atoms that it claims is one faulty item, and the next begins
    where the next count of atoms stands.

    Raises:
        StructureError: if the file cannot be read.
    """
    check_size(path)
    with open_text(path) as stream:
        yield from frames_of(stream, str(path))


def frames_of(lines: Iterable[str], source: str) -> Iterator[Item]:
    """Frames of the lines of an xyz file, see :func:`read_xyz`."""
    rest = iter(_bounded(lines, source))
    index, head = 0, next(rest, None)
    while head is not None:
        if not head.strip():
            head = next(rest, None)
            continue
        count = _COUNT.fullmatch(head)
        if count is None or not 0 <= int(count[1]) <= _MAX_ATOMS:
            text = head.strip()[:40]
            yield faulty_item(
                f"the first line must be the number of atoms, got {text!r}", source, index
            )
            head = _next_count(rest)
        else:
            item, head = _frame(head, int(count[1]), rest, source, index)
            yield item
        index += 1


def _frame(
    head: str, n_atoms: int, rest: Iterator[str], source: str, index: int
) -> tuple[Item, str | None]:
    """A frame and the line behind it."""
    comment = next(rest, "")
    atoms: list[str] = []
    while len(atoms) < n_atoms:
        line = next(rest, None)
        # a count, an empty line or the end among the atoms: the frame ends too early; most lines
        # begin with a letter and need no closer look
        if line is None or (not line[:1].isalpha() and _ends_frame(line)):
            fault = f"it claims {n_atoms} atoms and has {len(atoms)}"
            return faulty_item(fault, source, index), line
        atoms.append(line)
    # lattice vectors of an older format follow the atoms
    behind = next(rest, None)
    while behind is not None and behind.lstrip().startswith("VEC"):
        atoms.append(behind)
        behind = next(rest, None)
    if behind is not None and _ATOM.fullmatch(behind):
        fault = f"it claims {n_atoms} atoms, and another atom follows: {behind.strip()[:40]!r}"
        return faulty_item(fault, source, index), _next_count(rest)
    text = _ended("".join((_ended(head), _ended(comment), *atoms)))
    return item_of_frame(text, source, index, n_atoms), behind


def _ends_frame(line: str) -> bool:
    return not line.strip() or _COUNT.fullmatch(line) is not None


def _next_count(lines: Iterator[str]) -> str | None:
    return next((line for line in lines if _COUNT.fullmatch(line)), None)


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n"


def _bounded(lines: Iterable[str], source: str) -> Iterator[str]:
    try:
        for line in lines:
            if len(line) > _MAX_LINE:
                raise StructureError(f"{source} has a line of more than {_MAX_LINE} characters")
            yield line
    except (OSError, EOFError, UnicodeError) as error:
        raise StructureError(f"{source} cannot be read: {error}") from error


def read_smiles_file(path: Path) -> Iterator[Item]:
    """Lines of SMILES, each with a name behind it if there is one; ``#`` begins a comment line.

    Raises:
        StructureError: if the file cannot be read.
    """
    check_size(path)
    with open_text(path) as stream:
        yield from smiles_of(stream, str(path))


def smiles_of(lines: Iterable[str], source: str) -> Iterator[Item]:
    """Items of lines of SMILES, see :func:`read_smiles_file`."""
    index = 0
    for line in _bounded(lines, source):
        smiles, *names = line.strip().split(maxsplit=1)[:2] or [""]
        is_head = index == 0 and smiles.lower() in _SMILES_COLUMNS
        if not smiles or smiles.startswith("#") or is_head:
            continue
        yield item_of_smiles(smiles, source, index, {"name": names[0]} if names else {})
        index += 1


def read_table(path: Path, separator: str, column: str | None) -> Iterator[Item]:
    """Rows of a table with a column of SMILES; the other columns become ``info``.

    Raises:
        StructureError: if the file cannot be read or has no such column.
    """
    check_size(path)
    with open_text(path) as stream:
        yield from rows_of(stream, str(path), separator, column)


def rows_of(
    lines: Iterable[str], source: str, separator: str, column: str | None
) -> Iterator[Item]:
    """Items of the lines of a table, see :func:`read_table`."""
    reader = csv.DictReader(_bounded(lines, source), delimiter=separator)
    names = list(reader.fieldnames or [])
    chosen = _smiles_column(names, column, source)
    try:
        for index, row in enumerate(reader):
            smiles = (row.get(chosen) or "").strip()
            info = {
                str(key): value
                for key, value in row.items()
                if key not in (chosen, None) and isinstance(value, str) and value.strip()
            }
            if smiles:
                yield item_of_smiles(smiles, source, index, info)
            else:
                yield faulty_item(f"column {chosen!r} is empty", source, index)
    except csv.Error as error:
        raise StructureError(f"table {source} cannot be read: {error}") from error


def _smiles_column(names: list[str], column: str | None, source: str) -> str:
    if column is not None:
        if column not in names:
            raise StructureError(
                f"table {source} has no column {column!r}; it has {', '.join(names)}"
            )
        return column
    found = [name for name in names if name.strip().lstrip("\ufeff").lower() in _SMILES_COLUMNS]
    if not found:
        raise StructureError(
            f"table {source} must have a column `smiles`, got {', '.join(names) or 'none'}; name "
            "it with --smiles-column"
        )
    return found[0]


def read_stream(stream: IO[str], source: str, column: str | None) -> Iterator[Item]:
    """Structures of standard input: xyz if it begins with a count, a table, or lines of SMILES.

    Raises:
        StructureError: if it is empty.
    """
    lines = iter(stream)
    first = next((line for line in _bounded(lines, source) if line.strip()), None)
    if first is None:
        raise StructureError("standard input holds no structures")
    together = itertools.chain([first], lines)
    if _COUNT.fullmatch(first):
        yield from frames_of(together, source)
        return
    for separator in (",", "\t"):
        heads = [head.strip().lower() for head in first.split(separator)]
        if len(heads) > 1 and (set(heads) & set(_SMILES_COLUMNS) or column in heads):
            yield from rows_of(together, source, separator, column)
            return
    yield from smiles_of(together, source)


def read_database(path: Path) -> Iterator[Item]:
    """Rows of an ASE database, a page of them in memory at a time.

    Raises:
        StructureError: if the database cannot be read.
    """
    from ase.db import connect  # start-up: imports scipy

    check_size(path)
    index, last = 0, 0
    try:
        database = connect(path)
        while page := list(database.select(f"id>{last}", limit=_PAGE)):  # pyright: ignore[reportAttributeAccessIssue]
            for row in page:
                last = row.id
                try:
                    item = item_of_atoms(database_atoms(row, path), str(path), index)
                except (StructureError, ValueError, KeyError, TypeError) as error:
                    item = faulty_item(str(error) or type(error).__name__, str(path), index)
                yield item
                index += 1
    except (sqlite3.Error, ValueError, KeyError, IndexError, OSError) as error:
        raise StructureError(f"database {path} cannot be read: {error}") from error
    if index == 0:
        raise StructureError(f"structure file {path} holds no structures")


def read_trajectory(path: Path) -> Iterator[Item]:
    """Frames of an ASE trajectory, one in memory at a time.

    Raises:
        StructureError: if it cannot be read.
    """
    from ase.io.trajectory import TrajectoryReader  # start-up: imports scipy

    check_size(path)
    try:
        reader: Any = TrajectoryReader(str(path))
        total = len(reader)
    except Exception as error:  # noqa: BLE001 - readers of bytes raise anything
        text = str(error) or type(error).__name__
        raise StructureError(f"trajectory {path} cannot be read: {text}") from error
    with reader:
        for index in range(total):
            try:
                item = item_of_atoms(reader[index], str(path), index)
            except Exception as error:  # noqa: BLE001 - readers of bytes raise anything
                item = faulty_item(str(error) or type(error).__name__, str(path), index)
            yield item


def read_other(path: Path) -> Iterator[Item]:
    """Structures of a file in any format that ASE knows; the file is in memory as a whole.

    Raises:
        StructureError: if it cannot be read.
    """
    for index, atoms in enumerate(read_atoms(path)):
        yield item_of_atoms(atoms, str(path), index)


def count_lines(path: Path) -> int:
    """Lines of a text file that are not empty."""
    with open_text(path) as stream:
        return sum(1 for line in stream if line.strip())


def count_frames(path: Path) -> int | None:
    """Frames of an xyz file; None if one is damaged."""
    total = 0
    with open_text(path) as stream:
        for head in stream:
            if not head.strip() or head.lstrip().startswith("VEC"):
                continue
            count = _COUNT.fullmatch(head)
            if count is None:
                return None
            total += 1
            for _ in itertools.islice(stream, int(count[1]) + 1):
                pass
    return total


def count_rows(path: Path) -> int:
    """Rows of an ASE database."""
    from ase.db import connect  # start-up: imports scipy

    return connect(path).count()  # pyright: ignore[reportAttributeAccessIssue]
