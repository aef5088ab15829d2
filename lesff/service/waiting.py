"""Requests on the event loop wait for jobs that a thread ends, woken by one call a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any


class Bell:
    """Wakes waiting requests of one event loop from other threads.

    Each call into a loop from outside writes to a socket. Of those that come before the loop has
    looked, only the first does.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[asyncio.Future[None]] = deque()
        self._is_rung = False

    @property
    def is_of_running_loop(self) -> bool:
        """Whether it wakes requests of the loop that runs here."""
        return self._loop is asyncio.get_running_loop()

    async def wait(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        """Until all futures are done.

        Raises:
            TimeoutError: if they are not in time.
        """
        waiter = self._loop.create_future()
        left = len(futures)

        def end(_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._ring(waiter)

        for future in futures:
            future.add_done_callback(end)
        late = self._loop.call_later(seconds, self._give_up, waiter)
        try:
            await waiter
        finally:
            late.cancel()

    def _ring(self, waiter: asyncio.Future[None]) -> None:
        self._done.append(waiter)  # before the look: `_open` clears the mark before it empties
        if not self._is_rung:
            self._is_rung = True
            self._loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._is_rung = False
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():
                waiter.set_result(None)

    @staticmethod
    def _give_up(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError())
