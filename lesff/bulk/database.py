"""ASE databases: one row a structure, results where ASE looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect
from ase.db.core import check

from lesff.bulk.compute import Row
from lesff.bulk.formats import Format
from lesff.bulk.frames import INFO_INDEX, INFO_SOURCE, with_results


class Database(Format):
    """SQLite database of ASE; ``ase db FILE`` shows it."""

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the rows of a chunk."""
        target: Any = connect(path, type="db", use_lock_file=False)
        with target:
            for row in rows:
                atoms = with_results(
                    row.atoms, row.values, row.state, self.table.model, self.dropped
                )
                pairs, data = _divided(atoms.info)
                pairs |= {INFO_INDEX: row.item.index}
                # text that reads as a number is no pair
                where = {INFO_SOURCE: row.item.source}
                (pairs if _is_accepted(INFO_SOURCE, row.item.source) else data).update(where)
                results = {k: v for k, v in atoms.arrays.items() if k in row.values}
                target.write(atoms, key_value_pairs=pairs, data=data | results)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write all parts, in their order, into one database."""
        target: Any = connect(path, type="db", use_lock_file=False)
        target.metadata = {
            "title": f"predictions of {self.table.model}",
            "lesff": {"units": self.table.units, "model_digest": self.table.digest},
        }
        with target:
            for part in parts:
                source: Any = connect(part, type="db", use_lock_file=False)
                for row in source.select():
                    target.write(row, key_value_pairs=row.key_value_pairs, data=row.data)


def _divided(info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ASE takes as a key-value pair of a row, and the rest."""
    pairs, data = {}, {}
    for key, value in info.items():
        is_scalar = isinstance(value, (str, int, float, np.integer, np.floating))
        if is_scalar and not isinstance(value, bool) and _is_accepted(key, value):
            pairs[key] = value
        else:
            data[str(key)] = value
    return pairs, data


def _is_accepted(key: Any, value: Any) -> bool:
    """Whether ASE takes a pair: not names of its own columns, nor text that reads as a number."""
    try:
        check({key: value})
    except (ValueError, TypeError):
        return False
    return True
