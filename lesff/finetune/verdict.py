"""Better, worse or no difference: every label of a model against another, with an error bar.

For each label the ratio of root mean square errors (RMSE) on the same frames is taken, and its 95 %
interval by a paired bootstrap over frames: both models are resampled with the same frames
(B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993). Percentile intervals of few
frames are too narrow; they are widened by what Student's t asks for (after T. Hesterberg, Am. Stat.
69, 371 (2015), doi 10.1080/00031305.2015.1089789). One frame has no interval and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lesff.train.metrics import FramePrediction
from lesff.units import EA_TO_DEBYE

Verdict = Literal["better", "worse", "no difference"]
MARKS: dict[str, int] = {"better": 1, "no difference": 0, "worse": -1}

LEVEL = 0.95
"""Confidence of the intervals."""
RESAMPLES = 2000
SEED = 0
MARGIN = 1e-3
"""A relative change of the RMSE up to this is no difference, however certain."""

UNITS = {
    "energy": "meV/atom",
    "forces": "meV/A",
    "stress": "meV/A^3",
    "dipole": "D",
    "charges": "e",
    "born_effective_charges": "e",
}
"""Labels that are judged, with the unit of their RMSE."""
_ROUNDING = {
    "energy": 1e-3,
    "forces": 1e-2,
    "stress": 1e-3,
    "dipole": 1e-5,
    "charges": 1e-6,
    "born_effective_charges": 1e-6,
}
"""Size of rounding in float32: added to both RMSE, so that two that are nothing else are equal."""
_FACTORS = {"stress": 1e3, "dipole": EA_TO_DEBYE}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """RMSE of one label by two models on the same frames.

    Attributes:
        n_frames: Frames with the label.
        before: RMSE of the model that is compared with; unit in ``UNITS``.
        after: RMSE of the model that is judged.
        ratio: ``after / before``.
        low: Lower end of the interval of the ratio; NaN for one frame.
        high: Upper end.
        verdict: ``"better"`` or ``"worse"`` if the interval lies below or above 1.
    """

    n_frames: int
    before: float
    after: float
    ratio: float
    low: float
    high: float
    verdict: Verdict

    def text(self) -> str:
        """For people: RMSE before and after, ratio and interval."""
        interval = "" if np.isnan(self.low) else f", 95 %: {self.low:.3g} to {self.high:.3g}"
        return f"{self.before:.4g} -> {self.after:.4g} (x {self.ratio:.3g}{interval})"


@dataclass(frozen=True, kw_only=True)
class LabelVerdict:
    """One label against the untouched base model and against the one with refitted energies.

    Attributes:
        base: Against the untouched base model.
        refitted: Against the base model with refitted reference energies; differs for energies.
    """

    base: Comparison
    refitted: Comparison

    @property
    def verdict(self) -> Verdict:
        """The worse of the two: better is only what is better than both."""
        return min((self.base.verdict, self.refitted.verdict), key=lambda word: MARKS[word])


def judge(
    base: Sequence[FramePrediction],
    refitted: Sequence[FramePrediction],
    after: Sequence[FramePrediction],
) -> dict[str, LabelVerdict]:
    """Verdicts by label, of labels that the frames have and the models predict.

    Args:
        base: Untouched base model, one prediction a frame.
        refitted: Base model with refitted reference energies, same frames.
        after: The model that is judged, same frames.
    """
    found = {}
    for name in UNITS:
        first, second = compare(base, after, name), compare(refitted, after, name)
        if first is not None and second is not None:
            found[name] = LabelVerdict(base=first, refitted=second)
    return found


def mean_mark(verdicts: Mapping[str, LabelVerdict]) -> float:
    """Mean over labels of 1 for better, 0 for no difference, -1 for worse; 0 without labels."""
    marks = [MARKS[one.verdict] for one in verdicts.values()]
    return float(np.mean(marks)) if marks else 0.0


def compare(
    before: Sequence[FramePrediction], after: Sequence[FramePrediction], name: str
) -> Comparison | None:
    """Two models on one label; None if no frame has it.

    Args:
        before: What is compared with.
        after: What is judged, same frames.
        name: A label of ``UNITS``.
    """
    (first, count), (second, _) = _squares(before, name), _squares(after, name)
    known = (count > 0) & np.isfinite(first) & np.isfinite(second)
    first, second, count = first[known], second[known], count[known]
    n = len(count)
    if n == 0:
        return None
    rmse = [np.sqrt(part.sum() / count.sum()) for part in (first, second)]
    floor = _ROUNDING[name]
    ratio = _log_ratio(first.sum(), second.sum(), count.sum(), floor)
    low, high = _interval(first, second, count, float(ratio), floor)
    verdict: Verdict = "better" if high < -MARGIN else "worse" if low > MARGIN else "no difference"
    return Comparison(
        n_frames=n,
        before=float(rmse[0]),
        after=float(rmse[1]),
        ratio=float(np.exp(ratio)),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        verdict=verdict,
    )


def _log_ratio(
    first: np.ndarray, second: np.ndarray, count: np.ndarray, floor: float
) -> np.ndarray:
    """Logarithm of the ratio of RMSE from sums of squares."""
    before, after = np.sqrt(first / count), np.sqrt(second / count)
    return np.log((after + floor) / (before + floor))


def _interval(
    first: np.ndarray, second: np.ndarray, count: np.ndarray, center: float, floor: float
) -> tuple[float, float]:
    """Interval of the logarithm of the ratio; NaN for one frame."""
    n = len(count)
    if n < 2:
        return np.nan, np.nan
    chosen = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    a, b, c = (part[chosen].sum(1) for part in (first, second, count))
    drawn = _log_ratio(a, b, c, floor)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100.0 - tail])
    factor = _widening(n)
    return center - factor * (center - low), center + factor * (high - center)


def _widening(n: int) -> float:
    """``sqrt(n / (n - 1)) t / z``: the interval of n values of a normal distribution is right."""
    from scipy.special import ndtri, stdtrit  # start-up: 0.1 s of CPU

    upper = 0.5 * (1.0 + LEVEL)
    return float(np.sqrt(n / (n - 1)) * stdtrit(n - 1, upper) / ndtri(upper))


def _squares(predictions: Sequence[FramePrediction], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum of squared errors and number of values of every frame; zero values without the label."""
    sums, counts = np.zeros(len(predictions)), np.zeros(len(predictions))
    for index, p in enumerate(predictions):
        if name == "energy":
            errors = np.array([p.energy_error()])
        elif name == "forces":
            errors = p.force_error().ravel()
        else:
            label, value = getattr(p.frame, name), getattr(p, name)
            if label is None or value is None:
                continue
            errors = _FACTORS.get(name, 1.0) * (np.asarray(value) - np.asarray(label)).ravel()
        errors = errors[~np.isnan(errors)]
        sums[index], counts[index] = float((errors**2).sum()), len(errors)
    return sums, counts
