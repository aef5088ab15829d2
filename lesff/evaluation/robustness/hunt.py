"""The hunt: a random search for energies far below those of ordinary matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import Any

import ase
import numpy as np
from ase.build import molecule
from tqdm.auto import tqdm

from lesff.evaluation.checks.dynamics import liquid_box
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.compression import WATER_SPACING
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.runs import LOWEST, Track, heat, relax
from lesff.evaluation.robustness.structures import INORGANIC, ORGANIC, bare, cluster
from lesff.methods import Method

_TRIALS, _QUICK_TRIALS = 40, 6
_RELAXATION, _HEATING = 60, 100
"""Steps."""
_TEMPERATURE = 3000.0
"""K."""
_MIN_SCALE = 0.45
_DISPLACEMENT = 0.35
"""A."""


def measure_hunt(subject: Method, options: Options) -> CheckResult:
    """Compress, shake or heat molecules, clusters, water and crystals at random, then relax.

    Energies count from those of the roughly relaxed start, so a find is what no reaction of the
    start could give. The row of the lowest energy has the atoms.
    """
    probe, result = Probe(subject), CheckResult()
    finds: list[ase.Atoms | None] = []
    bar = tqdm(range(options.some(_TRIALS, _QUICK_TRIALS)), desc="hunt", unit="trial", leave=False)
    for index in bar:
        rng = np.random.default_rng([options.seed, index])
        system = _start(index, rng)
        move = list(_MOVES)[int(rng.integers(len(_MOVES)))]
        name = f"{system.name}, {move}, {index}"
        why = probe.lacks(system)
        if why:
            result.left_out[name] = why
            continue
        track = _trial(probe, system, move, rng)
        is_ok = track.is_whole and track.lowest >= LOWEST
        result.rows.append(
            {
                "item": name,
                "lowest_ev_per_atom": track.lowest if track.lowest < inf else nan,
                "closest": min(track.closest, 2.0),
                "is_whole": track.is_whole,
                "ok": bool(is_ok),
            }
        )
        finds.append(track.lowest_atoms)
        lowest = min(row["lowest_ev_per_atom"] for row in result.rows)
        bar.set_postfix_str(f"lowest {lowest:.2f} eV/atom")
    _keep_lowest(result.rows, finds)
    return result


def summarise_hunt(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many trials find something, and the lowest energy found."""
    failing = sum(not row["ok"] for row in rows)
    found = [row["lowest_ev_per_atom"] for row in rows if row["lowest_ev_per_atom"] is not None]
    lowest = min((value for value in found if value == value), default=nan)
    return [
        Value(name="trials that fall too low or fail", unit=f"of {len(rows)}", value=failing,
              limits=NONE_MAY),
        Value(name="lowest energy found, from the start", unit="eV/atom", value=lowest,
              limits=(LOWEST, None)),
    ]  # fmt: skip


def found_atoms(rows: Sequence[dict[str, Any]]) -> ase.Atoms | None:
    """The atoms of the lowest energy of a hunt; None if nothing was computed."""
    for row in rows:
        if "numbers" in row:
            atoms = ase.Atoms(row["numbers"], row["positions"], cell=row["cell"], pbc=row["pbc"])
            atoms.info["hunt"] = row["item"]
            atoms.info["ev_per_atom_below_start"] = -row["lowest_ev_per_atom"]
            return atoms
    return None


def _start(index: int, rng: np.random.Generator) -> System:
    """Organic and inorganic clusters, a crystal, water: in turn, whatever the model covers."""
    kind = index % 5
    if kind == 3:
        return _salt(str(rng.choice(list(SOLIDS))))
    if kind == 4:
        atoms = bare(liquid_box(molecule("H2O"), (2, 2, 2), WATER_SPACING))
        return System(name="8 waters, periodic", atoms=atoms, spin=1)
    names = INORGANIC if kind == 2 else ORGANIC
    return cluster(names, int(rng.integers(1, 5)), 1.6, rng)[1]


def _salt(name: str) -> System:
    atoms = crystal(SOLIDS[name], conventional=True)
    return System(name=f"crystal of {name}", atoms=atoms, spin=1)


def _trial(probe: Probe, system: System, move: str, rng: np.random.Generator) -> Track:
    """Relax the start, move it, relax again."""
    start = Track(0.0)
    atoms = relax(probe, system, start, steps=_RELAXATION, fmax=0.2)
    track = Track(len(atoms) * start.lowest)
    track.is_whole = start.is_whole
    if not start.is_whole:
        return track
    moved = _MOVES[move](probe, system.with_atoms(bare(atoms)), track, rng)
    if track.is_whole and track.lowest > -20.0:
        relax(probe, system.with_atoms(bare(moved)), track, steps=_RELAXATION, fmax=0.2)
    return track


def _compress(probe: Probe, system: System, track: Track, rng: np.random.Generator) -> ase.Atoms:
    factors = rng.uniform(_MIN_SCALE, 0.95, size=3)
    atoms = system.atoms.copy()
    atoms.set_cell(np.array(atoms.cell) * factors)
    atoms.positions *= factors
    return atoms


def _shake(probe: Probe, system: System, track: Track, rng: np.random.Generator) -> ase.Atoms:
    atoms = system.atoms.copy()
    atoms.positions += rng.normal(scale=_DISPLACEMENT, size=(len(atoms), 3))
    return atoms


def _heat(probe: Probe, system: System, track: Track, rng: np.random.Generator) -> ase.Atoms:
    return heat(probe, system, track, steps=_HEATING, temperature=_TEMPERATURE, rng=rng)


_MOVES: dict[str, Callable[[Probe, System, Track, np.random.Generator], ase.Atoms]] = {
    "compressed": _compress,
    "shaken": _shake,
    "heated": _heat,
}


def _keep_lowest(rows: list[dict[str, Any]], finds: Sequence[ase.Atoms | None]) -> None:
    """Put the atoms of the lowest energy into its row."""
    known = [(row, atoms) for row, atoms in zip(rows, finds, strict=True) if atoms is not None]
    if not known:
        return
    best, atoms = min(known, key=lambda pair: pair[0]["lowest_ev_per_atom"])
    best |= {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": np.array(atoms.cell).tolist(),
        "pbc": np.array(atoms.pbc).tolist(),
    }
