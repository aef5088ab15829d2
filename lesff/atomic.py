"""Files and folders that appear complete or not at all: written beside their place, then renamed.

Every module that writes in this way does it here, so one suffix marks what a process that was
killed has left behind.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".tmp"
"""Ending of files and folders that are being written; their names begin with a dot."""


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A new name beside a file; what the block writes there replaces the file at its end.

    If the block raises, the file stays as it was and nothing is left behind.

    Args:
        path: The file; its folder must exist.
    """
    new = _unfinished(path)
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file; it appears complete or not at all.

    Args:
        path: The file; its folder must exist.
        data: Its content; text is written as UTF-8, line ends as they are.
    """
    with written_atomically(path) as new:
        new.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replaced_folder(folder: Path, *, is_intact: Callable[[], bool] | None = None) -> Iterator[Path]:
    """A new name for a folder; what the block makes there takes the folder's place at its end.

    The new name is in a workspace of its own beside ``folder``, which is removed in any case; the
    block may put other things beside the new name. Other users cannot enter the workspace. If the
    block raises, nothing else has changed.

    Args:
        folder: The folder; its parent is made if need be.
        is_intact: Whether what is at ``folder`` by then may stay, for another process may have
            been faster; it is always replaced if None.

    Raises:
        OSError: if the folder cannot be replaced; what was there is put back.
    """
    work = _unfinished(folder)
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir(mode=0o700)  # what is checked in there is what is moved out of it
        yield work / "new"
        _install(work / "new", folder, work / "old", is_intact)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")


def _install(new: Path, folder: Path, old: Path, is_intact: Callable[[], bool] | None) -> None:
    """Move ``new`` to ``folder``; what was there goes to ``old``."""
    try:
        os.replace(new, folder)
    except OSError:
        if not folder.exists():
            raise
    else:
        return
    if is_intact is not None and is_intact():
        return
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if not folder.exists():
            os.replace(old, folder)
        elif is_intact is not None and is_intact():
            return
        raise
