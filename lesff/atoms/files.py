"""Reading of structure and array files whose sizes are looked at first.

A file of some bytes may claim 10^12 atoms, or unpack to more than a disk holds. What it claims is
compared with what is there before it is parsed, in the reading process; every fault of a file is
one error.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import os
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import ase
import numpy as np

from lesff.atoms.xyz import read_simple_xyz
from lesff.errors import ConfigError, StructureError

MAX_BYTES = 8 * 2**30
"""Bytes of an input file, unpacked; ``LESFF_MAX_INPUT_BYTES`` sets another limit."""

_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_RATIO, _SMALL = 200, 2**26
"""Coordinates pack to a tenth; what unpacks to more than 64 MiB and this ratio is no data file."""
_CHUNK = 2**20
_XYZ = {"xyz", "extxyz"}
_MAX_LINE = 2**20
"""Bytes of a line of an xyz file."""
_MIN_ATOM_LINE = 2
"""Bytes of the shortest line of an atom."""
_ISOTOPES = {"D": 2.014, "T": 3.016}
"""Masses of hydrogen's isotopes in u."""


def input_limit() -> int:
    """Bytes that an input file may have, from ``LESFF_MAX_INPUT_BYTES`` if that is set.

    Raises:
        ConfigError: if it is not a positive whole number.
    """
    text = os.environ.get("LESFF_MAX_INPUT_BYTES", "").strip()
    if not text:
        return MAX_BYTES
    if not text.isdecimal() or not 0 < int(text) < 2**62:
        raise ConfigError(f"`LESFF_MAX_INPUT_BYTES` must be a whole number of bytes, got {text!r}")
    return int(text)


def read_images(path: Path) -> list[ase.Atoms]:
    """Structures of a file in any format ASE knows; ``@`` in its name is part of the name.

    Raises:
        StructureError: if the file is missing, too large, damaged or claims what it does not have.
    """
    if not path.exists():
        raise StructureError(f"structure file {path} does not exist")
    try:
        check_size(path)
        simple = read_simple_xyz(path)
        if simple is not None:
            return simple
        import ase.io  # start-up: imports scipy, 0.7 s of CPU
        from ase.io.formats import filetype

        kind = filetype(str(path), read=True)
        if kind in _XYZ:
            _check_xyz(path)
        elif kind == "vasp":
            _check_vasp(path)
        images = ase.io.read(path, index=":", format=kind, do_not_split_by_at_sign=True)
    except (StructureError, ConfigError):
        raise
    except MemoryError as error:
        raise StructureError(
            f"structure file {path} claims more than fits into memory: it is damaged"
        ) from error
    except KeyError as error:
        text = unknown_symbol(error)
        raise StructureError(f"structure file {path} cannot be read: {text}") from error
    except Exception as error:  # noqa: BLE001 - readers of a hundred formats raise anything
        text = str(error) or type(error).__name__
        raise StructureError(f"structure file {path} cannot be read: {text}") from error
    return images if isinstance(images, list) else [images]


def check_size(path: Path) -> None:
    """Make sure that a file is plain and, unpacked, within the limit.

    Raises:
        StructureError: if it is not.
        OSError: if it cannot be read.
    """
    found, limit = path.stat(), input_limit()
    if not stat.S_ISREG(found.st_mode):
        raise StructureError(f"structure file {path} must be a plain file")
    size = found.st_size
    opener = _OPENERS.get(path.suffix)
    if opener is not None and size <= limit:
        size = _unpacked_size(path, opener, packed=size, limit=limit)
    if size > limit:
        raise StructureError(
            f"structure file {path} must have at most {limit} bytes, got {size} or more: divide "
            "it, or set LESFF_MAX_INPUT_BYTES"
        )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an npz file, whose claims are compared with its bytes first; no pickles.

    Raises:
        ValueError: if it is damaged, too large or claims what it does not have.
        OSError: if it cannot be read.
    """
    limit, total = input_limit(), 0
    try:
        with zipfile.ZipFile(path) as archive:
            rows = archive.infolist()
            if len({row.filename for row in rows}) != len(rows):
                raise ValueError("it has a name twice")
            total = sum(row.file_size for row in rows)
            packed = max(path.stat().st_size, 1)
            if total > limit or (total > _SMALL and total > 1000 * packed):
                raise ValueError(
                    f"it unpacks to {total} bytes from {packed}, more than is allowed: divide it, "
                    "or set LESFF_MAX_INPUT_BYTES"
                )
            for row in rows:
                _check_array(archive, row)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, MemoryError):
            raise ValueError("it claims more than fits into memory") from error
        raise
    except Exception as error:  # noqa: BLE001 - readers of archives and headers raise anything
        raise ValueError(f"it is damaged: {error or type(error).__name__}") from error


def _check_array(archive: zipfile.ZipFile, row: zipfile.ZipInfo) -> None:
    """Compare what the header of an array claims with the bytes that are there."""
    with archive.open(row) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        claimed, there = math.prod(shape) * dtype.itemsize, row.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{row.filename} holds objects, which could be code")
    if min(shape, default=0) < 0 or claimed != there:
        raise ValueError(f"{row.filename} claims {claimed} bytes and has {there}")


def _unpacked_size(path: Path, opener: Callable[[Path], Any], *, packed: int, limit: int) -> int:
    """Bytes of a packed file, counted no further than just beyond the limit."""
    size = 0
    with opener(path) as stream:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                break
            if size > _SMALL and size > _RATIO * packed:
                raise StructureError(
                    f"structure file {path} unpacks to more than {_RATIO} times its size: it is "
                    "no data file; unpack it yourself if it is"
                )
    return size


def _opened(path: Path) -> BinaryIO:
    return _OPENERS.get(path.suffix, lambda p: p.open("rb"))(path)


def open_text(path: Path) -> TextIO:
    """A file, packed or not, as UTF-8 text; bytes that are none become replacement marks."""
    return io.TextIOWrapper(_opened(path), encoding="utf-8", errors="replace", newline=None)


def _check_xyz(path: Path) -> None:
    """Compare the number of atoms of every frame with the lines that are there."""
    frame = 0
    with _opened(path) as stream:
        while head := stream.readline(_MAX_LINE):
            text = head.strip()
            if not text:
                # blank lines end a file, as readers have it
                break
            if not re.fullmatch(rb"\+?[0-9]{1,18}", text):
                raise StructureError(
                    f"structure file {path}, frame {frame}: the first line must be the number of "
                    f"atoms, got {text[:40].decode(errors='replace')!r}"
                )
            n_atoms = int(text)
            stream.readline(_MAX_LINE)
            for i in range(n_atoms):
                line = stream.readline(_MAX_LINE)
                if len(line) < _MIN_ATOM_LINE:
                    raise StructureError(
                        f"structure file {path}, frame {frame}: it claims {n_atoms} atoms and has "
                        f"{i}"
                    )
            frame += 1
            # lattice vectors of an older format follow the atoms
            here = stream.tell()
            while (line := stream.readline(_MAX_LINE)).lstrip().startswith(b"VEC"):
                here = stream.tell()
            stream.seek(here)


def _check_vasp(path: Path) -> None:
    """Compare the numbers of atoms of a POSCAR with the lines that are there."""
    with _opened(path) as stream:
        lines = [stream.readline(_MAX_LINE) for _ in range(7)]
        n_lines = 7
        while stream.readline(_MAX_LINE):
            n_lines += 1
    # line 6 has the counts, or line 7 after the symbols; comments follow a mark
    rows = [re.split(rb"[!#]", line)[0].split() for line in lines[5:7]]
    counts = next((row for row in rows if row and all(x.isdigit() for x in row)), [])
    n_atoms = sum(int(x[:18]) for x in counts)
    if n_atoms > n_lines:
        raise StructureError(
            f"structure file {path} claims {n_atoms} atoms and has {n_lines} lines"
        )


def unknown_symbol(error: KeyError) -> str:
    """What to do about a symbol that ASE does not know."""
    symbol = str(error.args[0]) if error.args else ""
    if symbol in _ISOTOPES:
        return (
            f"ASE has no symbol {symbol!r}; write H, whose energy is the same, and set the mass "
            f"to {_ISOTOPES[symbol]} u (atoms.set_masses, or a column `masses` of extxyz)"
        )
    return f"unknown symbol or key {symbol!r}"
