"""Compression: bonds, molecules, a box of water and crystals, to where energies must rise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ase
import numpy as np
from ase.build import molecule

from lesff.evaluation.checks.dynamics import liquid_box
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.evaluation.results import CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.scans import Scan, run_scans, scan_values
from lesff.evaluation.robustness.structures import (
    INORGANIC,
    ORGANIC,
    bare,
    distinct_bonds,
    neutral,
    scaled,
    stretched,
)
from lesff.methods import Method

BOND_SCALES = np.arange(1.0, 0.39, -0.05)
CELL_SCALES = np.arange(1.0, 0.59, -0.02)
RISES_FROM = 0.9
"""Share of an experimental bond length or lattice constant from which energies must rise; errors of
models in them are some per cent."""
_QUICK = 8
WATER_SPACING = 3.104
"""A: of molecules on a grid, at 1 g/cm^3."""
MOLECULES = tuple(dict.fromkeys((*ORGANIC, *INORGANIC)))


def measure_compression(subject: Method, options: Options) -> CheckResult:
    """Bonds of rigid fragments from 1.0 to 0.4; molecules and cells from 1.0 to 0.6."""
    probe, result = Probe(subject), CheckResult()
    for kind, scans in (
        ("bonds", list(_bonds(options))),
        ("molecules", list(_molecules(options))),
        ("cells", list(_cells(options))),
    ):
        covered = []
        for scan in scans:
            why = probe.lacks(scan.systems[0])
            if why:
                result.left_out[scan.name] = why
            else:
                covered.append(scan)
        rows = run_scans(probe, covered, f"compressed {kind}")
        result.rows += [{"kind": kind, **row} for row in rows]
    return result


def summarise_compression(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many fall, the largest fall and the largest charge, of each kind."""
    values = []
    for kind in ("bonds", "molecules", "cells"):
        part = [row for row in rows if row["kind"] == kind]
        if part:
            values += scan_values(part, f"compressed {kind}")
    return values


def _bonds(options: Options) -> Iterator[Scan]:
    for name in MOLECULES[: options.some(len(MOLECULES), _QUICK)]:
        atoms = neutral(name).atoms
        for bond in distinct_bonds(atoms):
            i, j = bond
            length = float(atoms.get_distance(i, j))
            label = f"{atoms.symbols[i]}-{atoms.symbols[j]} of {name} ({i}-{j})"
            systems = [
                System(name=label, atoms=stretched(atoms, bond, scale * length), spin=1)
                for scale in BOND_SCALES
            ]
            yield Scan(name=label, x=BOND_SCALES.tolist(), systems=systems, rises_from=RISES_FROM)


def _molecules(options: Options) -> Iterator[Scan]:
    for name in MOLECULES[: options.some(len(MOLECULES), _QUICK)]:
        yield _compressed(f"all of {name}", neutral(name).atoms)


def _cells(options: Options) -> Iterator[Scan]:
    side = options.some(3, 2)
    water = bare(liquid_box(molecule("H2O"), (side, side, side), WATER_SPACING))
    yield _compressed(f"{side**3} waters, periodic", water)
    for name, solid in SOLIDS.items():
        yield _compressed(f"crystal of {name}", crystal(solid))


def _compressed(name: str, atoms: ase.Atoms) -> Scan:
    systems = [System(name=name, atoms=scaled(atoms, f), spin=1) for f in CELL_SCALES]
    return Scan(name=name, x=CELL_SCALES.tolist(), systems=systems, rises_from=RISES_FROM)
