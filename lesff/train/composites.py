"""Composites: training frames put together far from each other, with labels that are known exactly.

The energy of systems far apart is the sum of their energies and the Coulomb energy of their
charges. Joined frames teach a model that neither total charge nor spin reaches atoms far away, and
that a charge stays on its ion, without any new label.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesff.atoms.structure import Structure
from lesff.errors import ConfigError, DataError
from lesff.train.data import Frame, Part
from lesff.units import COULOMB_CONSTANT


@dataclass(frozen=True, kw_only=True)
class CompositesConfig:
    """How often and how frames are put together.

    Attributes:
        fraction: Share of the frames that an epoch visits that become the first part of a
            composite.
        most: Largest number of parts; from two to this many, each as likely.
        states: Share of the other parts that are drawn from frames with charge or unpaired
            electrons; the rest from all.
        distance: Least and largest distance of the centres of neighbouring parts in A, beyond
            extents: as large as it takes for the parts to be point charges. A part of 1 e beside
            one with a dipole of 1 e A: 1.4 meV at 100 A.
        antiparallel: Share of the composites whose parts with an odd number of electrons have
            alternating spins.
        max_atoms: Atoms of a composite; parts that would exceed it are left out. 0 for the atoms of
            a batch.
    """

    fraction: float = 0.1
    most: int = 3
    states: float = 0.5
    distance: tuple[float, float] = (100.0, 200.0)
    antiparallel: float = 0.0
    max_atoms: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for shares and distances without meaning."""
        for name in ("fraction", "states", "antiparallel"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"`composites.{name}` must be from 0 to 1, got {getattr(self, name)}"
                )
        if self.most < 2:
            raise ConfigError(f"`composites.most` must be at least 2, got {self.most}")
        if self.max_atoms < 0:
            raise ConfigError(f"`composites.max_atoms` must be at least 0, got {self.max_atoms}")
        low, high = self.distance
        if not 20.0 <= low <= high < 1e4:
            raise ConfigError(
                "`composites.distance` must be two rising numbers from 20 to 10000 A, got "
                f"{list(self.distance)}; nearer parts feel each other beyond their charges"
            )


class Composer:
    """Draws composites of frames.

    Only open systems with labels and without external field take part.

    Args:
        config: How.
        frames: Frames to join, by index.

    Raises:
        DataError: if no frame can take part.
    """

    def __init__(self, config: CompositesConfig, frames: Sequence[Frame]) -> None:
        self.config, self.frames = config, frames
        self.is_open = np.array(
            [_can_join(frame.structure) and bool(frame.labels()) for frame in frames], dtype=bool
        )
        if not self.is_open.any():
            raise DataError(
                "`composites` need molecules without external field, and the data have none; leave "
                "`data.composites` out"
            )
        self.sizes = np.array([len(frame.structure) for frame in frames])
        has_state = np.array([_has_state(frame.structure) for frame in frames], dtype=bool)
        self.with_state = self.is_open & has_state

    def draw(
        self, visits: np.ndarray, max_atoms: int, rng: np.random.Generator
    ) -> list[tuple[int, ...]]:
        """Frames of an epoch, some of them joined with others.

        Args:
            visits: (n_visits,) indices of frames.
            max_atoms: Atoms of a batch.
            rng: Source of randomness.

        Returns:
            For each visit the indices of its parts: one, or those of a composite.
        """
        limit = min(self.config.max_atoms or max_atoms, max_atoms)
        first = (rng.random(len(visits)) < self.config.fraction) & self.is_open[visits]
        counts = rng.integers(2, self.config.most + 1, size=len(visits))
        # partners as often as an epoch visits them
        pools = visits[self.is_open[visits]], visits[self.with_state[visits]]
        return [
            self._joined(int(index), int(count), limit, pools, rng) if joins else (int(index),)
            for index, joins, count in zip(visits, first, counts, strict=True)
        ]

    def _joined(
        self,
        first: int,
        count: int,
        limit: int,
        pools: tuple[np.ndarray, np.ndarray],
        rng: np.random.Generator,
    ) -> tuple[int, ...]:
        """The parts of a composite; fewer than ``count`` if they are too large.

        ``pools``: indices of partners, and of those with a charge or spin.
        """
        partners, with_state = pools
        parts, size = [first], int(self.sizes[first])
        for _ in range(count - 1):
            from_states = rng.random() < self.config.states and len(with_state) > 0
            pool = with_state if from_states else partners
            other = int(pool[rng.integers(len(pool))])
            if size + self.sizes[other] <= limit:
                parts.append(other)
                size += int(self.sizes[other])
        return tuple(parts)

    def frame(self, parts: tuple[int, ...], rng: np.random.Generator) -> Frame:
        """A frame, or some joined at random distances and directions."""
        frames = [self.frames[i] for i in parts]
        if len(frames) == 1:
            return frames[0]
        # all in one octant, turned at random: none comes back to an earlier part
        steps = np.abs(rng.normal(size=(len(frames) - 1, 3)))
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        steps = steps @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        extents = [_extent(frame.structure) for frame in frames]
        gaps = rng.uniform(*self.config.distance, size=len(steps))
        lengths = gaps + np.array(extents[:-1]) + np.array(extents[1:])
        centres = np.cumsum(np.vstack([np.zeros(3), steps * lengths[:, None]]), axis=0)
        share = self.config.antiparallel
        return joined(frames, centres, antiparallel=share > 0 and rng.random() < share)


def joined(frames: Sequence[Frame], centres: np.ndarray, *, antiparallel: bool = False) -> Frame:
    """Frames far from each other as one.

    Energy: the sum and k q_A q_B / r between centres of nuclear charge. Forces, charges and Born
    charges: those of the parts; the forces of the Coulomb energy are neglected (1.4 meV/A for 1 e
    at 100 A, over all atoms of a part). Spins are parallel, 2S + 1 is the sum of 2S, plus one; or
    antiparallel between parts with the same odd 2S, whose energy is the same far apart: pairs of
    radicals in a singlet, as bonds leave them. What a part lacks, the composite lacks; it has no
    dipole.

    Args:
        frames: Open systems.
        centres: (n_frames, 3) centres of nuclear charge, A.
        antiparallel: Whether parts with an odd number of electrons have alternating spins, if those
            cancel.
    """
    structures = [frame.structure for frame in frames]
    numbers = np.concatenate([s.numbers for s in structures])
    positions = np.concatenate(
        [s.positions - _centre(s) + centre for s, centre in zip(structures, centres, strict=True)]
    )
    charges = [s.total_charge for s in structures]
    energy = sum(frame.energy for frame in frames)
    for (a, b), (r_a, r_b) in zip(
        itertools.combinations(charges, 2), itertools.combinations(centres, 2), strict=True
    ):
        energy += COULOMB_CONSTANT * a * b / float(np.linalg.norm(r_a - r_b))
    sizes = np.array([len(s) for s in structures])
    weights = np.array([frame.weight for frame in frames])
    unpaired = _unpaired(structures, antiparallel=antiparallel)
    # opposite spins make a singlet, not a closed shell
    is_parallel = unpaired == _unpaired(structures, antiparallel=False)
    is_closed = is_parallel and all(frame.is_closed for frame in frames)
    return Frame(
        structure=Structure(
            numbers=numbers,
            positions=positions,
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            total_charge=sum(charges),
            spin_multiplicity=1 + unpaired,
        ),
        energy=energy,
        forces=np.concatenate([frame.forces for frame in frames]),
        charges=_together([frame.charges for frame in frames]),
        born_effective_charges=_together([frame.born_effective_charges for frame in frames]),
        weight=float(np.average(weights, weights=sizes)),
        is_closed=is_closed,
        group=" + ".join(frame.group for frame in frames),
        subset="composites",
        parts=tuple(
            Part(
                n_atoms=len(s),
                charge=s.total_charge,
                unpaired=s.spin_multiplicity - 1 if is_parallel else float("nan"),
            )
            for s in structures
        ),
    )


def _unpaired(structures: Sequence[Structure], *, antiparallel: bool) -> int:
    """Unpaired electrons, 2S, of parts far from each other."""
    numbers = [s.spin_multiplicity - 1 for s in structures]
    # an even number of electrons with paired spins is a state of its own, with another energy
    odd = [n for n in numbers if n % 2]
    cancels = len(odd) % 2 == 0 and len(set(odd)) == 1
    return sum(numbers) - sum(odd) if antiparallel and cancels else sum(numbers)


def _together(labels: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Labels of atoms of all parts, or None if a part has none."""
    known = [label for label in labels if label is not None]
    return np.concatenate(known) if len(known) == len(labels) else None


def _can_join(structure: Structure) -> bool:
    return not structure.pbc.any() and structure.external_field is None


def _has_state(structure: Structure) -> bool:
    """Whether total charge or spin say more than that all electrons are paired."""
    return structure.total_charge != 0 or structure.spin_multiplicity > 1


def _centre(structure: Structure) -> np.ndarray:
    """Centre of nuclear charge, A."""
    return np.average(structure.positions, axis=0, weights=structure.numbers)


def _extent(structure: Structure) -> float:
    """Largest distance of an atom from the centre, A."""
    return float(np.linalg.norm(structure.positions - _centre(structure), axis=1).max())
