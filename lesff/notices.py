"""Warnings, each kept by the thread that caused it.

``warnings.catch_warnings`` changes what all threads see, and two of them that overlap leave each
other's list in place when both are done: warnings of the process would then be lost. Here one hook
sends every warning to the list of its thread, as long as any thread listens.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCAL = threading.local()


class _Hook:
    """What is shown goes to the list of its thread while anybody listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._outside: warnings.catch_warnings[None] | None = None

    def take(self) -> None:
        with self._lock:
            self._n_users += 1
            if self._n_users > 1:
                return
            self._outside = warnings.catch_warnings()
            self._outside.__enter__()
            warnings.simplefilter("always", UserWarning)
            shown = warnings.showwarning

            def keep(
                message: Warning | str, category: type[Warning], *args: Any, **more: Any
            ) -> None:
                kept: list[Warning] | None = getattr(_LOCAL, "kept", None)
                if kept is None:
                    shown(message, category, *args, **more)
                elif issubclass(category, UserWarning):
                    kept.append(message if isinstance(message, Warning) else category(message))

            warnings.showwarning = keep

    def leave(self) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0 and self._outside is not None:
                self._outside.__exit__(None, None, None)
                self._outside = None


_HOOK = _Hook()


@contextmanager
def hooked_warnings() -> Iterator[None]:
    """Inside the block the hook stays, so that :func:`heard` need not set it each time."""
    _HOOK.take()
    try:
        yield
    finally:
        _HOOK.leave()


@contextmanager
def heard() -> Iterator[list[Warning]]:
    """Warnings of this thread inside the block, of users' kind; they are shown nowhere else."""
    before = getattr(_LOCAL, "kept", None)
    kept: list[Warning] = []
    with hooked_warnings():
        _LOCAL.kept = kept
        try:
            yield kept
        finally:
            _LOCAL.kept = before
