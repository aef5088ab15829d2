"""Ionic solids: lattice constants, bulk moduli, Born effective charges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.eos import EquationOfState

from lesff.errors import ConvergenceError
from lesff.evaluation.coverage import require
from lesff.evaluation.relaxation import FAILURES
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.potential.response import BornOptions
from lesff.units import EV_PER_A3_TO_GPA

SOLID_SOURCES = (
    "lattice constants at room temperature: Wyckoff, Crystal Structures (1963)",
    "bulk moduli, from elastic constants at room temperature: Simmons, Wang, Single Crystal "
    "Elastic Constants and Calculated Aggregate Properties (1971); compiled in Toher et al., "
    "Phys. Rev. B 90, 174107 (2014)",
)
BORN_SOURCES = (
    "Born charges from the splitting of optical phonons, and eps_inf: Kittel, Introduction to "
    "Solid State Physics, 8th ed. (2005), polaritons",
)


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A cubic solid whose atoms stand on positions that symmetry fixes.

    Attributes:
        structure: Key of :data:`STRUCTURES`.
        species: Symbols of the sites of the structure.
        a: Lattice constant, A.
        bulk_modulus: GPa; None where it is not asked for.
    """

    structure: str
    species: tuple[str, ...]
    a: float
    bulk_modulus: float | None = None


_FACE = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
STRUCTURES: dict[str, tuple[bool, tuple[tuple[tuple[float, float, float], ...], ...]]] = {
    "rocksalt": (True, (((0.0, 0.0, 0.0),), ((0.5, 0.5, 0.5),))),
    "zincblende": (True, (((0.0, 0.0, 0.0),), ((0.25, 0.25, 0.25),))),
    "fluorite": (True, (((0.0, 0.0, 0.0),), ((0.25, 0.25, 0.25), (0.75, 0.75, 0.75)))),
    "CsCl": (False, (((0.0, 0.0, 0.0),), ((0.5, 0.5, 0.5),))),
    "perovskite": (
        False,
        (
            ((0.0, 0.0, 0.0),),
            ((0.5, 0.5, 0.5),),
            ((0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)),
        ),
    ),
}
"""Whether the lattice is face-centred, and the fractional positions of each species."""

SOLIDS = {
    "LiF": Solid(structure="rocksalt", species=("Li", "F"), a=4.0173, bulk_modulus=69.6),
    "LiCl": Solid(structure="rocksalt", species=("Li", "Cl"), a=5.1295, bulk_modulus=31.9),
    "NaF": Solid(structure="rocksalt", species=("Na", "F"), a=4.620, bulk_modulus=48.5),
    "NaCl": Solid(structure="rocksalt", species=("Na", "Cl"), a=5.6406, bulk_modulus=25.1),
    "NaBr": Solid(structure="rocksalt", species=("Na", "Br"), a=5.9732, bulk_modulus=20.6),
    "KCl": Solid(structure="rocksalt", species=("K", "Cl"), a=6.2929, bulk_modulus=18.2),
    "KBr": Solid(structure="rocksalt", species=("K", "Br"), a=6.6000, bulk_modulus=15.4),
    "MgO": Solid(structure="rocksalt", species=("Mg", "O"), a=4.2112, bulk_modulus=164.0),
    "CaO": Solid(structure="rocksalt", species=("Ca", "O"), a=4.8105, bulk_modulus=113.0),
    "SrO": Solid(structure="rocksalt", species=("Sr", "O"), a=5.1602, bulk_modulus=91.2),
    "BaO": Solid(structure="rocksalt", species=("Ba", "O"), a=5.523, bulk_modulus=75.4),
    "CaF2": Solid(structure="fluorite", species=("Ca", "F"), a=5.4630, bulk_modulus=84.0),
    "SrTiO3": Solid(
        structure="perovskite", species=("Sr", "Ti", "O"), a=3.9051, bulk_modulus=174.0
    ),
    "ZnS": Solid(structure="zincblende", species=("Zn", "S"), a=5.4060, bulk_modulus=77.1),
    "CsCl": Solid(structure="CsCl", species=("Cs", "Cl"), a=4.123, bulk_modulus=18.2),
}

BORN = {"NaCl": (1.1, 2.25), "MgO": (2.0, 2.95)}
"""Born charge of the cation in e, and the electronic dielectric constant."""

_STRAINS = np.linspace(-0.02, 0.02, 9)
"""Changes of the lattice constant of the equation of state."""
_REACH = 0.12
"""Largest change of the lattice constant from experiment in which a minimum is sought."""


def crystal(solid: Solid, a: float | None = None, *, conventional: bool = False) -> ase.Atoms:
    """A cell of a solid, atoms of one species together.

    Args:
        solid: Which.
        a: Lattice constant, A; that of experiment if not given.
        conventional: The cubic cell instead of the primitive one.
    """
    centred, sites = STRUCTURES[solid.structure]
    a = solid.a if a is None else a
    shifts = _FACE if centred and conventional else _FACE[:1]
    positions, numbers = [], []
    for symbol, places in zip(solid.species, sites, strict=True):
        for shift in shifts:
            positions += [a * ((np.array(place) + shift) % 1.0) for place in places]
            numbers += [symbol] * len(places)
    cell = a * (np.array(_FACE[1:]) if centred and not conventional else np.eye(3))
    return ase.Atoms(numbers, positions=positions, cell=cell, pbc=True)


def equation_of_state(solid: Solid, calculator: BaseCalculator) -> tuple[float, float]:
    """Lattice constant (A) and bulk modulus (GPa) by a Birch-Murnaghan fit.

    The lowest energy is sought from 12 % below to 12 % above the lattice constant of experiment,
    then nine points within 2 % of it are fitted.

    Raises:
        ConvergenceError: if there is no minimum in this range.
    """

    def energy(a: float) -> tuple[float, float]:
        atoms = crystal(solid, a)
        atoms.calc = calculator
        return atoms.get_volume(), atoms.get_potential_energy()

    coarse = solid.a * (1.0 + np.linspace(-_REACH, _REACH, 25))
    index = int(np.argmin([energy(a)[1] for a in coarse]))
    if index in (0, len(coarse) - 1):
        raise ConvergenceError(f"no minimum within {100 * _REACH:.0f} % of {solid.a} A")
    points = [energy(coarse[index] * (1.0 + strain)) for strain in _STRAINS]
    volumes, energies = zip(*points, strict=True)
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, _, modulus = fit.fit(warn=False)
    start = crystal(solid)
    return solid.a * (volume / start.get_volume()) ** (1 / 3), modulus * EV_PER_A3_TO_GPA


def fitted_solids(subject: Method, solids: Mapping[str, Solid]) -> CheckResult:
    """Rows with the equation of state of each solid that is covered, and what is left out.

    Raises:
        NotCoveredError: if nothing is left.
    """
    result = CheckResult()
    for name, solid in solids.items():
        why = require(subject, crystal(solid))
        if why:
            result.left_out[name] = why
            continue
        try:
            a, modulus = equation_of_state(solid, subject.calculator())
        except FAILURES as error:
            result.left_out[name] = str(error)
            continue
        result.rows.append(
            {
                "solid": name,
                "a": a,
                "a_reference": solid.a,
                "error_percent": 100.0 * (a / solid.a - 1.0),
                "bulk_modulus_gpa": modulus,
                "bulk_modulus_reference": solid.bulk_modulus,
            }
        )
    need_rows(result)
    return result


def need_rows(result: CheckResult) -> None:
    """Raise NotCoveredError with the reasons if every item was left out."""
    if not result.rows:
        raise NotCoveredError("; ".join(f"{k}: {v}" for k, v in result.left_out.items()))


def check_solids(subject: Method) -> CheckResult:
    """Lattice constants and bulk moduli of 15 ionic solids."""
    result = fitted_solids(subject, SOLIDS)
    n = len(result.rows)
    percent = np.array([row["error_percent"] for row in result.rows])
    moduli = np.array([row["bulk_modulus_gpa"] / row["bulk_modulus_reference"] - 1.0
                       for row in result.rows])  # fmt: skip
    result.add(f"lattice constants, MAE ({n} solids)", "%", np.abs(percent).mean())
    result.add("lattice constants, mean error", "%", percent.mean())
    result.add(f"bulk moduli, MAE ({n} solids)", "%", 100.0 * np.abs(moduli).mean())
    result.add("bulk moduli, mean error", "%", 100.0 * moduli.mean())
    for row in result.rows:
        result.add(f"{row['solid']}, lattice constant", "A", row["a"], row["a_reference"])
    for row in result.rows:
        reference = row["bulk_modulus_reference"]
        result.add(f"{row['solid']}, bulk modulus", "GPa", row["bulk_modulus_gpa"], reference)
    return result


def compare_solids(
    model: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Mean difference of the lattice constants of a model to those of a baseline, %."""
    constants = {row["solid"]: row["a"] for row in ours}
    pairs = [(constants[r["solid"]], r["a"]) for r in theirs if r["solid"] in constants]
    if not pairs:
        return []
    result = CheckResult()
    difference = np.mean([abs(a / b - 1.0) for a, b in pairs])
    name = f"lattice constants of {model} against these, MAE ({len(pairs)} solids)"
    result.add(name, "%", 100.0 * difference)
    return result.to_dict()["quantities"]


def check_born(subject: Method) -> CheckResult:
    """Born charges of NaCl and MgO at the lattice constant of experiment.

    Latent charges are screened, ``Z* = sqrt(eps_inf) Z_latent`` (arXiv 2504.05169), so the charges
    are given as the model has them and times ``sqrt(eps_inf)`` of experiment.
    """
    model = subject.model
    if model is None or "born_effective_charges" not in model.potential.available_properties():
        raise NotCoveredError("no Born effective charges")
    result = CheckResult()
    for name, (reference, eps_inf) in BORN.items():
        solid = SOLIDS[name]
        atoms = crystal(solid, conventional=True)
        why = require(subject, atoms)
        if why:
            result.left_out[name] = why
            continue
        before, after = (
            model.predict(
                atoms, "born_effective_charges", born=BornOptions(sum_rule=rule)
            ).born_effective_charges
            for rule in (False, True)
        )
        ion = solid.species[0]
        charge = float(np.trace(after[atoms.symbols == ion].mean(axis=0)) / 3.0)
        screened = np.sqrt(eps_inf) * charge
        sums = [float(np.abs(z.sum(axis=0)).max()) for z in (before, after)]
        result.add(f"{name}, Z*({ion}) of the model", "e", charge)
        result.add(f"{name}, Z*({ion}) x sqrt(eps_inf)", "e", screened, reference)
        result.add(f"{name}, sum of Z* before the sum rule", "e/cell", sums[0], 0.0)
        result.add(f"{name}, sum of Z* after the sum rule", "e/cell", sums[1], 0.0)
        result.rows.append({"solid": name, "eps_inf": eps_inf, "tensor": after[0].tolist()})
    need_rows(result)
    return result
