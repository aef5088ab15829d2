"""Labelled frames, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.atoms.structure import Structure
from lesff.train.data import Frame, Part


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """A batch of graphs with labels; NaN where a frame has no label.

    Attributes:
        graph: The structures.
        energy: (n_systems,) eV, float64.
        forces: (n_atoms, 3) eV/A.
        dipole: (n_systems, 3) e A, of ions about the centre of nuclear charge.
        stress: (n_systems, 3, 3) eV/A^3.
        charges: (n_atoms,) e.
        born_effective_charges: (n_atoms, 3, 3) e.
        weight: (n_systems,) loss weight.
        is_closed: (n_systems,) whether the atoms' electrons can be counted: closed shells.
        part: (n_atoms,) part of each atom: parts of composites, else the whole system.
        part_states: (n_parts, 2) total charge in e and 2S; NaN where unknown.
        is_composite: (n_parts,) whether the part has others beside it.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    dipole: Tensor
    stress: Tensor
    charges: Tensor
    born_effective_charges: Tensor
    weight: Tensor
    is_closed: Tensor
    part: Tensor
    part_states: Tensor
    is_composite: Tensor


def make_batch(frames: Sequence[Frame], cutoff: float, dtype: torch.dtype) -> LabelledBatch:
    """Neighbour lists and labels of some frames as one batch."""
    graph = collate([build_graph(frame.structure, cutoff) for frame in frames])

    def join(name: str, *shape: int, per_atom: bool = False) -> Tensor:
        rows = []
        for frame in frames:
            lead = (len(frame.structure),) if per_atom else (1,)
            value = getattr(frame, name)
            rows.append(
                np.full((*lead, *shape), np.nan)
                if value is None
                else np.reshape(value, (*lead, *shape))
            )
        return torch.from_numpy(np.concatenate(rows)).to(dtype)

    parts = [frame.parts or (_whole(frame.structure),) for frame in frames]
    sizes = torch.tensor([part.n_atoms for found in parts for part in found])
    return LabelledBatch(
        graph=graph.to(dtype=dtype),
        energy=torch.tensor([frame.energy for frame in frames], dtype=torch.float64),
        forces=join("forces", 3, per_atom=True),
        dipole=join("dipole", 3),
        stress=join("stress", 3, 3),
        charges=join("charges", per_atom=True),
        born_effective_charges=join("born_effective_charges", 3, 3, per_atom=True),
        weight=torch.tensor([frame.weight for frame in frames], dtype=dtype),
        is_closed=torch.tensor([frame.is_closed for frame in frames]),
        part=torch.repeat_interleave(torch.arange(len(sizes)), sizes),
        part_states=torch.tensor(
            [(part.charge, part.unpaired) for found in parts for part in found], dtype=dtype
        ),
        is_composite=torch.tensor([len(found) > 1 for found in parts for _ in found]),
    )


def _whole(structure: Structure) -> Part:
    """All atoms of a structure."""
    return Part(
        n_atoms=len(structure),
        charge=structure.total_charge,
        unpaired=structure.spin_multiplicity - 1,
    )
