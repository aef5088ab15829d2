"""Elements: rows of tables by atomic number, sets of elements, symbols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor


def element_rows(elements: tuple[int, ...]) -> Tensor:
    """(119,) int64 table row of each atomic number; -1 where the model has none."""
    rows = torch.full((119,), -1, dtype=torch.int64)
    # entry 0 is no element: atomic numbers index the table directly
    rows[list(elements)] = torch.arange(len(elements))
    return rows


def symbols(numbers: Sequence[int]) -> str:
    """Chemical symbols of atomic numbers, separated by spaces."""
    return " ".join(chemical_symbols[z] for z in numbers)
