"""The cache: checked files, entries that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

DISK_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR,
        errno.EEXIST,
    }
)  # fmt: skip
"""Errors that trying again does not cure."""


class Workspace:
    """A new folder beside a cache entry, removed on leaving.

    Args:
        cached: The cache entry.
    """

    def __init__(self, cached: Path) -> None:
        self.path = cached.parent / f".{cached.name}.{uuid.uuid4().hex}.tmp"

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def install(new: Path, cached: Path, old: Path, *, is_intact: Callable[[], bool]) -> None:
    """Move a complete folder into the cache; a damaged entry goes to ``old``.

    Args:
        new: The folder to install.
        cached: Where it goes.
        old: Where to move what is there.
        is_intact: Whether what is there can stay, for another process may have been faster.
    """
    try:
        os.replace(new, cached)
    except OSError:
        if not cached.exists():
            raise
        if is_intact():
            return
        os.replace(cached, old)
        os.replace(new, cached)
