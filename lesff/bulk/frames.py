"""Results as ASE atoms: what extxyz files and databases hold."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from lesff.atoms.structure import Structure, with_state
from lesff.calculator import ASE_NAMES
from lesff.quantities import (
    DIPOLE_ORIGINS,
    INFO_DIPOLE_ORIGIN,
    INFO_MODEL,
    QUANTITIES,
    SPREADS,
)
from lesff.train.labels import kind_of_key

INFO_SOURCE, INFO_INDEX = "source", "source_index"
"""Keys of ``atoms.info`` that say where a structure came from."""


def with_results(
    atoms: ase.Atoms, values: dict[str, Any], state: Structure, model: str, dropped: set[str]
) -> ase.Atoms:
    """Results as ASE's own where ASE has a name for them, else as info and arrays.

    The arguments are those of :func:`placed_results`.
    """
    atoms, results = placed_results(atoms, values, state, model, dropped)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def placed_results(
    atoms: ase.Atoms, values: dict[str, Any], state: Structure, model: str, dropped: set[str]
) -> tuple[ase.Atoms, dict[str, Any]]:
    """A copy of atoms with results as info and arrays, and those that ASE has a name for.

    Args:
        atoms: The structure as it was read.
        values: Results by property.
        state: The structure as it was computed.
        model: Resolved name of the model.
        dropped: Names of labels that the atoms came with are added: they are removed, for beside
            predictions they would be two values of one quantity.
    """
    atoms = with_state(atoms, state)
    if atoms.calc is not None:
        dropped.update(getattr(atoms.calc, "results", {}))
        atoms.calc = None
    for store in (atoms.info, atoms.arrays):
        for key in [k for k in store if kind_of_key(str(k)) is not None or k in QUANTITIES]:
            del store[key]
            dropped.add(key)
    atoms.info.pop(INFO_DIPOLE_ORIGIN, None)
    atoms.info[INFO_MODEL] = model
    if "dipole" in values and state.total_charge:
        atoms.info[INFO_DIPOLE_ORIGIN] = DIPOLE_ORIGINS[0]
    results: dict[str, Any] = {}
    for name, value in values.items():
        _place(atoms, name, np.asarray(value, dtype=np.float64), results)
    return atoms, results


def _place(atoms: ase.Atoms, name: str, values: np.ndarray, results: dict[str, Any]) -> None:
    """Put a result where ASE's readers look for it."""
    if name in ASE_NAMES.values() and name not in SPREADS:  # ASE has no name for these
        key = next(ase_name for ase_name, ours in ASE_NAMES.items() if ours == name)
        if name == "stress":
            from ase.stress import full_3x3_to_voigt_6_stress  # start-up: imports scipy

            values = full_3x3_to_voigt_6_stress(values)
        results[key] = float(values) if values.ndim == 0 else values
    elif QUANTITIES[name].level == "atom":
        flat = values.reshape(len(atoms), -1)
        atoms.arrays[name] = flat[:, 0] if flat.shape[1] == 1 else flat
    else:
        atoms.info[name] = float(values) if values.ndim == 0 else values
