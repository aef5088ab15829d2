"""Geometry of slabs: two periodic directions of any orientation, open along their normal.

Along the open direction atoms are where their positions say, exactly as the neighbour list takes
them, and the row of the cell for that direction has no influence on the energy. The sum runs in
an auxiliary cell with that row replaced by a normal vector of length L >= 2 (thickness + tails of
the Gaussians). L takes values of a geometric series: forces are exact derivatives as long as it
stays, and a slab that grows past the next value changes its energy by the truncation of the k
sum only (below 1e-8 for dl <= sigma).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import PairSettings
from lesff.errors import UnsupportedInputError

_GROWTH = 1.25
"""Ratio of successive heights of the auxiliary cell."""
_WRAPPED_GAP = 6.0
"""A: an empty layer inside a slab wider than this, and than the one outside, looks wrapped."""


def auxiliary_cell(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, settings: PairSettings
) -> Tensor:
    """Cells for :func:`periodic_energy` with ``slab``, (n_systems, 3, 3) in A.

    The periodic rows come first, the third one is normal to them.

    Args:
        positions: (n_atoms, 3) in A.
        cell: (n_systems, 3, 3) in A; the row of the open direction may be zero.
        pbc: (n_systems, 3) bool, two True in each row.
        batch: (n_atoms,) system of each atom, ascending.
        settings: Constants.

    Raises:
        UnsupportedInputError: if the atoms look wrapped across a cell boundary along the normal.
    """
    # rows of the cell with the open direction last: [system, row, xyz]
    order = torch.argsort(pbc.to(torch.int64), dim=1, descending=True, stable=True)
    rows = torch.gather(cell, 1, order[:, :, None].expand(-1, -1, 3))
    normal = torch.linalg.cross(rows[:, 0], rows[:, 1])
    normal = normal / normal.norm(dim=1, keepdim=True)
    # the height is a constant of the derivatives, its direction turns with the periodic rows
    with torch.no_grad():
        along = (positions * normal[batch]).sum(1).double()
        thickness, gap = _extent(along, batch, len(cell))
        given = (rows[:, 2] * normal).sum(1).abs().double()
        _check_wrapping(thickness, gap, given)
        # L/2 > thickness + base/2: the kernel is cut at L/2, beyond all pairs and before all images
        base = settings.slab_vacuum
        steps = torch.floor(torch.log((2.0 * thickness + base) / base) / math.log(_GROWTH)) + 1.0
        height = (base * _GROWTH**steps).to(cell.dtype)
    return torch.stack([rows[:, 0], rows[:, 1], height[:, None] * normal], dim=1)


def _extent(along: Tensor, batch: Tensor, n_systems: int) -> tuple[Tensor, Tensor]:
    """Thickness and widest empty layer between atoms of each system, (n_systems,) in A.

    Args:
        along: (n_atoms,) heights along the normal in A.
        batch: (n_atoms,) system of each atom, ascending.
        n_systems: Number of systems.
    """
    padding = Padding.of(batch, n_systems)
    low = torch.full((n_systems,), math.inf, dtype=along.dtype, device=along.device)
    low = low.scatter_reduce(0, batch, along, "amin")
    heights = padding.pad(along - low[batch]).sort(dim=1).values  # padding sits at the bottom
    if heights.shape[1] < 2:
        return heights[:, 0], heights[:, 0]
    return heights[:, -1], heights.diff(dim=1).amax(1)


def _check_wrapping(thickness: Tensor, gap: Tensor, given: Tensor) -> None:
    """Refuse slabs that a cell boundary seems to have cut in two.

    Args:
        thickness: (n_systems,) distance of the outermost atoms along the normal in A.
        gap: (n_systems,) widest empty layer inside in A.
        given: (n_systems,) height of the user's cell in A, zero where it has none.

    Raises:
        UnsupportedInputError: where the gap inside is wider than the one outside.
    """
    outside = given - thickness
    wrapped = (given > 0) & (gap > _WRAPPED_GAP) & (gap > outside)
    if bool(wrapped.any()):
        i = int(torch.nonzero(wrapped)[0])
        raise UnsupportedInputError(
            f"slab {i}: the widest empty layer, {float(gap[i]):.1f} A, lies between atoms and "
            f"not outside them (the cell is {float(given[i]):.1f} A high); the slab must be in one "
            "piece along its open direction: unwrap the atoms, or, if two separate layers are "
            "meant, set the cell row of the open direction to zero"
        )
