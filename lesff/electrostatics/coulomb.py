"""Latent Ewald summation: one energy for a batch of crystals, slabs and molecules.

Boundaries follow ``pbc``, never the determinant of the cell: three periodic directions are a
crystal, two a slab open along its normal, none a molecule. Wires (one) are refused.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.sums.finite_size import makov_payne_correction
from lesff.electrostatics.sums.pair_sum import check_boundaries, pair_sum
from lesff.electrostatics.sums.plan import CoulombPlan, WaveSum, plan_coulomb
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError

FiniteSizeCorrection = Literal["makov-payne"]


def latent_energy(
    charges: Tensor,
    graph: AtomGraph,
    settings: EwaldSettings,
    evaluator: WaveSum = "auto",
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
        plan: What :func:`.plan.plan_coulomb` found for this batch of crystals and molecules;
            boundaries are then not checked again and ``evaluator`` is the plan's.

    Raises:
        UnsupportedInputError: for wires, slabs that look wrapped, cells with too many wave vectors.
        ConfigError: for an unknown evaluator or correction.
    """
    if evaluator not in get_args(WaveSum):
        raise ConfigError(
            f"`evaluator` must be one of {', '.join(get_args(WaveSum))}, got {evaluator!r}"
        )
    if finite_size_correction not in (None, "makov-payne"):
        raise ConfigError(
            "`finite_size_correction` must be None or 'makov-payne', "
            f"got {finite_size_correction!r}"
        )
    cell = graph.cell
    # a plan is for crystals and molecules only, whose sums run in the cells as given; slabs get
    # auxiliary ones here
    if plan is None:
        check_boundaries(graph.pbc)
        plan, cell = plan_coulomb(graph, settings, evaluator)
    energy = pair_sum(charges, graph, settings, plan, cell)
    if finite_size_correction == "makov-payne":
        energy = energy + makov_payne_correction(charges, graph, settings)
    return energy
