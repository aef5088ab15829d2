"""Files that must be exactly these: sizes and digests, and the first difference from them.

Large files that have not changed since they were last read are not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from lesff.disk import is_guarded, open_to_copy
from lesff.environment import always_rehash, state_folder
from lesff.errors import ConfigError, IntegrityError, ManifestError
from lesff.plain_data import from_dict, read_json, write_json

ALWAYS_HASHED = 2**20
"""Files up to this many bytes are read each time: that takes less than asking for a record."""

SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_ID = re.compile(r"[0-9a-f]{40}")
"""Git's id of a commit or of a file."""
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
"""Path of a file in a model folder."""

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""
_CHUNK = 2**20
_SETTLED_S = 2.0
"""A file that changed less than this ago may change again without a new time stamp."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A digest and the state of the file that it was taken from.

    Attributes:
        path: Absolute path.
        state: Size, times of the last change of content and of anything, inode and device.
        sha256: Hexadecimal digest.
    """

    path: str
    state: tuple[int, ...]
    sha256: str


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file.

    A file above :data:`ALWAYS_HASHED` that has the size, times, inode and device that it had when
    this user last read it whole is not read again, if only this user and root can change it or put
    another in its place. The record is in :func:`state_folder`, not in the cache: who can write
    into a shared cache cannot vouch for what is there. ``LESFF_REHASH=1`` reads it in any case.
    """
    with path.open("rb") as stream:
        before = _state(stream.fileno())
        may_know = before[0] > ALWAYS_HASHED and is_guarded(path)
        if may_know and not always_rehash():
            known = _read(path)
            if known is not None and known.path == str(path.resolve()) and known.state == before:
                return known.sha256
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        after = _state(stream.fileno())
    # times ahead of the clock never count as settled: such files are read each time
    is_settled = time.time() - max(before[1], before[2]) / 1e9 > _SETTLED_S
    if may_know and is_settled and after == before:
        record = _Record(path=str(path.resolve()), state=before, sha256=digest)
        with contextlib.suppress(OSError):  # without a place for it, the next load reads again
            write_json(_record_path(path), asdict(record))
    return digest


def forget(path: Path) -> None:
    """Have a file read again by the next :func:`sha256_of`."""
    _record_path(path).unlink(missing_ok=True)


def _state(descriptor: int) -> tuple[int, ...]:
    stat = os.fstat(descriptor)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def _record_path(path: Path) -> Path:
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return state_folder() / "verified" / f"{key}.json"


def _read(path: Path) -> _Record | None:
    try:
        return from_dict(_Record, read_json(_record_path(path)), "record")
    except (OSError, ConfigError):  # absent or damaged: read the file
        return None


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a version.

    Attributes:
        path: Relative to the model folder, with forward slashes.
        size: Bytes.
        sha256: Lower-case hexadecimal digest.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        require_match(PATH, self.path, "path", "a relative path of plain names")
        check_portable(self.path)
        require_match(SHA256, self.sha256, "sha256", "64 lower-case hexadecimal digits")
        if self.size < 1:
            raise ManifestError(f"`size` of {self.path} must be positive, got {self.size}")

    @classmethod
    def of(cls, path: Path, name: str) -> FileEntry:
        """Size and sha256 of a file that is there.

        Args:
            path: The file.
            name: What it is called in its folder.

        Raises:
            IntegrityError: if it is empty, as no file of a model is.
        """
        size = path.stat().st_size
        if size < 1:
            raise IntegrityError(f"{path} must not be empty; fetch or copy it again")
        return cls(path=name, size=size, sha256=sha256_of(path))

    def damage(self, path: Path) -> str | None:
        """Difference between a file and what it must be as text, or None if there is none.

        Args:
            path: The file, wherever it is.
        """
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != self.size:
            return f"{path} must have {self.size} bytes, got {size}"
        digest = sha256_of(path)
        if digest != self.sha256:
            return f"{path} must have sha256 {self.sha256}, got {digest}"
        return None


@dataclass(frozen=True)
class FileSet:
    """Files of a folder that must be exactly these.

    Attributes:
        entries: Size and sha256 of every file.
    """

    entries: tuple[FileEntry, ...]

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> FileSet:
        """Files of a folder as they are now.

        Args:
            folder: The folder.
            names: Their paths in it.

        Raises:
            IntegrityError: if one is empty.
            OSError: if one cannot be read.
        """
        return cls(tuple(FileEntry.of(folder / name, name) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the files in their folder."""
        return tuple(file.path for file in self.entries)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.entries)

    @property
    def digest(self) -> str:
        """One sha256 for all: that of what ``sha256sum`` prints for the files, sorted by name.

        In a shell: ``LC_ALL=C sha256sum LICENSE README.md config.json model.safetensors
        parity.safetensors | sha256sum``, with ``uncertainty.safetensors`` last where there is one.
        """
        rows = sorted((file.path, file.sha256) for file in self.entries)
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in rows)
        return hashlib.sha256(lines.encode()).hexdigest()

    def damage(self, folder: Path) -> str | None:
        """First difference between a folder and these files as text, or None if there is none.

        Files of the folder that are not among these are not looked at.
        """
        damages = (file.damage(folder / file.path) for file in self.entries)
        return next((damage for damage in damages if damage is not None), None)


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What identifies a checkpoint file.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal digest.
        git_blob: Git's id of the file: sha1 of "blob", its size, a zero byte and its bytes.
    """

    size: int
    sha256: str
    git_blob: str

    @classmethod
    def of(cls, path: Path) -> Digest:
        """Digests of a file, which is read whole each time."""
        with path.open("rb") as stream:
            return cls._of_stream(stream, None)

    @classmethod
    def copied(cls, path: Path, target: Path, *, own: bool = False) -> Digest:
        """Digests of a file and a new copy of the bytes that they are of: it is read once.

        Args:
            path: The file.
            target: File to write; must not exist.
            own: Refuse a file that is a link or that others can write.
        """
        source = open_to_copy(path) if own else path
        with open(source, "rb") as stream, target.open("xb") as copy:
            return cls._of_stream(stream, copy)

    @classmethod
    def _of_stream(cls, stream: BinaryIO, copy: BinaryIO | None) -> Digest:
        size, n_bytes = os.fstat(stream.fileno()).st_size, 0
        sha256 = hashlib.sha256()
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := stream.read(_CHUNK):
            n_bytes += len(chunk)
            sha256.update(chunk)
            blob.update(chunk)
            if copy is not None:
                copy.write(chunk)
        if n_bytes != size:
            raise IntegrityError(
                f"{stream.name} must not change while it is read, but had {size} bytes and then "
                f"{n_bytes}; try again"
            )
        return cls(size=size, sha256=sha256.hexdigest(), git_blob=blob.hexdigest())


def check_portable(path: str) -> None:
    """Refuse file names that some file system cannot hold.

    Raises:
        ManifestError: naming the part.
    """
    for part in path.split("/"):
        if _RESERVED.fullmatch(part) or part.endswith("."):
            raise ManifestError(
                f"`path` must be made of names that Windows can hold, got {part!r} in {path!r}"
            )


def require_match(pattern: re.Pattern[str], value: str, name: str, expected: str) -> None:
    """Make sure that a field has the form that it must have.

    Args:
        pattern: The form.
        value: The field.
        name: Its name, for messages.
        expected: The form in words, for messages.

    Raises:
        ManifestError: if it has not.
    """
    if not pattern.fullmatch(value):
        raise ManifestError(f"`{name}` must be {expected}, got {value!r}")
