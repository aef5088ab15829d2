"""The cache: what its entries must hold, records of what was fetched, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lesff.disk import first_link
from lesff.environment import cache_folder
from lesff.errors import CacheError, ConfigError, IntegrityError, ManifestError
from lesff.files import FileSet
from lesff.hub.file_lock import locked_file
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.model_folder.layout import model_damage, model_files
from lesff.plain_data import from_dict, read_json

T = TypeVar("T")

DISK_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR,
        errno.EEXIST,
    }
)  # fmt: skip
"""Errors that trying again does not cure."""


def cached_folder(entry: ModelEntry, version: VersionEntry) -> Path:
    """Where the cache has a version of a model of the manifest, if it has it."""
    return cache_folder() / "models" / entry.name / version.version


def find_damage(folder: Path, version: VersionEntry) -> str | None:
    """First difference between a folder and the manifest as text, or None if there is none."""
    return find_difference(FileSet(version.files), folder, "the manifest")


def find_difference(files: FileSet, folder: Path, record: str) -> str | None:
    """First reason not to take a folder for the model that a record describes, or None.

    In the cache, nothing is reached through a symbolic link.

    Args:
        files: What the record lists.
        folder: The model folder.
        record: What it is called, for messages.
    """
    links = (
        first_link(cache_folder(), folder / name) for name in (*files.names, *model_files(folder))
    )
    link = next((link for link in links if link is not None), None)
    if link is not None:
        return f"{link} is a symbolic link, which nothing in the cache may be"
    return model_damage(files, folder, record)


def check_no_links(path: Path) -> None:
    """Make sure that what is written at a path in the cache ends up in the cache.

    Raises:
        CacheError: if a step on the way is a symbolic link.
    """
    link = first_link(cache_folder(), path)
    if link is not None:
        raise CacheError(
            f"{link} must not be a symbolic link: nothing in the cache is written through one; "
            "remove it, or name another place with LESFF_CACHE"
        )


def read_record(kind: type[T], path: Path) -> T:
    """What was written down when something was fetched.

    Args:
        kind: Dataclass of the record.
        path: Its file.

    Raises:
        IntegrityError: if there is none, or it is malformed or no plain file.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a pipe or a device would never end
            raise IntegrityError(f"{path} must be a plain file")
        return from_dict(kind, read_json(path), path.name)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing") from error
    except IntegrityError:
        raise
    except (OSError, ConfigError, ManifestError) as error:
        raise IntegrityError(f"{path} is not a readable record: {error}") from error


@contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """One process at a time; errors of the disk become errors of the cache.

    A wait of more than a second is announced by a warning, and ends with ``LESFF_TIMEOUT`` unless
    what the other process downloads keeps growing.

    Args:
        lock: File that the processes agree on; its folder is made if need be.
        what: What the cache shall hold, for messages.

    Raises:
        CacheError: if the cache cannot be written, or another process does not let go.
    """
    try:
        check_no_links(lock)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(lock, what, downloaded=_n_downloaded):
            yield
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise CacheError(
                f"the cache {cache_folder()} must be writable to hold {what} ({error.strerror}); "
                "LESFF_CACHE names another place"
            ) from error
        raise


def _n_downloaded() -> int:
    """Bytes of all downloads under way."""
    total = 0
    for path in (cache_folder() / "downloads").glob("*.part"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total
