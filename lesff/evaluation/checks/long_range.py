"""Energies of separated molecules against the Coulomb limit of their own moments."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.build import molecule

from lesff.evaluation.coverage import dipole_of, has_dipole, require
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult
from lesff.methods import Method
from lesff.units import COULOMB_CONSTANT

LONG_RANGE_SOURCES = (
    "limits: two head-to-tail dipoles -2 ke mu^2 / R^3, two ions ke q q' / R (ke = 14.3996 eV A)",
)
DISTANCES = np.linspace(10.0, 15.0, 6)
"""Distances of the tail, A."""
FAR = 1000.0
"""Distance at which molecules count as separated, A."""
_NEGLIGIBLE = 1e-7


def check_long_range(subject: Method) -> CheckResult:
    """Two aligned water molecules, and ammonium with chloride, from 10 to 15 A.

    Water: the tail relative to the limit of the model's own dipole, and its exponent. Ions: energy
    between 10 and 15 A relative to that of unit charges, and the charge that stays on ammonium: a
    model that sees only the total charge shares it out.
    """
    result = CheckResult()
    _check_water(subject, result)
    _check_ions(subject, result)
    return result


def aligned_pair(atoms: ase.Atoms, axis: np.ndarray, distance: float) -> ase.Atoms:
    """A molecule and its copy, shifted along its dipole: their dipoles are head to tail."""
    other = atoms.copy()
    other.positions += distance * axis / np.linalg.norm(axis)
    return atoms + other


def tail_exponent(distances: np.ndarray, energies: np.ndarray) -> float:
    """Slope of log |energy| against log distance."""
    return float(np.polyfit(np.log(distances), np.log(np.abs(energies)), 1)[0])


def _check_water(subject: Method, result: CheckResult) -> None:
    water = relaxed(molecule("H2O"), subject.calculator())
    water.calc = None
    axis = water.positions[1:].mean(0) - water.positions[0]
    pairs = [aligned_pair(water, axis, distance) for distance in (*DISTANCES, FAR)]
    energies = np.array([_energy(subject, pair) for pair in pairs])
    tail = energies[:-1] - energies[-1]
    result.rows.append(
        {"pair": "water, head to tail", "distance_a": DISTANCES.tolist(), "tail_ev": tail.tolist()}
    )
    if np.abs(tail).max() < _NEGLIGIBLE:
        result.left_out["exponent of the water pair"] = "no tail: the model is short-ranged"
    else:
        result.add("water pair, exponent of the tail", "", tail_exponent(DISTANCES, tail), -3.0)
    if has_dipole(subject):
        limit = -2.0 * COULOMB_CONSTANT * dipole_of(subject, water) ** 2 / DISTANCES[-1] ** 3
        result.add("water pair at 15 A, energy / limit of its dipole", "", tail[-1] / limit, 1.0)
    if subject.model is not None:
        part = subject.model.predict(pairs, "energy_sr", progress=False).energy_sr
        short = 1e3 * np.abs(np.array(part[:-1]) - part[-1]).max()
        result.add("water pair, tail of the short-range part (LES off)", "meV", short, 0.0)


def _check_ions(subject: Method, result: CheckResult) -> None:
    ammonium = _tetrahedral_ammonium()
    why = require(subject, ammonium + ase.Atoms("Cl")) or require(subject, ammonium, 1)
    if why:
        result.left_out["ammonium and chloride"] = why
        return
    pairs = [ammonium + ase.Atoms("Cl", [(0.0, 0.0, d)]) for d in DISTANCES]
    try:
        energies = np.array([_energy(subject, pair) for pair in pairs])
    except FAILURES as error:
        result.left_out["ammonium and chloride"] = str(error)
        return
    change = energies[-1] - energies[0]
    limit = -COULOMB_CONSTANT * (1.0 / DISTANCES[-1] - 1.0 / DISTANCES[0])
    row: dict[str, Any] = {
        "pair": "NH4+ Cl-",
        "distance_a": DISTANCES.tolist(),
        "energy_ev": (energies - energies[-1]).tolist(),
    }
    result.add("NH4+ Cl-, energy from 10 to 15 A / unit charges", "", change / limit, 1.0)
    last = pairs[-1].copy()
    last.calc = subject.calculator()
    if "charges" in last.calc.implemented_properties:
        row["charge_on_ammonium_e"] = float(last.get_charges()[:5].sum())
        result.add("NH4+ Cl- at 15 A, charge of NH4", "e", row["charge_on_ammonium_e"], 1.0)
    result.rows.append(row)


def _tetrahedral_ammonium() -> ase.Atoms:
    corners = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / np.sqrt(3.0)
    return ase.Atoms("NH4", [(0.0, 0.0, 0.0), *(1.02 * corners)])


def _energy(subject: Method, atoms: ase.Atoms) -> float:
    copy = atoms.copy()
    copy.calc = subject.calculator()
    return copy.get_potential_energy()
