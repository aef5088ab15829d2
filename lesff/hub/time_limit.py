"""One limit for all the waiting of a task, whatever it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lesff.environment import network_timeout

SLOWEST = 20_000.0
"""Bytes a second that keep a download alive."""


class TimeLimit:
    """How long a task may still wait: ``LESFF_TIMEOUT``, and longer only for bytes that arrive.

    What is left never exceeds the limit: a server that was fast before may not be silent for longer
    than others, and one that sends a byte now and then ends like one that sends nothing. Only time
    spent waiting counts, not that of computing.

    Attributes:
        seconds: The limit.
    """

    def __init__(self) -> None:
        self.seconds = network_timeout()
        self._left, self._total, self._since = self.seconds, 0.0, None
        self._guard = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time that the block takes counts."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            with self._guard:
                self._settle()
                self._since = None

    def received(self, n_bytes: int) -> None:
        """Count bytes that have arrived."""
        with self._guard:
            self._settle()
            self._left = min(self.seconds, self._left + n_bytes / SLOWEST)

    @property
    def waited(self) -> float:
        """Seconds of waiting so far."""
        with self._guard:
            self._settle()
            return self._total

    @property
    def left(self) -> float:
        """Seconds that are left; not positive when the time is over."""
        with self._guard:
            self._settle()
            return self._left

    @property
    def text(self) -> str:
        """How long the wait was and how to change it, for messages."""
        return (
            f"gave up after {self.waited:.0f} s (LESFF_TIMEOUT is {self.seconds:g} s, and one more "
            f"for every {SLOWEST / 1000:.0f} kB that arrive)"
        )

    def _settle(self) -> None:
        """Take what was waited since the last time off what is left."""
        if self._since is None:
            return
        now = time.monotonic()
        self._left -= now - self._since
        self._total += now - self._since
        self._since = now
