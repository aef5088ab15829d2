"""Pairs of atoms: every two elements, from a stretched bond to a quarter of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols, covalent_radii

from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.scans import RISE_BELOW, Scan, run_scans, scan_values
from lesff.methods import Method

SHARES = np.concatenate([np.arange(1.2, 0.79, -0.1), np.arange(0.75, 0.24, -0.025)])
"""Distances in units of the sum of covalent radii."""
_QUICK_PAIRS = 40
_HEAVIEST = 103
"""ASE has covalent radii up to lawrencium and 0.2 A beyond."""


def measure_pairs(subject: Method, options: Options) -> CheckResult:
    """Two atoms, neutral, in the lowest multiplicity that their electrons allow.

    That multiplicity is asked for whether or not the model was trained for it: a wall between two
    atoms is wanted in any state.
    """
    elements = [z for z in sorted(subject.elements) if z <= _HEAVIEST]
    pairs = list(combinations_with_replacement(elements, 2))
    if options.quick and len(pairs) > _QUICK_PAIRS:
        chosen = np.linspace(0, len(pairs) - 1, _QUICK_PAIRS).round().astype(int)
        pairs = [pairs[index] for index in chosen]
    scans = [_scan(*pair) for pair in pairs]
    return CheckResult(rows=run_scans(Probe(subject), scans, "pairs of atoms"))


def summarise_pairs(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many pairs fall, the largest fall, the largest charge."""
    return scan_values(rows, "pairs of atoms")


def _scan(first: int, second: int) -> Scan:
    radii = float(covalent_radii[first] + covalent_radii[second])
    name = f"{chemical_symbols[first]} {chemical_symbols[second]}"
    systems = [
        System(name=name, atoms=ase.Atoms([first, second], [(0, 0, 0), (share * radii, 0, 0)]))
        for share in SHARES
    ]
    return Scan(name=name, x=SHARES.tolist(), systems=systems, rises_from=RISE_BELOW)
