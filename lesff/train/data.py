"""Labelled structures: npz shards and extxyz files to in-memory frames, frames to batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from lesff.errors import DataError
from lesff.graph import AtomGraph, collate
from lesff.structures import Structure, build_graph, read_structures

_REQUIRED = ("n", "numbers", "positions", "energy", "forces")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One labelled structure.

    Attributes:
        structure: Atoms, cell, charge and spin.
        energy: eV.
        forces: (n_atoms, 3) in eV/A.
        dipole: (3,) in e A about the coordinate origin, or None.
        stress: (3, 3) in eV/A^3, or None.
        weight: Weight in the loss.
        group: Name of the molecule or composition; splits keep groups together.
        subset: Name of the part of the data the frame belongs to.
        is_validation: Whether the data's own split holds the frame out.
    """

    structure: Structure
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    stress: np.ndarray | None = None
    weight: float = 1.0
    group: str = ""
    subset: str = ""
    is_validation: bool = False


def read_frames(path: Path, *, weight: float = 1.0) -> list[Frame]:
    """Frames of an npz shard or of any file ASE reads with energies and forces.

    Raises:
        DataError: if the file is missing, empty, lacks labels, or has labels that are not finite.
    """
    if not path.exists():
        raise DataError(f"data file {path} does not exist")
    frames = _from_npz(path, weight) if path.suffix == ".npz" else _from_atoms(path, weight)
    if not frames:
        raise DataError(f"data file {path} holds no frames")
    for index, frame in enumerate(frames):
        labels = (frame.energy, frame.forces, frame.dipole, frame.stress)
        if not all(np.isfinite(label).all() for label in labels if label is not None):
            raise DataError(f"{path}, frame {index}: labels must be finite, got NaN or infinity")
    return frames


def _from_npz(path: Path, weight: float) -> list[Frame]:
    with np.load(path, allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise DataError(f"{path} lacks the array(s) {', '.join(missing)}")
    counts = data["n"].astype(np.int64)
    ends = np.cumsum(counts)
    if len(counts) and ends[-1] != len(data["numbers"]):
        raise DataError(
            f"{path}: `n` sums to {ends[-1]}, but there are {len(data['numbers'])} atoms"
        )
    n = len(counts)
    charge = data.get("charge", np.zeros(n))
    spin = data.get("spin_multiplicity", np.ones(n))
    group = data.get("group", np.arange(n))
    valid = data.get("valid", np.zeros(n, dtype=bool))
    open_cell, open_pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    frames = []
    for i, (start, stop) in enumerate(zip(ends - counts, ends, strict=True)):
        cell = data["cell"][i].astype(np.float64) if "cell" in data else open_cell
        structure = Structure(
            numbers=data["numbers"][start:stop].astype(np.int64),
            positions=data["positions"][start:stop].astype(np.float64),
            cell=cell,
            pbc=np.ones(3, dtype=bool) if "cell" in data else open_pbc,
            total_charge=int(charge[i]),
            spin_multiplicity=int(spin[i]),
        )
        name = group[i].decode() if isinstance(group[i], bytes) else str(group[i])
        frames.append(
            Frame(
                structure=structure,
                energy=float(data["energy"][i]),
                forces=data["forces"][start:stop],
                dipole=data["dipole"][i] if "dipole" in data else None,
                stress=data["stress"][i] if "stress" in data else None,
                weight=weight,
                group=name,
                subset=path.stem,
                is_validation=bool(valid[i]),
            )
        )
    return frames


def _from_atoms(path: Path, weight: float) -> list[Frame]:
    frames = []
    for index, (structure, atoms) in enumerate(read_structures(path)):
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        results |= {key: atoms.info[key] for key in ("energy", "dipole") if key in atoms.info}
        for key in ("forces", "force"):
            if key in atoms.arrays:
                results["forces"] = atoms.arrays[key]
        missing = [key for key in ("energy", "forces") if key not in results]
        if missing:
            raise DataError(f"{path}, frame {index}: no {' and no '.join(missing)}")
        dipole, stress = results.get("dipole"), results.get("stress")
        if stress is not None and np.size(stress) == 6:
            stress = voigt_6_to_full_3x3_stress(stress)
        frames.append(
            Frame(
                structure=structure,
                energy=float(results["energy"]),
                forces=np.asarray(results["forces"], dtype=np.float64),
                dipole=None if dipole is None else np.asarray(dipole, dtype=np.float64),
                stress=None if stress is None else np.reshape(stress, (3, 3)).astype(np.float64),
                weight=weight,
                group=str(atoms.info.get("molecule", atoms.get_chemical_formula())),
                subset=str(atoms.info.get("subset", path.stem)),
            )
        )
    return frames


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """A batch of graphs with labels; NaN where a frame has no label.

    Attributes:
        graph: The structures.
        energy: (n_systems,) eV, float64.
        forces: (n_atoms, 3) eV/A.
        dipole: (n_systems, 3) e A about the coordinate origin.
        stress: (n_systems, 3, 3) eV/A^3.
        weight: (n_systems,) loss weight.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    dipole: Tensor
    stress: Tensor
    weight: Tensor


def make_batch(frames: Sequence[Frame], cutoff: float, dtype: torch.dtype) -> LabelledBatch:
    """Neighbour lists and labels of some frames as one batch."""
    graph = collate([build_graph(frame.structure, cutoff) for frame in frames])
    no_dipole, no_stress = np.full(3, np.nan), np.full((3, 3), np.nan)
    dipole = [no_dipole if frame.dipole is None else frame.dipole for frame in frames]
    stress = [no_stress if frame.stress is None else frame.stress for frame in frames]
    return LabelledBatch(
        graph=graph.to(dtype=dtype),
        energy=torch.tensor([frame.energy for frame in frames], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate([frame.forces for frame in frames])).to(dtype),
        dipole=torch.from_numpy(np.stack(dipole)).to(dtype),
        stress=torch.from_numpy(np.stack(stress)).to(dtype),
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


def fit_reference_energies(frames: Sequence[Frame], elements: Sequence[int]) -> tuple[float, ...]:
    """Energy per element in eV that explains the energies best (least squares, tiny ridge)."""
    row = {z: i for i, z in enumerate(elements)}
    counts = np.zeros((len(frames), len(elements)))
    for i, frame in enumerate(frames):
        z, n = np.unique(frame.structure.numbers, return_counts=True)
        counts[i, [row[int(value)] for value in z]] = n
    energy = np.array([frame.energy for frame in frames])
    size = counts.sum(1, keepdims=True)
    a, b = counts / size, energy / size[:, 0]  # every structure counts alike, per atom
    normal = a.T @ a + 1e-8 * np.eye(len(elements))
    return tuple(np.linalg.solve(normal, a.T @ b).tolist())
