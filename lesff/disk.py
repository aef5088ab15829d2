"""Files and folders: written whole or not at all, and known to be one's own.

What is written appears complete: beside its place first, then renamed; one suffix marks what a
process that was killed has left behind. What lies in a place that others can write to is looked at
before it is believed, continued or removed: whose it is, whether it is a plain file, whether a link
leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
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


NO_FOLLOW = vars(os).get("O_NOFOLLOW", 0)
"""Flag that refuses a symbolic link as the last step; 0 where the system has none."""


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


_ANYONE_WRITES = 0o222


_DIRECTORY = vars(os).get("O_DIRECTORY", 0)


_BINARY = vars(os).get("O_BINARY", 0)


_HAS_OWNERS = hasattr(os, "geteuid")


def is_own(state: os.stat_result) -> bool:
    """Whether a file is a plain one that only this user can write, under this one name only."""
    is_plain = stat.S_ISREG(state.st_mode) and state.st_nlink == 1
    if not _HAS_OWNERS:
        return is_plain
    return is_plain and state.st_uid == os.geteuid() and not state.st_mode & _OTHERS_WRITE


def is_guarded(path: Path) -> bool:
    """Whether only this user and root can change a file or folder, or put another in its place.

    It and all folders above it must belong to one of the two and not be writable by group or
    others; a folder like ``/tmp``, in which users can only move what is theirs, may be.
    """
    if not _HAS_OWNERS:
        return True
    step = Path(os.path.realpath(path))
    try:
        return _is_guarded(step.stat()) and all(_is_guarded(up.stat()) for up in step.parents)
    except OSError:
        return False


def is_administered(folder: Path, names: Iterator[str] | tuple[str, ...]) -> bool:
    """Whether root or this user made a folder and this user cannot write into it (any more).

    Args:
        folder: The folder.
        names: Files in it that must be so, too.
    """
    paths = (folder, *(folder / name for name in names))
    return all(_is_read_only(path) and is_guarded(path) for path in paths)


def is_kept(root: Path, path: Path) -> bool:
    """Whether a file and its folders up to ``root`` are of this user and not for all to write.

    That a group may write does not count: there are systems with a group for each user.
    """
    if not _HAS_OWNERS:
        return True
    steps = [path, *path.parents]
    for step in steps[: steps.index(root) + 1]:
        found = step.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            return False
    return True


def first_link(root: Path, path: Path) -> Path | None:
    """First step below a folder, on the way to a path, that is a symbolic link; None without one.

    Args:
        root: The folder; it may itself be reached through links.
        path: The path; outside of ``root`` nothing is looked at.
    """
    try:
        steps = path.relative_to(root).parts
    except ValueError:
        return None
    places = (root.joinpath(*steps[: i + 1]) for i in range(len(steps)))
    return next((place for place in places if place.is_symlink()), None)


def open_to_copy(path: Path) -> int:
    """Descriptor of a file that only this user can write, for reading.

    Raises:
        OSError: if it is a link, of somebody else, or not there.
    """
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | _BINARY)
    if not is_own(os.fstat(descriptor)):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a file of this user only", str(path))
    return descriptor


def open_own(path: Path, *, append: bool = False) -> int:
    """Descriptor of a file that only this user can write: a new one, or one to go on with.

    Args:
        path: The file.
        append: Whether it must be there already; else it must not.

    Raises:
        OSError: if it is a link, of somebody else, or (not) there.
    """
    flags = os.O_APPEND if append else os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, os.O_WRONLY | flags | NO_FOLLOW | _BINARY, 0o644)
    if append and not is_own(os.fstat(descriptor)):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a file of this user only", str(path))
    if not append and _HAS_OWNERS:  # whatever the mask is
        os.fchmod(descriptor, 0o644)
    return descriptor


def remove_below(root: Path, path: Path) -> None:
    """Remove a file, link or folder below a folder; links on the way or inside are not followed.

    Args:
        root: The folder.
        path: What to remove; must be below ``root``.

    Raises:
        OSError: if it cannot be removed, or a link is on the way.
        ValueError: if it is not below ``root``.
    """
    *steps, name = path.relative_to(root).parts
    if ".." in (*steps, name):
        raise ValueError(f"`path` must be below {root}, got {path}")
    if not (os.rmdir in os.supports_dir_fd and shutil.rmtree.avoids_symlink_attacks):
        if first_link(root, path.parent) is not None:
            raise OSError(errno.ELOOP, "a link is on the way", str(path))
        _remove(path)
        return
    parent = os.open(root, os.O_RDONLY | _DIRECTORY)
    try:
        for step in steps:
            inner = os.open(step, os.O_RDONLY | _DIRECTORY | NO_FOLLOW, dir_fd=parent)
            os.close(parent)
            parent = inner
        if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_guarded(state: os.stat_result) -> bool:
    is_sticky = stat.S_ISDIR(state.st_mode) and bool(state.st_mode & stat.S_ISVTX)
    is_closed = not state.st_mode & _OTHERS_WRITE or is_sticky
    return is_closed and state.st_uid in (0, os.geteuid())


def _is_read_only(path: Path) -> bool:
    # the bits first: root may write whatever they say
    try:
        bits = path.lstat().st_mode
    except OSError:
        return False
    if not (stat.S_ISREG(bits) or stat.S_ISDIR(bits)):
        return False
    return not bits & _ANYONE_WRITES or not os.access(path, os.W_OK)
