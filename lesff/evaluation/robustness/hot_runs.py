"""Hot runs: molecules, water and salts at 2000 K stay what matter is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import Any

import numpy as np
from ase.build import molecule
from tqdm.auto import tqdm

from lesff.evaluation.checks.dynamics import liquid_box
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.compression import WATER_SPACING
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.runs import LOWEST, Track, heat, relax, worst
from lesff.evaluation.robustness.structures import ORGANIC, bare, cluster
from lesff.methods import Method

TEMPERATURE = 2000.0
"""K."""
CLOSEST = 0.5
"""Share of the sum of covalent radii; at 0.5 an O-H bond is 10 eV above its minimum."""
_STEPS, _QUICK_STEPS = 600, 150
_SALTS = ("NaCl", "LiF", "MgO", "KCl")


def measure_hot_runs(subject: Method, options: Options) -> CheckResult:
    """Short Langevin runs from a roughly relaxed start; energies count from there."""
    probe, result = Probe(subject), CheckResult()
    systems = []
    for index, system in enumerate(_systems(options)):
        why = probe.lacks(system)
        if why:
            result.left_out[system.name] = why
        else:
            systems.append((index, system))
    bar = tqdm(systems, unit="run", leave=False)
    for index, system in bar:
        bar.set_description(f"{system.name} at {TEMPERATURE:.0f} K")
        result.rows.append(_row(probe, system, options, index))
    return result


def _systems(options: Options) -> Iterator[System]:
    water = molecule("H2O")
    eight = bare(liquid_box(water, (2, 2, 2), WATER_SPACING))
    eight.pbc, eight.cell = False, None
    yield System(name="8 waters", atoms=eight, spin=1)
    if not options.quick:
        box = bare(liquid_box(water, (3, 3, 3), WATER_SPACING))
        yield System(name="27 waters, periodic", atoms=box, spin=1)
    rng = np.random.default_rng(0)  # the same cluster for all seeds
    yield System(name="organic cluster", atoms=cluster(ORGANIC, 5, 1.8, rng)[1].atoms, spin=1)
    for name in _SALTS[: options.some(len(_SALTS), 1)]:
        atoms = crystal(SOLIDS[name], conventional=True).repeat((1, 1, options.some(2, 1)))
        yield System(name=f"crystal of {name}", atoms=atoms, spin=1)


def _row(probe: Probe, system: System, options: Options, index: int) -> dict[str, Any]:
    rng = np.random.default_rng([options.seed, index])
    start = Track(0.0)
    atoms = relax(probe, system, start, steps=30, fmax=0.5)
    track = Track(len(atoms) * start.lowest)
    is_whole = start.is_whole
    if is_whole:
        steps = options.some(_STEPS, _QUICK_STEPS)
        heat(probe, system.with_atoms(atoms), track, steps=steps, temperature=TEMPERATURE, rng=rng)
        is_whole = track.is_whole
    closest = min(start.closest, track.closest)
    is_ok = is_whole and closest >= CLOSEST and track.lowest >= LOWEST
    return {
        "item": system.name,
        "closest": min(closest, 2.0) if is_whole else nan,
        "lowest_ev_per_atom": track.lowest if is_whole else nan,
        "looks": track.steps,
        "ok": bool(is_ok),
    }


def summarise_hot_runs(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many collapse, the closest contact and the lowest energy on the way."""
    failing = sum(not row["ok"] for row in rows)
    closest = worst((row["closest"] for row in rows), lowest=True)
    low = worst((row["lowest_ev_per_atom"] for row in rows), lowest=True)
    return [
        Value(name="hot runs that collapse", unit=f"of {len(rows)}", value=failing,
              limits=NONE_MAY),
        Value(name="hot runs, closest contact", unit="of radii", value=closest,
              limits=(CLOSEST, None)),
        Value(name="hot runs, lowest energy", unit="eV/atom", value=low, limits=(LOWEST, None)),
    ]  # fmt: skip
