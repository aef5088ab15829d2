"""Energies of elements: least squares on compositions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesff.train.frames import Frame


def fit_reference_energies(frames: Sequence[Frame], elements: Sequence[int]) -> tuple[float, ...]:
    """Energy per element in eV that explains the energies best (least squares, tiny ridge).

    Frames without energy are left out.
    """
    frames = [frame for frame in frames if not np.isnan(frame.energy)]
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


def composition(frames: Sequence[Frame], elements: Sequence[int]) -> np.ndarray:
    """(n_frames, n_elements) number of atoms of each element."""
    return np.array([[(f.structure.numbers == z).sum() for z in elements] for f in frames], float)
