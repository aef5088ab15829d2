"""Frames of a run, split into training and validation, and the batches of an epoch."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from lesff.architectures import read_architecture
from lesff.atoms.batching import shuffled_batches
from lesff.atoms.elements import elements_of
from lesff.atoms.graph import build_graph
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import ConfigError, DataError
from lesff.files import sha256_of
from lesff.heads import LongRangeConfig
from lesff.heads.config import charge_limits_of
from lesff.potential.config import ModelConfig
from lesff.potential.edit import ENERGY_FLOOR
from lesff.train.composites import Composer, CompositesConfig
from lesff.train.data import Frame, read_frames
from lesff.train.frame_stream import without_twins
from lesff.train.recipe import Recipe, RecipeModel, SourceConfig, identity
from lesff.train.reference_energies import fit_reference_energies


@dataclass(frozen=True)
class Visits:
    """A batch of an epoch.

    Attributes:
        parts: For each system the indices of the training frames it consists of: one, or several
            that are put together far from each other.
        seed: Of the distances and directions of such composites.
    """

    parts: list[tuple[int, ...]]
    seed: tuple[int, ...]


@dataclass(kw_only=True)
class TrainingData:
    """Frames of a run.

    Attributes:
        train: Frames to train on.
        validation: Frames held out.
        fractions: Mean visits of each training frame in an epoch; one if empty.
        sources: File, its sha256, and how many frames were used and left out, of each source.
        recipe_hash: Names recipe and data; a run resumes only with the same.
        composites: How training frames are put together far from each other; None for none.
    """

    train: list[Frame]
    validation: list[Frame]
    recipe_hash: str
    fractions: list[float] = field(default_factory=list)
    sources: list[dict[str, str | int]] = field(default_factory=list)
    composites: CompositesConfig | None = None

    def __post_init__(self) -> None:
        """Check that there is something to train on; DataError."""
        if not self.train:
            raise DataError("no training frames: every frame is marked as validation")
        self.sizes = np.array([len(frame.structure) for frame in self.train])
        self.fractions = self.fractions or [1.0] * len(self.train)
        self.composer = None
        if self.composites is not None and self.composites.fraction > 0.0:
            self.composer = Composer(self.composites, self.train)

    def validation_sample(self, count: int) -> list[Frame]:
        """A fixed sample of the held-out frames."""
        order = np.random.default_rng(0).permutation(len(self.validation))
        return [self.validation[i] for i in order[:count]]

    def epoch(self, epoch: int, seed: int, max_atoms: int) -> list[np.ndarray]:
        """Batches of one epoch as arrays of frame indices, without composites.

        A function of epoch and seed only.
        """
        rng = np.random.default_rng([seed, epoch])
        chosen = self._visited(rng)
        batches = shuffled_batches(self.sizes[chosen], max_atoms=max_atoms, rng=rng)
        return [chosen[batch] for batch in batches]

    def batches(self, epoch: int, seed: int, max_atoms: int) -> list[Visits]:
        """Batches of one epoch, composites among them; a function of epoch and seed only."""
        if self.composer is None:
            plain = self.epoch(epoch, seed, max_atoms)
            return [Visits([(int(i),) for i in batch], (seed, epoch)) for batch in plain]
        rng = np.random.default_rng([seed, epoch])
        drawn = self.composer.draw(self._visited(rng), max_atoms, rng)
        sizes = np.array([self.sizes[list(parts)].sum() for parts in drawn])
        batches = shuffled_batches(sizes, max_atoms=max_atoms, rng=rng)
        return [
            Visits([drawn[i] for i in batch], (seed, epoch, number))
            for number, batch in enumerate(batches)
        ]

    def _visited(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of the frames that an epoch visits, in order, repeated as often as visited."""
        often, rest = np.divmod(np.array(self.fractions), 1.0)
        visits = often.astype(np.int64) + (rng.random(len(self.train)) < rest)
        return np.repeat(np.arange(len(self.train)), visits)

    def frames_of(self, visits: Visits) -> list[Frame]:
        """Frames of a batch, composites among them; a function of the batch only."""
        if self.composer is None:
            return [self.train[i] for (i,) in visits.parts]
        rng = np.random.default_rng(visits.seed)
        return [self.composer.frame(parts, rng) for parts in visits.parts]


def read_training_data(recipe: Recipe, folder: Path) -> TrainingData:
    """Frames of a recipe's files.

    Args:
        recipe: The recipe.
        folder: Folder that the recipe's paths are relative to.

    Raises:
        DataError: if a file cannot be used or nothing is left to train on.
    """
    train: list[Frame] = []
    validation: list[Frame] = []
    fractions: list[float] = []
    sources: list[dict[str, str | int]] = []
    digest = hashlib.sha256(identity(recipe).encode())
    for source in recipe.data.sources:
        path = folder / source.path
        found = read_frames(path, weight=source.weight)
        frames = _wanted(found, source, folder)
        content = sha256_of(path)
        digest.update(f"{source.path}:{content}".encode())
        sources.append(
            {
                "path": source.path,
                "sha256": content,
                "frames": len(frames),
                "left_out": len(found) - len(frames),
            }
        )
        kept = [frame for frame in frames if not frame.is_validation]
        train += kept
        fractions += [source.fraction] * len(kept)
        validation += [frame for frame in frames if frame.is_validation]
    return TrainingData(
        train=train,
        validation=without_twins(validation, train),
        fractions=fractions,
        recipe_hash=digest.hexdigest(),
        sources=sources,
        composites=recipe.data.composites,
    )


def _wanted(frames: list[Frame], source: SourceConfig, folder: Path) -> list[Frame]:
    """Frames that the filters of a source leave."""
    kept = frames
    if source.elements:
        unknown = sorted(set(source.elements) - set(atomic_numbers))
        if unknown:
            raise DataError(
                f"`elements` of {source.path} must be chemical symbols, got {', '.join(unknown)}"
            )
        allowed = [atomic_numbers[symbol] for symbol in source.elements]
        kept = [f for f in kept if np.isin(f.structure.numbers, allowed).all()]
    if source.without is not None:
        kept = without_compositions(kept, folder / source.without)
    if not kept:
        raise DataError(
            f"{source.path}: `elements` and `without` leave no frame; widen them or drop the file"
        )
    if not source.closed_shells:
        kept = [replace(frame, is_closed=_hangs_together(frame, source)) for frame in kept]
    if source.only_counts:
        return [_without_labels(frame) for frame in kept]
    if not source.energies:
        return [replace(frame, energy=math.nan) for frame in kept]
    return keep_energies(kept, source.energy_states, source.path)


def _hangs_together(frame: Frame, source: SourceConfig) -> bool:
    """Whether pairs within ``closed_within`` sums of covalent radii connect all atoms."""
    if not source.closed_within:
        return False
    positions = frame.structure.positions
    radii = covalent_radii[frame.structure.numbers]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    is_near = distances <= source.closed_within * (radii[:, None] + radii)
    reached = is_near[0]
    while True:
        further = reached | is_near[reached].any(axis=0)
        if (further == reached).all():
            return bool(reached.all())
        reached = further


def _without_labels(frame: Frame) -> Frame:
    return replace(
        frame,
        energy=math.nan,
        forces=np.full_like(frame.forces, np.nan),
        dipole=None,
        stress=None,
        charges=None,
        born_effective_charges=None,
    )


def without_compositions(frames: list[Frame], path: Path) -> list[Frame]:
    """Frames of other compositions than those of a file.

    Raises:
        DataError: if the file cannot be used.
    """
    left_out = compositions_of(path)
    return [frame for frame in frames if not has_composition_of(frame, left_out)]


def compositions_of(path: Path) -> set[bytes]:
    """Compositions of the frames of a file.

    Raises:
        DataError: if the file cannot be used.
    """
    return {_composition(frame) for frame in read_frames(path)}


def has_composition_of(frame: Frame, compositions: set[bytes]) -> bool:
    """Whether a frame has one of the compositions of another file."""
    return _composition(frame) in compositions


def keep_energies(
    frames: list[Frame], states: Sequence[tuple[int, int]], where: str
) -> list[Frame]:
    """Frames with the energies of some states only; all of them if no states are given.

    Args:
        frames: The frames.
        states: Pairs of total charge (e) and spin multiplicity.
        where: Name of the data, for the message.

    Raises:
        DataError: for a state that no frame has.
    """
    if not states:
        return frames
    found = [(f.structure.total_charge, f.structure.spin_multiplicity) for f in frames]
    absent = sorted(set(states) - set(found))
    if absent:
        raise DataError(
            f"states whose energies count must be states of frames of {where}, got "
            f"{', '.join(map(str, absent))} (total charge, spin multiplicity)"
        )
    return [
        frame if state in states else replace(frame, energy=math.nan)
        for frame, state in zip(frames, found, strict=True)
    ]


def _composition(frame: Frame) -> bytes:
    return np.sort(frame.structure.numbers).tobytes()


def model_config(
    model: RecipeModel,
    data: TrainingData,
    software: dict[str, str],
    dispersion: DispersionConfig | None = None,
) -> ModelConfig:
    """Model configuration of a recipe, with what is read off the data filled in.

    Raises:
        ConfigError: for an element of the data without reference charge, if others have one.
    """
    elements = sorted(elements_of(*(frame.structure for frame in data.train)))
    architecture = dict(model.architecture)
    rng = np.random.default_rng(0)
    sample = [data.train[i] for i in rng.permutation(len(data.train))[:2000]]
    config = read_architecture(architecture)
    if "avg_num_neighbors" in {field.name for field in fields(config)}:
        edges = sum(build_graph(frame.structure, config.cutoff).n_edges for frame in sample)
        atoms = sum(len(frame.structure) for frame in sample)
        architecture["avg_num_neighbors"] = round(edges / atoms, 3)
    forces = np.concatenate([frame.forces.ravel() for frame in sample])
    charges = [frame.structure.total_charge for frame in data.train]
    spins = [frame.structure.spin_multiplicity for frame in data.train]
    return ModelConfig(
        architecture=architecture,
        elements=tuple(elements),
        reference_energies=fit_reference_energies(data.train, elements),
        energy_scale=round(float(np.sqrt(np.mean(forces**2))), 4),
        long_range=_long_range(model, elements),
        dispersion=dispersion,
        total_charge=trained_range(charges),
        spin_multiplicity=trained_range(spins),
        state_embedding=model.state_embedding,
        local_state=model.local_state,
        wall=model.wall,
        energy_floor=None if model.wall is None else ENERGY_FLOOR,
        dtype=model.dtype,
        energy_reference=model.energy_reference,
        level_of_theory=model.level_of_theory,
        training_data=model.training_data,
        software=software,
    )


def _long_range(model: RecipeModel, elements: Sequence[int]) -> LongRangeConfig | None:
    """``long_range`` of a recipe, with what it gives by element in the order of the elements."""
    given, chosen = model.reference_charges, model.long_range
    if chosen is None:
        return None
    if model.bounded_charges:
        chosen = replace(chosen, charge_limits=charge_limits_of(tuple(elements)))
    if given is None:
        return chosen
    symbols = [chemical_symbols[z] for z in elements]
    missing = [s for s in symbols if s not in given]
    if missing:
        raise ConfigError(
            "`model.reference_charges` must hold all elements of the data; add "
            f"{', '.join(missing)}"
        )
    return replace(chosen, reference_charges=tuple(given[s] for s in symbols))


def trained_range(values: Sequence[int]) -> tuple[int, int]:
    """Lowest and highest value that at least one frame in a thousand has."""
    kept = [v for v, count in Counter(values).items() if count >= 1e-3 * len(values)]
    return min(kept), max(kept)
