"""Predict, relax, vibrations: requests in, answers out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ase

from lesff.atoms.structure import Structure
from lesff.errors import PropertyError
from lesff.model import Model
from lesff.notices import heard
from lesff.potential.batches import property_names
from lesff.quantities import QUANTITIES
from lesff.service.answers import encoded, extxyz, modes_record, record
from lesff.service.batcher import Batcher, Job, Outcome
from lesff.service.faults import ServiceError, timed_out, too_busy
from lesff.service.limits import Limits
from lesff.service.meters import Meters
from lesff.service.reading import read, structure_of_lists
from lesff.service.requests import (
    PredictRequest,
    RelaxRequest,
    StructureRequest,
    VibrationsRequest,
)
from lesff.service.tasks import Deadline, Desk, relax, vibrations
from lesff.service.waiting import Bell

T = TypeVar("T")

_AT_ONCE = 100
"""Atoms that are read at once."""
FINAL = ("energy", "forces", "charges", "dipole")
"""What a relaxation gives at its end, where the model and the structure have it."""


class Handlers:
    """Answers of a service.

    Args:
        models: Models by the names that clients use; the first is the default.
        limits: What one client may ask.
        meters: What is counted.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits, meters: Meters) -> None:
        self.models, self.limits, self.meters = models, limits, meters
        self.batcher = Batcher(models, limits, meters)
        self.available = {name: _available(model) for name, model in models.items()}
        self._known = {name: frozenset(found) for name, found in self.available.items()}
        self._rooms = {
            kind: threading.BoundedSemaphore(limits.max_tasks) for kind in ("relax", "smiles")
        }
        self._bell: Bell | None = None
        # reading takes milliseconds; tasks wait for the batcher most of their time
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="lesff-reader")
        self._slow = ThreadPoolExecutor(2 * limits.max_tasks, thread_name_prefix="lesff-task")

    def close(self) -> None:
        """End the threads."""
        self.batcher.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    async def predict(self, request: PredictRequest) -> bytes:
        """Properties of one or many structures."""
        deadline = Deadline.after(self.limits.timeout)
        desk = self._desk(request, deadline)
        names = tuple(property_names(request.properties))

        def prepare() -> list[Job]:
            frames: Sequence[Structure | ase.Atoms]
            texts: Sequence[str] = ()
            if request.positions is None:
                frames = read(request, self.limits)
            else:
                with heard() as warnings:
                    frames = [structure_of_lists(request, self.limits)]
                texts = [str(found) for found in warnings]
            if "hessian" in names:
                for atoms in frames:
                    self._check_hessian(atoms)
            return [desk.job(atoms, names, texts) for atoms in frames]

        jobs = await self._read(request, prepare, deadline)
        self.batcher.submit(jobs)
        if self._bell is None or not self._bell.is_of_running_loop:
            self._bell = Bell(asyncio.get_running_loop())
        try:
            await self._bell.wait([job.future for job in jobs], deadline.left)
        except TimeoutError:
            raise timed_out(deadline.seconds) from None
        finally:
            for job in jobs:  # clients that have gone need no results
                job.future.cancel()
        return self._answer(request, [job.future.result() for job in jobs])

    async def relax(self, request: RelaxRequest) -> bytes:
        """A local minimum."""
        deadline = Deadline.after(self.limits.timeout)
        desk = self._desk(request, deadline)
        atoms = await self._one(request, deadline)
        names = self._final(request, atoms)
        done = await self._task(
            lambda: relax(atoms, desk, fmax=request.fmax, steps=request.steps, properties=names),
            deadline,
        )
        more = {"n_steps": done.n_steps, "is_converged": done.is_converged}
        return self._answer(request, [done.outcome], **more)

    async def vibrations(self, request: VibrationsRequest) -> bytes:
        """Normal modes with infrared intensities."""
        deadline = Deadline.after(self.limits.timeout)
        desk = self._desk(request, deadline)
        atoms = await self._one(request, deadline)
        self._check_hessian(atoms)

        def work() -> tuple[Any, Outcome, dict[str, Any]]:
            at, more = atoms, {}
            if request.relax:
                done = relax(
                    atoms, desk, fmax=request.fmax, steps=request.steps, properties=("energy",)
                )
                at = done.atoms
                more = {"n_steps": done.n_steps, "is_converged": done.is_converged}
            modes, outcome = vibrations(at, desk)
            return modes, outcome, more

        modes, outcome, more = await self._task(work, deadline)
        values = {k: v for k, v in outcome.values.items() if k != "hessian"}
        outcome = Outcome(
            state=outcome.state,
            values=values,
            warnings=outcome.warnings,
            out_of_domain=outcome.out_of_domain,
        )
        return self._answer(request, [outcome], modes=modes_record(modes), **more)

    def info(self) -> dict[str, Any]:
        """Models and limits, for clients and the page."""
        rows = []
        for name, model in self.models.items():
            config = model.config
            rows.append(
                {
                    "name": name,
                    "model": model.name,
                    "elements": list(config.elements),
                    "total_charge": list(config.total_charge),
                    "spin_multiplicity": list(config.spin_multiplicity),
                    "level_of_theory": config.level_of_theory,
                    "properties": self.available[name],
                    "caveats": dict(model.source.caveats),
                    "charge_width": config.charge_width,
                    "is_calibrated": model.potential.uncertainty is not None,
                }
            )
        limits = self.limits
        return {
            "models": rows,
            "limits": {
                "max_body": limits.max_body,
                "max_atoms": limits.max_atoms,
                "max_hessian_atoms": limits.max_hessian_atoms,
                "max_structures": limits.max_structures,
                "timeout": limits.timeout,
            },
        }

    def _desk(self, request: StructureRequest, deadline: Deadline) -> Desk:
        name = self._name(request)
        return Desk(self.batcher, self.models, name, self._known[name], deadline)

    def _name(self, request: StructureRequest) -> str:
        name = next(iter(self.models)) if request.model is None else request.model
        if name not in self.models:
            raise ServiceError(
                404, "model", f"this service has {', '.join(self.models)}, got {name!r}"
            )
        return name

    def _check_hessian(self, atoms: ase.Atoms | Structure) -> None:
        most = self.limits.max_hessian_atoms
        if len(atoms) > most:
            raise ServiceError(
                413, "atoms", f"second derivatives of at most {most} atoms, got {len(atoms)}"
            )

    def _final(self, request: StructureRequest, atoms: ase.Atoms) -> tuple[str, ...]:
        has = self.available[self._name(request)]
        return tuple(
            name for name in FINAL if name in has and (name != "dipole" or not atoms.pbc.all())
        )

    async def _one(self, request: StructureRequest, deadline: Deadline) -> ase.Atoms:
        frames = await self._read(request, lambda: read(request, self.limits), deadline)
        if len(frames) != 1:
            raise ServiceError(
                422, "StructureError", f"one structure must be given, got {len(frames)}"
            )
        return frames[0]

    async def _read(
        self, request: StructureRequest, work: Callable[[], T], deadline: Deadline
    ) -> T:
        """Read in a thread; SMILES, which may take seconds, have threads of their own.

        A few atoms in lists take less time than a thread.
        """
        if request.positions is not None and len(request.positions) <= _AT_ONCE:
            return work()
        if request.smiles is None:
            return await self._in_thread(self._readers, work, deadline)
        with self._room("smiles") as leave:
            return await self._in_thread(self._slow, work, deadline, leave)

    async def _task(self, work: Callable[[], T], deadline: Deadline) -> T:
        with self._room("relax") as leave:
            return await self._in_thread(self._slow, work, deadline, leave)

    @contextmanager
    def _room(self, kind: str) -> Iterator[Callable[[], None]]:
        """Room for a task; taken until its thread has ended, not only its request."""
        if not self._rooms[kind].acquire(blocking=False):
            raise too_busy(f"{self.limits.max_tasks} requests of this kind are under way")
        gauge = self.meters.tasks.labels(kind)
        gauge.inc()

        def leave() -> None:
            gauge.dec()
            self._rooms[kind].release()

        yield leave

    async def _in_thread(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[], T],
        deadline: Deadline,
        leave: Callable[[], None] | None = None,
    ) -> T:
        future = pool.submit(work)
        if leave is not None:
            future.add_done_callback(lambda _: leave())
        try:
            async with asyncio.timeout(deadline.left):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise timed_out(deadline.seconds) from None

    def _answer(self, request: StructureRequest, outcomes: list[Outcome], **more: Any) -> bytes:
        resolved = self.models[self._name(request)].name
        if request.format == "extxyz":
            return extxyz(outcomes, resolved)
        return encoded({"model": resolved, "results": [record(row) for row in outcomes], **more})


def _available(model: Model) -> list[str]:
    """Properties that a model has for some structure."""
    found = []
    for name in QUANTITIES:
        with suppress(PropertyError):
            model.check_available([name])
            found.append(name)
    return found
