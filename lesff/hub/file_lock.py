"""A lock between processes that says whom it waits for, and does not wait for ever."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lesff.disk import NO_FOLLOW
from lesff.errors import CacheError, warn
from lesff.hub.time_limit import TimeLimit

_POLL_S = 0.05
_SILENT_S = 1.0
"""A wait of so long is announced."""
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextmanager
def locked_file(lock: Path, what: str, *, downloaded: Callable[[], int]) -> Iterator[None]:
    """Hold a lock file; nothing is ever written into it.

    On file systems without locks the block runs unlocked: what it makes replaces what is there in
    one step.

    Args:
        lock: The file; its folder must exist.
        what: What is locked, for messages.
        downloaded: Bytes of the downloads under way; while they grow, the wait goes on.

    Raises:
        CacheError: if another process does not let go within ``LESFF_TIMEOUT``.
        OSError: if the file is a link or cannot be made.
    """
    descriptor = _open(lock)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CacheError(f"{lock} must be a plain file to be locked; remove it")
        _acquire(descriptor, lock, what, downloaded)
        yield
    finally:
        os.close(descriptor)  # lets go, too


def _open(lock: Path) -> int:
    try:
        # O_NONBLOCK: a pipe in its place does not block
        flags = os.O_RDWR | os.O_CREAT | NO_FOLLOW | vars(os).get("O_NONBLOCK", 0)
        return os.open(lock, flags, 0o644)
    except PermissionError:  # the file of another user can be locked, too
        return os.open(lock, os.O_RDONLY | NO_FOLLOW | vars(os).get("O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CacheError(f"{lock} must not be a symbolic link; remove it") from error
        raise


def _acquire(descriptor: int, lock: Path, what: str, downloaded: Callable[[], int]) -> None:
    limit, is_announced, n_bytes = TimeLimit(), False, downloaded()
    with limit.waiting():
        while not _try(descriptor):
            now = downloaded()
            limit.received(max(now - n_bytes, 0))
            n_bytes = now
            if limit.left <= 0:
                raise CacheError(
                    f"{what} is being fetched by {_holder(descriptor)}, which did not let go of "
                    f"{lock}; {limit.text}. Try again, end that process, or name another cache "
                    "with LESFF_CACHE"
                )
            if not is_announced and limit.waited > _SILENT_S:
                is_announced = True
                warn(
                    f"waiting for {_holder(descriptor)}, which is fetching {what} ({lock})",
                    UserWarning,
                )
            time.sleep(min(_POLL_S, limit.left))


def _try(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as the system tells."""
    state = os.fstat(descriptor)
    place = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    except OSError:
        return "another process"
    for row in rows:
        # 1: FLOCK ADVISORY WRITE 4711 00:2f:815 0 EOF
        if len(row) == 8 and row[1] == "FLOCK" and row[5] == place and int(row[4]) > 0:
            return f"process {row[4]}{_of_user(int(row[4]))}"
    return "another process"


def _of_user(process: int) -> str:
    try:
        import pwd

        return f" of {pwd.getpwuid(os.stat(f'/proc/{process}').st_uid).pw_name}"
    except (ImportError, OSError, KeyError):
        return ""
