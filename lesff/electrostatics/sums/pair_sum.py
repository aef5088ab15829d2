"""A pair interaction of a batch of crystals, slabs and molecules, group by group."""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.sums.ewald import periodic_energy
from lesff.electrostatics.sums.open_boundary import open_energy
from lesff.electrostatics.sums.plan import OPEN, SLAB, TRANSFORMS, CoulombPlan, SystemGroup
from lesff.electrostatics.sums.settings import PairSettings
from lesff.errors import UnsupportedInputError


def check_boundaries(pbc: Tensor) -> None:
    """Refuse wires: systems periodic in one direction, for which there is no sum here.

    Args:
        pbc: (n_systems, 3) bool.

    Raises:
        UnsupportedInputError: if a system is periodic in one direction only.
    """
    wires = torch.nonzero(pbc.sum(1) == 1).flatten().tolist()
    if wires:
        raise UnsupportedInputError(
            "`pbc` must be True in three directions (crystal), two (slab) or none (molecule) for a "
            f"model with long-range electrostatics or dispersion, got {pbc[wires[0]].tolist()} "
            f"(structure {wires[0]}); for a wire set atoms.pbc = True with vacuum in the cell"
        )


def pair_sum(
    charges: Tensor, graph: AtomGraph, settings: PairSettings, plan: CoulombPlan, cell: Tensor
) -> Tensor:
    """Energy of every system, (n_systems,) in eV.

    Args:
        charges: (n_atoms,) charges in e, or the coefficients of another interaction.
        graph: Positions and boundaries.
        settings: The interaction.
        plan: Groups of systems.
        cell: (n_systems, 3, 3) in A, the cells of the sums, that :func:`.plan_coulomb` gives.
    """
    energy = charges.new_zeros(graph.n_systems)
    for group in plan.groups:
        q, r = charges, graph.positions
        # molecules of one system may be far apart, so that rounded positions lose their distances:
        # the sum over pairs runs in float64, a small part of a step
        if group.boundary == OPEN and graph.exact is not None:
            q, r = charges.to(torch.float64), graph.exact.positions
        if group.systems is None or group.atoms is None:  # the only group: the batch as it is
            return _energy(q, r, cell, group, settings).to(charges.dtype)
        # (n_systems of the group,)
        part = _energy(q[group.atoms], r[group.atoms], cell[group.systems], group, settings)
        energy = energy.index_add(0, group.systems, part.to(charges.dtype))
    return energy


def _energy(
    q: Tensor, r: Tensor, cell: Tensor, group: SystemGroup, settings: PairSettings
) -> Tensor:
    """Energy of the systems of one group by the sum that belongs to their boundary.

    Args:
        q: (n_atoms of the group,) charges.
        r: (n_atoms of the group, 3) positions in A.
        cell: (n_systems of the group, 3, 3) in A.
        group: The group.
        settings: The interaction.
    """
    batch, padding = group.batch, group.padding
    if group.boundary == OPEN:
        return open_energy(q, r, batch, len(cell), settings, padding=padding)
    # a slab is a crystal of slabs with vacuum between them, unless the kernel can be cut there
    slab = group.boundary == SLAB and settings.truncates_images
    transform = TRANSFORMS[group.evaluator]
    return periodic_energy(
        q, r, cell, batch, settings, transform, slab=slab, padding=padding, grid=group.grid
    )
