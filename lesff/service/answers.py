"""Outcomes as JSON and as extended xyz."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
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
    """JSON text."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def record(outcome: Outcome) -> dict[str, Any]:
    """One structure and its results, for JSON.

    Raises:
        ServiceError: for results that are not finite.
    """
    state = outcome.state
    is_periodic = state.pbc.any()
    return {
        "symbols": [chemical_symbols[number] for number in state.numbers.tolist()],
        "positions": state.positions,
        "cell": state.cell if is_periodic else None,
        "pbc": state.pbc,
        "charge": state.total_charge,
        "spin_multiplicity": state.spin_multiplicity,
        "external_field": state.external_field,
        "values": {name: _plain(value) for name, value in outcome.values.items()},
        "units": {name: QUANTITIES[name].unit for name in outcome.values},
        "warnings": list(outcome.warnings),
        "out_of_domain": None if outcome.out_of_domain is None else list(outcome.out_of_domain),
    }


def modes_record(modes: NormalModes) -> dict[str, Any]:
    """Normal modes, for JSON."""
    return {
        "wavenumbers": _plain(modes.wavenumbers),
        "intensities": None if modes.intensities is None else _plain(modes.intensities),
        "reduced_masses": _plain(modes.reduced_masses),
        "displacements": _plain(modes.displacements),
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
    """A number or an array in float64: the JSON of one in float32 would be another number."""
    array = np.ascontiguousarray(value, dtype=np.float64)
    if not np.isfinite(array).all():  # JSON has no such numbers; orjson would write null
        raise ServiceError(
            422, "PropertyError", "a result is not finite: the structure is no usable one"
        )
    return float(value) if np.ndim(value) == 0 else array
