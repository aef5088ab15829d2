r"""Charges and dipoles induced by the field of permanent moments, in one step.

With the potential and field of the permanent moments at each atom, its own share left out,

.. math::
    \Delta q_i = -\kappa_i (\Phi_i - \bar\Phi), \quad
    \bar\Phi = \frac{\sum \kappa \Phi}{\sum \kappa}, \quad
    \Delta u_i = \alpha_i E_i, \quad
    U = -\frac12 \sum_i \kappa_i (\Phi_i - \bar\Phi)^2 - \frac12 \sum_i E_i \alpha_i E_i

Induced moments do not act on each other. Subtracting the weighted mean keeps ``sum dq = 0`` in
every system; the energy's derivatives in ``Phi`` and ``-E`` are the induced moments, so in an
external field ``F = U0 - E_ext . (sum q r + u) + U`` has ``-dF/dE_ext`` equal to the total dipole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lesff.electrostatics.multipoles import Multipoles, multipole_energy
from lesff.electrostatics.settings import EwaldSettings
from lesff.errors import UnsupportedInputError
from lesff.graph import AtomGraph
from lesff.ops import segment_sum

_TINY = 1e-30
"""Keeps the mean potential finite where no atom of a system can be charged."""


@dataclass(frozen=True, kw_only=True)
class Induced:
    """Induced moments.

    Attributes:
        energy: (n_systems,) U in eV.
        charges: (n_atoms,) in e, summing to zero in every system.
        dipoles: (n_atoms, 3) in e A.
    """

    energy: Tensor
    charges: Tensor
    dipoles: Tensor


def induce(
    moments: Multipoles,
    graph: AtomGraph,
    settings: EwaldSettings,
    *,
    softness: Tensor | None = None,
    polarizability: Tensor | None = None,
    external_field: Tensor | None = None,
) -> Induced:
    """Moments induced by permanent ones and a field, and their energy, differentiable.

    Args:
        moments: Permanent moments.
        graph: Positions, cells and boundaries.
        settings: Constants; self energies have no influence.
        softness: (n_atoms,) kappa >= 0 in e^2 / eV; none if not given.
        polarizability: alpha in e^2 A^2 / eV, (n_atoms,) isotropic or (n_atoms, 3, 3) symmetric
            positive semidefinite; none if not given.
        external_field: (n_systems, 3) in V / A, molecules only.

    Raises:
        UnsupportedInputError: for a field in a periodic structure, and negative responses.
    """
    if external_field is not None and bool(graph.pbc.any()):
        raise UnsupportedInputError(
            "`external_field` must be absent for induction in periodic structures: the potential "
            "-E.r is not periodic; set pbc=False for a molecule"
        )
    for name, value in (("softness", softness), ("polarizability", polarizability)):
        lowest = None if value is None else _lowest(value)
        if lowest is not None and lowest < 0:
            raise UnsupportedInputError(f"`{name}` must not be negative, got {lowest:.3g}")
    potential, field = potential_and_field(moments, graph, settings)
    if external_field is not None:
        local = external_field[graph.batch]
        potential, field = potential - (local * graph.positions).sum(1), field + local
    n_systems, batch = graph.n_systems, graph.batch
    charges, dipoles = torch.zeros_like(potential), torch.zeros_like(field)
    atomic = torch.zeros_like(potential)
    if softness is not None:
        weight = segment_sum(softness + _TINY, batch, n_systems)
        mean = segment_sum((softness + _TINY) * potential, batch, n_systems) / weight
        deviation = potential - mean[batch]
        charges = -softness * deviation
        atomic = atomic + 0.5 * charges * deviation
    if polarizability is not None:
        isotropic = polarizability.ndim == 1
        dipoles = (
            polarizability[:, None] * field
            if isotropic
            else torch.einsum("nab,nb->na", polarizability, field)
        )
        atomic = atomic - 0.5 * (dipoles * field).sum(1)
    return Induced(energy=segment_sum(atomic, batch, n_systems), charges=charges, dipoles=dipoles)


def potential_and_field(
    moments: Multipoles, graph: AtomGraph, settings: EwaldSettings
) -> tuple[Tensor, Tensor]:
    """``dE/dq``, (n_atoms,) in V, and ``-dE/du``, (n_atoms, 3) in V/A, without self parts."""
    bare = EwaldSettings(
        sigma=settings.sigma, dl=settings.dl, prefactor=settings.prefactor, cutoff=settings.cutoff
    )
    inputs = (moments.charges, moments.dipoles, moments.quadrupoles, graph.positions, graph.cell)
    create_graph = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    with torch.enable_grad():
        q, u = (_twin(x, attached=create_graph) for x in (moments.charges, moments.dipoles))
        twin = Multipoles(charges=q, dipoles=u, quadrupoles=moments.quadrupoles)
        energy = multipole_energy(twin, graph, bare).sum()
        potential, slope = torch.autograd.grad(energy, [q, u], create_graph=create_graph)
    return potential, -slope


def _twin(x: Tensor, *, attached: bool) -> Tensor:
    return x.view_as(x) if attached and x.requires_grad else x.detach().requires_grad_()


def _lowest(value: Tensor) -> float:
    value = value.detach()
    if value.ndim == 3:
        value = torch.linalg.eigvalsh(value)
        # rank-deficient tensors have eigenvalues of the size of rounding on either side of zero
        value = value + 1e-6 * value.abs().amax()
    return float(value.min())
