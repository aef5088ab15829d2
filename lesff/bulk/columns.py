"""Columns of tables of results: one row a structure, the same columns in every chunk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols

from lesff.bulk.compute import Row
from lesff.bulk.smiles import INFO_SMILES
from lesff.plain_data import finite
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN, QUANTITIES
from lesff.train.labels import kind_of_key

Kind = Literal["text", "int", "bool", "float"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        kind: Type of its values.
        ndim: Depth of its lists: 0 for one value a structure.
        unit: Unit of its values, empty where it has none.
        is_optional: Whether values may be missing.
    """

    name: str
    kind: Kind
    ndim: int = 0
    unit: str = ""
    is_optional: bool = False


IDENTITY = (
    Column(name="source", kind="text"),
    Column(name="index", kind="int"),
    Column(name="key", kind="text"),
    Column(name="smiles", kind="text", is_optional=True),
    Column(name="formula", kind="text"),
    Column(name="n_atoms", kind="int"),
    Column(name="total_charge", kind="int", unit="e"),
    Column(name="spin_multiplicity", kind="int"),
    Column(name="info", kind="text", is_optional=True),
    Column(name="out_of_domain", kind="text", is_optional=True),
)
"""What a row is about. ``info`` is JSON; ``out_of_domain`` has the reasons of a calibrated model,
empty for what is known, missing for a model without calibration."""

GEOMETRY = (
    Column(name="numbers", kind="int", ndim=1),
    Column(name="positions", kind="float", ndim=2, unit="A"),
    Column(name="cell", kind="float", ndim=2, unit="A"),
    Column(name="pbc", kind="bool", ndim=1),
    Column(name="external_field", kind="float", ndim=1, unit="V/A", is_optional=True),
)


def columns_of(properties: Sequence[str], *, geometry: bool = True) -> tuple[Column, ...]:
    """All columns: identity, geometry, results in the order of the table of quantities."""
    found = [*IDENTITY, *(GEOMETRY if geometry else ())]
    for name in (name for name in QUANTITIES if name in properties):
        row = QUANTITIES[name]
        depth = len(row.shape) + {"system": 0, "atom": 1, "pair": 2}[row.level]
        found.append(Column(name=name, kind="float", ndim=depth, unit=row.unit))
    return tuple(found)


def record_of(row: Row) -> dict[str, Any]:
    """Values of a row by column, arrays as they are."""
    state = row.state
    return {
        "source": row.item.source,
        "index": row.item.index,
        "key": row.item.key,
        "smiles": row.item.smiles,
        "formula": formula_of(state.numbers),
        "n_atoms": len(state),
        "total_charge": state.total_charge,
        "spin_multiplicity": state.spin_multiplicity,
        "info": _info(row),
        "out_of_domain": None if row.out_of_domain is None else "; ".join(row.out_of_domain),
        "numbers": state.numbers,
        "positions": state.positions,
        "cell": state.cell,
        "pbc": state.pbc,
        "external_field": state.external_field,
        **row.values,
    }


def plain_record(record: dict[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    """A record as plain data, columns in order; NaN and infinity become None."""
    return {column.name: _plain(record[column.name]) for column in columns}


def formula_of(numbers: np.ndarray) -> str:
    """Formula as ASE writes it, in a fifth of the time: C, H, the others by alphabet.

    Args:
        numbers: (n_atoms,) atomic numbers.
    """
    counts = Counter(numbers.tolist())
    found = {chemical_symbols[z]: count for z, count in counts.items()}
    first = [symbol for symbol in ("C", "H") if symbol in found]
    rest = sorted(symbol for symbol in found if symbol not in first)
    return "".join(f"{s}{found[s]}" if found[s] > 1 else s for s in (*first, *rest))


def _plain(value: Any) -> Any:
    if value is None or type(value) in (str, int):
        return value
    if not isinstance(value, np.ndarray):
        return finite(value)
    plain = value.tolist()
    # most arrays are finite, and looking at each number takes longer than all the rest
    return plain if value.dtype.kind != "f" or np.isfinite(value).all() else finite(plain)


def _info(row: Row) -> str | None:
    """What the source says about a structure otherwise, as JSON; None for nothing."""
    known = (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD, INFO_SMILES)
    found = {
        str(key): value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in row.atoms.info.items()
        if key not in known and kind_of_key(str(key)) is None and str(key) not in QUANTITIES
    }
    return json.dumps(finite(found), default=str) if found else None
