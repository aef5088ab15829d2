"""Ions in water: the charge stays where it is, however many molecules there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import ase
import numpy as np
from ase.build import molecule

from lesff.evaluation.results import CheckResult, NotCoveredError, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.structures import bare, ion, random_turn
from lesff.methods import Method

IONS = (("Cl", -1), ("Br", -1), ("Na", 1), ("K", 1))
CONTACTS = {"Cl": 3.15, "Br": 3.3, "Na": 2.4, "K": 2.75}
"""A: ion and oxygen of the first shell, Marcus, Chem. Rev. 88, 1475 (1988)."""
COUNTS = (1, 4, 16, 63)
"""Water molecules."""
WINDOW = (0.8, 1.0)
"""e, in units of the ion's own charge."""
_SPACING = 3.1
_TURNS = 60
_WATER_CHARGES = np.array([-0.834, 0.417, 0.417])
"""TIP3P, Jorgensen et al., J. Chem. Phys. 79, 926 (1983); they choose how molecules are turned."""
_CLOSE = 1.7
"""A: no closer contacts between molecules, if turns can avoid it."""


def measure_solvated_ions(subject: Method, options: Options) -> CheckResult:
    """Charge of an ion in the middle of 1, 4, 16 and 63 waters, built and not relaxed.

    Raises:
        NotCoveredError: for a method without charges, or of none of the ions.
    """
    probe, result, systems = Probe(subject), CheckResult(), []
    for symbol, charge in IONS:
        for count in COUNTS[: options.some(4, 3)]:
            system = in_water(symbol, charge, count)
            why = probe.lacks(system)
            if why:
                result.left_out[system.name] = why
            else:
                systems.append(system)
    for system, answer in zip(systems, probe.ask(systems, "ions in water"), strict=True):
        if answer.charges is None and np.isfinite(answer.energy):
            raise NotCoveredError("no charges")
        share = np.nan if answer.charges is None else float(answer.charges[0]) / system.charge
        result.rows.append(
            {
                "item": system.name,
                "n_waters": (len(system.atoms) - 1) // 3,
                "charge_e": share * system.charge,
                "ok": bool(WINDOW[0] <= share <= WINDOW[1]),
            }
        )
    return result


def summarise_solvated_ions(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """The charge of each ion in each number of molecules."""
    values = []
    for row in rows:
        low, high = WINDOW if "+" in row["item"].split()[0] else (-WINDOW[1], -WINDOW[0])
        charge = np.nan if row["charge_e"] is None else row["charge_e"]
        values.append(Value(name=row["item"], unit="e", value=charge, limits=(low, high)))
    return values


def in_water(symbol: str, charge: int, count: int) -> System:
    """An ion, and water molecules on a cubic grid around it, turned as its field wants them.

    Args:
        symbol: The ion.
        charge: Its charge, e.
        count: Number of molecules.
    """
    rng = np.random.default_rng([abs(charge), count])
    grid = np.array(list(product(range(-3, 4), repeat=3)), dtype=float)
    order = np.lexsort((*grid.T, (grid**2).sum(1)))[1:]  # without the ion's own place
    center = ion(symbol, charge)
    atoms, charges = center.atoms, np.array([float(charge)])
    for point in grid[order[:count]]:
        place = _SPACING * point
        if np.abs(point).sum() == 1.0:  # the first shell
            place = CONTACTS[symbol] * point
        tries = [_water_at(place, rng) for _ in range(_TURNS)]
        costs = [_cost(water, atoms, charges) for water in tries]
        atoms += tries[int(np.argmin(costs))]
        charges = np.concatenate([charges, _WATER_CHARGES])
    plural = "water" if count == 1 else "waters"
    return System(name=f"{center.name} in {count} {plural}", atoms=atoms, charge=charge, spin=1)


def _water_at(place: np.ndarray, rng: np.random.Generator) -> ase.Atoms:
    water = random_turn(bare(molecule("H2O")), rng)
    water.positions += place - water.positions[0]
    return water


def _cost(water: ase.Atoms, others: ase.Atoms, charges: np.ndarray) -> float:
    """Coulomb energy in e^2/A, and a penalty for close contacts."""
    distances = np.linalg.norm(water.positions[:, None] - others.positions, axis=-1)
    energy = float((_WATER_CHARGES[:, None] * charges / distances).sum())
    return energy + 10.0 * float(np.clip(_CLOSE - distances, 0.0, None).sum())
