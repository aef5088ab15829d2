"""Hydrogen bonds of ions shortened to a bond: no step where a charge changes its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ase
import numpy as np
from ase.data import covalent_radii

from lesff.evaluation.results import NONE_MAY, CheckResult, Value
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.structures import ammonium, hydronium, hydroxide, ion, neutral
from lesff.methods import Method

_STEP, _FARTHEST = 0.1, 4.0
"""A."""
CONCAVE = 0.1
"""eV, size of a negative second difference in steps of 0.1 A: two rigid molecules only ever repel
each other more steeply on the way in; what bends downwards is the outer end of the well, by
0.02 eV and less with AIMNet2."""
_QUICK = 4


def measure_ion_contacts(subject: Method, options: Options) -> CheckResult:
    """Ions and molecules, rigid, from 4 A of a linear hydrogen bond to the length of a bond.

    Args:
        subject: The method.
        options: How much is done.
    """
    probe, result, scans = Probe(subject), CheckResult(), []
    contacts = list(_contacts())
    for name, donor, acceptor in contacts[: options.some(len(contacts), _QUICK)]:
        distances = _distances(acceptor)
        scan = [
            System(
                name=name,
                atoms=hydrogen_bonded(donor.atoms, acceptor.atoms, r),
                charge=donor.charge + acceptor.charge,
                spin=1,
            )
            for r in distances
        ]
        why = probe.lacks(scan[0])
        if why:
            result.left_out[name] = why
        else:
            scans.append((distances, scan))
    if not scans:
        return result
    energies = probe.energies([s for _, scan in scans for s in scan], "contacts of ions")
    ends = np.cumsum([len(scan) for _, scan in scans])[:-1]
    for (distances, scan), e in zip(scans, np.split(energies, ends), strict=True):
        bend = float(-np.diff(e, 2).min()) if np.isfinite(e).all() else np.nan
        result.rows.append(
            {
                "item": scan[0].name,
                "x": distances.tolist(),
                "energy_ev": e.tolist(),
                "concave_ev": bend,
                "ok": bool(bend <= CONCAVE),
            }
        )
    return result


def summarise_ion_contacts(rows: Sequence[dict[str, Any]]) -> list[Value]:
    """How many contacts have a step, and the sharpest bend the wrong way."""
    bends = [np.nan if row["concave_ev"] is None else row["concave_ev"] for row in rows]
    return [
        Value(
            name="contacts of ions with a step",
            unit=f"of {len(rows)}",
            value=sum(not row["ok"] for row in rows),
            limits=NONE_MAY,
        ),
        Value(
            name="contacts of ions, sharpest bend downwards",
            unit="eV",
            value=float(np.max(bends)),
            limits=(None, CONCAVE),
        ),
    ]


def _contacts() -> Iterator[tuple[str, System, System]]:
    """Name, what gives the hydrogen, what it points to; hydrogen and end are the named atoms."""
    anions = [ion("Cl", -1), ion("Br", -1), ion("F", -1), hydroxide(), ion("I", -1)]
    for donor in (neutral("H2O"), neutral("CH3OH"), neutral("NH3")):
        for anion in anions:
            yield f"{donor.name} and {anion.name}", donor, anion
    for cation in (ammonium(), hydronium()):
        for acceptor in (neutral("H2O"), neutral("NH3"), neutral("H2CO"), neutral("CH3CN")):
            yield f"{cation.name} and {acceptor.name}", cation, acceptor


def _distances(acceptor: System) -> np.ndarray:
    """From 4 A to the sum of the covalent radii of hydrogen and the end of the bond, A."""
    numbers = acceptor.atoms.numbers
    shortest = covalent_radii[1] + covalent_radii[numbers[_end(acceptor.atoms)]]
    return np.arange(_FARTHEST, shortest, -_STEP)


def _end(atoms: ase.Atoms) -> int:
    """The atom that a hydrogen bond points to: not carbon or hydrogen."""
    return int(np.flatnonzero(~np.isin(atoms.numbers, (1, 6)))[0])


def hydrogen_bonded(donor: ase.Atoms, acceptor: ase.Atoms, length: float) -> ase.Atoms:
    """A linear hydrogen bond; the rest of the acceptor is turned away from it.

    Args:
        donor: The hydrogen of it is the one nearest to the first atom that is not carbon.
        acceptor: See :func:`_end`.
        length: From the hydrogen to the acceptor's end, A.
    """
    heavy, end = _end(donor), _end(acceptor)
    distance = np.linalg.norm(donor.positions - donor.positions[heavy], axis=1)
    hydrogen = int(np.where(donor.numbers == 1, distance, np.inf).argmin())
    axis = donor.positions[hydrogen] - donor.positions[heavy]
    axis /= np.linalg.norm(axis)
    turned = acceptor.copy()
    rest = np.delete(acceptor.positions, end, axis=0) - acceptor.positions[end]
    if len(rest):
        turned.rotate(rest.mean(axis=0), axis, center=acceptor.positions[end])
    turned.positions += donor.positions[hydrogen] + length * axis - turned.positions[end]
    return donor + turned
