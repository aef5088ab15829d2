"""Relaxations and vibrations: each in a thread that asks the batcher for every step.

So a relaxation waits its turn at each step, shares batches with the others, and ends when its time
is over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS

from lesff.atoms.structure import Structure, to_structure
from lesff.model import Model
from lesff.notices import heard
from lesff.service.batcher import Batcher, Job, Outcome, check
from lesff.service.faults import timed_out
from lesff.spectra.normal_modes import NormalModes, normal_modes


@dataclass(frozen=True)
class Deadline:
    """When a request is given up.

    Attributes:
        seconds: How long it may take.
        end: When that is over, of ``time.monotonic``.
    """

    seconds: float
    end: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """So many seconds from now."""
        return Deadline(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left; none are negative."""
        return max(self.end - time.monotonic(), 0.0)


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """A relaxation.

    Attributes:
        atoms: The structure at its end.
        outcome: Energy, forces, charges and dipole there.
        n_steps: Steps.
        is_converged: Whether forces are below the limit.
    """

    atoms: ase.Atoms
    outcome: Outcome
    n_steps: int
    is_converged: bool


class Desk:
    """Where one request asks the batcher for results.

    Args:
        batcher: The batcher.
        models: Models by name.
        model: Which one.
        available: Properties that it has.
        deadline: When to give up.
    """

    def __init__(
        self,
        batcher: Batcher,
        models: Mapping[str, Model],
        model: str,
        available: Set[str],
        deadline: Deadline,
    ) -> None:
        self._batcher, self._model, self.deadline = batcher, model, deadline
        self._loaded, self.available = models[model], available

    def job(
        self,
        atoms: ase.Atoms | Structure,
        properties: Sequence[str],
        texts_before: Sequence[str] = (),
    ) -> Job:
        """A checked job, with warnings of before; raises what is wrong with the structure."""
        with heard() as warnings:
            state = atoms if isinstance(atoms, Structure) else to_structure(atoms)
        said = check(self._loaded, state, properties, self.available)
        return Job(
            model=self._model,
            state=state,
            properties=tuple(properties),
            warnings=tuple(
                re.sub(r"^structure\b", "the structure", text)
                for text in (*texts_before, *map(str, warnings), *said)
            ),
        )

    def ask(self, atoms: ase.Atoms, properties: Sequence[str]) -> Outcome:
        """Results of a structure, waited for in this thread.

        Raises:
            ServiceError: if the time is over or the line is full.
        """
        job = self.job(atoms, properties)
        self._batcher.submit([job])
        try:
            return job.future.result(timeout=self.deadline.left)
        except FutureTimeoutError:
            job.future.cancel()
            raise timed_out(self.deadline.seconds) from None


class _DeskCalculator(Calculator):
    """Energy and forces from the batcher."""

    def __init__(self, desk: Desk, info: dict[str, Any]) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "forces"]
        self._desk, self._info = desk, info

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Any = None,
        system_changes: Any = all_changes,
    ) -> None:
        """Ask the batcher."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # noqa: S101 - by the line above
        copy = self.atoms.copy()
        copy.info = dict(self._info)
        values = self._desk.ask(copy, ("energy", "forces")).values
        self.results = {"energy": values["energy"], "forces": np.asarray(values["forces"])}


def relax(
    atoms: ase.Atoms, desk: Desk, *, fmax: float, steps: int, properties: Sequence[str]
) -> Relaxed:
    """A local minimum near a structure; the cell stays.

    Args:
        atoms: Start.
        desk: Where to ask.
        fmax: Largest force at the end, eV/A.
        steps: Most steps.
        properties: What to compute at the end.

    Raises:
        ServiceError: if the time is over.
    """
    desk.job(atoms, ("energy", "forces"))  # refuse before the first step
    moving = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    moving.calc = _DeskCalculator(desk, atoms.info)
    optimizer = BFGS(moving, logfile=None)
    is_converged = bool(optimizer.run(fmax=fmax, steps=steps))
    end = atoms.copy()
    end.positions = moving.positions
    return Relaxed(
        atoms=end,
        outcome=desk.ask(end, properties),
        n_steps=int(optimizer.nsteps),
        is_converged=is_converged,
    )


def vibrations(atoms: ase.Atoms, desk: Desk) -> tuple[NormalModes, Outcome]:
    """Normal modes at a structure, and what they were made of.

    Args:
        atoms: The structure.
        desk: Where to ask; intensities need Born effective charges.

    Raises:
        ServiceError: if the time is over.
    """
    names = ("energy", "forces", "charges", "hessian", "born_effective_charges")
    found = desk.ask(atoms, [name for name in names if name in desk.available])
    born = found.values.get("born_effective_charges")
    modes = normal_modes(
        np.asarray(found.values["hessian"]),
        atoms.get_masses(),
        found.state.positions,
        born=None if born is None else np.asarray(born),
        is_periodic=bool(found.state.pbc.any()),
    )
    return modes, found


def atoms_of(state: Structure) -> ase.Atoms:
    """ASE atoms of a structure."""
    return ase.Atoms(state.numbers, state.positions, cell=state.cell, pbc=state.pbc)
