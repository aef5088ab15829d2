r"""Charges and dipoles induced by the field of permanent moments, in one step.

With the potential and field of the permanent moments at each atom, its own share left out,

.. math::
    \Delta q_i = -\kappa_i (\Phi_i - \bar\Phi), \quad
    \bar\Phi = \frac{\sum \kappa \Phi}{\sum \kappa}, \quad
    \Delta u_i = \alpha_i E_i, \quad
    U = -\frac12 \sum_i \kappa_i (\Phi_i - \bar\Phi)^2 - \frac12 \sum_i E_i \alpha_i E_i

Induced moments do not act on each other. Subtracting the weighted mean keeps ``sum dq = 0`` in
every system, and ``sum kappa (Phi - mean) = 0``, so that the mean's own change does not enter the
derivative of U. The energy's derivatives in ``Phi`` and ``-E`` are the induced moments, so in an
external field ``F = U0 - E_ext . (sum q r + u) + U``, with ``Phi - E_ext . r`` and ``E + E_ext`` in
``U``, has ``-dF/dE_ext`` equal to the total dipole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.moments.field import check_field, site_potential
from lesff.electrostatics.moments.multipoles import Multipoles, multipole_energy, self_energies
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import UnsupportedInputError

_TINY = 1e-30
"""Keeps the mean potential finite where no atom of a system can be charged."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """Energy of permanent moments, and what they do to further ones.

    Attributes:
        energy: (n_systems,) in eV, with self energies as the settings say.
        potential: (n_atoms,) Phi in V at each atom, its own share left out.
        field: (n_atoms, 3) E in V/A, likewise.
    """

    energy: Tensor
    potential: Tensor
    field: Tensor


@dataclass(frozen=True, kw_only=True)
class Response:
    """How easily atoms are polarised; what is None is not.

    Attributes:
        softness: (n_atoms,) kappa >= 0 in e^2 / eV.
        shares: (n_atoms,) positive numbers proportional to the softness, for the mean potential of
            a softness that is zero everywhere; the softness itself by default.
        polarizability: alpha in e^2 A^2 / eV, (n_atoms,) isotropic or (n_atoms, 3, 3) symmetric
            positive semidefinite.
    """

    softness: Tensor | None = None
    shares: Tensor | None = None
    polarizability: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Induced:
    """Induced moments, and the energy gained by inducing them.

    Attributes:
        energy: (n_systems,) U in eV.
        atomic: (n_atoms,) its shares.
        charges: (n_atoms,) in e, summing to zero in every system.
        dipoles: (n_atoms, 3) in e A.
    """

    energy: Tensor
    atomic: Tensor
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
        external_field: (n_systems, 3) in V / A; along the normal of slabs, in crystals for dipoles
            only.

    Raises:
        UnsupportedInputError: for a field without a defined effect, and negative responses.
    """
    for name, value in (("softness", softness), ("polarizability", polarizability)):
        lowest = None if value is None else _lowest(value)
        if lowest is not None and lowest < 0:
            raise UnsupportedInputError(f"`{name}` must not be negative, got {lowest:.3g}")
    found = interact(moments, graph, settings)
    potential, field = found.potential, found.field
    if external_field is not None:
        graph = graph.replace(external_field=external_field)
        check_field(graph)
        if softness is not None and bool(graph.pbc.all(1).any()):
            raise UnsupportedInputError(
                "`external_field` must be absent for induced charges in crystals: the potential "
                "-E.r is not periodic; set pbc=False for a molecule"
            )
        potential, field = with_external(potential, field, graph)
    response = Response(softness=softness, polarizability=polarizability)
    return respond(potential, field, graph, response)


def interact(moments: Multipoles, graph: AtomGraph, settings: EwaldSettings) -> Interaction:
    """Energy of permanent moments, potential ``dE/dq`` and field ``-dE/du``, differentiable.

    Args:
        moments: Permanent moments.
        graph: Positions, cells and boundaries.
        settings: Constants.
    """
    # without self energies: an atom is not polarised by its own moments (images of it do count)
    bare = replace(settings, remove_self_interaction=True)
    inputs = [moments.charges, moments.dipoles, graph.positions, graph.cell]
    inputs += [] if moments.quadrupoles is None else [moments.quadrupoles]
    attached = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    with torch.enable_grad():
        # partial derivatives at fixed positions, whatever charges and dipoles were computed from
        q, u = (_twin(x, attached=attached) for x in (moments.charges, moments.dipoles))
        twin = Multipoles(charges=q, dipoles=u, quadrupoles=moments.quadrupoles)
        energy = multipole_energy(twin, graph, bare)
        potential, slope = torch.autograd.grad(energy.sum(), [q, u], create_graph=attached)
    energy = energy if attached else energy.detach()
    # the energy, unlike the potential, keeps self energies where the settings do
    if not settings.remove_self_interaction:
        own = self_energies(moments, settings)
        energy = energy + segment_sum(own, graph.batch, graph.n_systems)
    return Interaction(energy=energy, potential=potential, field=-slope)  # -u.E: field is -dE/du


def potential_and_field(
    moments: Multipoles, graph: AtomGraph, settings: EwaldSettings
) -> tuple[Tensor, Tensor]:
    """``dE/dq``, (n_atoms,) in V, and ``-dE/du``, (n_atoms, 3) in V/A, without self parts."""
    found = interact(moments, graph, settings)
    return found.potential, found.field


def with_external(potential: Tensor, field: Tensor, graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Potential and field with those of the graph's external field added.

    In crystals the potential ``-E.r`` is left out: it is not periodic.

    Args:
        potential: (n_atoms,) in V.
        field: (n_atoms, 3) in V/A.
        graph: The batch.
    """
    external = site_potential(graph)
    if external is None or graph.external_field is None:
        return potential, field
    return potential + external, field + graph.external_field[graph.batch]


def respond(potential: Tensor, field: Tensor, graph: AtomGraph, response: Response) -> Induced:
    """Moments that a potential and a field induce.

    Args:
        potential: (n_atoms,) in V, external ones included.
        field: (n_atoms, 3) in V/A, likewise.
        graph: The batch.
        response: Softness and polarizability.
    """
    n_systems, batch = graph.n_systems, graph.batch
    charges, dipoles = torch.zeros_like(potential), torch.zeros_like(field)
    atomic = torch.zeros_like(potential)
    if response.softness is not None:
        # the mean weighted with kappa, in each system: sum dq = -sum kappa (Phi - mean) = 0
        shares = response.softness + _TINY if response.shares is None else response.shares
        weight = segment_sum(shares, batch, n_systems)
        mean = segment_sum(shares * potential, batch, n_systems) / weight
        deviation = potential - mean[batch]
        charges = -response.softness * deviation  # minus: charge leaves high potentials
        # half of dq Phi: the other half is spent on making dq
        atomic = atomic + 0.5 * charges * deviation
    alpha = response.polarizability
    if alpha is not None:
        # alpha E, [i] x [i, x] or [i, x, y] @ [i, y, 1]; and half of -du.E, as for charges
        isotropic = alpha.ndim == 1
        dipoles = alpha[:, None] * field if isotropic else (alpha @ field[:, :, None])[:, :, 0]
        atomic = atomic - 0.5 * (dipoles * field).sum(1)
    return Induced(
        energy=segment_sum(atomic, batch, n_systems),
        atomic=atomic,
        charges=charges,
        dipoles=dipoles,
    )


def _twin(x: Tensor, *, attached: bool) -> Tensor:
    """A tensor of the same values for partial derivatives: nothing else depends on it."""
    return x.view_as(x) if attached and x.requires_grad else x.detach().requires_grad_()


def _lowest(value: Tensor) -> float:
    """Smallest entry of (n_atoms,), or smallest eigenvalue of (n_atoms, 3, 3)."""
    value = value.detach()
    if value.ndim == 3:
        value = torch.linalg.eigvalsh(value)
        # rank-deficient tensors have eigenvalues of the size of rounding on either side of zero
        value = value + 1e-6 * value.abs().amax()
    return float(value.min())
