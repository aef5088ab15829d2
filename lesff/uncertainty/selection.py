"""Which frames to label next: greedy D-optimal choice in the metric of the model's uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from lesff.errors import DataError, PropertyError
from lesff.potential.potential import Potential
from lesff.train.data import Frame
from lesff.uncertainty.calibration import frame_features
from lesff.uncertainty.statistics import inverse_root

_EQUAL = 1e-5
"""Frames whose features differ by less than this share of their norm are equal."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen frames.

    Attributes:
        chosen: Indices of the frames, most informative first.
        variance: Predicted variance of each when it was chosen, given those before it, relative to
            the variance that an average known frame adds (arbitrary unit without calibration).
        mean_before: Mean variance over all frames before the choice.
        mean_after: The same once the chosen frames are known.
        n_different: Number of frames that are not equal to an earlier one.
    """

    chosen: tuple[int, ...]
    variance: tuple[float, ...]
    mean_before: float
    mean_after: float
    n_different: int


def select_frames(
    potential: Potential,
    frames: Sequence[Frame],
    count: int,
    *,
    without_calibration: bool = False,
    progress: bool = False,
) -> Selection:
    """Choose the frames that lower the uncertainty most; the same input gives the same choice.

    With ``f`` a frame's summed last-layer features over the square root of its number of atoms and
    ``A = C + sum over chosen of f f^T``, each step takes the frame of largest ``f^T A^-1 f``, which
    raises ``det A`` most. Copies of a frame (rotated, shifted, renumbered too: their features are
    equal) count once.

    Args:
        potential: The model; its calibration gives ``C``.
        frames: Candidates; labels are not used.
        count: How many to choose.
        without_calibration: Take ``C`` from the candidates themselves, for models without.
        progress: Whether to show progress bars.

    Raises:
        DataError: if there are fewer different frames than asked for.
        PropertyError: if the model has no calibration and this was not allowed for.
    """
    if count < 1:
        raise DataError(f"`n` must be at least 1, got {count}")
    if count > len(frames):
        raise DataError(f"`n` must be at most the number of frames ({len(frames)}), got {count}")
    features = frame_features(potential, frames, progress=progress)
    rows = features @ _metric(potential, features, without_calibration=without_calibration)
    different = different_rows(rows)
    if count > len(different):
        raise DataError(
            f"`n` must be at most the number of different frames, which is {len(different)} of "
            f"{len(frames)} (the rest are copies of others), got {count}"
        )
    return _choose(rows, different, count, progress=progress)


def _metric(
    potential: Potential, features: torch.Tensor, *, without_calibration: bool
) -> torch.Tensor:
    if without_calibration:
        return inverse_root(features.T @ features / len(features))
    if potential.uncertainty is None:
        raise PropertyError(
            "this model has no calibration: make one with `lesff calibrate NAME --train FILE "
            "--validation FILE -o DIR` and use DIR, or ask for a choice by the frames alone with "
            "--without-calibration"
        )
    root = potential.uncertainty.energy_root.cpu()
    # undo the scale of errors: known frames add up to about one per feature
    return root / potential.uncertainty.energy_scale


def different_rows(rows: torch.Tensor) -> list[int]:
    """Indices of rows that are not equal to an earlier one, ascending."""
    kept: list[int] = []
    norms = torch.linalg.vector_norm(rows, dim=1)
    order = torch.argsort(norms, stable=True).tolist()
    nearby: list[int] = []
    for index in order:  # equal rows have equal norms: compare within a window of norms only
        limit = _EQUAL * float(norms[index])
        nearby = [i for i in nearby if float(norms[index] - norms[i]) <= limit]
        near = rows[nearby] - rows[index]
        if not nearby or float(torch.linalg.vector_norm(near, dim=1).min()) > limit:
            kept.append(index)
            nearby.append(index)
    return sorted(kept)


def _choose(rows: torch.Tensor, different: list[int], count: int, *, progress: bool) -> Selection:
    size = rows.shape[1]
    inverse = torch.eye(size, dtype=torch.float64)
    free = torch.zeros(len(rows), dtype=torch.bool)
    free[different] = True
    variance = rows.square().sum(1)
    before = float(variance.mean())
    chosen, found = [], []
    for _ in tqdm(range(count), disable=not progress, unit="frame", desc="select"):
        index = int(torch.where(free, variance, -1.0).argmax())
        chosen.append(index)
        found.append(float(variance[index]))
        free[index] = False
        step = inverse @ rows[index]
        inverse -= torch.outer(step, step) / (1.0 + rows[index] @ step)
        variance = torch.einsum("si,ij,sj->s", rows, inverse, rows)
    return Selection(
        chosen=tuple(chosen),
        variance=tuple(found),
        mean_before=before,
        mean_after=float(variance.mean()),
        n_different=len(different),
    )
