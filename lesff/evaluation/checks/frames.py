"""Labelled frames: errors per subset on held-out molecules, and relative energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lesff.atoms.elements import symbols
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.files import sha256_of
from lesff.methods import Method
from lesff.train.data import Frame, read_frames
from lesff.train.metrics import FramePrediction, errors_by
from lesff.train.splits import VALIDATION_FRACTION, MoleculeSplit, split_by_molecule
from lesff.units import EV_TO_KCAL_PER_MOL

FRAME_SOURCES = ("the labels of the data file",)


@dataclass
class Labelled:
    """A labelled file, its fixed split by molecule, and predictions already made.

    Attributes:
        path: The file.
        frames: Its frames.
        split: Molecules held out; see :func:`lesff.train.splits.split_by_molecule`.
        predictions: By name of the subject.
        left_out: Frames that are left out, and why.
        model: Name of the model whose energies share their zero with the labels.
    """

    path: Path
    frames: list[Frame]
    split: MoleculeSplit
    predictions: dict[str, list[FramePrediction]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    model: str = ""

    @classmethod
    def read(cls, path: Path, fraction: float = VALIDATION_FRACTION) -> Labelled:
        """Read a file that ASE knows, with energies and forces.

        Raises:
            DataError: if it has no frames, lacks labels, or holds too few molecules to divide.
        """
        frames = read_frames(path)
        split = split_by_molecule([(f.subset, f.group) for f in frames], fraction)
        return cls(path, frames, split)

    def describe(self) -> dict[str, Any]:
        """What the result file says about the data."""
        return {
            "file": self.path.name,
            "sha256": sha256_of(self.path),
            "validation_fraction": self.split.fraction,
            "counts": self.split.counts,
            "validation": list(self.split.validation),
        }

    def keep_covered(self, subject: Method) -> None:
        """Leave out frames that the model does not cover, also for what it is compared with."""
        self.model = subject.name
        self.frames, left_out = self._covered(subject)
        self.left_out |= left_out

    def predict(self, subject: Method) -> tuple[list[FramePrediction], dict[str, str]]:
        """Predictions for the frames that a method covers, once for each, and what is left out.

        Raises:
            NotCoveredError: if there are no frames.
        """
        frames, left_out = self._covered(subject)
        if not frames:
            raise NotCoveredError("no frame of the data is covered")
        if subject.name not in self.predictions:
            self.predictions[subject.name] = subject.predict(frames)
        return self.predictions[subject.name], self.left_out | left_out

    def _covered(self, subject: Method) -> tuple[list[Frame], dict[str, str]]:
        """Frames that a method covers, and why how many others are not."""
        reasons = [
            subject.lacks(
                f.structure.numbers.tolist(),
                f.structure.total_charge,
                f.structure.spin_multiplicity,
            )
            for f in self.frames
        ]
        return [f for f, why in zip(self.frames, reasons, strict=True) if not why], {
            f"{reasons.count(why)} frames of {self.path.name}": why
            for why in sorted(set(reasons))
            if why
        }


def check_frames(subject: Method, data: Labelled) -> CheckResult:
    """Errors of forces and energies per subset, on the held-out molecules and on all frames.

    Energies are compared for the evaluated model only: others may have another energy zero.
    """
    predictions, left_out = data.predict(subject)
    held_out = [p for p in predictions if data.split.holds_out(p.frame.group)]
    result = CheckResult(left_out=left_out)
    has_zero = subject.name == data.model
    for part, chosen in (("held out", held_out), ("all frames", predictions)):
        if not chosen:
            continue
        table = errors_by(chosen, lambda frame: frame.subset)
        subsets = [name for name in table if name != "all"]
        for name in subsets if part == "held out" else ():
            count = table[name].n_frames
            result.add(f"forces MAE, {name} ({count})", "meV/A", table[name].forces_mae)
        mean = np.mean([table[name].forces_mae for name in subsets])
        result.add(f"forces MAE, mean over subsets, {part}", "meV/A", mean)
        if has_zero:
            mean = np.mean([table[name].energy_mae for name in subsets])
            result.add(f"energy MAE, mean over subsets, {part}", "meV/atom", mean)
        keys = ("n_frames", "energy_mae", "energy_rmse", "forces_mae", "forces_rmse")
        for name, errors in table.items():
            row = {key: asdict(errors)[key] for key in keys}
            if not has_zero:
                row |= {"energy_mae": None, "energy_rmse": None}
            result.rows.append({"part": part, "subset": name, **row})
    return result


def check_conformers(subject: Method, data: Labelled) -> CheckResult:
    """Energy differences between frames of one molecule, kcal/mol."""
    predictions, left_out = data.predict(subject)
    rows = relative_errors(predictions)
    if not rows:
        raise NotCoveredError("no covered molecule has two frames")
    for row in rows:
        row["held_out"] = data.split.holds_out(row["molecule"])
    result = CheckResult(rows=rows, left_out=left_out)
    for subset in sorted({row["subset"] for row in rows}):
        chosen = [row for row in rows if row["subset"] == subset]
        _add_mean(result, f"relative energies MAE, {subset} ({len(chosen)} molecules)", chosen)
    dry = [row for row in rows if row["subset"] != "water"]
    _add_mean(result, f"relative energies MAE, all but water ({len(dry)})", dry)
    chosen = [row for row in dry if row["held_out"]]
    _add_mean(result, f"relative energies MAE, all but water, held out ({len(chosen)})", chosen)
    chosen = [row for row in rows if row["held_out"]]
    _add_mean(result, f"relative energies MAE, held out ({len(chosen)})", chosen)
    return result


def relative_errors(predictions: Sequence[FramePrediction]) -> list[dict[str, Any]]:
    """Errors of energy differences, for every molecule with at least two frames.

    Args:
        predictions: Predictions beside their labels.

    Returns:
        Per molecule: subset, number of frames, mean absolute error over all pairs of its frames and
        the mean absolute reference difference, kcal/mol. Frames of different charge or spin are
        different molecules here.
    """
    groups: dict[tuple[str, str, int, int], list[FramePrediction]] = {}
    for p in predictions:
        s = p.frame.structure
        key = (p.frame.subset, p.frame.group, s.total_charge, s.spin_multiplicity)
        groups.setdefault(key, []).append(p)
    rows = []
    for (subset, molecule, _, _), members in sorted(groups.items(), key=lambda item: item[0]):
        if len(members) < 2:
            continue
        numbers = [sorted(p.frame.structure.numbers.tolist()) for p in members]
        if any(n != numbers[0] for n in numbers):
            raise NotCoveredError(
                f"frames of {molecule} have different compositions ({symbols(numbers[0])})"
            )
        model = np.array([p.energy for p in members]) * EV_TO_KCAL_PER_MOL
        label = np.array([p.frame.energy for p in members]) * EV_TO_KCAL_PER_MOL
        pairs = list(combinations(range(len(members)), 2))
        errors = [abs((model[i] - model[j]) - (label[i] - label[j])) for i, j in pairs]
        spread = [abs(label[i] - label[j]) for i, j in pairs]
        rows.append(
            {
                "subset": subset,
                "molecule": molecule,
                "n_frames": len(members),
                "mae_kcal_per_mol": float(np.mean(errors)),
                "mean_difference_kcal_per_mol": float(np.mean(spread)),
            }
        )
    return rows


def _add_mean(result: CheckResult, name: str, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        result.add(name, "kcal/mol", np.mean([row["mae_kcal_per_mol"] for row in rows]))
