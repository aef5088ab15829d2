"""Energies of reactions between small closed-shell molecules, against experiment."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
from ase.build import molecule
from ase.data import g2

from lesff.evaluation.coverage import require
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.units import EV_TO_KCAL_PER_MOL

REACTION_SOURCES = (
    "enthalpies of formation at 298 K: experiment, Raghavachari et al., J. Chem. Phys. 106, 1063 "
    "(1997), zero-point and thermal parts: B3LYP, Staroverov et al., J. Chem. Phys. 119, 12129 "
    "(2003), both as in ase.data.g2; parts taken off",
)

REACTIONS = {
    "isomers": (
        "CH3CH2OH -> CH3OCH3", "CH3CH2SH -> CH3SCH3", "CH3CH2NH2 -> C2H6NH",
        "C3H4_C3v -> C3H4_D2d", "C3H4_C3v -> C3H4_C2v", "C3H6_Cs -> C3H6_D3h",
        "isobutane -> trans-butane", "isobutene -> cyclobutane", "butadiene -> 2-butyne",
        "butadiene -> cyclobutene", "butadiene -> bicyclobutane",
        "butadiene -> methylenecyclopropane", "CH3CHO -> CH2OCH2", "CH3COOH -> HCOOCH3",
        "CH3NO2 -> CH3ONO",
    ),
    "hydrogenation": (
        "C2H2 + H2 -> C2H4", "C2H4 + H2 -> C2H6", "butadiene + 2 H2 -> trans-butane",
        "C3H6_D3h + H2 -> C3H8", "H2CO + H2 -> CH3OH", "CH3CHO + H2 -> CH3CH2OH",
        "CO + 2 H2 -> CH3OH", "HCN + 3 H2 -> CH4 + NH3", "CH3CN + 2 H2 -> CH3CH2NH2",
        "N2 + 3 H2 -> 2 NH3", "N2H4 + H2 -> 2 NH3", "H2O2 + H2 -> 2 H2O",
        "CH3Cl + H2 -> CH4 + HCl", "CH3SH + H2 -> CH4 + SH2", "PF3 + 3 H2 -> PH3 + 3 HF",
    ),
    "exchange": (
        "CH3OH + HCl -> CH3Cl + H2O", "CH3OH + NH3 -> H3CNH2 + H2O",
        "CH3OH + SH2 -> CH3SH + H2O", "CO + H2O -> CO2 + H2", "HCOOH -> CO + H2O",
        "CH3CONH2 + H2O -> CH3COOH + NH3", "CH3COCl + H2O -> CH3COOH + HCl",
        "HCOOCH3 + H2O -> HCOOH + CH3OH", "OCS + H2O -> CO2 + SH2", "CS2 + 2 H2O -> CO2 + 2 SH2",
        "C4H4O + SH2 -> C4H4S + H2O", "C4H4O + NH3 -> C4H4NH + H2O", "COF2 + H2O -> CO2 + 2 HF",
        "CH4 + CF4 -> 2 H2CF2", "CH4 + CCl4 -> 2 H2CCl2",
    ),
    "growing chains": (
        "C3H8 + CH4 -> 2 C2H6", "trans-butane + 2 CH4 -> 3 C2H6", "isobutane + 2 CH4 -> 3 C2H6",
        "C6H6 + 6 CH4 -> 3 C2H6 + 3 C2H4",
    ),
}  # fmt: skip
"""Reactions by kind: names of ``ase.build.molecule``."""

_TERM = re.compile(r"(?:(\d+) )?(\S+)")


@cache
def balance(reaction: str) -> dict[str, int]:
    """How often each molecule is made (positive) or used up (negative)."""
    found: Counter[str] = Counter()
    for side, sign in zip(reaction.split(" -> "), (-1, 1), strict=True):
        for term in side.split(" + "):
            match = _TERM.fullmatch(term)
            if match is None:
                raise ValueError(f"not a term of a reaction: {term!r}")
            found[match[2]] += sign * int(match[1] or 1)
    return dict(found)


def reference(reaction: str) -> float:
    """Electronic energy of a reaction at the minima, kcal/mol, from experiment.

    Enthalpies of formation at 298 K without zero-point and thermal parts: those of elements cancel.
    """
    return sum(
        n * (g2.data[m]["enthalpy"] - g2.data[m]["ZPE"] - g2.data[m]["thermal correction"])
        for m, n in balance(reaction).items()
    )


def check_reactions(subject: Method) -> CheckResult:
    """Errors by kind of reaction; of reactions all of whose molecules are covered.

    Raises:
        NotCoveredError: if none is.
    """
    result, energies = CheckResult(), {}
    for name in sorted({m for group in REACTIONS.values() for r in group for m in balance(r)}):
        why = require(subject, molecule(name))
        try:
            energies[name] = (
                why or relaxed(molecule(name), subject.calculator()).get_potential_energy()
            )
        except FAILURES as error:
            energies[name] = str(error)
    for kind, reactions in REACTIONS.items():
        errors = []
        for reaction in reactions:
            reasons = [energies[m] for m in balance(reaction) if isinstance(energies[m], str)]
            if reasons:
                result.left_out[reaction] = reasons[0]
                continue
            change = sum(n * energies[m] for m, n in balance(reaction).items())
            value, expected = float(change) * EV_TO_KCAL_PER_MOL, reference(reaction)
            errors.append(value - expected)
            result.rows.append(
                {"item": reaction, "unit": "kcal/mol", "value": value, "reference": expected}
            )
        if errors:
            name = f"reactions, {kind}, MAE ({len(errors)})"
            result.add(name, "kcal/mol", float(np.abs(errors).mean()))
    if not result.rows:
        raise NotCoveredError("; ".join(sorted(set(result.left_out.values()))))
    return result
