"""Volumes and inverses of cells."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_volume(cell: Tensor) -> Tensor:
    """Volumes ``|a1 . (a2 x a3)|`` in A^3, (n_systems,), of cells (n_systems, 3, 3) in A.

    Rows are lattice vectors, of either handedness.
    """
    return (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1).abs()


def inverse_cell(cell: Tensor) -> Tensor:
    """Inverses in 1/A, (n_systems, 3, 3), of cells with volume.

    By cross products: unlike a factorisation, whose success the host has to ask for, they never
    wait for a GPU.
    """
    # column j of h^-1 is (a_j+1 x a_j+2) / (a1 . (a2 x a3)), normal to the two other vectors
    faces = [torch.linalg.cross(cell[:, (i + 1) % 3], cell[:, (i + 2) % 3]) for i in range(3)]
    columns = torch.stack(faces, dim=2)  # [system, xyz, j]
    # the signed volume: the inverse is right for left-handed cells, too
    return columns / (cell[:, 0] * faces[0]).sum(1)[:, None, None]
