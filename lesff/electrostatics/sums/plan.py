"""Which systems of a batch are summed together, and how: all that is decided on the host.

Systems of a group share a padded table of atoms and a grid of wave vectors. A :class:`CoulombPlan`
keeps these decisions, so that steps that follow need the device only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.sums.direct import DirectTransform
from lesff.electrostatics.sums.ewald import common_grid, wave_limits
from lesff.electrostatics.sums.mesh import MeshTransform
from lesff.electrostatics.sums.nufft import NufftTransform, is_installed
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import PairSettings
from lesff.electrostatics.sums.slab import auxiliary_cell
from lesff.electrostatics.sums.structure_factor import Grid

WaveSum = Literal["auto", "direct", "nufft", "mesh"]

TRANSFORMS = {"direct": DirectTransform(), "nufft": NufftTransform(), "mesh": MeshTransform()}
OPEN, SLAB, BULK = 0, 2, 3
"""Numbers of periodic directions."""

# Nanoseconds of energy and gradient on one CPU core in float32, fitted to benchmarks/ewald.py:
# direct = _PRODUCT n_atoms n_waves, NUFFT = _START + _PER_WAVE n_waves + _PER_ATOM n_atoms.
# They meet at some 1300 atoms of a liquid at dl = 2 A; few atoms in a vacuum box stay direct.
_PRODUCT, _START, _PER_WAVE, _PER_ATOM = 0.6, 2e6, 300.0, 1500.0
_MESH_ATOMS = 20_000
"""On a GPU, where no NUFFT is at hand: atoms from which the mesh replaces the direct sum."""
_SMALL_SYSTEM, _SMALL_LIMIT = 64, 8
"""Atoms, and waves along an axis, up to which systems share one padded table."""
_BATCH_WAVES = 20_000_000
"""Wave vectors of all systems that are summed together."""


@dataclass(frozen=True)
class SystemGroup:
    """Systems that are summed together.

    Attributes:
        boundary: Number of periodic directions.
        evaluator: Name of the evaluator; ``"pairs"`` in open space.
        systems: Members, or None for all systems of the batch.
        atoms: Their atoms, or None for all.
        batch: Rank of the system of each of these atoms.
        padding: Their padded table.
        grid: Wave vectors, None in open space.
    """

    boundary: int
    evaluator: str
    systems: Tensor | None
    atoms: Tensor | None
    batch: Tensor
    padding: Padding
    grid: Grid | None


@dataclass(frozen=True)
class CoulombPlan:
    """Groups of a batch; holds as long as atoms, ``pbc`` and cells stay the same.

    A strain that is differentiated but zero does not matter.
    """

    groups: tuple[SystemGroup, ...]


def plan_coulomb(
    graph: AtomGraph, settings: PairSettings, evaluator: WaveSum = "auto"
) -> tuple[CoulombPlan, Tensor]:
    """The groups of a batch, and the cells of their sums, (n_systems, 3, 3) in A.

    The cells differ from those of the batch for slabs, see :mod:`.slab`.
    """
    cell, groups = system_groups(graph, settings, evaluator)
    found = []
    for boundary, name, members in groups:
        # one group is the whole batch: None instead of tables of indices that pick everything
        systems = atoms = None
        batch = graph.batch
        if len(groups) > 1:
            systems = torch.tensor(members, device=cell.device)
            atoms, batch = members_of(graph, systems)
        grid = None
        if boundary != OPEN:
            grid = common_grid(cell if systems is None else cell[systems], settings.dl)
        padding = Padding.of(batch, len(members))
        found.append(SystemGroup(boundary, name, systems, atoms, batch, padding, grid))
    return CoulombPlan(tuple(found)), cell


def system_groups(
    graph: AtomGraph, settings: PairSettings, evaluator: WaveSum
) -> tuple[Tensor, list[tuple[int, str, list[int]]]]:
    """Cells of the sums (auxiliary ones for slabs) and the systems that are computed together.

    Each group has its number of periodic directions, the evaluator and its members.
    """
    kind = graph.pbc.sum(1)  # (n_systems,) number of periodic directions
    cell = graph.cell
    # the row of a slab's open direction says nothing about its energy: another cell takes its place
    slabs = torch.nonzero(kind == SLAB).flatten()
    if len(slabs):
        atoms, batch = members_of(graph, slabs)
        auxiliary = auxiliary_cell(
            graph.positions[atoms], cell[slabs], graph.pbc[slabs], batch, settings
        )
        cell = cell.index_copy(0, slabs, auxiliary)
    return cell, _groups(graph, kind, cell, settings, evaluator)


def members_of(graph: AtomGraph, systems: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms of some systems, and the rank of the system of each of them."""
    rank = torch.full((graph.n_systems,), -1, dtype=torch.int64, device=systems.device)
    rank[systems] = torch.arange(len(systems), device=systems.device)  # -1: not among them
    atoms = torch.nonzero(rank[graph.batch] >= 0).flatten()
    return atoms, rank[graph.batch[atoms]]


def _groups(
    graph: AtomGraph, kind: Tensor, cell: Tensor, settings: PairSettings, evaluator: WaveSum
) -> list[tuple[int, str, list[int]]]:
    """Systems that are computed together: boundaries, evaluator and members of each group.

    Members share a padded table and a grid of waves, so atoms and waves along each axis agree
    within a factor of two, apart from small systems.
    """
    counts = graph.atoms_per_system().tolist()
    periodic = kind != OPEN
    # (n1, n2, n3) of each system; a cell of zeros has the origin only
    limits = [[0, 0, 0]] * len(counts)
    if bool(periodic.any()):
        limits = wave_limits(torch.where(periodic[:, None, None], cell, 0.0), settings.dl).tolist()
    groups: dict[tuple, list[int]] = {}
    full: list[tuple[int, str, list[int]]] = []
    for system, (boundary, n_atoms, n) in enumerate(
        zip(kind.tolist(), counts, limits, strict=True)
    ):
        name, n_waves = "pairs", (n[0] + 1) * (2 * n[1] + 1) * (2 * n[2] + 1)
        if boundary != OPEN:
            name = evaluator
            if name == "auto":
                name = fastest(n_atoms, n_waves, graph.positions.device)
        # systems of one key share the table and the grid of the largest
        size = [_octave(n_atoms, _SMALL_SYSTEM), *(_octave(i + 1, _SMALL_LIMIT) for i in n)]
        alone = system if name == "nufft" else -1  # one by one, nothing to share
        key = (boundary, name, alone, *size)
        groups.setdefault(key, []).append(system)
        if (len(groups[key]) + 1) * n_waves > _BATCH_WAVES:  # full: the next one opens a new group
            full.append((boundary, name, groups.pop(key)))
    return full + [(boundary, name, members) for (boundary, name, *_), members in groups.items()]


def _octave(count: int, least: int) -> int:
    """Exponent of the power of two that holds ``count``; up to ``least`` all are equal."""
    return math.ceil(math.log2(max(count, least)))


def fastest(n_atoms: int, n_waves: int, device: torch.device) -> str:
    """Evaluator of least cost for one system, by the measured costs at the head."""
    if device.type != "cpu":
        return "mesh" if n_atoms >= _MESH_ATOMS else "direct"
    direct = _PRODUCT * n_atoms * n_waves
    if direct <= _START + _PER_WAVE * n_waves + _PER_ATOM * n_atoms:
        return "direct"
    return "nufft" if is_installed() else "mesh"
