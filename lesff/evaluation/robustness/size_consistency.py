"""Size consistency: parts 30 A apart are the parts, and their Coulomb energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.build import molecule

from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.probe import Answer, Options, Probe, System, lowest
from lesff.evaluation.robustness.structures import (
    acetate,
    ammonium,
    bare,
    base,
    hydronium,
    hydroxide,
    ion,
    methylammonium,
    neutral,
)
from lesff.methods import Method
from lesff.units import COULOMB_CONSTANT

DISTANCE = 30.0
"""A, between the centres of the parts."""
ENERGY_LIMIT = 0.05
"""eV. An ion and the dipole of the other part, 3 D along the line, interact with 0.01 eV."""
CHARGE_LIMIT = 0.05
"""e."""
_CORNERS = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / np.sqrt(3.0)


def _radical(name: str, spin: int, charge: int = 0, label: str | None = None) -> System:
    atoms = bare(molecule(name))
    return System(name=label or name, atoms=atoms, charge=charge, spin=spin)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Parts far from each other.

    Attributes:
        kind: What the case is about.
        parts: Makes them; the first is in the middle of the others.
    """

    kind: str
    parts: Callable[[], list[System]]


CASES = (
    Case(kind="ion pairs", parts=lambda: [ammonium(), ion("Cl", -1)]),
    Case(kind="ion pairs", parts=lambda: [hydronium(), hydroxide()]),
    Case(kind="ion pairs", parts=lambda: [methylammonium(), acetate()]),
    Case(kind="ion pairs", parts=lambda: [ion("Na", 1), ion("Cl", -1)]),
    Case(kind="ion pairs", parts=lambda: [ion("Li", 1), ion("F", -1)]),
    Case(kind="ion and neutral", parts=lambda: [ion("Cl", -1), *([neutral("C6H6")] * 4)]),
    Case(kind="ion and neutral", parts=lambda: [ion("Cl", -1), neutral("H2O")]),
    Case(kind="ion and neutral", parts=lambda: [ammonium(), *([neutral("H2O")] * 4)]),
    Case(kind="ion and neutral", parts=lambda: [acetate(), neutral("CH3COCH3")]),
    Case(kind="ion and neutral", parts=lambda: [ion("Na", 1), neutral("H2O")]),
    Case(
        kind="ion and neutral",
        parts=lambda: [_radical("C6H6", 2, 1, "C6H6+"), *([neutral("CH4")] * 4)],
    ),
    Case(kind="radicals", parts=lambda: [_radical("CH3", 2), neutral("H2O")]),
    Case(kind="radicals", parts=lambda: [_radical("OH", 2), neutral("C6H6")]),
    Case(kind="radicals", parts=lambda: [_radical("NO", 2), *([neutral("H2O")] * 4)]),
    Case(kind="triplets", parts=lambda: [_radical("O2", 3), neutral("H2O")]),
    Case(kind="triplets", parts=lambda: [_radical("CH2_s3B1d", 3, 0, "CH2"), neutral("H2O")]),
    Case(kind="neutral pairs", parts=lambda: [neutral("H2O"), neutral("C6H6")]),
    Case(kind="neutral pairs", parts=lambda: [neutral("CH3CN"), neutral("HF")]),
    Case(kind="neutral pairs", parts=lambda: [neutral("NaCl"), neutral("LiF")]),
    Case(kind="neutral pairs", parts=lambda: [base("uracil"), neutral("C6H6")]),
    Case(kind="neutral pairs", parts=lambda: [base("adenine"), base("thymine")]),
    Case(kind="like ions", parts=lambda: [ion("Cl", -1), ion("Cl", -1)]),
    Case(kind="like ions", parts=lambda: [ammonium(), ammonium()]),
    Case(kind="like ions", parts=lambda: [ion("Na", 1), ion("Na", 1)]),
)
"""One part in the middle, the others on the corners of a tetrahedron."""


def measure_size_consistency(subject: Method, options: Options) -> CheckResult:
    """Energies and charges of parts 30 A apart against those of the parts alone."""
    probe, result, covered = Probe(subject), CheckResult(), []
    for case in CASES:
        parts = case.parts()
        together = _together(parts)
        reasons = [why for system in (*parts, together) if (why := probe.lacks(system))]
        if reasons:
            result.left_out[together.name] = reasons[0]
        else:
            covered.append((case, parts, together))
    systems = [system for _, parts, together in covered for system in (*parts, together)]
    answers = iter(probe.ask(systems, "parts far apart"))
    for case, parts, together in covered:
        alone = [next(answers) for _ in parts]
        result.rows.append(_row(case, parts, together, alone, next(answers)))
    return result


def summarise_size_consistency(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """Largest error of the energy by kind, and of the charge of a part."""
    failing = sum(not row["ok"] for row in rows)
    values = [
        Value(name="parts far apart that miss", unit=f"of {len(rows)}", value=failing,
              limits=NONE_MAY),
    ]  # fmt: skip
    for kind in dict.fromkeys(row["kind"] for row in rows):
        errors = [_size(row["error_ev"]) for row in rows if row["kind"] == kind]
        name = f"{kind}, largest error of the energy"
        values.append(Value(name=name, unit="eV", value=max(errors), limits=(None, ENERGY_LIMIT)))
    charges = [row["charge_error_e"] for row in rows if row["charge_error_e"] is not None]
    if charges:
        name = "charge of a part, largest error"
        values.append(Value(name=name, unit="e", value=max(charges), limits=(None, CHARGE_LIMIT)))
    return values


def _together(parts: Sequence[System]) -> System:
    """All parts in one system, spins parallel."""
    atoms = ase.Atoms()
    for part, center in zip(parts, _centers(len(parts)), strict=True):
        copy = part.atoms.copy()
        copy.positions += center - copy.get_center_of_mass()
        atoms += copy
    count = len(parts) - 1
    others = parts[1].name if count == 1 else f"{count} {parts[1].name}"
    return System(
        name=f"{parts[0].name} and {others}",
        atoms=atoms,
        charge=sum(part.charge for part in parts),
        spin=1 + sum(lowest(part) - 1 for part in parts),
    )


def _centers(count: int) -> np.ndarray:
    others = DISTANCE * (_CORNERS[: count - 1] if count > 2 else np.array([(0.0, 0.0, 1.0)]))
    return np.concatenate([np.zeros((1, 3)), others])


def _row(
    case: Case, parts: Sequence[System], together: System, alone: Sequence[Answer], whole: Answer
) -> dict[str, Any]:
    """Errors of one case."""
    q = np.array([part.charge for part in parts], dtype=float)
    apart = np.linalg.norm(_centers(len(parts))[:, None] - _centers(len(parts)), axis=-1)
    first, second = np.triu_indices(len(parts), 1)
    coulomb = COULOMB_CONSTANT * float((q[first] * q[second] / apart[first, second]).sum())
    error = whole.energy - sum(answer.energy for answer in alone) - coulomb
    charge_error = None
    if whole.charges is not None:
        ends = np.cumsum([len(part.atoms) for part in parts])[:-1]
        sums = [float(c.sum()) for c in np.split(np.asarray(whole.charges), ends)]
        charge_error = float(np.abs(np.array(sums) - q).max())
    is_ok = abs(error) <= ENERGY_LIMIT and (charge_error is None or charge_error <= CHARGE_LIMIT)
    return {
        "item": together.name,
        "kind": case.kind,
        "error_ev": error,
        "charge_error_e": charge_error,
        "ok": bool(is_ok),
    }


def _size(value: float | None) -> float:
    """Absolute value; infinite where there is none."""
    return float(np.abs(value)) if value is not None and np.isfinite(value) else np.inf
