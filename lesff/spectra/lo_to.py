"""Splitting of longitudinal and transverse optical modes: non-analytic term and BORN file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lesff.errors import DataError
from lesff.units import COULOMB_CONSTANT

PHONOPY_FACTOR = 14.399652
"""ke in eV A / e^2 as phonopy rounds it."""


def non_analytic_term(
    direction: np.ndarray, born: np.ndarray, eps_inf: np.ndarray, masses: np.ndarray, volume: float
) -> np.ndarray:
    """``D^NAC_{ia,jb} = 4 pi ke / V (q Z_i)_a (q Z_j)_b / (q eps_inf q) / sqrt(m_i m_j)``.

    To be added to the dynamical matrix at Gamma without field (transverse modes) for q -> 0 along
    ``direction`` (Pick, Cohen and Martin, Phys. Rev. B 1, 910 (1970)). ``born`` in
    latent units with ``eps_inf = 1`` gives the same for a cubic crystal: eps_inf cancels.

    Args:
        direction: (3,) of q; its length does not matter.
        born: (n_atoms, 3, 3) in e, [i, c, a] = dP_c / dr_ia, so ``(q Z_i)_a = q_c Z_i,ca``.
        eps_inf: (3, 3) high-frequency dielectric tensor.
        masses: (n_atoms,) in u.
        volume: Of the cell in A^3.

    Returns:
        (3 n_atoms, 3 n_atoms) in eV / (A^2 u).

    Raises:
        DataError: for a zero direction or arrays that do not belong together.
    """
    q = np.asarray(direction, dtype=float)
    if q.shape != (3,) or not np.any(q):
        raise DataError(f"`direction` must be three numbers, not all zero, got {direction!r}")
    if born.shape != (len(masses), 3, 3) or np.shape(eps_inf) != (3, 3):
        raise DataError(
            f"`born` must be (n_atoms, 3, 3) and `eps_inf` (3, 3) for {len(masses)} masses, got "
            f"{born.shape} and {np.shape(eps_inf)}"
        )
    charge = np.einsum("c,nca->na", q, born) / np.sqrt(masses)[:, None]  # (n, a)
    flat = charge.reshape(-1)
    screening = q @ np.asarray(eps_inf) @ q
    return 4.0 * np.pi * COULOMB_CONSTANT / volume * np.outer(flat, flat) / screening


def write_born(
    path: Path,
    born: np.ndarray,
    eps_inf: np.ndarray,
    *,
    atoms: Sequence[int] | None = None,
) -> None:
    """Write phonopy's ``BORN`` file.

    Its first line is the unit conversion factor, its second eps_inf, then Z* of the
    symmetry-independent atoms of the primitive cell, row by row. phonopy's Z*_ab has the direction
    of the polarisation first, as ours.

    Args:
        path: The file.
        born: (n_atoms, 3, 3) in e of the primitive cell.
        eps_inf: (3, 3).
        atoms: Symmetry-independent atoms in phonopy's order; all if not given, which is right for
            crystals without symmetry only.

    Raises:
        DataError: for wrong shapes.
    """
    if born.ndim != 3 or born.shape[1:] != (3, 3) or np.shape(eps_inf) != (3, 3):
        raise DataError(
            f"`born` must be (n_atoms, 3, 3) and `eps_inf` (3, 3), got {born.shape} and "
            f"{np.shape(eps_inf)}"
        )
    chosen = range(len(born)) if atoms is None else atoms
    rows = [np.asarray(eps_inf), *(born[i] for i in chosen)]
    lines = [f"{PHONOPY_FACTOR:.6f}"]
    lines += [" ".join(f"{x:14.8f}" for x in np.ravel(row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
