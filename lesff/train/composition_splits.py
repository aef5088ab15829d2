"""The fixed division of labelled frames by molecule: the same on every machine, no seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from lesff.errors import DataError

VALIDATION_FRACTION = 0.4
"""Share of the molecules of every subset that is held out, if nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class MoleculeSplit:
    """Which molecules are held out.

    Attributes:
        fraction: Share of the molecules of each subset that is held out.
        validation: Names of the molecules held out, sorted.
        counts: By subset: molecules and frames to train on and held out.
    """

    fraction: float
    validation: tuple[str, ...]
    counts: dict[str, dict[str, int]]

    def holds_out(self, molecule: str) -> bool:
        """Whether the frames of a molecule are for validation."""
        return molecule in self.validation


def split_by_molecule(
    labels: Sequence[tuple[str, str]], fraction: float = VALIDATION_FRACTION
) -> MoleculeSplit:
    """Hold out a share of the molecules of every subset.

    Within a subset, molecules are ranked by the SHA-256 of their names, and the first ones are held
    out. Neither the order of the frames nor their number changes the rank. A molecule of several
    subsets counts in the one that comes first in the alphabet, and all its frames go with it.

    Args:
        labels: Subset and molecule of each frame.
        fraction: Share of the molecules to hold out, above 0 and below 1.

    Raises:
        DataError: if the fraction is out of range, or nothing is left on one side.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must be between 0 and 1, got {fraction}")
    home: dict[str, str] = {}
    for subset, molecule in sorted(set(labels)):
        home.setdefault(molecule, subset)
    held_out: set[str] = set()
    for subset in sorted(set(home.values())):
        ranked = sorted((m for m in home if home[m] == subset), key=_rank)
        held_out.update(ranked[: math.floor(fraction * len(ranked) + 0.5)])
    if not held_out or len(held_out) == len(home):
        raise DataError(
            f"{len(home)} molecules cannot be divided with {fraction} of each subset held out: "
            f"{len(held_out)} would be for validation; give more molecules or another fraction"
        )
    return MoleculeSplit(
        fraction=fraction,
        validation=tuple(sorted(held_out)),
        counts=_count(labels, held_out),
    )


def shard_groups(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> list[str]:
    """Name of the group of each frame of a shard.

    Args:
        path: For errors.
        arrays: The shard's.
        key: One of its arrays, or ``"composition"`` for reduced formulas.

    Raises:
        DataError: if there is no such array with a value for each frame.
    """
    ends = np.cumsum(arrays["n"].astype(np.int64))
    if key == "composition":
        return [_reduced_formula(z) for z in np.split(arrays["numbers"], ends[:-1])]
    if key not in arrays or arrays[key].shape != arrays["n"].shape:
        raise DataError(
            f"{path} has no array {key!r} with one value per frame; --by composition needs none"
        )
    return [v.decode() if isinstance(v, bytes) else str(v) for v in arrays[key]]


def _reduced_formula(numbers: np.ndarray) -> str:
    """Elements in the order of their atomic numbers, with the smallest whole counts.

    >>> _reduced_formula(np.array([17, 11, 11, 17]))
    'Na1Cl1'
    """
    elements, counts = np.unique(numbers, return_counts=True)
    counts = counts // np.gcd.reduce(counts)
    return "".join(f"{chemical_symbols[z]}{n}" for z, n in zip(elements, counts, strict=True))


def _rank(molecule: str) -> str:
    return hashlib.sha256(molecule.encode()).hexdigest()


def _count(labels: Sequence[tuple[str, str]], held_out: set[str]) -> dict[str, dict[str, int]]:
    counts = {}
    for subset in sorted({subset for subset, _ in labels}):
        frames = [molecule for name, molecule in labels if name == subset]
        parts = {
            "train": [molecule for molecule in frames if molecule not in held_out],
            "validation": [molecule for molecule in frames if molecule in held_out],
        }
        counts[subset] = {f"{part}_molecules": len(set(names)) for part, names in parts.items()}
        counts[subset] |= {f"{part}_frames": len(names) for part, names in parts.items()}
    return counts
