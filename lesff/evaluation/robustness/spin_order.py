"""Ground states: which of singlet and triplet lies lower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.build import molecule

from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.structures import bare
from lesff.methods import Method

TRIPLETS = {"O2": "O2", "CH2": "CH2_s3B1d", "NH": "NH", "S2": "S2", "SO": "SO"}
"""Ground states by Huber, Herzberg, Constants of Diatomic Molecules (1979); of CH2 by Jensen,
Bunker, J. Chem. Phys. 89, 1327 (1988). Names in ASE's G2 collection."""
SINGLETS = {"H2O": "H2O", "CH4": "CH4", "N2": "N2", "C2H4": "C2H4", "H2CO": "H2CO"}
"""Molecules whose lowest triplets are excited states, the lowest of them 3 eV above (Herzberg,
Electronic Spectra of Polyatomic Molecules, 1966)."""
LEAST = 0.1
"""eV. The smallest measured gap is 0.39 eV (CH2, both states at their minima)."""


def measure_spin_order(subject: Method, options: Options) -> CheckResult:
    """Energies of both states at the geometry of the ground state.

    Args:
        subject: The method.
        options: How much is done.
    """
    probe, result, asked = Probe(subject), CheckResult(), []
    for states, ground in ((TRIPLETS, 3), (SINGLETS, 1)):
        for name in list(states)[: options.some(5, 3)]:
            atoms = bare(molecule(states[name]))
            pair = [System(name=name, atoms=atoms, spin=spin) for spin in (ground, 4 - ground)]
            why = next(filter(None, map(probe.lacks, pair)), "")
            if why:
                result.left_out[name] = why
            else:
                asked.append((name, ground, pair))
    energies = probe.energies([system for *_, pair in asked for system in pair], "spin order")
    for (name, ground, _), (low, high) in zip(asked, energies.reshape(-1, 2), strict=True):
        gap = float(high - low)
        result.rows.append(
            {
                "item": f"{name}, {'triplet' if ground == 3 else 'singlet'}",
                "gap_ev": gap,
                "ok": bool(gap >= LEAST),
            }
        )
    return result


def summarise_spin_order(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How far the other state lies above each ground state."""
    return [
        Value(
            name=f"{row['item']} below the other state",
            unit="eV",
            value=np.nan if row["gap_ev"] is None else row["gap_ev"],
            limits=(LEAST, None),
        )
        for row in rows
    ]
