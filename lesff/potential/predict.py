"""Running a potential on a batch: results of each system as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lesff.atoms.graph import AtomGraph, lattice_offset
from lesff.autograd import plain_arithmetic
from lesff.errors import StructureError
from lesff.potential.ensemble import members_of
from lesff.potential.potential import Potential
from lesff.potential.response import BornOptions
from lesff.quantities import QUANTITIES

_MAX_EXTENT = 2000.0
"""A from the centre of a structure: float32 holds positions to 1e-4 A there."""

_NEAR = 500.0
"""A: coordinates and components of lattice vectors up to this need no closer look."""


def predict_graph(
    potential: Potential,
    graph: AtomGraph,
    properties: Sequence[str],
    born: BornOptions | None = None,
) -> list[dict[str, Any]]:
    """Properties of each system of a graph, as numpy arrays; the domain is not checked.

    Args:
        potential: The model.
        graph: The batch, any dtype and device.
        properties: Names from :data:`lesff.quantities.QUANTITIES`.
        born: How Born effective charges are computed.

    Raises:
        StructureError: for atoms too far apart for the model's sums in float32.
    """
    _check_extent(potential, graph)
    with plain_arithmetic(potential.device):
        graph = graph.to(dtype=potential.dtype, device=potential.device)
        out = potential(graph, properties, born=born)
    is_single = graph.n_systems == 1
    counts = [graph.n_atoms] if is_single else graph.atoms_per_system().tolist()
    rows: list[dict[str, Any]] = [{} for _ in counts]
    for name, value in out.items():
        level = QUANTITIES[name].level
        parts = value if level == "system" else [value] if is_single else value.split(counts)
        for row, part in zip(rows, parts, strict=True):
            # pairs of a smaller system are filled up with zeros
            part = part[:, :, : len(part)] if level == "pair" else part
            row[name] = part.cpu().numpy()
    return rows


def _check_extent(potential: Potential, graph: AtomGraph) -> None:
    """Refuse molecules and slabs whose distances float32 does not hold.

    Edges and sums over pairs of charges are formed in float64; sums over waves, of multipoles and
    of charges in equilibrium are not.
    """
    if potential.dtype == torch.float64 or graph.positions.dtype != torch.float64:
        return
    # near the origin and in cells that are not huge nothing is far away, however it is wrapped:
    # two corners of a cube of 1000 A are 1732 A apart, and half the sum of three lattice vectors
    # is at most 1300 A
    near = float(graph.positions.abs().max()), float(graph.cell.abs().max())
    if max(near) <= _NEAR:
        return
    parts = members_of(potential)
    heads = [part.charge_head for part in parts]
    is_rounded = any(part.multipole_head is not None for part in parts)
    is_rounded |= any(head is not None and head.asks_host for head in heads)
    concerned = torch.full_like(graph.pbc[:, 0], is_rounded)
    if any(part.ewald is not None or part.dispersion is not None for part in parts):
        concerned = concerned | graph.pbc.any(1)
    if not bool(concerned.any()):
        return
    offset = lattice_offset(graph, graph.positions, graph.cell)
    away = (graph.positions - offset).norm(dim=1) * concerned[graph.batch]
    atom = int(away.argmax())
    if float(away[atom]) > _MAX_EXTENT:
        first = int(torch.searchsorted(graph.batch, graph.batch[atom]))
        raise StructureError(
            f"atom {atom - first} of structure {int(graph.batch[atom])} is {float(away[atom]):.4g} "
            "A from the centre of the others, too far for electrostatics in float32 (at most "
            f"{_MAX_EXTENT:g} A); load the model with dtype='float64'"
        )
