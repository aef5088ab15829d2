"""Energies along a line on which they must rise: how far they fall, and how that is summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesff.evaluation.results import NONE_MAY, Value
from lesff.evaluation.robustness.probe import Answer, Probe, System

RISE_BELOW = 0.75
"""Share of the sum of covalent radii below which any two atoms repel each other: the shortest
bonds known (N2 0.77, C2H2 0.79) are longer, but for H2 (1.2)."""
TOLERANCE = 1e-3
"""eV: a fall that counts as none; energies of a wall are of 10 to 10,000 eV."""
LARGEST_CHARGE = 8.0
"""e: the highest oxidation state is 8; no charge of an atom is larger."""
KEPT_CURVES = 60
"""Curves that stay in a result file, the worst ones."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Systems from outside inwards.

    Attributes:
        name: What it is.
        x: (n,) coordinate, falling.
        systems: One for each.
        rises_from: The energy must rise from the first point with ``x`` at or below this.
    """

    name: str
    x: Sequence[float]
    systems: Sequence[System]
    rises_from: float


def largest_fall(energies: np.ndarray) -> float:
    """How far energies fall below one before them, eV; NaN if one of them is not finite."""
    if not np.isfinite(energies).all():
        return np.nan
    return float((np.maximum.accumulate(energies) - energies).max())


def run_scans(probe: Probe, scans: Sequence[Scan], desc: str) -> list[dict[str, Any]]:
    """A row for each scan: ``item``, ``fall_ev`` (None: not finite), ``ok``, ``largest_charge_e``.

    Args:
        probe: Gives energies.
        scans: What to compute.
        desc: Text of the progress bar.
    """
    answers = iter(probe.ask([system for scan in scans for system in scan.systems], desc))
    rows = []
    for scan in scans:
        found: list[Answer] = [next(answers) for _ in scan.systems]
        x = np.array(scan.x)
        energies = np.array([answer.energy for answer in found])
        fall = largest_fall(energies[x <= scan.rises_from + 1e-9])
        charges = [a.largest_charge for a in found if np.isfinite(a.largest_charge)]
        rows.append(
            {
                "item": scan.name,
                "fall_ev": fall,
                "ok": bool(fall <= TOLERANCE),
                "largest_charge_e": max(charges, default=np.nan),
                "x": x,
                "energy_ev": energies,
            }
        )
    _drop_curves(rows)
    return rows


def scan_values(rows: Sequence[dict[str, Any]], what: str) -> list[Value]:
    """How many scans fall, how far the worst falls, and the largest charge.

    Args:
        rows: Of :func:`run_scans`.
        what: What the scans are, in the plural.
    """
    failing = sum(not row["ok"] for row in rows)
    falls = _numbers(rows, "fall_ev")
    values = [
        Value(name=f"{what} that fall", unit=f"of {len(rows)}", value=failing, limits=NONE_MAY),
        Value(
            name=f"{what}, largest fall", unit="eV", value=max(falls, default=np.nan),
            limits=(None, TOLERANCE),
        ),
    ]  # fmt: skip
    charges = _numbers(rows, "largest_charge_e")
    if charges:
        name = f"{what}, largest latent charge"
        values.append(Value(name=name, unit="e", value=max(charges), limits=(None, LARGEST_CHARGE)))
    return values


def _numbers(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Finite numbers of a column; None and NaN drop out."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return [float(value) for value in values if np.isfinite(value)]


def _drop_curves(rows: list[dict[str, Any]]) -> None:
    """Keep the curves of the worst rows only."""
    order = sorted(rows, key=lambda row: -np.nan_to_num(row["fall_ev"], nan=np.inf))
    for row in order[KEPT_CURVES:]:
        del row["x"], row["energy_ev"]
    for row in order[:KEPT_CURVES]:
        row["x"], row["energy_ev"] = row["x"].tolist(), row["energy_ev"].tolist()
