"""Labelled frames, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.train.frames import Frame


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """A batch of graphs with labels; NaN where a frame has no label.

    Attributes:
        graph: The structures.
        energy: (n_systems,) eV, float64.
        forces: (n_atoms, 3) eV/A.
        dipole: (n_systems, 3) e A about the coordinate origin.
        stress: (n_systems, 3, 3) eV/A^3.
        charges: (n_atoms,) e.
        born_effective_charges: (n_atoms, 3, 3) e.
        weight: (n_systems,) loss weight.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    dipole: Tensor
    stress: Tensor
    charges: Tensor
    born_effective_charges: Tensor
    weight: Tensor


def make_batch(frames: Sequence[Frame], cutoff: float, dtype: torch.dtype) -> LabelledBatch:
    """Neighbour lists and labels of some frames as one batch."""
    graph = collate([build_graph(frame.structure, cutoff) for frame in frames])

    def join(name: str, *shape: int, per_atom: bool = False) -> Tensor:
        rows = []
        for frame in frames:
            lead = (len(frame.structure),) if per_atom else (1,)
            value = getattr(frame, name)
            rows.append(
                np.full((*lead, *shape), np.nan)
                if value is None
                else np.reshape(value, (*lead, *shape))
            )
        return torch.from_numpy(np.concatenate(rows)).to(dtype)

    return LabelledBatch(
        graph=graph.to(dtype=dtype),
        energy=torch.tensor([frame.energy for frame in frames], dtype=torch.float64),
        forces=join("forces", 3, per_atom=True),
        dipole=join("dipole", 3),
        stress=join("stress", 3, 3),
        charges=join("charges", per_atom=True),
        born_effective_charges=join("born_effective_charges", 3, 3, per_atom=True),
        weight=torch.tensor([frame.weight for frame in frames], dtype=dtype),
    )


def batch_indices(
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
    pool = 2048
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches: list[list[int]] = [[]]
        total = 0
        for index in part:
            if batches[-1] and total + sizes[index] > max_atoms:
                batches.append([])
                total = 0
            batches[-1].append(int(index))
            total += int(sizes[index])
        for choice in rng.permutation(len(batches)):
            yield np.array(batches[choice])
