r"""Potential of point charges at the atoms, their energy with the atoms' moments, and the forces.

The charge of an atom is a Gaussian density ``exp(-r^2 / sigma^2)``, that whose pairs have the
kernel of :mod:`lesff.electrostatics.sums.gaussian_kernel`. With a point charge ``Q`` at distance r
it has the energy ``ke q Q erf(r / sigma) / r``: the Fourier transform of one Gaussian is
``exp(-sigma^2 k^2 / 4)``, that of a pair its square. So the potential at atom i and the enthalpy
are

.. math::
    \Phi_i = k_e \sum_j Q_j \frac{\operatorname{erf}(r_{ij} / \sigma)}{r_{ij}}, \quad
    F = U + \sum_i q_i \Phi_i + u_i \cdot \nabla \Phi_i
        + \tfrac12 Q_i : \nabla\nabla \Phi_i .

``U`` is as in :mod:`lesff.electrostatics.moments.field`: the energy at the charges that the
potential leaves. Then ``dF/dPhi_i = q_i`` at fixed positions (Hellmann-Feynman), so that forces on
the point charges are those of the moments as they are. Interactions among the point charges are not
part of it.

In a box the sum runs over all images by Ewald's method, with conducting surroundings and a
uniform background behind net charges, as the sums of the model and as particle-mesh Ewald: the
part ``erf(r / sigma) - erf(r / eta)`` over the nearest images, ``erf(r / eta)`` over wave
vectors, with ``eta`` such that what is left out of either is below ``1e-6`` of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lesff.atoms.cell import cell_volume, inverse_cell
from lesff.atoms.graph import AtomGraph
from lesff.atoms.point_charges import PointCharges
from lesff.electrostatics.sums.ewald import common_grid, wave_weights
from lesff.electrostatics.sums.gaussian_kernel import kernel_derivatives
from lesff.electrostatics.sums.plan import TRANSFORMS, fastest
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.electrostatics.sums.structure_factor import site_sum, structure_factor
from lesff.errors import UnsupportedInputError
from lesff.units import COULOMB_CONSTANT

_REACH = 3.8
"""erfc(3.8) = 8e-8, exp(-3.8^2) = 5e-7: where sums over images and wave vectors end."""


@dataclass(frozen=True, kw_only=True)
class SitePotential:
    """Potential of charges elsewhere at each atom, with its derivatives by position.

    Attributes:
        value: (n_atoms,) in V.
        gradient: (n_atoms, 3) in V/A, or None if not asked for.
        hessian: (n_atoms, 3, 3) in V/A^2, likewise.
    """

    value: Tensor
    gradient: Tensor | None = None
    hessian: Tensor | None = None


def check_point_charges(graph: AtomGraph) -> None:
    """Refuse point charges around slabs and wires.

    Raises:
        UnsupportedInputError: for one or two periodic directions.
    """
    if graph.point_charges is None:
        return
    mixed = torch.nonzero(graph.pbc.any(1) & ~graph.pbc.all(1)).flatten().tolist()
    if mixed:
        raise UnsupportedInputError(
            "`point_charges` need `pbc` in three directions or in none, got "
            f"{graph.pbc[mixed[0]].tolist()} (structure {mixed[0]}): for a slab use a cell with "
            "vacuum and three periodic directions"
        )


def potential_of(
    charges: PointCharges, graph: AtomGraph, settings: EwaldSettings, order: int = 0
) -> SitePotential:
    """Potential of point charges at the atoms, differentiable in positions of both.

    Args:
        charges: The point charges.
        graph: Atoms, cells and boundaries; the cell has no gradient.
        settings: Width of the atoms' charges.
        order: Highest derivative: 0 for charges, 1 for dipoles, 2 for quadrupoles.
    """
    parts = []
    for system, is_periodic in enumerate(graph.pbc.all(1).tolist()):
        atoms = graph.positions[graph.batch == system].to(torch.float64)
        chosen = charges.batch == system
        points, values = charges.positions[chosen], charges.charges[chosen]
        cell = graph.cell[system].detach().to(torch.float64) if is_periodic else None
        parts.append(_potential(atoms, points, values, cell, settings.sigma, order))
    # e/A to V; per derivative, the atoms of all systems: the batch is ascending
    joined = [COULOMB_CONSTANT * torch.cat(part) for part in zip(*parts, strict=True)]
    return SitePotential(
        value=joined[0],
        gradient=joined[1] if order > 0 else None,
        hessian=joined[2] if order > 1 else None,
    )


def coupling(
    potential: SitePotential,
    charges: Tensor,
    dipoles: Tensor | None = None,
    quadrupoles: Tensor | None = None,
) -> Tensor:
    """``q Phi + u.grad Phi + Q:grad grad Phi / 2`` of every atom, (n_atoms,) in eV, float64.

    Args:
        potential: At the atoms, with the derivatives that the moments need.
        charges: (n_atoms,) in e, summing to the total charge of each system.
        dipoles: (n_atoms, 3) in e A, if any.
        quadrupoles: (n_atoms, 3, 3) traceless primitive second moments in e A^2, if any.
    """
    energy = charges * potential.value
    if dipoles is not None and potential.gradient is not None:
        energy = energy + (dipoles * potential.gradient).sum(1)
    if quadrupoles is not None and potential.hessian is not None:
        energy = energy + 0.5 * (quadrupoles * potential.hessian).sum((1, 2))
    return energy.to(torch.float64)


def forces_on_points(
    points: PointCharges,
    graph: AtomGraph,
    settings: EwaldSettings,
    charges: Tensor,
    dipoles: Tensor | None = None,
    quadrupoles: Tensor | None = None,
) -> Tensor:
    """Forces of the atoms' moments on the point charges, (n_points, 3) in eV/A.

    Minus the slope of :func:`coupling` at fixed moments, which is that of the enthalpy.

    Args:
        points: The point charges.
        graph: Atoms, cells and boundaries.
        settings: Width of the atoms' charges.
        charges: (n_atoms,) in e, summing to the total charge of each system; float64.
        dipoles: (n_atoms, 3) in e A, if any.
        quadrupoles: (n_atoms, 3, 3) in e A^2, if any.
    """
    if dipoles is not None or quadrupoles is not None:
        order = 1 if quadrupoles is None else 2
        with torch.enable_grad():
            leaf = points.positions.detach().requires_grad_()
            moving = PointCharges(positions=leaf, charges=points.charges, batch=points.batch)
            at_sites = potential_of(moving, graph, settings, order)
            energy = coupling(at_sites, charges, dipoles, quadrupoles).sum()
            (slope,) = torch.autograd.grad(energy, [leaf])
        return -slope
    # charges only: the kernel is symmetric, the slope of the atoms' potential at the points
    forces = torch.zeros_like(points.positions)
    for system, is_periodic in enumerate(graph.pbc.all(1).tolist()):
        atoms, chosen = graph.batch == system, points.batch == system
        cell = graph.cell[system].detach().to(torch.float64) if is_periodic else None
        places, sites = points.positions[chosen], graph.positions[atoms].to(torch.float64)
        found = _potential(places, sites, charges[atoms], cell, settings.sigma, 1)
        forces[chosen] = -COULOMB_CONSTANT * points.charges[chosen, None] * found[1]
    return forces


def _potential(
    atoms: Tensor, points: Tensor, values: Tensor, cell: Tensor | None, sigma: float, order: int
) -> list[Tensor]:
    """As :func:`_derivatives`, in a box or, without a cell, in open space."""
    if cell is not None:
        return _in_box(atoms, points, values, cell, sigma, order)
    d = atoms[:, None] - points
    return _derivatives(d, values, _kernel(d, sigma, order), order)


def _kernel(d: Tensor, width: float, order: int) -> list[Tensor]:
    """``erf(r / width) / r`` and derivatives by r^2; see the module's text for the width."""
    return kernel_derivatives((d * d).sum(-1), width / math.sqrt(2.0), order)


def _derivatives(d: Tensor, values: Tensor, kernel: list[Tensor], order: int) -> list[Tensor]:
    """Potential and derivatives up to ``order`` at the atoms, in e/A, e/A^2, e/A^3.

    Args:
        d: (n_atoms, n_points, 3), atom minus point.
        values: (n_points,) charges.
        kernel: Its derivatives by r^2, (n_atoms, n_points) each.
        order: Highest derivative.
    """
    # i: atom, j: point, a, b: Cartesian
    found = [kernel[0] @ values]
    if order == 0:
        return found
    slope = 2.0 * kernel[1] * values  # dK/dr_a = 2 K' d_a
    found.append(torch.einsum("ij,ija->ia", slope, d))
    if order > 1:
        # d2K/dr_a dr_b = 2 K' delta_ab + 4 K'' d_a d_b
        eye = torch.eye(3, dtype=d.dtype, device=d.device)
        bend = torch.einsum("ij,ija,ijb->iab", 4.0 * kernel[2] * values, d, d)
        found.append(bend + slope.sum(1)[:, None, None] * eye)
    return found


def _in_box(
    atoms: Tensor, points: Tensor, values: Tensor, cell: Tensor, sigma: float, order: int
) -> list[Tensor]:
    """As :func:`_derivatives`, of the points and all their images.

    Args:
        atoms: (n_atoms, 3) in A.
        points: (n_points, 3) in A.
        values: (n_points,) charges.
        cell: (3, 3) in A.
        sigma: Width in A of the atoms' charges.
        order: Highest derivative.
    """
    inverse = inverse_cell(cell[None])[0]
    # half the least distance of lattice planes: within it the nearest image is the only one
    radius = 0.5 / float(inverse.norm(dim=0).max())
    eta = max(radius / _REACH, sigma)
    d = atoms[:, None] - points
    d = d - ((d.detach() @ inverse).round() @ cell)
    short = [
        first - second
        for first, second in zip(_kernel(d, sigma, order), _kernel(d, eta, order), strict=True)
    ]
    found = _derivatives(d, values, short, order)
    long = _over_waves(atoms, points, values, cell, inverse, eta, order)
    found = [first + second for first, second in zip(found, long, strict=True)]
    # neither part keeps its mean over the cell: that of the first is the integral of its kernel
    volume = cell_volume(cell[None])[0]
    found[0] = found[0] - math.pi * (eta**2 - sigma**2) * values.sum() / volume
    return found


def _over_waves(
    atoms: Tensor,
    points: Tensor,
    values: Tensor,
    cell: Tensor,
    inverse: Tensor,
    eta: float,
    order: int,
) -> list[Tensor]:
    """Part of the kernel ``erf(r / eta) / r``; arguments as :func:`_in_box`."""
    # exp(-eta^2 k^2 / 4) ends at eta k / 2 = _REACH
    waves = EwaldSettings(sigma=eta / math.sqrt(2.0), dl=math.pi * eta / _REACH)
    grid = common_grid(cell[None], waves.dl)
    transform = TRANSFORMS[fastest(len(points), grid.size, points.device)]
    weights = wave_weights(inverse[None], slice(None), grid, waves, None)
    # S_n of the points, then the adjoint sum at the atoms: [system, channel, n1, n2, n3]
    factor = structure_factor(values[None, None], (points @ inverse)[None], grid, transform)
    volume = cell_volume(cell[None])[0]
    c = 4.0 * math.pi / volume * weights[:, None] * factor
    if order > 1:  # d_a phi(c) = phi(-2 pi i n_a c)
        slopes = [-2j * math.pi * grid.along(axis, points) * c for axis in range(3)]
        c = torch.cat([c, *slopes], dim=1)
    phi, slope = site_sum(c, (atoms @ inverse)[None], grid, transform)
    # s = r h^-1: d/dr_x = sum_j h^-1[x, j] d/ds_j
    found = [phi[0, 0], slope[0, 0] @ inverse.T]
    if order > 1:
        # [a, i, b] fractional to [i, x, y] Cartesian
        found.append(torch.einsum("xa,aib,yb->ixy", inverse, slope[0, 1:], inverse))
    return found[: order + 1]
