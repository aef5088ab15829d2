"""Chunks through workers: bounded, retried where workers die, poisoned structures isolated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import replace

from lesff.bulk.compute import ChunkResult, Skipped, Task, compute_chunk
from lesff.bulk.executors import Workers
from lesff.bulk.items import Item
from lesff.errors import ExecutorError

_AHEAD = 2
"""Chunks in flight for each worker."""
_TRIES = 2
"""Times that a task may lose its worker, alone, before it is held to be the cause."""


def compute_all(tasks: Iterator[Task], workers: Workers | None) -> Iterator[ChunkResult]:
    """Results of tasks as they come; with workers, not in order.

    Args:
        tasks: Tasks, taken as they are needed: no more than a few for each worker are in memory.
        workers: Where to compute; in this process if None.

    Raises:
        ExecutorError: if workers die whatever they are given.
        LesffError: an error that would meet every chunk.
    """
    if workers is None:
        for task in tasks:
            yield _checked(compute_chunk(task))
        return
    engine = _Engine(workers)
    for task in tasks:
        engine.start(task)
        while engine.is_full:
            yield from engine.finished()
    while engine.is_busy:
        yield from engine.finished()


def in_order(results: Iterator[ChunkResult], first: int = 0) -> Iterator[ChunkResult]:
    """Results by the index of their chunk."""
    held: dict[int, ChunkResult] = {}
    following = first
    for result in results:
        held[result.chunk] = result
        while following in held:
            yield held.pop(following)
            following += 1


class _Engine:
    """Tasks under way, and those that wait to be computed alone after a worker died.

    Args:
        workers: Where to compute.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._flights: dict[Future[ChunkResult], Task] = {}
        self._suspects: list[Task] = []
        self._is_probed = self._is_broken = False
        self._last_error: BaseException | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more tasks should be started."""
        return len(self._flights) >= _AHEAD * self._workers.count or bool(self._suspects)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._flights) or bool(self._suspects)

    def start(self, task: Task) -> None:
        """Send a task."""
        self._send(replace(task, threads=self._workers.threads))

    def finished(self) -> Iterator[ChunkResult]:
        """Results of what ends next; suspects are computed once nothing else is under way."""
        if not self._flights:
            if self._is_broken:
                self._restart()
            suspects, self._suspects = self._suspects, []
            for task in suspects:
                yield self._alone(task)
            return
        done, _ = wait(self._flights, return_when=FIRST_COMPLETED)
        for future in done:
            task = self._flights.pop(future)
            error = None if not future.cancelled() else CancelledError()
            error = error or future.exception()
            if error is None:
                yield _checked(future.result())
            else:
                self._lose(task, error)

    def _send(self, task: Task) -> None:
        try:
            future = self._workers.submit(compute_chunk, task)
        except Exception as error:  # noqa: BLE001 - a pool that is broken raises its own kind
            self._lose(task, error)
            return
        self._flights[future] = task

    def _lose(self, task: Task, error: BaseException) -> None:
        """Keep a task whose worker died; compute_chunk itself raises nothing.

        What breaks a pool breaks all that is under way: none of it is known to be the cause.
        """
        self._suspects.append(task)
        self._is_broken, self._last_error = True, error

    def _restart(self) -> None:
        if not self._workers.restart():
            raise ExecutorError(
                "the executor is broken, because a worker died, and cannot be started again here: "
                f"name it (processes:N) instead of giving an object ({_text(self._last_error)})"
            ) from self._last_error
        self._is_broken = False

    def _alone(self, task: Task) -> ChunkResult:
        """Result of a task that is computed with nothing beside it."""
        chunk = task.chunk
        result = self._tried(task, _TRIES)
        if result is not None:
            return result
        self._probe(task)
        poisoned = self._poisoned(task, chunk.items)
        bad = {id(item) for item in poisoned}
        rest = tuple(item for item in chunk.items if id(item) not in bad)
        result = ChunkResult(chunk=chunk.index)
        if rest:
            # in one piece, as it is computed when they were never there
            found = self._tried(replace(task, chunk=replace(chunk, items=rest)), _TRIES)
            if found is None:
                raise ExecutorError(
                    f"workers die over {chunk.title}, but over no single structure of it: take "
                    "smaller chunks, or give workers more memory"
                )
            result = found
        places = {id(item): place for place, item in enumerate(chunk.items)}
        skipped = {
            **{
                places[id(rest[gap])]: row
                for gap, row in zip(result.gaps, result.skipped, strict=True)
            },
            **{places[id(item)]: self._skipped(item) for item in poisoned},
        }
        gaps = tuple(sorted(skipped))
        return replace(result, skipped=tuple(skipped[gap] for gap in gaps), gaps=gaps)

    def _poisoned(self, task: Task, items: Sequence[Item]) -> list[Item]:
        """Items over each of which workers die, found by halving."""
        tries = _TRIES if len(items) == 1 else 1
        if self._tried(replace(task, chunk=replace(task.chunk, items=tuple(items))), tries):
            return []
        if len(items) == 1:
            return list(items)
        middle = len(items) // 2
        return [*self._poisoned(task, items[:middle]), *self._poisoned(task, items[middle:])]

    def _skipped(self, item: Item) -> Skipped:
        reason = f"no worker survives it, in {_TRIES} tries ({_text(self._last_error)})"
        return Skipped(item=replace(item, atoms=None, text=None), reason=reason)

    def _tried(self, task: Task, tries: int) -> ChunkResult | None:
        """Result of a task; None if its worker dies every time."""
        for _ in range(tries):
            try:
                result = self._workers.submit(compute_chunk, task).result()
            except Exception as error:  # noqa: BLE001 - executors raise their own kinds
                self._last_error = error
                self._restart()
            else:
                return _checked(result)
        return None

    def _probe(self, task: Task) -> None:
        """Make sure that workers live if they are given nothing but the model."""
        if self._is_probed:
            return
        if self._tried(replace(task, chunk=replace(task.chunk, items=())), _TRIES) is None:
            raise ExecutorError(
                "workers die before they compute anything: look at their output (memory, lesff "
                f"of this version in their environment?): {_text(self._last_error)}"
            ) from self._last_error
        self._is_probed = True


def _checked(result: ChunkResult) -> ChunkResult:
    """A result; raises what would meet every chunk."""
    if result.fatal is not None:
        raise result.fatal
    return result


def _text(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
