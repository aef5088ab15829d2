"""Latent Ewald summation: one energy for a batch of crystals, slabs and molecules.

Boundaries follow ``pbc``, never the determinant of the cell: three periodic directions are a
crystal, two a slab open along its normal, none a molecule. Wires (one) are refused.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lesff.electrostatics.direct import DirectTransform
from lesff.electrostatics.ewald import periodic_energy, wave_limits
from lesff.electrostatics.finite_size import makov_payne_correction
from lesff.electrostatics.mesh import MeshTransform
from lesff.electrostatics.nufft import NufftTransform, is_installed
from lesff.electrostatics.open_boundary import open_energy
from lesff.electrostatics.settings import EwaldSettings
from lesff.electrostatics.slab import auxiliary_cell
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.graph import AtomGraph

Evaluator = Literal["auto", "direct", "nufft", "mesh"]
FiniteSizeCorrection = Literal["makov-payne"]

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


def check_boundaries(pbc: Tensor) -> None:
    """Refuse wires.

    Raises:
        UnsupportedInputError: if a system is periodic in one direction only.
    """
    wires = torch.nonzero(pbc.sum(1) == 1).flatten().tolist()
    if wires:
        raise UnsupportedInputError(
            "`pbc` must be True in three directions (crystal), two (slab) or none (molecule) for a "
            f"model with long-range electrostatics, got {pbc[wires[0]].tolist()} (structure "
            f"{wires[0]}); for a wire set atoms.pbc = True with vacuum layers in the cell"
        )


def latent_energy(
    charges: Tensor,
    graph: AtomGraph,
    settings: EwaldSettings,
    evaluator: Evaluator = "auto",
    *,
    finite_size_correction: FiniteSizeCorrection | None = None,
) -> Tensor:
    """Coulomb energy of the latent charges of every system, (n_systems,) in eV.

    Differentiable to any order in charges, positions and cell. All evaluators sum the same wave
    vectors. Errors of energy, forces and stress relative to the largest component: in float64
    1e-10 (NUFFT) and 1e-9 (mesh); in float32 1e-5 (direct, mesh) and 3e-5 (NUFFT), from rounded
    coordinates, growing with the length of the cell.

    Args:
        charges: (n_atoms,) latent charges in e.
        graph: Positions, cells and boundaries.
        settings: Constants.
        evaluator: How the sum over wave vectors is done: ``"direct"`` (exact, small cells),
            ``"nufft"`` (CPU, large cells), ``"mesh"`` (any device, large cells) or ``"auto"`` (by
            size and device). Isolated systems are a pair sum in every case.
        finite_size_correction: ``"makov-payne"`` turns the energy of a cubic box into that of the
            isolated molecule up to order L^-5; all systems must be cubic boxes.

    Raises:
        UnsupportedInputError: for wires, slabs that look wrapped, cells with too many wave vectors.
        ConfigError: for an unknown evaluator or correction.
    """
    if evaluator not in get_args(Evaluator):
        raise ConfigError(
            f"`evaluator` must be one of {', '.join(get_args(Evaluator))}, got {evaluator!r}"
        )
    if finite_size_correction not in (None, "makov-payne"):
        raise ConfigError(
            "`finite_size_correction` must be None or 'makov-payne', "
            f"got {finite_size_correction!r}"
        )
    check_boundaries(graph.pbc)
    energy = _grouped_energy(charges, graph, settings, evaluator)
    if finite_size_correction == "makov-payne":
        energy = energy + makov_payne_correction(charges, graph, settings)
    return energy


def _grouped_energy(
    charges: Tensor, graph: AtomGraph, settings: EwaldSettings, evaluator: Evaluator
) -> Tensor:
    cell, groups = system_groups(graph, settings, evaluator)
    if len(groups) == 1:
        ((boundary, name, _),) = groups
        return _energy(charges, graph.positions, cell, graph.batch, settings, boundary, name)
    energy = charges.new_zeros(graph.n_systems)
    for boundary, name, members in groups:
        systems = torch.tensor(members, device=charges.device)
        atoms, batch = members_of(graph, systems)
        q, r = charges[atoms], graph.positions[atoms]
        part = _energy(q, r, cell[systems], batch, settings, boundary, name)
        energy = energy.index_add(0, systems, part)
    return energy


def system_groups(
    graph: AtomGraph, settings: EwaldSettings, evaluator: Evaluator
) -> tuple[Tensor, list[tuple[int, str, list[int]]]]:
    """Cells of the sums (auxiliary ones for slabs) and the systems that are computed together.

    Each group has its number of periodic directions, the evaluator and its members.
    """
    kind = graph.pbc.sum(1)
    cell = graph.cell
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
    rank[systems] = torch.arange(len(systems), device=systems.device)
    atoms = torch.nonzero(rank[graph.batch] >= 0).flatten()
    return atoms, rank[graph.batch[atoms]]


def _energy(
    q: Tensor, r: Tensor, cell: Tensor, batch: Tensor, settings: EwaldSettings, boundary: int,
    name: str,
) -> Tensor:  # fmt: skip
    if boundary == OPEN:
        return open_energy(q, r, batch, len(cell), settings)
    transform = TRANSFORMS[name]
    return periodic_energy(q, r, cell, batch, settings, transform, slab=boundary == SLAB)


def _groups(
    graph: AtomGraph, kind: Tensor, cell: Tensor, settings: EwaldSettings, evaluator: Evaluator
) -> list[tuple[int, str, list[int]]]:
    """Systems that are computed together: boundaries, evaluator and members of each group.

    Members share a padded table and a grid of waves, so atoms and waves along each axis agree
    within a factor of two, apart from small systems.
    """
    counts = graph.atoms_per_system().tolist()
    periodic = kind != OPEN
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
                name = _fastest(n_atoms, n_waves, graph.positions.device)
        size = [_octave(n_atoms, _SMALL_SYSTEM), *(_octave(i + 1, _SMALL_LIMIT) for i in n)]
        alone = system if name == "nufft" else -1  # one by one, nothing to share
        key = (boundary, name, alone, *size)
        groups.setdefault(key, []).append(system)
        if (len(groups[key]) + 1) * n_waves > _BATCH_WAVES:
            full.append((boundary, name, groups.pop(key)))
    return full + [(boundary, name, members) for (boundary, name, *_), members in groups.items()]


def _octave(count: int, least: int) -> int:
    return math.ceil(math.log2(max(count, least)))


def _fastest(n_atoms: int, n_waves: int, device: torch.device) -> str:
    if device.type != "cpu":
        return "mesh" if n_atoms >= _MESH_ATOMS else "direct"
    direct = _PRODUCT * n_atoms * n_waves
    if direct <= _START + _PER_WAVE * n_waves + _PER_ATOM * n_atoms:
        return "direct"
    return "nufft" if is_installed() else "mesh"
