"""npz shards: labelled frames as arrays, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lesff.atoms.files import read_npz
from lesff.disk import written_atomically
from lesff.errors import DataError

REQUIRED = ("n", "numbers", "positions", "energy", "forces")
"""Arrays that every shard has; see docs/finetuning.md."""


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a shard.

    Raises:
        DataError: if the file is missing, damaged, too large or empty, or lacks arrays.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist")
    try:
        arrays = read_npz(path)
    except (ValueError, OSError) as error:
        raise DataError(f"data file {path} cannot be read: {error}") from error
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise DataError(f"{path} lacks the array(s) {', '.join(missing)}")
    if not len(arrays["n"]):
        raise DataError(f"data file {path} holds no frames")
    atoms = int(arrays["n"].astype(np.int64).sum())
    if atoms != len(arrays["numbers"]):
        raise DataError(
            f"{path}: `n` sums to {atoms}, but there are {len(arrays['numbers'])} atoms"
        )
    return arrays


def write_npz(
    path: Path, arrays: Mapping[str, np.ndarray], save: Callable[..., None] = np.savez
) -> None:
    """Write arrays so that the file appears complete or not at all.

    Args:
        path: Where.
        arrays: What.
        save: ``np.savez`` or ``np.savez_compressed``.

    Raises:
        DataError: if it cannot be written; nothing is left behind.
    """
    try:
        with written_atomically(path) as new, new.open("wb") as stream:
            save(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error}): make room and run again; what is finished is kept"
        ) from error
