"""Workers: any executor with the interface of ``concurrent.futures``, by name or as an object."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from lesff.errors import ConfigError, MissingDependencyError

FORMS = "processes:N, threads:N, dask:ADDRESS or parsl:CONFIG.py"
_FAR = 32
"""Chunks in flight with an executor that does not say how many workers it has."""


class Workers(Protocol):
    """Workers that tasks are sent to.

    Attributes:
        count: Number of workers, as far as known.
        threads: Threads that each may use for large structures; None for what it has.
    """

    count: int
    threads: int | None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Send a task."""
        ...

    def restart(self) -> bool:
        """Replace workers after some of them died; False if that cannot be done here."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


class Given:
    """An executor of the caller: used, not closed.

    Args:
        executor: The executor.
    """

    def __init__(self, executor: Executor) -> None:
        if not callable(getattr(executor, "submit", None)):
            raise ConfigError(
                f"`executor` must be {FORMS}, or have the interface of concurrent.futures, got "
                f"{type(executor).__name__}"
            )
        self._executor = executor
        workers = getattr(executor, "_max_workers", None)
        self.count = workers if isinstance(workers, int) and workers > 0 else _FAR
        self.threads: int | None = None
        if isinstance(executor, (ProcessPoolExecutor, ThreadPoolExecutor)):
            self.threads = _threads_each(self.count)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Send a task."""
        return self._executor.submit(function, *arguments)

    def restart(self) -> bool:
        """Only pools of processes break for good; others replace their workers themselves."""
        return not isinstance(self._executor, ProcessPoolExecutor)

    def close(self) -> None:
        """Nothing: the executor is the caller's."""


class Processes:
    """Processes of this machine; a pool that breaks is replaced.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._share = _threads_each(count)
        self.threads: int | None = self._share
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        # forks of a process with threads of PyTorch hang
        return ProcessPoolExecutor(
            self.count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self._share,),
        )

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Send a task."""
        return self._pool.submit(function, *arguments)

    def restart(self) -> bool:
        """Start new processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._started()
        return True

    def close(self) -> None:
        """Let the processes end; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Owned(Given):
    """An executor that was made for this run and ends with it.

    Args:
        executor: The executor.
        count: Number of its workers, if known.
        closers: Called at the end, last one first.
    """

    def __init__(self, executor: Executor, count: int | None, *closers: Callable[[], Any]) -> None:
        super().__init__(executor)
        self.count = self.count if count is None else count
        self._closers = closers

    def close(self) -> None:
        """Let the workers go."""
        for close in reversed(self._closers):
            close()


def workers_of(text: str | Executor) -> Workers:
    """Workers of an executor, or of a word such as ``processes:8``.

    Raises:
        ConfigError: for a word that is none of :data:`FORMS`.
        MissingDependencyError: if a library is missing that it needs.
    """
    if not isinstance(text, str):
        return Given(text)
    kind, _, rest = text.partition(":")
    if kind == "processes":
        return Processes(_number(text, rest))
    if kind == "threads":
        count = _number(text, rest)
        pool = ThreadPoolExecutor(count)
        return Owned(pool, count, lambda: pool.shutdown(wait=True, cancel_futures=True))
    if kind == "dask" and rest:
        return _dask(rest)
    if kind == "parsl" and rest:
        return _parsl(Path(rest))
    raise ConfigError(f"`executor` must be {FORMS}, got {text!r}")


def _number(text: str, count: str) -> int:
    if count == "":
        return os.cpu_count() or 1
    if not count.isdecimal() or not 0 < int(count) <= 4096:
        raise ConfigError(f"`executor` must be {FORMS} with N from 1 to 4096, got {text!r}")
    return int(count)


def _dask(address: str) -> Workers:
    try:
        from distributed import Client  # optional
    except ImportError as error:
        raise MissingDependencyError(
            'dask.distributed is not installed; install it with `pip install "lesff[dask]"`'
        ) from error
    try:
        client: Any = Client(address, timeout="30s")
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"`executor` {address}: no Dask scheduler answers: {error}") from error
    return Owned(
        client.get_executor(pure=False), sum(client.nthreads().values()) or None, client.close
    )


def _parsl(path: Path) -> Workers:
    try:
        from parsl.concurrent import ParslPoolExecutor  # optional
        from parsl.config import Config
    except ImportError as error:
        raise MissingDependencyError(
            'Parsl is not installed; install it with `pip install "lesff[parsl]"`'
        ) from error
    if not path.is_file():
        raise ConfigError(f"`executor` parsl:{path}: the file does not exist")
    found = runpy.run_path(str(path)).get("config")
    config = found() if callable(found) else found
    if not isinstance(config, Config):
        raise ConfigError(
            f"{path} must define `config`, a parsl.config.Config or a function that returns one"
        )
    with ExitStack() as stack:
        stack.enter_context(_scripts_on_the_path())
        try:
            executor = ParslPoolExecutor(config)
        except OSError as error:
            raise ConfigError(f"`executor` parsl:{path}: Parsl did not start: {error}") from error
        stack.callback(executor.shutdown)
        # Parsl starts more workers later: all of it stays until the workers are let go
        return Owned(executor, _parsl_workers(config), stack.pop_all().close)


@contextmanager
def _scripts_on_the_path() -> Iterator[None]:
    """Let Parsl find its scripts beside this Python, of an environment that is not activated.

    Parsl has no option for where they are: it looks along ``PATH``, which is put back afterwards.
    """
    before = os.environ.get("PATH")
    scripts, places = sysconfig.get_path("scripts"), before or os.defpath
    if scripts in places.split(os.pathsep):
        yield
        return
    os.environ["PATH"] = os.pathsep.join([scripts, places])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _parsl_workers(config: Any) -> int | None:
    """Workers that a Parsl configuration may have at most; None if it does not say."""
    total = 0
    for executor in config.executors:
        provider = getattr(executor, "provider", None)
        nodes = getattr(provider, "nodes_per_block", 1) * getattr(provider, "max_blocks", 1)
        each = getattr(executor, "max_workers_per_node", None)
        if not isinstance(each, int) or each > 4096:
            return None
        total += nodes * each
    return total or None


def _threads_each(count: int) -> int:
    """Threads of each of so many workers of this machine, and no more than the user wants."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    limit = int(wanted) if wanted.isdecimal() and int(wanted) else os.cpu_count() or 1
    return max(1, min(limit, (os.cpu_count() or 1) // count))


def _begin(threads: int) -> None:
    """First thing in a process: its share of the cores."""
    import torch  # start-up: the commands that use this print help without it

    torch.set_num_threads(threads)
