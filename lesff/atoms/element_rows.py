"""Rows of element tables by atomic number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def element_rows(elements: tuple[int, ...]) -> Tensor:
    """(119,) int64 table row of each atomic number; -1 where the model has none."""
    # by numpy: torch.arange on the meta device would import sympy, 0.5 s of CPU
    rows = np.full(119, -1, dtype=np.int64)
    # entry 0 is no element: atomic numbers index the table directly
    rows[list(elements)] = np.arange(len(elements))
    return torch.from_numpy(rows)
