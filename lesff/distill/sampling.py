"""Configurations around given structures: Langevin dynamics, rattles, strains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import BaseCalculator

from lesff.atoms.structure import Structure
from lesff.distill.options import DistillOptions
from lesff.errors import DataError
from lesff.train.data import structure_hash, unlabelled


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard: frames around one structure.

    Attributes:
        index: Number of the shard.
        source: Index of the structure.
        group: Name of the structure; equal ones share it.
        is_validation: Whether the structure is held out.
        temperature: K, or 0 for rattles.
        frames: Number of frames.
    """

    index: int
    source: int
    group: str
    is_validation: bool
    temperature: float
    frames: int


def plan_tasks(structures: Sequence[Structure], options: DistillOptions) -> list[Task]:
    """All shards of a run; held-out structures are drawn so that equal ones stay together.

    Raises:
        DataError: for fewer than two different structures.
    """
    hashes = [structure_hash(unlabelled(structure)) for structure in structures]
    groups = {name: f"structure-{hashes.index(name)}" for name in dict.fromkeys(hashes)}
    names = list(groups)
    if len(names) < 2:
        raise DataError(
            f"structures must be at least two different ones, to hold one out, got {len(names)}"
        )
    order = np.random.default_rng(options.seed).permutation(len(names))
    count = min(max(1, round(options.validation * len(names))), len(names) - 1)
    held_out = {names[i] for i in order[:count]}
    parts = (
        [(t, options.frames) for t in options.temperatures]
        if options.sample == "md"
        else [
            (0.0, min(options.chunk, options.frames - start))
            for start in range(0, options.frames, options.chunk)
        ]
    )
    shards = [
        (source, name, temperature, frames)
        for source, name in enumerate(hashes)
        for temperature, frames in parts
    ]
    return [
        Task(
            index=index, source=source, group=groups[name], is_validation=name in held_out,
            temperature=temperature, frames=frames,
        )
        for index, (source, name, temperature, frames) in enumerate(shards)
    ]  # fmt: skip


def to_atoms(structure: Structure) -> ase.Atoms:
    """ASE atoms with charge and spin in ``info``."""
    atoms = ase.Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc
    )
    atoms.info["charge"] = structure.total_charge
    atoms.info["spin_multiplicity"] = structure.spin_multiplicity
    return atoms


def sample(
    task: Task, structure: Structure, options: DistillOptions, driver: BaseCalculator
) -> Iterator[ase.Atoms]:
    """Frames of a task: a function of the options' seed and the task's number only."""
    rng = np.random.default_rng([options.seed, task.index])
    atoms = to_atoms(structure)
    if options.sample == "rattle":
        for _ in range(task.frames):
            moved = atoms.copy()
            scale = rng.uniform(*options.displacement)
            moved.positions += rng.normal(scale=scale, size=moved.positions.shape)
            yield _strained(moved, options.strain, rng)
        return
    atoms = _strained(atoms, options.strain, rng)
    atoms.calc = driver
    dynamics = langevin(atoms, task.temperature, options, rng)
    for _ in range(task.frames):
        next(dynamics)
        frame = atoms.copy()
        frame.calc = None
        yield frame


def langevin(
    atoms: ase.Atoms, temperature: float, options: DistillOptions, rng: np.random.Generator
) -> Iterator[None]:
    """Langevin dynamics; moves the atoms by ``options.interval`` steps each time.

    BAOAB splitting (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34-56), from
    velocities drawn at the temperature.

    Args:
        atoms: With a calculator; positions change.
        temperature: K.
        options: Time step, friction, interval.
        rng: Random numbers.
    """
    mass = atoms.get_masses()[:, None]
    spread = np.sqrt(units.kB * temperature / mass)
    step = options.timestep * units.fs
    decay = np.exp(-options.friction * options.timestep)
    velocity = spread * rng.normal(size=(len(atoms), 3))
    forces = atoms.get_forces()
    while True:
        for _ in range(options.interval):
            velocity = velocity + 0.5 * step * forces / mass
            positions = atoms.positions + 0.5 * step * velocity
            noise = spread * rng.normal(size=velocity.shape)
            velocity = decay * velocity + np.sqrt(1.0 - decay**2) * noise
            atoms.positions = positions + 0.5 * step * velocity
            forces = atoms.get_forces()
            velocity = velocity + 0.5 * step * forces / mass
        yield


def _strained(atoms: ase.Atoms, size: float, rng: np.random.Generator) -> ase.Atoms:
    """Crystals under a random symmetric strain; everything else as it is."""
    if atoms.pbc.all() and size > 0.0:
        strain = rng.normal(scale=size, size=(3, 3))
        atoms.set_cell(
            np.array(atoms.cell) @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True
        )
    return atoms
