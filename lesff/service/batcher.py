"""Structures of concurrent requests are computed together.

One thread computes. While it does, requests wait in line; then it takes the first and all that ask
the same of the same model, up to a number of atoms. At low load a request is computed at once. A
batch of several says that many clients ask one request after the other: the next waits until they
have asked again, at most half as long as the last took. Without that they part into two halves that
wait for each other, and each batch has its fixed cost for half as many.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lesff.atoms.structure import Structure
from lesff.errors import LesffError, PropertyError
from lesff.model import Model
from lesff.notices import heard
from lesff.potential.batches import predict_structures
from lesff.potential.domain import (
    check_caveats,
    check_charge_elements,
    check_domain,
    warn_of_background,
)
from lesff.service.faults import too_busy
from lesff.service.limits import Limits
from lesff.service.meters import Meters

_log = logging.getLogger(__name__)
_PATIENCE = 0.5
"""How long a batch waits for those that the last one answered, in units of the time it took."""
_NUMBER = re.compile(r"^structure (\d+)(?: has|:)? ?")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one structure.

    Attributes:
        state: The structure as it was computed.
        values: Results by property.
        warnings: Texts of warnings about it.
        out_of_domain: Why it is unlike those of the calibration; None for a model without one.
    """

    state: Structure
    values: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    out_of_domain: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One structure in line.

    Attributes:
        model: Name of the model.
        state: The structure.
        properties: What to compute.
        warnings: What was said when the structure was read.
        future: Gets the outcome.
    """

    model: str
    state: Structure
    properties: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    future: Future[Outcome] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Jobs of one kind can be computed together."""
        # a Hessian is a batch by itself
        alone = id(self) if "hessian" in self.properties else 0
        return (self.model, self.properties, alone)


class Batcher:
    """Computes jobs in a thread of its own, in batches of one kind.

    Args:
        models: Models by name.
        limits: How much may wait, and how large batches are.
        meters: What is counted.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits, meters: Meters) -> None:
        self._models, self._limits, self._meters = models, limits, meters
        self._line: deque[Job] = deque()
        self._n_atoms = 0
        self._changed = threading.Condition()
        self._is_open = True
        self._enough = 1
        """Structures in line that wake the thread."""
        self._thread = threading.Thread(target=self._work, name="lesff-batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread computes or waits for work."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Structures in line."""
        return len(self._line)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs in line, all or none.

        Raises:
            ServiceError: if there is no room, or the batcher is closed.
        """
        n_atoms = sum(len(job.state) for job in jobs)
        limits = self._limits
        with self._changed:
            if not self._is_open:
                raise too_busy("the service is stopping")
            # a first job always fits
            if self._line and (
                len(self._line) + len(jobs) > limits.max_queue
                or self._n_atoms + n_atoms > limits.max_queue_atoms
            ):
                raise too_busy(f"{len(self._line)} structures wait already")
            self._line.extend(jobs)
            self._n_atoms += n_atoms
            self._meters.waiting.set(len(self._line))
            is_full = self._n_atoms >= limits.batch_atoms
            if len(self._line) >= self._enough or is_full:
                self._changed.notify()

    def close(self) -> None:
        """Compute nothing more; what waits is refused."""
        with self._changed:
            self._is_open = False
            left = list(self._line)
            self._line.clear()
            self._n_atoms = 0
            self._changed.notify()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(too_busy("the service is stopping"))
        self._thread.join(timeout=self._limits.timeout)

    def _work(self) -> None:
        n_answered, patient_until = 0, 0.0
        while True:
            with self._changed:
                if n_answered > 1:
                    self._wait(len(self._line) + n_answered, patient_until)
                self._wait(1)
                if not self._is_open:
                    return
                batch = self._next_batch()
                self._meters.waiting.set(len(self._line))
            # those whose clients have gone are not computed
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            start = time.monotonic()
            if batch:
                self._compute(batch)
            end = time.monotonic()
            n_answered, patient_until = len(batch), end + _PATIENCE * (end - start)

    def _wait(self, enough: int, until: float = math.inf) -> None:
        """Wait until so many structures or a full batch are in line, or a time is over."""
        self._enough = enough
        while self._is_open and len(self._line) < enough:
            left = until - time.monotonic()
            if left <= 0.0 or self._n_atoms >= self._limits.batch_atoms:
                break
            self._changed.wait(None if math.isinf(left) else left)
        self._enough = 1

    def _next_batch(self) -> list[Job]:
        """The first job, and the others of its kind that fit."""
        first = self._line[0]
        chosen, n_atoms, rest = [], 0, deque[Job]()
        for job in self._line:
            fits = not chosen or n_atoms + len(job.state) <= self._limits.batch_atoms
            if job.kind == first.kind and fits:
                chosen.append(job)
                n_atoms += len(job.state)
            else:
                rest.append(job)
        self._line, self._n_atoms = rest, self._n_atoms - n_atoms
        return chosen

    def _compute(self, batch: Sequence[Job]) -> None:
        """Compute a batch; if it raises, its halves, down to the one that is the cause."""
        try:
            with self._meters.batch_seconds.time():
                outcomes = self._predict(batch)
        except Exception as error:  # noqa: BLE001 - one structure must not end the service
            if len(batch) > 1:
                middle = len(batch) // 2
                self._compute(batch[:middle])
                self._compute(batch[middle:])
                return
            if not isinstance(error, LesffError):
                _log.exception("a structure of %d atoms failed", len(batch[0].state))
            batch[0].future.set_exception(error)
            return
        self._meters.batches.inc()
        self._meters.batch_structures.observe(len(batch))
        self._meters.atoms.inc(sum(len(job.state) for job in batch))
        for job, outcome in zip(batch, outcomes, strict=True):
            job.future.set_result(outcome)

    def _predict(self, batch: Sequence[Job]) -> list[Outcome]:
        first = batch[0]
        model = self._models[first.model]
        with heard() as warnings:
            prediction = predict_structures(
                model.potential,
                [job.state for job in batch],
                first.properties,
                model=model.name,
                caveats=model.source.caveats,
                progress=False,
            )
        try:
            reasons: Sequence[tuple[str, ...] | None] = prediction.out_of_domain
        except PropertyError:
            reasons = [None] * len(batch)
        # what is said of one structure of the batch; the rest was said when it was checked
        said: list[list[str]] = [list(job.warnings) for job in batch]
        for text in map(str, warnings):
            found = _NUMBER.match(text)
            if found is not None and "outside" not in text:
                mine = text.replace(f"structure {found[1]}", "the structure", 1)
                if mine not in said[int(found[1])]:
                    said[int(found[1])].append(mine)
        return [
            Outcome(state=job.state, values=values, warnings=tuple(notes), out_of_domain=why)
            for job, values, notes, why in zip(
                batch, prediction.per_structure(), said, reasons, strict=True
            )
        ]


def check(
    model: Model, state: Structure, properties: Sequence[str], known: Set[str] = frozenset()
) -> tuple[str, ...]:
    """Refuse what a model does not cover before it waits in line; what it warns of.

    Args:
        model: The model.
        state: The structure.
        properties: What to compute.
        known: Properties that the model is known to have.

    Raises:
        UnsupportedInputError: for elements that the model does not know.
        PropertyError: for properties that it does not have.
    """
    if not set(properties) <= known:
        model.check_available(properties)
    with heard() as warnings:
        check_domain(model.config, [state], strict=False)
        warn_of_background(model.config, [state])
        check_caveats(model.name, model.source.caveats, properties, strict=False)
        check_charge_elements(model.config, [state], properties, strict=False)
    return tuple(str(found).replace("structure 0", "the structure", 1) for found in warnings)
