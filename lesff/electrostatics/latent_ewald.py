"""Latent Ewald summation: one energy for a batch of crystals, slabs and molecules.

Boundaries follow ``pbc``, never the determinant of the cell: three periodic directions are a
crystal, two a slab open along its normal, none a molecule. Wires (one) are refused.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lesff.electrostatics.ewald import periodic_energy
from lesff.electrostatics.finite_size import makov_payne_correction
from lesff.electrostatics.groups import (
    OPEN,
    SLAB,
    TRANSFORMS,
    CoulombPlan,
    Evaluator,
    SystemGroup,
    plan_coulomb,
)
from lesff.electrostatics.open_boundary import open_energy
from lesff.electrostatics.settings import EwaldSettings
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.graph import AtomGraph

FiniteSizeCorrection = Literal["makov-payne"]


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
    plan: CoulombPlan | None = None,
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
        plan: What :func:`.groups.plan_coulomb` found for this batch of crystals and molecules;
            boundaries are then not checked again and ``evaluator`` is the plan's.

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
    cell = graph.cell
    if plan is None:
        check_boundaries(graph.pbc)
        plan, cell = plan_coulomb(graph, settings, evaluator)
    energy = _grouped_energy(charges, graph, settings, plan, cell)
    if finite_size_correction == "makov-payne":
        energy = energy + makov_payne_correction(charges, graph, settings)
    return energy


def _grouped_energy(
    charges: Tensor, graph: AtomGraph, settings: EwaldSettings, plan: CoulombPlan, cell: Tensor
) -> Tensor:
    energy = charges.new_zeros(graph.n_systems)
    for group in plan.groups:
        if group.systems is None or group.atoms is None:
            return _energy(charges, graph.positions, cell, group, settings)
        q, r = charges[group.atoms], graph.positions[group.atoms]
        part = _energy(q, r, cell[group.systems], group, settings)
        energy = energy.index_add(0, group.systems, part)
    return energy


def _energy(
    q: Tensor, r: Tensor, cell: Tensor, group: SystemGroup, settings: EwaldSettings
) -> Tensor:
    batch, padding = group.batch, group.padding
    if group.boundary == OPEN:
        return open_energy(q, r, batch, len(cell), settings, padding=padding)
    is_slab = group.boundary == SLAB
    transform = TRANSFORMS[group.evaluator]
    return periodic_energy(
        q, r, cell, batch, settings, transform, slab=is_slab, padding=padding, grid=group.grid
    )
