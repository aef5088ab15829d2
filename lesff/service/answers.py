"""Outcomes as JSON and as extended xyz."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.io.extxyz import write_xyz

from lesff.bulk.frames import with_results
from lesff.quantities import QUANTITIES
from lesff.service.batcher import Outcome
from lesff.service.faults import ServiceError
from lesff.service.tasks import atoms_of
from lesff.spectra.normal_modes import NormalModes

XYZ = "chemical/x-xyz"
"""Media type of xyz and extxyz."""


def encoded(answer: Any) -> bytes:
    """JSON text.

    Raises:
        ServiceError: for results that are not finite.
    """
    try:
        return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise ServiceError(
            422, "PropertyError", "a result is not finite: the structure is no usable one"
        ) from None


def record(outcome: Outcome) -> dict[str, Any]:
    """One structure and its results, for JSON."""
    state = outcome.state
    return {
        "symbols": [chemical_symbols[number] for number in state.numbers],
        "positions": state.positions.tolist(),
        "cell": state.cell.tolist() if state.pbc.any() else None,
        "pbc": state.pbc.tolist(),
        "charge": state.total_charge,
        "spin_multiplicity": state.spin_multiplicity,
        "external_field": None if state.external_field is None else state.external_field.tolist(),
        "values": {name: _plain(value) for name, value in outcome.values.items()},
        "units": {name: QUANTITIES[name].unit for name in outcome.values},
        "warnings": list(outcome.warnings),
        "out_of_domain": None if outcome.out_of_domain is None else list(outcome.out_of_domain),
    }


def modes_record(modes: NormalModes) -> dict[str, Any]:
    """Normal modes, for JSON."""
    return {
        "wavenumbers": modes.wavenumbers.tolist(),
        "intensities": None if modes.intensities is None else modes.intensities.tolist(),
        "reduced_masses": modes.reduced_masses.tolist(),
        "displacements": modes.displacements.tolist(),
        "units": {"wavenumbers": "1/cm", "intensities": "km/mol", "reduced_masses": "u"},
    }


def extxyz(outcomes: Sequence[Outcome], model: str) -> bytes:
    """Frames of an extended xyz file, results as lesff and ASE read them."""
    frames = [
        with_results(atoms_of(row.state), dict(row.values), row.state, model, set())
        for row in outcomes
    ]
    text = io.StringIO()
    write_xyz(text, frames)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array.tolist()
