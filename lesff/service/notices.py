"""Warnings of lesff, each kept by the thread that caused it.

``warnings.catch_warnings`` changes what all threads see. Here one hook, set once for the life of a
service, sends every warning to the list of its thread.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCAL = threading.local()


@contextmanager
def hooked_warnings() -> Iterator[None]:
    """Inside the block, :func:`heard` works in every thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        shown = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *args: Any, **more: Any) -> None:
            kept = getattr(_LOCAL, "kept", None)
            if kept is None:
                shown(message, category, *args, **more)
            elif issubclass(category, UserWarning):
                kept.append(str(message))

        warnings.showwarning = keep
        yield


@contextmanager
def heard() -> Iterator[list[str]]:
    """Texts of the warnings of this thread inside the block; they are shown nowhere else."""
    before = getattr(_LOCAL, "kept", None)
    _LOCAL.kept = kept = []
    try:
        yield kept
    finally:
        _LOCAL.kept = before
