"""The cache: what its entries must hold, records of what was fetched, one process at a time."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lesff.environment import cache_folder
from lesff.errors import CacheError, ConfigError, IntegrityError, ManifestError
from lesff.files import FileSet
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.model_folder.layout import model_damage
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
    return model_damage(FileSet(version.files), folder, "the manifest")


def read_record(kind: type[T], path: Path) -> T:
    """What was written down when something was fetched.

    Args:
        kind: Dataclass of the record.
        path: Its file.

    Raises:
        IntegrityError: if there is none, or it is malformed.
    """
    try:
        return from_dict(kind, read_json(path), path.name)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing") from error
    except (OSError, ConfigError, ManifestError) as error:
        raise IntegrityError(f"{path} is not a readable record: {error}") from error


@contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """One process at a time; errors of the disk become errors of the cache.

    Args:
        lock: File that the processes agree on; its folder is made if need be.
        what: What the cache shall hold, for messages.

    Raises:
        CacheError: if the cache cannot be written.
    """
    # here, because it takes half a second that commands without a download need not spend
    from huggingface_hub.utils import WeakFileLock  # start-up: 0.3 s of CPU

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            yield
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise CacheError(
                f"the cache {cache_folder()} must be writable to hold {what} ({error.strerror}); "
                "LESFF_CACHE names another place"
            ) from error
        raise
