"""Energies of elements: least squares on compositions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesff.train.data import Frame


def fit_reference_energies(frames: Sequence[Frame], elements: Sequence[int]) -> tuple[float, ...]:
    """Energy per element in eV that explains the energies best (least squares, tiny ridge).

    Frames without energy are left out.
    """
    frames = [frame for frame in frames if not np.isnan(frame.energy)]
    counts = composition(frames, elements)
    energy = np.array([frame.energy for frame in frames])
    size = counts.sum(1, keepdims=True)
    a, b = counts / size, energy / size[:, 0]  # every structure counts alike, per atom
    normal = a.T @ a + 1e-8 * np.eye(len(elements))
    return tuple(np.linalg.solve(normal, a.T @ b).tolist())


def composition(frames: Sequence[Frame], elements: Sequence[int]) -> np.ndarray:
    """(n_frames, n_elements) number of atoms of each element."""
    return np.array([[(f.structure.numbers == z).sum() for z in elements] for f in frames], float)


def explain_by_elements(
    counts: np.ndarray, energies: np.ndarray, *, rcond: float = 1e-8
) -> tuple[np.ndarray, np.ndarray]:
    """Energies per element that explain energies best, every structure alike per atom.

    Least squares; of the many solutions for few compositions the smallest.

    Args:
        counts: (n_frames, n_elements) from :func:`composition`.
        energies: (n_frames,) in eV.
        rcond: Singular values below this share of the largest count as zero.

    Returns:
        (n_elements,) in eV, and what they leave unexplained, (n_frames,) in eV/atom.
    """
    size = counts.sum(1)
    design, per_atom = counts / size[:, None], energies / size
    found, *_ = np.linalg.lstsq(design, per_atom, rcond=rcond)
    return found, per_atom - design @ found
