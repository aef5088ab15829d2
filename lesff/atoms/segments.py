"""Small tensor operations shared by several modules."""

from __future__ import annotations

from torch import Tensor


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
    # per system, then spread evenly over its atoms
    excess = segment_sum(charges, batch, len(total_charge)) - total_charge
    return charges - (excess / counts)[batch]
