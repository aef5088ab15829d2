"""Clashes: clusters of overlapping molecules must come apart under relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.runs import LOWEST, Track, relax, worst, zero_of
from lesff.evaluation.robustness.structures import INORGANIC, ORGANIC, closest_share, cluster
from lesff.methods import Method

_LISTS = ((ORGANIC, 20, 4), (INORGANIC, 8, 2))
"""Molecules to choose from, and how many clusters in full and quick."""
_MOLECULES = 4
_CONTACT = 0.5
"""Share of the sum of covalent radii at the start."""
CLOSEST = 0.6
"""Share that no two atoms may be below at the end."""
_STEPS, _FMAX = 150, 0.3


def measure_clashes(subject: Method, options: Options) -> CheckResult:
    """Four random molecules pressed together to half of their covalent radii, then relaxed.

    Energies are counted from those of the molecules alone.
    """
    probe, result, starts = Probe(subject), CheckResult(), []
    for kind, (names, full, quick) in enumerate(_LISTS):
        for index in range(options.some(full, quick)):
            rng = np.random.default_rng([options.seed, kind, index])
            parts, system = cluster(names, _MOLECULES, _CONTACT, rng)
            name = f"{system.name}, {kind + 1}.{index}"
            why = probe.lacks(system)
            if why:
                result.left_out[name] = why
            else:
                starts.append((name, parts, system))
    for name, parts, system in tqdm(starts, desc="clashes", unit="cluster", leave=False):
        result.rows.append(_row(probe, name, parts, system))
    return result


def _row(probe: Probe, name: str, parts: Sequence[System], system: System) -> dict[str, Any]:
    track = Track(zero_of(probe, parts))
    end = relax(probe, system, track, steps=_STEPS, fmax=_FMAX)
    share = closest_share(end) if track.is_whole else nan
    is_ok = track.is_whole and share >= CLOSEST and track.lowest >= LOWEST
    return {
        "item": name,
        "closest_at_start": closest_share(system.atoms),
        "closest_at_end": min(share, 2.0),
        "lowest_ev_per_atom": track.lowest if track.is_whole else nan,
        "steps": track.steps,
        "ok": bool(is_ok),
    }


def summarise_clashes(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many collapse, the closest contact at an end, the lowest energy on the way."""
    failing = sum(not row["ok"] for row in rows)
    closest = worst((row["closest_at_end"] for row in rows), lowest=True)
    low = worst((row["lowest_ev_per_atom"] for row in rows), lowest=True)
    return [
        Value(name="clusters that collapse", unit=f"of {len(rows)}", value=failing,
              limits=NONE_MAY),
        Value(name="clusters, closest contact at the end", unit="of radii", value=closest,
              limits=(CLOSEST, None)),
        Value(name="clusters, lowest energy", unit="eV/atom", value=low, limits=(LOWEST, None)),
    ]  # fmt: skip
