"""Relaxation of many structures with the optimisers of ASE, one batched call a step for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.stress import voigt_6_to_full_3x3_stress

from lesff.errors import ConfigError, LesffError
from lesff.model import Model
from lesff.units import EV_PER_A3_TO_GPA
from lesff.workflows.batch import Batch, SharedCalculator
from lesff.workflows.relax_journal import Journal, Relaxed, Run, from_row, to_row

Method = Literal["fire", "lbfgs", "bfgs"]
CellChange = Literal["fixed", "full", "shape", "volume"]
OPTIMIZERS: dict[str, type[Optimizer]] = {"fire": FIRE, "lbfgs": LBFGS, "bfgs": BFGS}
BATCH = 64
"""Structures that are relaxed at a time."""
_CHECKPOINT = 25
"""Shared calls between checkpoints of what is unfinished."""


@dataclass(frozen=True, kw_only=True)
class RelaxOptions:
    """How structures are relaxed.

    Attributes:
        method: Optimiser of ASE.
        cell: ``"fixed"``; ``"full"``; ``"shape"`` at constant volume; ``"volume"`` at constant
            shape (a hydrostatic strain).
        pressure: External pressure in GPa, where the cell changes.
        fmax: Largest force at the end, eV/A; with the cell, also ``V`` times the stress over the
            number of atoms, see :class:`ase.filters.FrechetCellFilter`.
        steps: Most steps of a structure.
        batch: Structures at a time.

    Raises:
        ConfigError: for a bad value.
    """

    method: Method = "fire"
    cell: CellChange = "fixed"
    pressure: float = 0.0
    fmax: float = 0.02
    steps: int = 500
    batch: int = BATCH

    def __post_init__(self) -> None:
        """Check the values."""
        if self.method not in OPTIMIZERS:
            raise ConfigError(f"`method` must be of {', '.join(OPTIMIZERS)}, got {self.method!r}")
        if self.cell not in get_args(CellChange):
            known = ", ".join(get_args(CellChange))
            raise ConfigError(f"`cell` must be of {known}, got {self.cell!r}")
        if not (np.isfinite(self.fmax) and self.fmax > 0.0):
            raise ConfigError(f"`fmax` must be positive, got {self.fmax!r}")
        if self.steps < 0 or self.batch < 1:
            raise ConfigError(
                f"`steps` must be at least 0 and `batch` at least 1, got {self.steps}, {self.batch}"
            )
        if not np.isfinite(self.pressure) or (self.pressure and self.cell in ("fixed", "shape")):
            raise ConfigError(
                f"`pressure` must be a number of GPa, and 0 where the volume is fixed, got "
                f"{self.pressure!r}"
            )


@dataclass(frozen=True, kw_only=True)
class RelaxResult:
    """All structures at the end.

    Attributes:
        relaxed: In the order of the input.
        n_calls: Batched calls of the model.
    """

    relaxed: tuple[Relaxed, ...]
    n_calls: int

    @property
    def n_converged(self) -> int:
        """How many have small forces."""
        return sum(row.converged for row in self.relaxed)


def relax(
    model: Model,
    structures: Sequence[ase.Atoms],
    options: RelaxOptions | None = None,
    *,
    folder: Path | None = None,
    trajectories: bool = False,
    on_done: Callable[[Relaxed], None] | None = None,
) -> RelaxResult:
    """Relax structures, up to ``options.batch`` of them at a time, one batched call a step.

    The optimisers are ASE's, unchanged: each structure takes the steps that it would take alone.
    When one is done the next takes its place. One that cannot be computed does not keep the others
    from it. Interrupted work in a folder goes on: structures that are done are read, those on their
    way go on where they were at the last checkpoint, the optimiser's memory being lost.

    Args:
        model: The model.
        structures: The structures, which stay as they are.
        options: How.
        folder: Where the state is kept; nothing is written if not given.
        trajectories: Whether to write ``trajectories/INDEX.traj``, one frame a step.
        on_done: Called with each structure that is done.
    """
    options = options or RelaxOptions()
    journal = Journal(folder)
    done = journal.finished()
    results = {
        index: from_row(row, structures[index])
        for index, row in done.items()
        if index < len(structures)
    }
    resumed = journal.unfinished()
    paths = folder / "trajectories" if folder is not None and trajectories else None
    if paths is not None:
        paths.mkdir(exist_ok=True)
    batch = Batch(model.evaluator(), stress=options.cell != "fixed")
    queue = [index for index in range(len(structures)) if index not in results]
    active: dict[int, Run] = {}

    def finish(result: Relaxed) -> None:
        results[result.index] = result
        journal.add(to_row(result))
        if on_done is not None:
            on_done(result)

    try:
        while queue or active:
            while queue and len(active) < options.batch:
                place = min(set(range(options.batch)) - active.keys())
                index = queue.pop(0)
                try:
                    active[place] = _started(
                        batch, place, index, structures[index], options, resumed.get(index), paths
                    )
                except LesffError as error:
                    finish(_failed(index, structures[index], str(error)))
            failed = batch.compute()
            for place, run in sorted(active.items()):
                result = _advanced(run, options, failed.get(place))
                if result is not None:
                    finish(result)
                    batch.remove(place)
                    del active[place]
            if batch.n_calls % _CHECKPOINT == 0:
                journal.keep(list(active.values()))
    finally:
        # an interrupt, or nothing: then the file says that nothing is on its way
        journal.keep(list(active.values()))
    ordered = tuple(results[index] for index in range(len(structures)))
    return RelaxResult(relaxed=ordered, n_calls=batch.n_calls)


def _started(
    batch: Batch,
    place: int,
    index: int,
    start: ase.Atoms,
    options: RelaxOptions,
    state: dict[str, Any] | None,
    paths: Path | None,
) -> Run:
    """A structure with its optimiser, at its place."""
    atoms = start.copy()
    if state is not None:
        atoms.set_cell(state["cell"])
        atoms.positions = state["positions"]
    batch.put(place, atoms, f"structure {index}")
    trajectory = None if paths is None else str(paths / f"{index:06d}.traj")
    optimizer = OPTIMIZERS[options.method](
        _filtered(atoms, options),
        logfile=None,
        trajectory=trajectory,
        append_trajectory=state is not None,
    )
    optimizer.fmax = options.fmax
    return Run(
        index=index,
        start=start,
        atoms=atoms,
        optimizer=optimizer,
        steps=0 if state is None else state["steps"],
        energy_start=None if state is None else state["energy_start"],
    )


def _filtered(atoms: ase.Atoms, options: RelaxOptions) -> Any:
    """The atoms, or with their cell, as optimisers take them."""
    if options.cell == "fixed":
        return atoms
    if not atoms.pbc.all():
        raise ConfigError(
            "`cell` must be 'fixed' for structures that are not periodic in three directions, got "
            f"{options.cell!r}"
        )
    return FrechetCellFilter(
        atoms,
        constant_volume=options.cell == "shape",
        hydrostatic_strain=options.cell == "volume",
        scalar_pressure=options.pressure / EV_PER_A3_TO_GPA,
    )


def _advanced(run: Run, options: RelaxOptions, error: LesffError | None) -> Relaxed | None:
    """Take one step; the result if there is none to take."""
    if error is not None:
        return _failed(run.index, run.start, str(error))
    optimizer = run.optimizer
    # what follows asks for nothing that the shared call has not computed
    gradient = optimizer.optimizable.get_gradient()
    if run.energy_start is None:
        run.energy_start = float(run.atoms.get_potential_energy())
    optimizer.call_observers()
    converged = bool(optimizer.gradient_converged(gradient))
    if converged or run.steps + optimizer.nsteps >= options.steps:
        largest = float(optimizer.optimizable.gradient_norm(gradient))
        optimizer.close()
        return _finished(run, converged, largest)
    optimizer.step()
    optimizer.nsteps += 1
    return None


def _finished(run: Run, converged: bool, largest: float) -> Relaxed:
    atoms, start = run.atoms, run.start
    results = dict(cast(SharedCalculator, atoms.calc).results)
    energy = results["energy"]
    final = start.copy()
    final.set_cell(atoms.cell)
    final.positions = atoms.positions
    final.calc = SinglePointCalculator(final, **results)
    return Relaxed(
        index=run.index,
        atoms=final,
        converged=converged,
        steps=run.steps + run.optimizer.nsteps,
        energy=energy,
        energy_change=energy - (run.energy_start if run.energy_start is not None else energy),
        fmax=largest,
        displacement=_displacement(start, final),
        volume_change=_volume_change(start, final),
    )


def _displacement(start: ase.Atoms, final: ase.Atoms) -> float:
    positions = start.positions
    if not np.array_equal(start.cell, final.cell):
        positions = start.get_scaled_positions(wrap=False) @ final.cell.array
    return float(np.sqrt(((final.positions - positions) ** 2).sum(1).mean()))


def _volume_change(start: ase.Atoms, final: ase.Atoms) -> float:
    if not start.pbc.all():
        return 0.0
    return float(final.get_volume() / start.get_volume() - 1.0)


def _failed(index: int, start: ase.Atoms, error: str) -> Relaxed:
    return Relaxed(
        index=index, atoms=start.copy(), converged=False, steps=0, energy=np.nan,
        energy_change=np.nan, fmax=np.nan, displacement=np.nan, volume_change=np.nan, error=error,
    )  # fmt: skip


def summary_row(result: Relaxed) -> dict[str, Any]:
    """Plain data about one structure, for tables."""
    stress = None
    if result.atoms.calc is not None and "stress" in result.atoms.calc.results:
        full = voigt_6_to_full_3x3_stress(result.atoms.calc.results["stress"])
        stress = float(-np.trace(full) / 3.0 * EV_PER_A3_TO_GPA)
    row = {key: value for key, value in vars(result).items() if key != "atoms"}
    return {"formula": result.atoms.get_chemical_formula(), **row, "pressure_gpa": stress}


def settings_of(options: RelaxOptions) -> dict[str, Any]:
    """What results depend on: not how many structures there are at a time."""
    return {key: value for key, value in asdict(options).items() if key != "batch"}
