"""Cells in the form that engines store them: rows ``(ax, 0, 0), (bx, by, 0), (cx, cy, cz)``.

lesff takes any cell. LAMMPS, i-PI and OpenMM rotate it so that the first vector lies along x and
the second in the xy plane, with positive diagonal; a left-handed cell needs a mirror as well, which
no energy notices.
"""

from __future__ import annotations

import numpy as np

from lesff.errors import StructureError


def lower_triangular(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cell in the engines' orientation.

    Args:
        cell: (3, 3) in A, rows are lattice vectors that span a volume.

    Returns:
        The cell, (3, 3), lower triangular with positive diagonal, and the orthogonal matrix
        (3, 3) that leads there: ``cell @ rotation``, ``positions @ rotation``, ``forces @
        rotation``, ``rotation.T @ stress @ rotation``. Its determinant is -1 for left-handed cells.

    Raises:
        StructureError: for vectors that span no volume.
    """
    cell = np.asarray(cell, dtype=np.float64)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6:
        raise StructureError(f"the cell must span a volume, got {cell.tolist()}")
    # h = L Q^T with Q from h^T = Q R, L = R^T; columns of Q change sign with the diagonal of R
    orthogonal, upper = np.linalg.qr(cell.T)
    signs = np.sign(np.diagonal(upper))
    return np.tril(upper.T * signs), orthogonal * signs


def reduced(cell: np.ndarray) -> np.ndarray:
    """The same lattice with short tilts: ``|bx| <= ax/2``, ``|cx| <= ax/2``, ``|cy| <= by/2``.

    Args:
        cell: (3, 3) in A, lower triangular.
    """
    cell = np.array(cell, dtype=np.float64)
    cell[2] -= np.round(cell[2, 1] / cell[1, 1]) * cell[1]
    cell[2] -= np.round(cell[2, 0] / cell[0, 0]) * cell[0]
    cell[1] -= np.round(cell[1, 0] / cell[0, 0]) * cell[0]
    return cell
