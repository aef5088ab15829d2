"""Labels in other units than the model's, recognised by comparing them with its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lesff.atoms.elements import elements_of
from lesff.errors import DataError
from lesff.train.metrics import FramePrediction, labelled_values
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.units import BOHR, EA_TO_DEBYE, EV_TO_KCAL_PER_MOL, HARTREE

_KCAL = 1.0 / EV_TO_KCAL_PER_MOL
_KJ = _KCAL / 4.184

_ENERGY_UNITS: Mapping[str, float] = {
    "Hartree": HARTREE,
    "kcal/mol": _KCAL,
    "kJ/mol": _KJ,
    "Rydberg": HARTREE / 2,
    "meV": 1e-3,
}
_FORCE_UNITS: Mapping[str, float] = {
    "Hartree/bohr": HARTREE / BOHR,
    "Hartree/A": HARTREE,
    "kcal/mol/A": _KCAL,
    "kJ/mol/A": _KJ,
    "eV/bohr": 1.0 / BOHR,
    "Rydberg/bohr": HARTREE / 2 / BOHR,
    "meV/A": 1e-3,
    "gradients (the sign is reversed), eV/A": -1.0,
    "gradients (the sign is reversed), Hartree/bohr": -HARTREE / BOHR,
}
_DIPOLE_UNITS: Mapping[str, float] = {"Debye": 1.0 / EA_TO_DEBYE, "e bohr": BOHR}

_DECISIVE = 0.4
"""Another unit is named if it leaves at most this share of the disagreement."""


def check_units(predictions: Sequence[FramePrediction], *, dipole: bool) -> None:
    """Refuse labels that agree with the model in another unit, and not in the expected one.

    Args:
        predictions: Answers of the base model for labelled frames.
        dipole: Whether dipole labels matter.

    Raises:
        DataError: naming label and unit.
    """
    _check_energies(predictions)
    with_forces = [p for p in predictions if np.isfinite(p.frame.forces).all()]
    if with_forces:
        label = np.concatenate([p.frame.forces.ravel() for p in with_forces])
        model = np.concatenate([p.forces.ravel() for p in with_forces])
        _compare(label, model, "forces", "eV/A", _FORCE_UNITS)
    label, model = labelled_values(predictions, "dipole")
    if dipole and len(label):
        _compare(label, model, "dipole", "e A", _DIPOLE_UNITS)


def _compare(
    label: np.ndarray, model: np.ndarray, name: str, unit: str, others: Mapping[str, float]
) -> None:
    disagreement = float(np.linalg.norm(label - model))
    rest = {other: float(np.linalg.norm(f * label - model)) for other, f in others.items()}
    best = min(rest, key=lambda other: rest[other])
    if rest[best] < _DECISIVE * disagreement and rest[best] < 0.7 * float(np.linalg.norm(model)):
        raise _wrong(name, unit, best)


def _check_energies(predictions: Sequence[FramePrediction]) -> None:
    """What composition does not explain must agree in eV better than in another unit."""
    known = [p for p in predictions if np.isfinite(p.frame.energy)]
    elements = sorted(elements_of(*(p.frame.structure for p in known)))
    if len(known) < len(elements) + 5:
        return  # composition would explain almost anything
    counts = composition([p.frame for p in known], elements)
    size = counts.sum(1)
    label = np.array([p.frame.energy for p in known])
    model = np.array([p.energy for p in known])

    def unexplained(energy: np.ndarray) -> float:
        return float(np.linalg.norm(explain_by_elements(counts, energy - model)[1]))

    disagreement = unexplained(label)
    rest = {other: unexplained(factor * label) for other, factor in _ENERGY_UNITS.items()}
    rest["eV per atom"] = unexplained(size * label)
    best = min(rest, key=lambda other: rest[other])
    # energies that do not vary at all (tiny units) leave what the model itself says
    if rest[best] < _DECISIVE * disagreement and rest[best] < 0.7 * unexplained(0.0 * label):
        raise _wrong("energy", "eV", best)


def _wrong(name: str, unit: str, best: str) -> DataError:
    return DataError(
        f"{name} labels must be in {unit}, but they agree with the base model only if read as "
        f"{best}: convert them, or pass checks_units=False if they are right"
    )
