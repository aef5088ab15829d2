"""Structures in, predictions out, one by one and in order: ``Model.map``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal

import ase

from lesff.atoms.structure import as_atoms
from lesff.bulk.compute import Settings, Task
from lesff.bulk.engine import compute_all, in_order
from lesff.bulk.executors import Workers, workers_of
from lesff.bulk.items import LIST, Item, chunks_of, faulty_item, item_of_atoms
from lesff.bulk.models import ModelReference
from lesff.bulk.run import MAX_ATOMS, RunOptions, Spoken, stop
from lesff.bulk.sources import items_of, sources_of
from lesff.errors import StructureError
from lesff.prediction import Prediction


def map_structures(
    structures: Any,
    model: Callable[[bool], ModelReference],
    settings: Settings,
    *,
    executor: str | Executor | None = None,
    chunk: int,
    on_error: Literal["skip", "stop"] = "stop",
    charge_width: float | None = None,
) -> Iterator[Prediction | None]:
    """Predictions of structures; see :meth:`lesff.model.Model.map`.

    Args:
        structures: As there.
        model: Reference to the model, for other processes if its argument is true.
        settings: How structures are computed.
        executor: As there.
        chunk: As there.
        on_error: As there.
        charge_width: Of the model, see :class:`lesff.prediction.Prediction`.

    Raises:
        StructureError: with ``on_error="stop"``, for the first structure without results.
        ConfigError: for a bad option.
        LesffError: for errors that are no fault of a structure.
    """
    options = RunOptions(chunk=chunk, on_error=on_error)
    workers = None if executor is None else workers_of(executor)
    try:
        reference = model(workers is not None)
        for found in _predictions(structures, reference, settings, options, workers):
            if found is not None:
                found.charge_width = charge_width
            yield found
    finally:
        if workers is not None:
            workers.close()


def _predictions(
    structures: Any,
    model: ModelReference,
    settings: Settings,
    options: RunOptions,
    workers: Workers | None,
) -> Iterator[Prediction | None]:
    tasks = (
        Task(chunk=chunk, model=model, settings=settings)
        for chunk in chunks_of(_items(structures), options.chunk, MAX_ATOMS)
    )
    spoken = Spoken(lambda line: None)
    for result in in_order(compute_all(tasks, workers)):
        spoken.hear(result)
        if result.skipped and options.on_error == "stop":
            first = result.skipped[0]
            stop(first.item.source, first.item.index, first.reason)
        # both in the order of the items
        rows, skipped = list(result.rows), list(result.skipped)
        for place in range(len(rows) + len(skipped)):
            if place in result.gaps:
                yield None
                continue
            row = rows.pop(0)
            yield Prediction(
                {name: [value] for name, value in row.values.items()},
                is_single=True,
                model=model.name,
                reasons=None if row.out_of_domain is None else [row.out_of_domain],
                structures=[row.state],
            )


def _items(structures: Any) -> Iterator[Item]:
    """Items of a path, of words as on the command line, of atoms, or of anything like them."""
    if isinstance(structures, (str, Path)):
        yield from items_of(sources_of([str(structures)]))
        return
    if isinstance(structures, ase.Atoms) or not isinstance(structures, Iterable):
        structures = [structures]
    for index, source in enumerate(structures):
        if isinstance(source, (str, Path)):
            yield from items_of(sources_of([str(source)]))
            continue
        try:
            yield item_of_atoms(as_atoms(source, f"{LIST} {index}"), LIST, index)
        except StructureError as error:
            yield faulty_item(str(error), LIST, index)
