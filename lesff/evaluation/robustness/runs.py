"""Relaxations and hot runs that are watched: closest contact, lowest energy, where they end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, nan

import ase
import numpy as np
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from ase.units import fs

from lesff.evaluation.robustness.probe import ERRORS, Probe, System, quiet
from lesff.evaluation.robustness.structures import closest_share

LOWEST = -1.0
"""eV/atom below the start: more than any reaction of the built-in molecules gives. The richest of
them in energy is acetylene: 0.59 eV/atom as graphite and hydrogen (228 kJ/mol, CRC Handbook)."""
_COLLAPSED = 0.2
"""Closest share at which a run is stopped."""
_HOPELESS = -20.0
"""eV/atom below the start at which a run is stopped."""
_STEP = 0.5 * fs
_FRICTION = 0.02 / fs
_LOOK_EVERY = 5
_LARGEST_MOVE = 0.1
"""A: of a step of a relaxation; starts may have forces of 1,000 eV/A."""


@dataclass
class Track:
    """What was seen on the way.

    Attributes:
        zero: Energy that others are counted from, eV.
        lowest: Lowest energy, eV/atom from the zero.
        lowest_atoms: The atoms there.
        closest: Closest contact on the way, a share of the sum of covalent radii.
        last: Closest contact at the end.
        steps: How many steps were made.
        is_whole: Whether all energies and positions were finite, and nothing failed.
    """

    zero: float
    lowest: float = inf
    lowest_atoms: ase.Atoms | None = None
    closest: float = inf
    last: float = inf
    steps: int = 0
    is_whole: bool = True

    def follow(self, atoms: ase.Atoms, steps: Iterable[object]) -> None:
        """Look at the atoms after each step; a run that fails or falls is stopped."""
        with quiet():
            try:
                for _ in steps:
                    if not self._look(atoms):
                        return
            except ERRORS:
                self.is_whole = False

    def _look(self, atoms: ase.Atoms) -> bool:
        """Note contacts and energy; whether to go on."""
        self.steps += 1
        self.last = closest_share(atoms)
        energy = (atoms.get_potential_energy() - self.zero) / len(atoms)
        if not (np.isfinite(energy) and self.last == self.last):
            self.is_whole = False
            return False
        self.closest = min(self.closest, self.last)
        if energy < self.lowest:
            self.lowest = float(energy)
            self.lowest_atoms = ase.Atoms(
                atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc
            )
        return self.last > _COLLAPSED and energy > _HOPELESS


def relax(probe: Probe, system: System, track: Track, *, steps: int, fmax: float) -> ase.Atoms:
    """Relax atoms by FIRE; the end is returned, converged or not.

    Args:
        probe: Gives forces.
        system: Start; not changed.
        track: Follows the run.
        steps: Most steps.
        fmax: Force at which to stop, eV/A.
    """
    atoms = system.atoms.copy()
    atoms.calc = probe.fast_calculator(system)
    optimizer = FIRE(atoms, logfile=os.devnull, maxstep=_LARGEST_MOVE)
    track.follow(atoms, optimizer.irun(fmax=fmax, steps=steps))
    return atoms


def heat(
    probe: Probe,
    system: System,
    track: Track,
    *,
    steps: int,
    temperature: float,
    rng: np.random.Generator,
) -> ase.Atoms:
    """A Langevin run of 0.5 fs steps; the end is returned.

    Args:
        probe: Gives forces.
        system: Start; not changed.
        track: Follows the run.
        steps: Number of steps.
        temperature: Kelvin.
        rng: Of velocities and kicks.
    """
    atoms = system.atoms.copy()
    atoms.calc = probe.fast_calculator(system)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, _STEP, temperature_K=temperature, friction=_FRICTION, fixcm=False, rng=rng
    )

    def run() -> Iterable[None]:
        for _ in range(steps // _LOOK_EVERY):
            dynamics.run(_LOOK_EVERY)
            yield

    track.follow(atoms, run())
    return atoms


def zero_of(probe: Probe, systems: Iterable[System]) -> float:
    """Sum of the energies of systems, eV; NaN if one fails."""
    return float(probe.energies(list(systems)).sum())


def worst(values: Iterable[float | None], lowest: bool) -> float:
    """The smallest or the largest value; NaN if there is none or one is not a number."""
    numbers = [nan if value is None else value for value in values]
    if not numbers or any(value != value for value in numbers):
        return nan
    return min(numbers) if lowest else max(numbers)
