"""Converged sums: a molecule in a large box is the molecule, and cells scale without steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.build import molecule

from lesff.evaluation.checks.dynamics import liquid_box
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.compression import WATER_SPACING
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.runs import worst
from lesff.evaluation.robustness.structures import bare, neutral, scaled
from lesff.methods import Method

BOX = 40.0
"""A."""
BOX_LIMIT = 0.1
"""meV/atom. The images of a dipole of 4 D in such a box, 2 pi ke mu^2 / (3 V), are 0.33 meV away
from none: 0.05 meV/atom of acetonitrile."""
CONTINUITY_LIMIT = 0.001
"""meV/atom: a step of the energy between two cells. Wave vectors that enter a sum with a sharp edge
make steps of 0.01 to 1 meV/atom; the curvature itself changes by 0.0001 over such a range."""
_MOLECULES = ("H2O", "NH3", "HF", "CH3OH", "CH3CN", "CH3COCH3", "C6H6", "SH2")
_SALTS = ("NaCl", "MgO", "LiF", "CaF2")
_STRAIN = 1e-4
_POINTS, _QUICK_POINTS = 61, 31


def measure_converged_sums(subject: Method, options: Options) -> CheckResult:
    """Molecules with and without a box of 40 A; cells scaled in steps of 0.01 %."""
    probe, result = Probe(subject), CheckResult()
    _boxes(probe, options, result)
    _cells(probe, options, result)
    return result


def _boxes(probe: Probe, options: Options, result: CheckResult) -> None:
    pairs: list[tuple[System, System]] = []
    for name in _MOLECULES[: options.some(len(_MOLECULES), 3)]:
        alone = neutral(name)
        atoms = alone.atoms.copy()
        atoms.set_cell([BOX] * 3)
        atoms.center()
        atoms.pbc = True
        boxed = alone.with_atoms(atoms)
        why = probe.lacks(boxed)
        if why:
            result.left_out[f"{name} in a box"] = why
        else:
            pairs.append((alone, boxed))
    energies = probe.energies([s for pair in pairs for s in pair], "boxes").reshape(-1, 2)
    for (alone, _), (open_boundary, periodic) in zip(pairs, energies, strict=True):
        difference = 1e3 * abs(periodic - open_boundary) / len(alone.atoms)
        result.rows.append(
            {
                "item": f"{alone.name} in a box",
                "kind": "box",
                "mev_per_atom": difference,
                "ok": bool(difference <= BOX_LIMIT),
            }
        )


def _cells(probe: Probe, options: Options, result: CheckResult) -> None:
    n_points = options.some(_POINTS, _QUICK_POINTS)
    factors = 1.0 + _STRAIN * (np.arange(n_points) - n_points // 2)
    side = options.some(3, 2)
    water = bare(liquid_box(molecule("H2O"), (side, side, side), WATER_SPACING))
    cells: dict[str, ase.Atoms] = {f"{side**3} waters, periodic": water}
    for name in _SALTS:
        cells[f"crystal of {name}"] = crystal(SOLIDS[name], conventional=True)
    for name, atoms in cells.items():
        systems = [System(name=name, atoms=scaled(atoms, f), spin=1) for f in factors]
        why = probe.lacks(systems[0])
        if why:
            result.left_out[name] = why
            continue
        energies = probe.energies(systems, f"scaled {name}")
        second = np.diff(energies, 2)
        step = 1e3 * float(np.abs(second - np.median(second)).max()) / len(atoms)
        result.rows.append(
            {
                "item": name,
                "kind": "cell",
                "mev_per_atom": step,
                "ok": bool(step <= CONTINUITY_LIMIT),
            }
        )


def summarise_converged_sums(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """The largest effect of a box, and the largest step of the energy between cells."""
    values = []
    for kind, name, limit in (
        ("box", "molecule in a box of 40 A, largest change", BOX_LIMIT),
        ("cell", "cell scaled by 0.01 %, largest second difference", CONTINUITY_LIMIT),
    ):
        part = [row["mev_per_atom"] for row in rows if row["kind"] == kind]
        if part:
            largest = worst(part, lowest=False)
            values.append(Value(name=name, unit="meV/atom", value=largest, limits=(None, limit)))
    return values
