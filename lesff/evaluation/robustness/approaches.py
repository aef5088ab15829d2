"""Approaches: two molecules pressed together along random lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.scans import RISE_BELOW, Scan, run_scans, scan_values
from lesff.evaluation.robustness.structures import (
    INORGANIC,
    ORGANIC,
    neutral,
    pressed,
    random_direction,
    random_turn,
)
from lesff.methods import Method

SHARES = np.concatenate([np.arange(1.2, 0.79, -0.1), np.arange(0.75, 0.29, -0.05)])
"""Closest contacts between the two in units of the sum of covalent radii."""
_LISTS = ((ORGANIC, 80, 20), (INORGANIC, 25, 6))
"""Molecules to choose from, and how many approaches in full and quick."""


def measure_approaches(subject: Method, options: Options) -> CheckResult:
    """Random pairs from the built-in lists, random turns, random lines."""
    probe, result, scans = Probe(subject), CheckResult(), []
    for scan in _approaches(options):
        why = probe.lacks(scan.systems[0])
        if why:
            result.left_out[scan.name] = why
        else:
            scans.append(scan)
    result.rows = run_scans(probe, scans, "approaches")
    return result


def summarise_approaches(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many approaches fall, the largest fall, the largest charge."""
    return scan_values(rows, "approaches of molecules")


def _approaches(options: Options) -> Iterator[Scan]:
    for kind, (names, full, quick) in enumerate(_LISTS):
        for index in range(options.some(full, quick)):
            # the same whatever the model covers and however many are asked for
            rng = np.random.default_rng([options.seed, kind, index])
            first, second = rng.choice(names, 2)
            fixed = random_turn(neutral(first).atoms, rng)
            moving = random_turn(neutral(second).atoms, rng)
            found = pressed(fixed, moving, random_direction(rng), SHARES.tolist())
            name = f"{first} + {second}, {kind + 1}.{index}"
            systems = [System(name=name, atoms=atoms, spin=1) for atoms in found]
            shares = SHARES[: len(found)].tolist()
            yield Scan(name=name, x=shares, systems=systems, rises_from=RISE_BELOW)
