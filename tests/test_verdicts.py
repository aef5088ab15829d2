"""Verdicts on finetuned models: paired bootstrap against numbers with known distributions."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import water

from lesff.atoms.structure import to_structure
from lesff.finetune.verdict import LabelVerdict, compare, judge, mean_mark
from lesff.train.data import Frame
from lesff.train.metrics import FramePrediction


def predictions(energy_errors, force_errors, **more):
    """Predictions of a model with these errors, eV per frame and eV/A per component."""
    structure = to_structure(water())
    rows = []
    for e, f in zip(energy_errors, force_errors, strict=True):
        frame = Frame(structure=structure, energy=-10.0, forces=np.zeros((3, 3)), **more)
        rows.append(FramePrediction(frame=frame, energy=-10.0 + e, forces=np.asarray(f)))
    return rows


def noise(scale, n, seed):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=n), scale * rng.normal(size=(n, 3, 3))


def test_half_the_errors_are_better_and_twice_are_worse():
    base = predictions(*noise(0.1, 40, 0))
    half = predictions(*(0.5 * x for x in noise(0.1, 40, 1)))
    better, worse = compare(base, half, "forces"), compare(half, base, "forces")
    assert better.verdict == "better"
    assert worse.verdict == "worse"
    assert better.low < 0.5 < better.high
    assert better.before == pytest.approx(100.0, rel=0.1)  # meV/A
    assert (worse.low, worse.high) == pytest.approx((1 / better.high, 1 / better.low), rel=1e-9)


def test_rmse_and_ratio_are_those_of_the_frames():
    """Errors 3 and 4 meV per atom: RMSE sqrt((9 + 16) / 2); then 6 and 8."""
    zero = np.zeros((2, 3, 3))
    base = predictions(3e-3 * np.array([3.0, 4.0]), zero)
    other = predictions(3e-3 * np.array([6.0, 8.0]), zero)
    found = compare(base, other, "energy")
    assert found.before == pytest.approx(np.sqrt(12.5), rel=1e-9)
    assert found.ratio == pytest.approx(2.0, rel=1e-3)
    assert found.low == pytest.approx(2.0, rel=1e-3)  # each frame says the same


def test_models_of_the_same_quality_differ_rarely():
    """Null distribution: at 95 %, no more than about one in twenty differs (here of 200)."""
    false = 0
    for trial in range(200):
        a, b = (predictions(*noise(0.1, 10, 1000 + 2 * trial + k)) for k in (0, 1))
        false += compare(a, b, "energy").verdict != "no difference"
    assert false <= 20  # 5 % of 200 and three standard deviations: 10 + 3 * 3.1


def test_one_frame_and_rounding_say_nothing():
    base, other = (predictions(*noise(s, 1, 0)) for s in (0.1, 0.01))
    found = compare(base, other, "forces")
    assert found.verdict == "no difference"
    assert np.isnan(found.low)
    base = predictions(*noise(1e-9, 20, 0))
    assert compare(base, predictions(*noise(1e-12, 20, 1)), "energy").verdict == "no difference"
    base = predictions(*noise(0.1, 20, 0))
    same = predictions(*(0.9995 * x for x in noise(0.1, 20, 0)))
    assert compare(base, same, "forces").verdict == "no difference"


def test_intervals_are_seeded_and_paired():
    """Errors that all shrink alike have no spread of the ratio, whatever their own spread."""
    base = predictions(*noise(0.1, 30, 0))
    less = predictions(*(0.9 * x for x in noise(0.1, 30, 0)))
    found = compare(base, less, "forces")
    assert found == compare(base, less, "forces")
    assert (found.low, found.high) == pytest.approx((0.9, 0.9), rel=1e-3)
    assert found.verdict == "better"


def test_a_label_is_better_only_against_both_bases():
    """A shift of energies that refitting takes away is no merit of the training."""
    n = 80
    refitted = predictions(*noise(0.01, n, 0))
    base = [replace(p, energy=p.energy + 1.0) for p in refitted]
    after = predictions(*noise(0.02, n, 1))
    found = judge(base, refitted, after)["energy"]
    assert found.base.verdict == "better"
    assert found.refitted.verdict == "worse"
    assert found.verdict == "worse"


def test_the_mean_verdict_is_the_mean_of_the_marks():
    up, down, flat = (
        compare(predictions(*noise(a, 30, 0)), predictions(*noise(b, 30, 0)), "forces")
        for a, b in ((0.2, 0.1), (0.1, 0.2), (0.1, 0.1))
    )
    marks = {"a": up, "b": down, "c": flat, "d": up}
    verdicts = {k: LabelVerdict(base=v, refitted=v) for k, v in marks.items()}
    assert mean_mark(verdicts) == pytest.approx((1 - 1 + 0 + 1) / 4)
    assert mean_mark({}) == 0.0


def test_labels_that_are_missing_are_not_judged():
    base = predictions(*noise(0.1, 5, 0))
    assert set(judge(base, base, base)) == {"energy", "forces"}
    blank = [replace(p, frame=replace(p.frame, energy=np.nan)) for p in base]
    assert set(judge(blank, blank, blank)) == {"forces"}
    charged = [replace(p, frame=replace(p.frame, charges=np.zeros(3)), charges=np.ones(3))
               for p in base]  # fmt: skip
    assert judge(charged, charged, charged)["charges"].base.before == pytest.approx(1.0)
