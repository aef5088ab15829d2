"""Batches: index lists of structures of similar size, for prediction, evaluation and training."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Literal, SupportsIndex

import numpy as np

from lesff.errors import PropertyError

_AUTO_ATOMS = 2000
"""Atoms per batch with ``batch_size="auto"``: a few hundred MB at 100 neighbours per atom."""

_POOL = 2048
"""Frames that are sorted by size at a time where batches are drawn at random."""


def plan_batches(
    sizes: np.ndarray, batch_size: SupportsIndex | Literal["auto"]
) -> list[np.ndarray]:
    """Indices of structures batch by batch, similar sizes together, largest first.

    Args:
        sizes: (n_structures,) atoms of each structure.
        batch_size: Structures per batch, or ``"auto"``.

    Raises:
        PropertyError: if ``batch_size`` is neither positive nor ``"auto"``.
    """
    order = np.argsort(-sizes, kind="stable")
    if not (isinstance(batch_size, str) and batch_size == "auto"):
        count = _positive(batch_size)
        return [order[i : i + count] for i in range(0, len(order), count)]
    batches, start = [], 0
    while start < len(order):
        # the first is the largest of its batch: none is padded beyond the limit
        count = max(1, _AUTO_ATOMS // int(sizes[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def _positive(batch_size: object) -> int:
    """A whole number of any integer type; PropertyError for others and below one."""
    try:
        count = 0 if isinstance(batch_size, bool) else operator.index(batch_size)  # pyright: ignore[reportArgumentType]
    except TypeError:
        count = 0
    if count < 1:
        raise PropertyError(f"`batch_size` must be 'auto' or at least 1, got {batch_size!r}")
    return count


def batches_by_kind(
    sizes: np.ndarray, kinds: Sequence[np.ndarray], *, max_atoms: int
) -> list[np.ndarray]:
    """Indices of structures batch by batch: one kind each, similar sizes together, smallest first.

    Args:
        sizes: (n_structures,) atoms of each structure.
        kinds: Arrays (n_structures,); structures of a batch agree in all of them.
        max_atoms: Atoms per batch; a larger structure is a batch of its own.
    """
    # the first kind is the outermost: lexsort takes the last key first
    order = np.lexsort((sizes, *reversed(kinds)))
    found: list[np.ndarray] = []
    if len(order) == 0:
        return found
    ends = np.any([np.diff(kind[order]) != 0 for kind in kinds], axis=0)
    for part in np.split(order, np.flatnonzero(ends) + 1):
        found += _cut(part, sizes, max_atoms)
    return found


def shuffled_batches(
    sizes: np.ndarray, *, max_atoms: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Shuffled batches of similar sizes, each of at most ``max_atoms`` atoms (or one frame).

    Frames are shuffled, cut into pools, sorted by size inside a pool, cut into batches, and the
    batches of a pool are shuffled again.

    Args:
        sizes: (n_frames,) atoms of each frame.
        max_atoms: Atoms per batch.
        rng: Source of randomness.
    """
    order = rng.permutation(len(sizes))
    for start in range(0, len(order), _POOL):
        part = order[start : start + _POOL]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches = _cut(part, sizes, max_atoms)
        for choice in rng.permutation(len(batches)):
            yield batches[choice]


def _cut(order: np.ndarray, sizes: np.ndarray, max_atoms: int) -> list[np.ndarray]:
    """Consecutive pieces of ``order`` of at most ``max_atoms`` atoms, one structure at least."""
    starts, total = [0], 0
    for place, index in enumerate(order):
        size = int(sizes[index])
        if place > starts[-1] and total + size > max_atoms:
            starts.append(place)
            total = 0
        total += size
    return np.split(order, starts[1:])
