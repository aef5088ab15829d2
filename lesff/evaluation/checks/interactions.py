"""Interaction energies of the S22 complexes."""

from __future__ import annotations

import ase
import numpy as np
from ase.data.s22 import data as S22_DATA
from ase.data.s22 import s22 as S22_NAMES

from lesff.evaluation.coverage import require
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.units import EV_TO_KCAL_PER_MOL

S22_SOURCES = (
    "S22 geometries: Jurecka et al., Phys. Chem. Chem. Phys. 8, 1985 (2006)",
    "S22 energies, CCSD(T)/CBS (S22A): Takatani et al., J. Chem. Phys. 132, 144104 (2010)",
)

KINDS = {"hydrogen bonds": S22_NAMES[:7], "dispersion": S22_NAMES[7:15], "mixed": S22_NAMES[15:]}
"""The three groups of the S22 paper."""


def complex_of(name: str) -> tuple[ase.Atoms, list[ase.Atoms], float]:
    """A complex of S22, its two molecules, and the reference interaction energy in eV."""
    entry = S22_DATA[name]
    atoms = ase.Atoms(entry["symbols"], entry["positions"])
    return atoms, fragments(atoms, entry["dimer atoms"]), float(entry["interaction energy CC"])


def fragments(atoms: ase.Atoms, counts: list[int]) -> list[ase.Atoms]:
    """Consecutive parts of a structure with these numbers of atoms."""
    ends = np.cumsum(counts)
    if ends[-1] != len(atoms):
        raise ValueError(f"{counts} must sum to {len(atoms)} atoms, got {ends[-1]}")
    return [atoms[end - count : end] for count, end in zip(counts, ends, strict=True)]


def check_s22(subject: Method) -> CheckResult:
    """Interaction energies at the geometries of S22, kcal/mol; molecules are not relaxed."""
    result = CheckResult()
    errors: dict[str, list[float]] = {}
    for kind, names in KINDS.items():
        for name in names:
            atoms, parts, reference = complex_of(name)
            why = require(subject, atoms)
            if why:
                result.left_out[name] = why
                continue
            whole, *alone = (_energy(subject, system) for system in (atoms, *parts))
            value = (whole - sum(alone)) * EV_TO_KCAL_PER_MOL
            expected = reference * EV_TO_KCAL_PER_MOL
            errors.setdefault(kind, []).append(value - expected)
            result.rows.append(
                {"complex": name, "kind": kind, "kcal_per_mol": value, "reference": expected}
            )
    if not errors:
        raise NotCoveredError("no complex is covered")
    everything = [error for part in errors.values() for error in part]
    result.add(f"MAE ({len(everything)} complexes)", "kcal/mol", np.abs(everything).mean())
    for kind, part in errors.items():
        result.add(f"MAE, {kind} ({len(part)})", "kcal/mol", np.abs(part).mean())
    result.add("mean error (negative: overbound)", "kcal/mol", np.mean(everything))
    return result


def _energy(subject: Method, atoms: ase.Atoms) -> float:
    copy = atoms.copy()
    copy.calc = subject.calculator()
    return copy.get_potential_energy()
