"""Staged dynamics of an interface, and what became of its layers and phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ase
import numpy as np

from lesff.errors import ConfigError, ConvergenceError, DataError
from lesff.model import Model
from lesff.spectra.trajectory import Trajectory, as_trajectory
from lesff.workflows.dynamics import DynamicsOptions, DynamicsResult, run_dynamics
from lesff.workflows.folder import WorkFolder
from lesff.workflows.interface_layers import (
    LayerMotion,
    Profile,
    coordination,
    density_profiles,
    layer_motions,
    layers_of,
    resting,
    turned,
)
from lesff.workflows.interface_phases import Method, Phases, descriptors, find_phases
from lesff.workflows.relax import RelaxOptions, relax

_COORDINATION_FRAMES = 20
"""Frames at the beginning and the end that neighbours are counted in, at most."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run.

    Attributes:
        temperature: K.
        steps: Time steps.
    """

    temperature: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class StagedRun:
    """All stages of a run.

    Attributes:
        stages: Those that were begun, each with its result.
        stopped: Why the run ended early (atoms outside of the model's domain), or None.
    """

    stages: list[tuple[Stage, DynamicsResult]]
    stopped: str | None

    def frames(self) -> list[ase.Atoms]:
        """Frames of all stages; a stage begins where the one before it ended."""
        found: list[ase.Atoms] = []
        time = 0.0
        for _, result in self.stages:
            frames = list(result.frames())
            for atoms in frames[1:] if found else frames:
                atoms.info["time_fs"] += time
                found.append(atoms)
            time += float(result.time[-1]) if result.n_frames else 0.0
        return found


def run_stages(
    model: Model,
    atoms: ase.Atoms,
    stages: Sequence[Stage],
    options: DynamicsOptions | None = None,
    *,
    folder: WorkFolder,
    say: Callable[[int, int, dict[str, float]], None] | None = None,
) -> StagedRun:
    """Run stage after stage, each with checkpoints; a run that was interrupted goes on.

    Args:
        model: The model.
        atoms: The interface.
        stages: Temperatures and lengths.
        options: All else, see :class:`lesff.workflows.dynamics.DynamicsOptions`.
        folder: Where; one folder a stage.
        say: Called after each block with the stage from 1, the step, and numbers of the last frame.

    Raises:
        ConfigError: for no stages, or a length that is no multiple of ``every``.
    """
    options = options or DynamicsOptions()
    bad = [stage.steps for stage in stages if stage.steps % options.every]
    if not stages or bad:
        raise ConfigError(
            f"`stages` must be at least one, of steps that are multiples of `every` "
            f"({options.every}), got {[stage.steps for stage in stages]}"
        )
    found: list[tuple[Stage, DynamicsResult]] = []
    start = atoms
    for number, stage in enumerate(stages, 1):
        path = folder.path / f"stage-{number}"
        path.mkdir(exist_ok=True)
        of_stage = replace(
            options, temperature=stage.temperature, steps=stage.steps, seed=options.seed + number
        )

        def told(step: int, row: dict[str, float], number: int = number) -> None:
            if say is not None:
                say(number, step, row)

        result = run_dynamics(model, start, of_stage, folder=path, say=told)
        found.append((stage, result))
        if result.stopped is not None:
            return StagedRun(stages=found, stopped=f"stage {number}: {result.stopped}")
        *_, start = result.frames()
        start.calc = None
    return StagedRun(stages=found, stopped=None)


def settled(model: Model, atoms: ase.Atoms, steps: int, folder: WorkFolder) -> ase.Atoms:
    """The interface after a few steps of FIRE: atoms that were built too near part.

    Args:
        model: The model.
        atoms: As built.
        steps: Most steps; they need not converge. The atoms themselves for 0.
        folder: Where the positions are kept.

    Raises:
        ConvergenceError: if the model cannot compute the interface.
    """
    if steps == 0:
        return atoms

    def compute() -> dict[str, np.ndarray]:
        (row,) = relax(model, [atoms], RelaxOptions(method="fire", fmax=0.05, steps=steps)).relaxed
        if row.error is not None:
            raise ConvergenceError(
                f"the interface must be one that the model can relax: {row.error}; build it with "
                "another gap"
            )
        return {"positions": row.atoms.positions}

    found = atoms.copy()
    found.positions = folder.stage("settled", compute)["positions"]
    return found


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """How an interface is looked at.

    Attributes:
        skip: Left out at the beginning, fs.
        n_layers: Slices of equal height that atoms are told apart by, from where they begin.
        width: Of a bin of the density, A.
        lower: Start of the straight part of squared displacements, fs; a quarter of ``upper``.
        upper: End of it, fs; half a block.
        n_blocks: Blocks for the standard errors.
        method: Of clustering.
        n_phases: Of k-means; by silhouettes if None.
        radius: Descriptors are averaged over atoms this near, A.
        phase_frames: Frames that are clustered, at most.
        seed: Of k-means.
    """

    skip: float = 0.0
    n_layers: int = 6
    width: float = 0.5
    lower: float | None = None
    upper: float | None = None
    n_blocks: int = 5
    method: Method = "kmeans"
    n_phases: int | None = None
    radius: float = 4.0
    phase_frames: int = 50
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What became of an interface.

    Attributes:
        run: The frames, the normal along z.
        layers: (n_atoms,) where atoms began.
        profiles: By species.
        motions: By layer and species.
        coordination_first: Neighbours by layer at the beginning.
        coordination_last: At the end.
        phases: Phases, or None without a model.
        fit: Start and end of the straight part, fs.
    """

    run: Trajectory
    layers: np.ndarray
    profiles: dict[str, Profile]
    motions: list[LayerMotion]
    coordination_first: list[dict[str, float]]
    coordination_last: list[dict[str, float]]
    phases: Phases | None
    fit: tuple[float, float]


def analyse_interface(
    frames: Sequence[ase.Atoms],
    time_step: float,
    options: AnalysisOptions | None = None,
    *,
    model: Model | None = None,
    folder: WorkFolder | None = None,
) -> Analysis:
    """Density, motion, coordination and phases of the layers of an interface.

    Args:
        frames: A trajectory; the plane of the interface is that of the first two lattice vectors.
        time_step: Between frames, fs.
        options: How.
        model: What the descriptors come from; no phases if None.
        folder: Where descriptors are kept.

    Raises:
        DataError: for frames that are not periodic in 3D, or too few.
        MissingDependencyError: for phases, without scikit-learn.
    """
    options = options or AnalysisOptions()
    kept = list(frames)[round(options.skip / time_step) :]
    run = as_trajectory(turned(kept), time_step)
    block = run.n_frames // max(options.n_blocks, 1)
    if block < 4:
        raise DataError(
            f"an interface must have at least {4 * options.n_blocks} frames for "
            f"{options.n_blocks} blocks, got {run.n_frames}"
        )
    upper = 0.5 * block * time_step if options.upper is None else options.upper
    lower = 0.25 * upper if options.lower is None else options.lower
    positions = resting(run)
    layers = layers_of(run, positions, options.n_layers)
    few = min(_COORDINATION_FRAMES, max(1, run.n_frames // 5))
    return Analysis(
        run=run,
        layers=layers,
        profiles=density_profiles(run, positions, width=options.width, n_blocks=options.n_blocks),
        motions=layer_motions(
            run, positions, layers, lower=lower, upper=upper, n_blocks=options.n_blocks
        ),
        coordination_first=coordination(run.frames[:few], layers),
        coordination_last=coordination(run.frames[-few:], layers),
        phases=None if model is None else _phases(model, run, options, folder),
        fit=(lower, upper),
    )


def _phases(
    model: Model, run: Trajectory, options: AnalysisOptions, folder: WorkFolder | None
) -> Phases:
    step = max(1, -(-run.n_frames // options.phase_frames))
    places = np.arange(0, run.n_frames, step)
    frames = [run.frames[i] for i in places]

    def compute() -> dict[str, Any]:
        return {"places": places, "values": descriptors(model, frames, options.radius)}

    stored = compute() if folder is None else folder.stage(f"descriptors-{run.n_frames}", compute)
    return find_phases(
        stored["values"],
        frames,
        places * run.time_step,
        method=options.method,
        n_phases=options.n_phases,
        n_blocks=options.n_blocks,
        seed=options.seed,
    )
