"""Runs at constant energy in which protons go from water to water: the energy stays what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import Any

import numpy as np
from ase.build import molecule
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from tqdm.auto import tqdm

from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.probe import ERRORS, Options, Probe, System, quiet
from lesff.evaluation.robustness.runs import Track, relax
from lesff.evaluation.robustness.structures import bare, hydronium, hydroxide, random_turn
from lesff.methods import Method

TEMPERATURE = 350.0
"""K."""
LARGEST_SPREAD = 1e-3
"""eV/atom between the lowest and the highest total energy of a run: 2 % of its kinetic energy
(3/2 kT), ten times what steps of 0.25 fs leave of `off-medium` 1.3.0."""
_STEP = 0.25 * fs
_STEPS, _QUICK_STEPS = 4000, 400
_LOOK_EVERY = 10
_PLACES = ((2.6, 0.0, 0.0), (-1.3, 2.3, 0.0), (-1.3, -2.3, 0.0), (4.2, 2.2, 0.5), (0.0, 0.0, 3.2))
"""Of the oxygens of water from that of the ion, A; relaxed before a run."""


def measure_proton_runs(subject: Method, options: Options) -> CheckResult:
    """Hydronium and hydroxide in five waters, 1 ps of steps of 0.25 fs from 350 K."""
    probe, result, systems = Probe(subject), CheckResult(), []
    for system in _systems():
        why = probe.lacks(system)
        if why:
            result.left_out[system.name] = why
        else:
            systems.append(system)
    for system in tqdm(systems, desc="protons", unit="run", leave=False):
        result.rows.append(_row(probe, system, options))
    return result


def summarise_proton_runs(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How far the total energy of a run spreads."""
    found = [row["spread_ev_per_atom"] for row in rows]
    return [
        Value(
            name="runs with protons that move, largest spread of the energy",
            unit="eV/atom",
            value=float(np.max([nan if spread is None else spread for spread in found])),
            limits=(None, LARGEST_SPREAD),
        )
    ]


def _systems() -> Iterator[System]:
    for ion in (hydronium(), hydroxide()):
        rng = np.random.default_rng(0)
        atoms = ion.atoms.copy()
        for place in _PLACES:
            water = random_turn(bare(molecule("H2O")), rng)
            water.positions += np.array(place) + ion.atoms.positions[0] - water.positions[0]
            atoms += water
        yield System(name=f"{ion.name} in 5 waters", atoms=atoms, charge=ion.charge, spin=1)


def _row(probe: Probe, system: System, options: Options) -> dict[str, Any]:
    track = Track(0.0)
    atoms = relax(probe, system, track, steps=150, fmax=0.1)
    spread = nan
    if track.is_whole:
        steps = options.some(_STEPS, _QUICK_STEPS)
        energies = _total_energies(probe, system.with_atoms(atoms), steps, options.seed)
        spread = float(np.ptp(energies)) / len(atoms) if len(energies) else nan
    return {
        "item": system.name,
        "spread_ev_per_atom": spread,
        "ok": bool(spread <= LARGEST_SPREAD),
    }


def _total_energies(probe: Probe, system: System, steps: int, seed: int) -> np.ndarray:
    """Along a run, eV; none where the method fails."""
    atoms = system.atoms.copy()
    atoms.calc = probe.fast_calculator(system)
    energies: list[float] = []
    with quiet():
        try:
            thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=np.random.default_rng(seed))
            run = VelocityVerlet(atoms, _STEP)
            run.attach(lambda: energies.append(atoms.get_total_energy()), interval=_LOOK_EVERY)
            run.run(steps)
        except ERRORS:
            return np.array([])
    return np.array(energies)
