"""Harmonic normal modes and their infrared intensities, from a Hessian and Born charges.

E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations (1955): modes are eigenvectors of the
mass-weighted Hessian; the intensity of a mode is that of the double harmonic approximation,
``A = N_A / (12 eps0 c^2) |d mu / dQ|^2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lesff.errors import DataError
from lesff.units import DALTON, HBAR, SPEED_OF_LIGHT

KM_PER_MOL = 974.8801
"""Of 1 e^2 / u: ``N_A e^2 / (12 eps0 c^2 u)``."""
_PER_CM = 1e8 / (2.0 * np.pi * SPEED_OF_LIGHT * HBAR)
"""1 eV in 1/cm."""
_FREE = 1e-4
"""Rotations shorter than this part of the longest motion do not exist: linear molecules, atoms."""


@dataclass(frozen=True, kw_only=True)
class NormalModes:
    """Modes in rising order, without translations and rotations.

    Attributes:
        wavenumbers: (n_modes,) in 1/cm, negative for imaginary ones.
        displacements: (n_modes, n_atoms, 3), Cartesian, of unit length.
        reduced_masses: (n_modes,) in u.
        intensities: (n_modes,) in km/mol, or None without Born charges.
    """

    wavenumbers: np.ndarray
    displacements: np.ndarray
    reduced_masses: np.ndarray
    intensities: np.ndarray | None


def normal_modes(
    hessian: np.ndarray,
    masses: np.ndarray,
    positions: np.ndarray,
    *,
    born: np.ndarray | None = None,
    is_periodic: bool = False,
) -> NormalModes:
    """Normal modes of a molecule, or those at Gamma of a crystal.

    Translations, and rotations of a molecule, are projected out.

    Args:
        hessian: (n_atoms, 3, n_atoms, 3) in eV/A^2.
        masses: (n_atoms,) in u.
        positions: (n_atoms, 3) in A.
        born: (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.
        is_periodic: Rotations are no free motions.

    Raises:
        DataError: for arrays that do not belong together.
    """
    n_atoms = len(masses)
    n = 3 * n_atoms
    if hessian.shape != (n_atoms, 3, n_atoms, 3) or positions.shape != (n_atoms, 3):
        raise DataError(
            f"`hessian` must be ({n_atoms}, 3, {n_atoms}, 3) and `positions` ({n_atoms}, 3) for "
            f"{n_atoms} masses, got {hessian.shape} and {positions.shape}"
        )
    if born is not None and born.shape != (n_atoms, 3, 3):
        raise DataError(f"`born` must be ({n_atoms}, 3, 3), got {born.shape}")
    root = np.repeat(np.sqrt(masses), 3)
    weighted = hessian.reshape(n, n) / np.outer(root, root)
    free = _free_motions(masses, positions, is_periodic=is_periodic)
    # basis of what is left: the orthogonal complement of the free motions
    full, _, _ = np.linalg.svd(free, full_matrices=True)
    basis = full[:, free.shape[1] :]
    inner = basis.T @ (0.5 * (weighted + weighted.T)) @ basis
    squares, vectors = np.linalg.eigh(inner)
    cartesian = (basis @ vectors) / root[:, None]  # (3 n_atoms, n_modes), in 1/sqrt(u)
    length = np.sqrt((cartesian**2).sum(0))
    # hbar omega = hbar sqrt(k / m); u in eV fs^2 / A^2
    wavenumbers = np.sign(squares) * HBAR * np.sqrt(np.abs(squares) / DALTON) * _PER_CM
    intensities = None
    if born is not None:
        intensities = infrared_intensities(born, cartesian.T.reshape(-1, n_atoms, 3))
    return NormalModes(
        wavenumbers=wavenumbers,
        displacements=(cartesian / length).T.reshape(-1, n_atoms, 3),
        reduced_masses=1.0 / length**2,
        intensities=intensities,
    )


def infrared_intensities(born: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Square of the dipole's slope along each mode, (n_modes,) in km/mol.

    Args:
        born: (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.
        modes: (n_modes, n_atoms, 3), of unit length times the roots of masses, in 1 / sqrt(u).
    """
    slopes = np.einsum("aij,maj->mi", born, modes)
    return KM_PER_MOL * (slopes**2).sum(1)


def _free_motions(masses: np.ndarray, positions: np.ndarray, *, is_periodic: bool) -> np.ndarray:
    """Orthonormal mass-weighted translations and rotations, (3 n_atoms, n_free)."""
    root = np.sqrt(masses)[:, None, None]
    axes = np.eye(3)
    columns: list[np.ndarray] = [np.broadcast_to(axes[:, None], (3, len(masses), 3))]
    if not is_periodic:
        centre = (masses[:, None] * positions).sum(0) / masses.sum()
        arms = positions - centre
        columns.append(np.stack([np.cross(axis, arms) for axis in axes]))
    motions = np.concatenate(columns).transpose(1, 2, 0) * root
    flat = motions.reshape(3 * len(masses), -1)
    vectors, sizes, _ = np.linalg.svd(flat, full_matrices=False)
    return vectors[:, sizes > _FREE * sizes[0]]
