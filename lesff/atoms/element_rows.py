"""Rows of element tables by atomic number."""

from __future__ import annotations

import torch
from torch import Tensor


def element_rows(elements: tuple[int, ...]) -> Tensor:
    """(119,) int64 table row of each atomic number; -1 where the model has none."""
    rows = torch.full((119,), -1, dtype=torch.int64)
    # entry 0 is no element: atomic numbers index the table directly
    rows[list(elements)] = torch.arange(len(elements))
    return rows
