"""Small tensor operations shared by several modules."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SILU_NORM = 1.6791767923989418
"""1 / sqrt(E[silu(x)^2]) for normal x, e3nn's ``normalize2mom`` constant."""

SIGMOID_NORM = 1.8467055342154763
"""1 / sqrt(E[sigmoid(x)^2]) for normal x, likewise."""


def segment_sum(values: Tensor, index: Tensor, n_segments: int) -> Tensor:
    """Sum rows of ``values`` (n_rows, ...) by ``index`` (n_rows,) into (n_segments, ...)."""
    out = values.new_zeros((n_segments, *values.shape[1:]))
    return out.index_add(0, index, values)


def shift_to_total(charges: Tensor, batch: Tensor, total_charge: Tensor, counts: Tensor) -> Tensor:
    """Subtract ``(sum q - Q) / N`` from every charge of a system.

    Args:
        charges: (n_atoms,) in e.
        batch: (n_atoms,) system of each atom.
        total_charge: (n_systems,) Q in e.
        counts: (n_systems,) N.
    """
    excess = segment_sum(charges, batch, len(total_charge)) - total_charge
    return charges - (excess / counts)[batch]


def cell_volume(cell: Tensor) -> Tensor:
    """Volumes in A^3, (n_systems,), of cells (n_systems, 3, 3) in A of either handedness."""
    return (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1).abs()


def inverse_cell(cell: Tensor) -> Tensor:
    """Inverses in 1/A, (n_systems, 3, 3), of cells with volume.

    By cross products: unlike a factorisation, whose success the host has to ask for, they never
    wait for a GPU.
    """
    faces = [torch.linalg.cross(cell[:, (i + 1) % 3], cell[:, (i + 2) % 3]) for i in range(3)]
    columns = torch.stack(faces, dim=2)
    return columns / (cell[:, 0] * faces[0]).sum(1)[:, None, None]


def normalised_silu(x: Tensor) -> Tensor:
    """``silu(x)`` scaled to unit second moment for normal ``x``."""
    return functional.silu(x) * SILU_NORM
