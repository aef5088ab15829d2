"""Dipoles of molecules against experiment."""

from __future__ import annotations

import numpy as np
from ase.build import molecule

from lesff.evaluation.coverage import dipole_of, has_dipole, require
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.units import EA_TO_DEBYE

DIPOLE_SOURCES = (
    "dipoles in the gas phase: Nelson, Lide, Maryott, NSRDS-NBS 10 (1967); "
    "CRC Handbook of Chemistry and Physics",
)

DIPOLES = {
    "H2O": 1.85,
    "NH3": 1.47,
    "PH3": 0.58,
    "SH2": 0.97,
    "HCl": 1.08,
    "HCN": 2.98,
    "H2CO": 2.33,
    "CH3OH": 1.70,
    "CH3OCH3": 1.30,
    "CH3CHO": 2.69,
    "CH3COCH3": 2.88,
    "HCOOH": 1.41,
    "H3CNH2": 1.31,
    "CH3CN": 3.92,
    "CH3NO2": 3.46,
    "CH3Cl": 1.87,
    "H2CCl2": 1.60,
    "HCCl3": 1.01,
    "CH3SH": 1.52,
    "C5H5N": 2.19,
    "C4H4O": 0.66,
    "CH2OCH2": 1.89,
}
"""Debye, by the names of ASE's collection of molecules (G2)."""


def check_dipoles(subject: Method) -> CheckResult:
    """Dipoles at relaxed geometries, D."""
    if not has_dipole(subject):
        raise NotCoveredError("the model has no charges")
    result = CheckResult()
    errors = []
    for name, reference in DIPOLES.items():
        atoms = molecule(name)
        why = require(subject, atoms)
        if why:
            result.left_out[name] = why
            continue
        try:
            value = dipole_of(subject, relaxed(atoms, subject.calculator())) * EA_TO_DEBYE
        except FAILURES as error:
            result.left_out[name] = str(error)
            continue
        errors.append(value - reference)
        result.rows.append({"molecule": name, "debye": value, "reference": reference})
    if not errors:
        raise NotCoveredError("no molecule is covered")
    result.add(f"MAE ({len(errors)} molecules)", "D", np.abs(errors).mean())
    result.add("mean error", "D", np.mean(errors))
    worst = max(result.rows, key=lambda row: abs(row["debye"] - row["reference"]))
    result.add(f"worst, {worst['molecule']}", "D", worst["debye"], worst["reference"])
    return result
