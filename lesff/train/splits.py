"""Training, validation and test frames: drawn at random, by group, or as in an earlier run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols

from lesff.errors import ConfigError, DataError
from lesff.train.data import Frame, structure_hash

SplitKind = Literal["random", "group"]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How frames are divided when no validation file is given.

    Attributes:
        kind: ``"random"``, or ``"group"``: frames of one group stay together.
        validation: Share of the frames to hold out for validation, at least one.
        test: Share of the frames to report on only.
        group_key: Key of ``atoms.info`` that names the group; else ``molecule`` or the formula.
        max_train: Train on at most this many frames, drawn at random. 0 for all.
        file: A ``split.json`` of an earlier run to use again.
    """

    kind: SplitKind = "random"
    validation: float = 0.1
    test: float = 0.0
    group_key: str | None = None
    max_train: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        """Check shares; raises ConfigError."""
        if self.validation < 0.0 or self.test < 0.0 or self.validation + self.test >= 1.0:
            raise ConfigError(
                "`split.validation` and `split.test` must be shares that leave frames to train on, "
                f"got {self.validation} and {self.test}"
            )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Frames of a run and where they came from.

    Attributes:
        train: Frames to train on.
        validation: Frames that stop the run and choose the weights.
        test: Frames to report on only.
        indices: Position of the frames in the data, by part; empty for parts that have a file.
        data_hash: SHA-256 of structures and labels of all frames.
    """

    train: list[Frame]
    validation: list[Frame]
    test: list[Frame]
    indices: dict[str, list[int]]
    data_hash: str

    def to_dict(self, config: SplitConfig, seed: int) -> dict[str, Any]:
        """Plain data for ``split.json``."""
        return {
            "kind": config.kind,
            "seed": seed,
            "data_sha256": self.data_hash,
            "counts": {n: len(getattr(self, n)) for n in ("train", "validation", "test")},
            "indices": self.indices,
        }


def make_split(
    frames: Sequence[Frame],
    config: SplitConfig,
    seed: int,
    *,
    validation: Sequence[Frame] | None = None,
    test: Sequence[Frame] | None = None,
) -> Split:
    """Divide frames; the same arguments give the same split.

    Equal structures always stay together. A frame that its file marks as validation is held out.

    Args:
        frames: The data.
        config: How to divide.
        seed: Seed of the draw.
        validation: Frames of a validation file, instead of drawing them.
        test: Frames of a test file.

    Raises:
        DataError: if nothing is left to train or to validate on, a frame of the training data is in
            a validation or test file too, or a given split belongs to other data.
    """
    data_hash = hash_frames([*frames, *(validation or []), *(test or [])])
    if config.file is not None:
        indices = _read_split(Path(config.file), len(frames), data_hash)
    else:
        indices = _draw(frames, config, seed, has_validation=validation is not None)
    parts = {name: [frames[i] for i in chosen] for name, chosen in indices.items()}
    split = Split(
        train=parts["train"],
        validation=list(validation) if validation is not None else parts["validation"],
        test=list(test) if test is not None else parts["test"],
        indices=indices,
        data_hash=data_hash,
    )
    if not split.train or not split.validation:
        raise DataError(
            f"the data must have at least one frame to train and one to validate on, got "
            f"{len(split.train)} and {len(split.validation)} of {len(frames)} frames; add frames "
            "or give a validation file"
        )
    _check_disjoint(split)
    return split


def _draw(
    frames: Sequence[Frame], config: SplitConfig, seed: int, *, has_validation: bool
) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    marked = [i for i, frame in enumerate(frames) if frame.is_validation]
    free = [i for i, frame in enumerate(frames) if not frame.is_validation]
    units: dict[str, list[int]] = {}
    for i in free:
        key = frames[i].group if config.kind == "group" else structure_hash(frames[i])
        units.setdefault(key, []).append(i)
    names = list(units)
    order = [names[i] for i in rng.permutation(len(names))]
    n_test = round(config.test * len(free))
    draws_validation = not has_validation and not marked and config.validation > 0.0
    n_validation = max(1, round(config.validation * len(free))) if draws_validation else 0
    if draws_validation and len(order) < 2:
        what = "groups" if config.kind == "group" else "different frames"
        raise DataError(
            f"the data must have at least two {what} to hold one out for validation, got "
            f"{len(order)}; add frames or give a validation file"
        )
    parts: dict[str, list[int]] = {"train": [], "validation": list(marked), "test": []}
    for name in order[:-1]:  # one unit is always left to train on
        for part, wanted in (("validation", n_validation + len(marked)), ("test", n_test)):
            if len(parts[part]) < wanted:
                parts[part] += units[name]
                break
        else:
            parts["train"] += units[name]
    parts["train"] += units[order[-1]] if order else []
    if config.max_train:
        parts["train"] = [parts["train"][i] for i in rng.permutation(len(parts["train"]))]
        parts["train"] = parts["train"][: config.max_train]
    return {name: sorted(chosen) for name, chosen in parts.items()}


def _read_split(path: Path, n_frames: int, data_hash: str) -> dict[str, list[int]]:
    if not path.is_file():
        raise DataError(f"split file {path} does not exist")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        indices = {name: [int(i) for i in data["indices"][name]] for name in _PARTS}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} must be the split.json of a run: {error!r}") from error
    if data.get("data_sha256") != data_hash:
        raise DataError(f"{path} belongs to other data: their SHA-256 differ")
    used = [i for chosen in indices.values() for i in chosen]
    if len(set(used)) != len(used) or any(not 0 <= i < n_frames for i in used):
        raise DataError(f"{path} must name each of the {n_frames} frames at most once")
    return indices


_PARTS = ("train", "validation", "test")


def _check_disjoint(split: Split) -> None:
    seen = {structure_hash(frame): index for index, frame in enumerate(split.train)}
    for name in ("validation", "test"):
        for index, frame in enumerate(getattr(split, name)):
            other = seen.get(structure_hash(frame))
            if other is not None:
                raise DataError(
                    f"{name} frame {index} is the same structure as training frame {other}: errors "
                    "on it would say nothing; remove it from one of them"
                )


def hash_frames(frames: Sequence[Frame]) -> str:
    """SHA-256 of structures and labels."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(structure_hash(frame).encode())
        for name in ("energy", "forces", "dipole", "stress", "charges", "born_effective_charges"):
            value = getattr(frame, name)
            if value is not None:
                digest.update(name.encode())
                digest.update(np.asarray(value, dtype=np.float64).tobytes())
        digest.update(np.float64(frame.weight).tobytes())
    return digest.hexdigest()


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
