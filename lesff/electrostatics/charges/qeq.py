r"""Charge equilibration (QEq) with the full Coulomb matrix of Gaussian charges.

.. math::
    W(q) = \frac12 q^T A q + \sum_i \left(\chi_i q_i + \frac12 J_i q_i^2\right), \qquad
    \sum_{i \in f} q_i = Q_f

(Rappe and Goddard, J. Phys. Chem. 95, 3358 (1991); Ko et al., Nat. Commun. 12, 398 (2021)). ``A``
is the latent Coulomb interaction including the energy of each Gaussian with itself, in crystals,
slabs and molecules alike. Without self terms ``A + J`` can be indefinite and charges come out with
the wrong sign, so ``remove_self_interaction`` has no influence here.

Derivatives. The solution obeys ``(A + J) q + B^T lambda = -chi``, ``B q = Q``, a symmetric system:
the adjoint of the solve is the same solve, so one more of it gives any gradient and the backward
pass is differentiable again. The minimum itself needs no adjoint (Hellmann-Feynman): ``dW = dW|_q -
lambda dQ``. A uniform field E enters as ``chi_i - E r_i``.

Adjoint of the solve, K = A + J. With gradients ``(g, h)`` of some L in ``(q, lambda)``, and ``(v,
mu)`` the solution for the right side ``(g, h)``,

.. math::
    \begin{pmatrix} K & B^T \\ B & 0 \end{pmatrix}
    \begin{pmatrix} dq \\ d\lambda \end{pmatrix}
    = \begin{pmatrix} db - dK\, q \\ dQ \end{pmatrix}
    \quad\Rightarrow\quad
    dL = g \cdot dq + h \cdot d\lambda = v \cdot db + \mu \cdot dQ - v^T dK\, q ,

because the matrix is its own transpose. ``v^T dK q`` is ``sum v_i q_i dJ_i`` and the derivative of
the Coulomb energy ``v^T A q`` in positions and cell.

Minimum. ``dW/dq_i = chi_i + (K q)_i = -(B^T lambda)_i``, so that in

.. math::
    dW = \frac{\partial W}{\partial q} \cdot dq + \sum_i \Bigl(q_i\, d\chi_i
       + \frac12 q_i^2\, dJ_i\Bigr) + \frac12 q^T dA\, q

the first term is ``-lambda . B dq = -lambda . dQ``: whatever the charges do when chi, J or
positions change, they keep their totals, and W is stationary against that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import Function

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.charges.equations import (
    DenseEquations,
    Equations,
    Fragments,
    IterativeEquations,
)
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, UnsupportedInputError

Solver = Literal["auto", "dense", "iterative"]

_DENSE_PERIODIC, _DENSE_OPEN = 600, 2500
"""Atoms of the largest system of a batch up to which the matrix is factorised, if any system is
periodic and if none is: on one CPU core (float32) factorisation and iteration take equally long
at some 700 atoms of a liquid; in open space the iteration takes 3 times as long at 1600 atoms, and
2500 atoms need 0.1 GB for the matrix and its factor."""
_TOTAL_TOLERANCE = 1e-4
"""e: largest difference of the fragments' totals from the total charge, rounding of float32."""


@dataclass(frozen=True)
class Equilibrium:
    """Charges at the minimum of W, differentiable to any order.

    Attributes:
        charges: (n_atoms,) in e.
        multipliers: (n_fragments,) lambda in eV / e; dW/dQ = -lambda.
        energy: (n_systems,) W in eV.
    """

    charges: Tensor
    multipliers: Tensor
    energy: Tensor


def equilibrate(
    electronegativity: Tensor,
    hardness: Tensor,
    graph: AtomGraph,
    settings: EwaldSettings,
    *,
    totals: Tensor | None = None,
    fragments: Tensor | None = None,
    solver: Solver = "auto",
) -> Equilibrium:
    """Charges that minimise W at given totals, and W.

    Args:
        electronegativity: (n_atoms,) chi in eV / e, with the potential of any external field.
        hardness: (n_atoms,) J in eV / e^2.
        graph: Positions, cells, boundaries and total charges.
        settings: Constants of the Coulomb energy.
        totals: (n_systems,) or, with ``fragments``, (n_fragments,) charges in e; the graph's
            total charges if not given.
        fragments: (n_atoms,) fragment of each atom, numbered from 0 through the batch.
        solver: ``"dense"``, ``"iterative"`` or ``"auto"``: by size.

    Raises:
        NotPositiveDefiniteError: if W has no minimum.
        ConvergenceError: if the iteration does not converge.
        UnsupportedInputError: for fragments that do not cover the atoms or totals that do not add
            up to the total charge.
        ConfigError: for an unknown solver.
    """
    if solver not in get_args(Solver):
        raise ConfigError(f"`solver` must be one of {', '.join(get_args(Solver))}, got {solver!r}")
    groups, totals = checked_totals(graph, totals, fragments)
    if solver == "auto":
        limit = _DENSE_PERIODIC if bool(graph.pbc.any()) else _DENSE_OPEN
        largest = int(graph.atoms_per_system().max())
        solver = "dense" if largest <= limit else "iterative"
    # the matrix as plain numbers: derivatives come from the autograd functions below
    equations: Equations
    if solver == "dense":
        equations = DenseEquations(hardness.detach(), graph, settings, groups)
    else:
        fixed = graph.replace(positions=graph.positions.detach(), cell=graph.cell.detach())
        equations = IterativeEquations(hardness, fixed, settings, groups)
    # self terms are part of A: each Gaussian has the hardness 2 ke / (sigma sqrt(2 pi)) of its own
    full = replace(settings, remove_self_interaction=False)
    problem = _Problem(equations, graph, full, groups)
    state = (hardness, graph.positions, graph.cell)
    # b = -chi: W is stationary where chi + K q + B^T lambda = 0
    charges, multipliers = _Solve.apply(-electronegativity, totals, *state, problem)  # pyright: ignore[reportGeneralTypeIssues]
    energy = _Minimum.apply(charges, multipliers, electronegativity, totals, *state, problem)
    return Equilibrium(charges, multipliers, energy)  # pyright: ignore[reportArgumentType]


def equilibrate_locally(
    electronegativity: Tensor,
    hardness: Tensor,
    graph: AtomGraph,
    *,
    totals: Tensor | None = None,
    fragments: Tensor | None = None,
) -> Tensor:
    r"""Charges that minimise ``sum chi q + J q^2 / 2`` without Coulomb matrix, (n_atoms,) in e.

    ``q_i = -(chi_i + lambda) / J_i`` with ``lambda = -(Q + sum chi/J) / sum 1/J``: the closed form
    of the diagonal problem. Linear cost, exact totals, no long-range response.

    Args:
        electronegativity: (n_atoms,) chi in eV / e.
        hardness: (n_atoms,) J > 0 in eV / e^2.
        graph: The batch.
        totals: See :func:`equilibrate`.
        fragments: See :func:`equilibrate`.
    """
    groups, totals = checked_totals(graph, totals, fragments)
    free = -electronegativity / hardness  # charges without totals
    excess = (groups.sum(free) - totals) / groups.sum(1.0 / hardness)  # lambda, (n_fragments,)
    return free - excess[groups.index] / hardness


def coulomb_potential(charges: Tensor, graph: AtomGraph, settings: EwaldSettings) -> Tensor:
    """``dE/dq`` of the latent energy, (n_atoms,) in eV / e, differentiable where gradients are on.

    Args:
        charges: (n_atoms,) in e.
        graph: Positions, cells and boundaries.
        settings: Constants.
    """
    # the potential A q is a function of charges, positions and cell
    inputs = (charges, graph.positions, graph.cell)
    create_graph = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    with torch.enable_grad():
        q = _alias(charges, attached=create_graph)
        energy = latent_energy(q, graph, settings)
        (potential,) = torch.autograd.grad(energy.sum(), q, create_graph=create_graph)
    return potential


def checked_totals(
    graph: AtomGraph, totals: Tensor | None, fragments: Tensor | None
) -> tuple[Fragments, Tensor]:
    """Fragments and their total charges.

    Raises:
        UnsupportedInputError: if they do not cover the atoms or do not add up.
    """
    if fragments is None:
        given = graph.total_charge if totals is None else totals
        if given.shape != (graph.n_systems,):
            raise UnsupportedInputError(
                f"`totals` must have one entry per structure ({graph.n_systems}), "
                f"got shape {tuple(given.shape)}"
            )
        return Fragments.whole_systems(graph), given
    if totals is None:
        raise UnsupportedInputError("`fragments` need `totals`, the charge of each of them")
    groups = Fragments.of(fragments, len(totals), graph)
    excess = segment_sum(totals, groups.system, graph.n_systems) - graph.total_charge
    bad = torch.nonzero(excess.abs() > _TOTAL_TOLERANCE).flatten().tolist()
    if bad:
        raise UnsupportedInputError(
            f"`totals` of the fragments of structure {bad[0]} must add up to its total charge "
            f"{float(graph.total_charge[bad[0]]):g}, they exceed it by {float(excess[bad[0]]):g}"
        )
    return groups, totals


@dataclass(frozen=True)
class _Problem:
    """What the autograd functions share; no gradients flow through it."""

    equations: Equations
    graph: AtomGraph
    settings: EwaldSettings
    fragments: Fragments

    def energy(self, q: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """``1/2 q^T A q`` of each system."""
        graph = self.graph.replace(positions=positions, cell=cell)
        return latent_energy(q, graph, self.settings)


def _alias(x: Tensor, *, attached: bool) -> Tensor:
    """A twin of ``x`` for partial derivatives: other tensors do not depend on it."""
    if attached and x.requires_grad:
        return x.view_as(x)
    return x.detach().requires_grad_()


class _Solve(Function):
    """``(b, Q) -> (q, lambda)``: symmetric, so its adjoint is itself.

    Hardness, positions and cell are arguments for the sake of their gradients; their values are in
    ``problem.equations`` already.
    """

    @staticmethod
    def forward(
        ctx: Any,
        right: Tensor,
        totals: Tensor,
        hardness: Tensor,
        positions: Tensor,
        cell: Tensor,
        problem: _Problem,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        charges, multipliers = problem.equations.solve(right, totals)
        ctx.problem = problem
        ctx.n_fragments = len(totals)
        ctx.save_for_backward(hardness, positions, cell, charges)
        return charges, multipliers

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_charges: Tensor | None, d_multipliers: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if d_charges is None and d_multipliers is None:  # only the minimum was used
            return (None,) * 6
        hardness, positions, cell, q = ctx.saved_tensors
        d_charges = torch.zeros_like(q) if d_charges is None else d_charges
        d_multipliers = q.new_zeros(ctx.n_fragments) if d_multipliers is None else d_multipliers
        # (v, mu): the gradients in b and Q
        v, mu = _Solve.apply(  # pyright: ignore[reportGeneralTypeIssues]
            d_charges, d_multipliers, hardness, positions, cell, ctx.problem
        )
        # -v^T dK q, term by term: J is diagonal
        d_hardness = -v * q if ctx.needs_input_grad[2] else None
        d_positions, d_cell = _cross_gradient(
            v, q, positions, cell, ctx.problem, ctx.needs_input_grad[3:5]
        )
        return v, mu, d_hardness, d_positions, d_cell, None


def _cross_gradient(
    v: Tensor,
    q: Tensor,
    positions: Tensor,
    cell: Tensor,
    problem: _Problem,
    needed: tuple[bool, bool],
) -> list[Tensor | None]:
    """``-d(v^T A q)`` with respect to positions and cell at fixed v and q.

    ``v^T A q = [E(s v + q) - E(s v - q)] / 2s`` with E = q^T A q / 2, the polarization identity of
    a quadratic form. It holds for any s; the one that makes both vectors equally large loses the
    fewest digits in the difference.
    """
    if not any(needed):
        return [None, None]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # aliases: v and q depend on positions and cell, too, but that is not asked for here
        r, h = (_alias(x, attached=create_graph) for x in (positions, cell))
        size = v.detach().norm()
        s = torch.where(size > 0, q.detach().norm() / size, 1.0)
        s = torch.where(s > 0, s, 1.0)  # any s will do where v or q is zero
        product = problem.energy(s * v + q, r, h) - problem.energy(s * v - q, r, h)
        inputs = [x for x, need in zip((r, h), needed, strict=True) if need]
        grads = iter(
            torch.autograd.grad(
                (-0.5 / s) * product.sum(), inputs, create_graph=create_graph, allow_unused=True
            )
        )
    return [next(grads) if need else None for need in needed]


class _Minimum(Function):
    """W at its minimum; its gradient does not pass through the charges.

    With G = dL/dW of each system the gradients of L are, by the last equation of the head,

    ==================  =========================  =====================================
    argument            gradient                   shape
    ==================  =========================  =====================================
    electronegativity   ``G q_i``                  (n_atoms,)
    totals              ``-G lambda_f``            (n_fragments,), by ``dW/dq = -B^T lambda``
    hardness            ``G q_i^2 / 2``            (n_atoms,)
    positions, cell     ``G d(q^T A q / 2)``       at fixed q
    charges             none                       stationary: ``dq`` enters as dQ only
    multipliers         none                       they are not in W
    ==================  =========================  =====================================

    Charges and multipliers are arguments all the same: these gradients are functions of them, and
    the second derivatives of W go through :class:`_Solve` to where they came from.
    """

    @staticmethod
    def forward(
        ctx: Any,
        charges: Tensor,
        multipliers: Tensor,
        electronegativity: Tensor,
        totals: Tensor,
        hardness: Tensor,
        positions: Tensor,
        cell: Tensor,
        problem: _Problem,
    ) -> Tensor:
        q = charges.detach()
        ctx.problem = problem
        # dE/dr and dE/dh are at hand when energies and forces are asked for together
        coulomb, d_positions, d_cell = _energy_gradient(
            q, positions, cell, problem, ctx.needs_input_grad[5:7]
        )
        ctx.save_for_backward(charges, multipliers, hardness, positions, cell, d_positions, d_cell)
        atomic = electronegativity * q + 0.5 * hardness * q * q
        return coulomb + segment_sum(atomic, problem.graph.batch, problem.graph.n_systems)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, multipliers, hardness, positions, cell, d_positions, d_cell = ctx.saved_tensors
        problem = ctx.problem
        g = grad[problem.graph.batch]  # G of each atom's system
        if torch.is_grad_enabled():
            # higher derivatives: the gradients in r and h at fixed q, as functions of q, r and h.
            # r and h are aliases, so that the path through the charges, q(r, h), is not in them;
            # q keeps that path for the next derivative.
            r, h = (_alias(x, attached=True) for x in (positions, cell))
            needed = ctx.needs_input_grad[5:7]
            inputs = [x for x, need in zip((r, h), needed, strict=True) if need]
            grads = iter(())
            if inputs:
                energy = (grad * problem.energy(q, r, h)).sum()
                grads = iter(
                    torch.autograd.grad(energy, inputs, create_graph=True, allow_unused=True)
                )
            d_positions, d_cell = (next(grads) if need else None for need in needed)
        else:
            # the plain numbers of the forward pass: [i, 1] x [i, xyz], [s, 1, 1] x [s, row, xyz]
            d_positions = None if d_positions is None else g[:, None] * d_positions
            d_cell = None if d_cell is None else grad[:, None, None] * d_cell
        # the only trace of the charges' own change: dW/dq . dq = -lambda . dQ
        d_totals = -multipliers * grad[problem.fragments.system]
        return None, None, q * g, d_totals, 0.5 * q * q * g, d_positions, d_cell, None


def _energy_gradient(
    q: Tensor, positions: Tensor, cell: Tensor, problem: _Problem, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``1/2 q^T A q`` and its gradient in positions and cell where needed, plain numbers."""
    if not any(needed):
        return problem.energy(q, positions, cell).detach(), None, None
    with torch.enable_grad():
        r, h = positions.detach(), cell.detach()
        inputs = [x.requires_grad_() for x, need in zip((r, h), needed, strict=True) if need]
        energy = problem.energy(q, r, h)
        grads = iter(torch.autograd.grad(energy.sum(), inputs, allow_unused=True))
    d_positions, d_cell = (next(grads) if need else None for need in needed)
    return energy.detach(), d_positions, d_cell
