"""Ragged per-atom rows to one padded row of atoms per system."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Where each atom of a batch sits in a (n_systems, n_max) table.

    Attributes:
        counts: (n_systems,) atoms of each system.
        slot: (n_atoms,) flat position in the table.
        n_max: Atoms of the largest system.
    """

    counts: Tensor
    slot: Tensor
    n_max: int

    @staticmethod
    def of(batch: Tensor, n_systems: int) -> Padding:
        """Build from the system index of each atom, which must ascend."""
        counts = torch.bincount(batch, minlength=n_systems)
        n_max = int(counts.max())
        # atoms of a system are neighbours in the batch: rank = place minus place of the first one
        start = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(batch), device=batch.device) - start[batch]
        return Padding(counts=counts, slot=batch * n_max + rank, n_max=n_max)

    def pad(self, values: Tensor) -> Tensor:
        """(n_atoms, ...) to (n_systems, n_max, ...), zero where there is no atom."""
        # rows go to their slots of the flat table (n_systems n_max, ...), the others stay zero
        n_systems = len(self.counts)
        flat = values.new_zeros((n_systems * self.n_max, *values.shape[1:]))
        flat = flat.index_copy(0, self.slot, values)
        return flat.view(n_systems, self.n_max, *values.shape[1:])
