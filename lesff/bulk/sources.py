"""From words of a command line to sources of structures: files, globs, folders, SMILES, stdin."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesff.bulk import readers
from lesff.bulk.items import Item, faulty_item, item_of_smiles
from lesff.bulk.smiles import atoms_of_smiles, looks_like_smiles
from lesff.errors import StructureError

STDIN = "-"
_SMILES = "smiles:"
"""Beginning of a word that is a SMILES in any case."""
_GLOB = re.compile(r"[*?\[]")
_XYZ = (".xyz", ".extxyz")
_TABLES = (".csv", ".tsv")
_SMILES_FILES = (".smi", ".smiles")
_DATABASES = (".db",)
_TRAJECTORIES = (".traj",)
_PACKED = (".gz", ".xz", ".bz2")
FOLDER_ENDINGS = (
    *_XYZ, *_TABLES, *_SMILES_FILES, *_DATABASES, *_TRAJECTORIES, ".cif", ".vasp", ".poscar",
    ".pdb", ".mol", ".sdf", ".json", ".gen", ".res", ".in", ".xsf",
)  # fmt: skip
"""Endings of files that are taken from a folder; other files there are left alone."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where structures come from.

    Attributes:
        name: What it is called in the output and in messages.
        read: Yields its items.
        count: Number of its structures, if that is quickly known; else None.
        path: The file, if it is one.
        has_smiles: Whether it holds SMILES.
    """

    name: str
    read: Callable[[], Iterator[Item]]
    count: Callable[[], int | None] = lambda: None
    path: Path | None = None
    has_smiles: bool = False


def sources_of(
    words: Sequence[str], *, column: str | None = None, stdin: Any = None
) -> list[Source]:
    """Sources of words, in their order; files of folders and globs by name.

    A word is, in this order: ``-``, a SMILES after ``smiles:``, a file or folder, a glob, a SMILES.

    Args:
        words: What was given.
        column: Name of the column that holds SMILES in tables; found by its name if None.
        stdin: Stream of ``-``, text.

    Raises:
        StructureError: for a word that is none of these, and for a folder or glob without files.
    """
    found: list[Source] = []
    for place, word in enumerate(words):
        found += _sources_of_word(word, place, column, stdin)
    return found


def items_of(sources: Sequence[Source]) -> Iterator[Item]:
    """All items; what cannot be read any further becomes a faulty item, and the next source is on.

    Raises:
        MissingDependencyError: if a library is missing that a source needs.
    """
    for source in sources:
        seen = 0
        try:
            for item in source.read():
                seen += 1
                yield item
        except StructureError as error:
            yield faulty_item(str(error), source.name, seen)


def count_structures(sources: Sequence[Source]) -> int | None:
    """Number of all structures, None where one source does not say."""
    total = 0
    for source in sources:
        try:
            count = source.count()
        except (OSError, StructureError):
            return None
        if count is None:
            return None
        total += count
    return total


def _sources_of_word(word: str, place: int, column: str | None, stdin: Any) -> list[Source]:
    if word == STDIN:
        return [Source(name=STDIN, read=lambda: readers.read_stream(stdin, STDIN, column))]
    if word.startswith(_SMILES):
        return [_smiles_source(word.removeprefix(_SMILES), place)]
    path = Path(word)
    if path.is_dir():
        return _files_of_folder(path, column)
    if path.exists():
        return [_file_source(path, column)]
    if _GLOB.search(word):
        names = sorted(glob.glob(word, recursive=True))
        files = [Path(name) for name in names if Path(name).is_file()]
        if files:
            return [_file_source(file, column) for file in files]
    if looks_like_smiles(word):
        try:
            atoms_of_smiles(word)
        except StructureError as error:
            raise StructureError(
                f"structure file {word} does not exist, and as SMILES: {error}"
            ) from error
        return [_smiles_source(word, place)]
    if _GLOB.search(word):
        raise StructureError(f"no file fits the pattern {word!r}")
    raise StructureError(f"structure file {path} does not exist")


def _smiles_source(smiles: str, place: int) -> Source:
    def read() -> Iterator[Item]:
        yield item_of_smiles(smiles, smiles, 0)

    del place
    return Source(name=smiles, read=read, count=lambda: 1, has_smiles=True)


def _files_of_folder(folder: Path, column: str | None) -> list[Source]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not _is_hidden(path, folder) and ending(path) in FOLDER_ENDINGS
    )
    if not files:
        raise StructureError(
            f"folder {folder} holds no structure files ({', '.join(FOLDER_ENDINGS)})"
        )
    return [_file_source(path, column) for path in files]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def ending(path: Path) -> str:
    """Ending of a file's name in lower case, that of what is packed for packed files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _file_source(path: Path, column: str | None) -> Source:
    name, kind = str(path), ending(path)
    if kind in _SMILES_FILES:
        return Source(
            name=name,
            read=lambda: readers.read_smiles_file(path),
            count=lambda: readers.count_lines(path),
            path=path,
            has_smiles=True,
        )
    if kind in _TABLES:
        separator = "\t" if kind == ".tsv" else ","
        return Source(
            name=name,
            read=lambda: readers.read_table(path, separator, column),
            count=lambda: max(readers.count_lines(path) - 1, 0),
            path=path,
            has_smiles=True,
        )
    if kind in _XYZ:
        return Source(
            name=name,
            read=lambda: readers.read_xyz(path),
            count=lambda: readers.count_frames(path),
            path=path,
        )
    if kind in _DATABASES:
        return Source(
            name=name,
            read=lambda: readers.read_database(path),
            count=lambda: readers.count_rows(path),
            path=path,
        )
    if kind in _TRAJECTORIES and path.suffix == kind:
        return Source(name=name, read=lambda: readers.read_trajectory(path), path=path)
    return Source(name=name, read=lambda: readers.read_other(path), path=path)
