"""Dissociation: bonds pulled 6 A apart end flat, above the minimum and without steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.runs import worst
from lesff.evaluation.robustness.structures import ORGANIC, distinct_bonds, neutral, stretched
from lesff.methods import Method

_STEP = 0.1
PULLS = np.arange(0.0, 6.01, _STEP)
"""A, added to the bond."""
_SMOOTH_FROM = 0.8
"""A: beyond it second differences in steps of 0.1 A are those of the end of a bond: up to 0.15 eV
for double and triple bonds with unrestricted PBE0 (C=O of HCOOH 0.151, N2 0.147; curves of
``tools/data/multiple_bonds.py``), 0.03 eV for a C-H bond. The mark lets a third more through."""
SMOOTH, FLAT, DEEP = 0.2, 0.1, 0.5
"""eV: largest second difference; change over the last angstrom; least depth of the minimum."""
MOLECULES = (*ORGANIC, "SiH4", "N2", "CH3CH2OH", "CH3CONH2")
_QUICK = 8


def measure_dissociation(subject: Method, options: Options) -> CheckResult:
    """Bonds that are not in rings, one of each kind; rigid fragments, closed shell."""
    probe, result = Probe(subject), CheckResult()
    scans: list[list[System]] = []
    for scan in _bonds(options):
        why = probe.lacks(scan[0])
        if why:
            result.left_out[scan[0].name] = why
        else:
            scans.append(scan)
    systems = [system for scan in scans for system in scan]
    energies = probe.energies(systems, "dissociation").reshape(len(scans), len(PULLS))
    result.rows = [_row(scan[0].name, e) for scan, e in zip(scans, energies, strict=True)]
    return result


def _bonds(options: Options) -> Iterator[list[System]]:
    for name in MOLECULES[: options.some(len(MOLECULES), _QUICK)]:
        atoms = neutral(name).atoms
        for bond in distinct_bonds(atoms):
            i, j = bond
            length = float(atoms.get_distance(i, j))
            label = f"{atoms.symbols[i]}-{atoms.symbols[j]} of {name} ({i}-{j})"
            yield [
                System(name=label, atoms=stretched(atoms, bond, length + pull), spin=1)
                for pull in PULLS
            ]


def _row(name: str, energies: np.ndarray) -> dict[str, Any]:
    """Measures of one curve, (n_pulls,) eV; NaN if one energy is not finite."""
    if not np.isfinite(energies).all():
        energies = np.full_like(energies, np.nan)
    second = np.abs(np.diff(energies, 2))
    kink = float(second[PULLS[1:-1] >= _SMOOTH_FROM].max())
    slope = float(abs(energies[-1] - energies[-1 - round(1.0 / _STEP)]))
    depth = float(energies[-1] - energies.min())
    return {
        "item": name,
        "second_difference_ev": kink,
        "last_angstrom_ev": slope,
        "depth_ev": depth,
        "ok": bool(kink <= SMOOTH and slope <= FLAT and depth >= DEEP),
        "x": PULLS.tolist(),
        "energy_ev": (energies - energies[0]).tolist(),
    }


def summarise_dissociation(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many curves are wrong, and the worst of each measure."""
    failing = sum(not row["ok"] for row in rows)
    kink = worst((row["second_difference_ev"] for row in rows), lowest=False)
    slope = worst((row["last_angstrom_ev"] for row in rows), lowest=False)
    depth = worst((row["depth_ev"] for row in rows), lowest=True)
    return [
        Value(name="bonds pulled apart that are wrong", unit=f"of {len(rows)}", value=failing,
              limits=NONE_MAY),
        Value(name="bonds pulled apart, largest second difference", unit="eV", value=kink,
              limits=(None, SMOOTH)),
        Value(name="bonds pulled apart, change from +5 to +6 A", unit="eV", value=slope,
              limits=(None, FLAT)),
        Value(name="bonds pulled apart, smallest depth", unit="eV", value=depth,
              limits=(DEEP, None)),
    ]  # fmt: skip
