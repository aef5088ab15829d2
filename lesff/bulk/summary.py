"""What many results are like, in short: nothing is written, memory does not grow with them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lesff.bulk.compute import Row, Settings, Skipped, Task
from lesff.bulk.engine import compute_all, in_order
from lesff.bulk.executors import Workers
from lesff.bulk.items import Item, chunks_of
from lesff.bulk.models import ModelReference
from lesff.bulk.run import MAX_ATOMS, RunOptions, Spoken, progress_bar, stop


@dataclass
class Spread:
    """Least, mean and greatest of all components of a quantity.

    Attributes:
        least: The least.
        most: The greatest.
        total: Sum.
        count: Number of values.
    """

    least: float = math.inf
    most: float = -math.inf
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """The mean."""
        return self.total / max(self.count, 1)

    def add(self, values: np.ndarray) -> None:
        """Look at more values."""
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        self.total += float(values.sum())
        self.count += values.size


@dataclass(kw_only=True)
class Found:
    """What was found.

    Attributes:
        rows: The first structures with results.
        skipped: The first structures without.
        spreads: By property.
        n_rows: Structures with results.
        n_skipped: Structures without.
        n_atoms: Atoms of those with.
        seconds: Time.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    spreads: dict[str, Spread] = field(default_factory=dict)
    n_rows: int = 0
    n_skipped: int = 0
    n_atoms: int = 0
    seconds: float = 0.0


def summarize(
    read: Callable[[], Iterator[Item]],
    model: ModelReference,
    settings: Settings,
    options: RunOptions,
    *,
    workers: Workers | None = None,
    count: Callable[[], int | None] = lambda: None,
    kept: int,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """Compute structures and keep the first of them; see :func:`lesff.bulk.run.predict_to_file`.

    Args:
        read: Gives all items, in their order.
        model: The model.
        settings: How structures are computed.
        options: Chunks and errors.
        workers: Where to compute; in this process if None.
        count: Number of structures, for the progress bar.
        kept: Structures with results, and without, that are kept.
        say: Called with every line about what was found.

    Raises:
        StructureError: with ``on_error="stop"``, for the first structure without results.
        LesffError: for errors that are no fault of a structure.
    """
    found, spoken, begin = Found(), Spoken(say), time.perf_counter()
    tasks = (
        Task(chunk=chunk, model=model, settings=settings)
        for chunk in chunks_of(read(), options.chunk, MAX_ATOMS)
    )
    with progress_bar(options, count) as bar:
        for result in in_order(compute_all(tasks, workers)):
            spoken.hear(result)
            if result.skipped and options.on_error == "stop":
                first = result.skipped[0]
                stop(first.item.source, first.item.index, first.reason)
            for row in result.rows:
                for name, value in row.values.items():
                    found.spreads.setdefault(name, Spread()).add(np.asarray(value))
                found.n_atoms += len(row.state)
            found.rows += result.rows[: max(kept - len(found.rows), 0)]
            found.skipped += result.skipped[: max(kept - len(found.skipped), 0)]
            found.n_rows += len(result.rows)
            found.n_skipped += len(result.skipped)
            bar.update(len(result.rows) + len(result.skipped))
    spoken.close()
    found.seconds = time.perf_counter() - begin
    return found
