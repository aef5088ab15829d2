"""What is lacking to a total charge, shared out by weights; charges that layers pass on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.atoms.segments import segment_sum
from lesff.autograd import recorded_gradients
from lesff.kernels.molecules import (
    MoleculeInputs,
    molecule_charges,
    molecule_charges_backward,
)


@dataclass(frozen=True, kw_only=True)
class CarriedCharges:
    """Charges that an architecture makes and passes on between its layers.

    Attributes:
        local: (n_atoms,) before they are last brought to the total charge, in e.
        charges: (n_atoms,) in e.
        potentials: (n_systems, n_potentials) numbers by which they depend on their whole system;
            None if they do not.
    """

    local: Tensor
    charges: Tensor
    potentials: Tensor | None


def shared(
    charges: Tensor,
    weights: Tensor,
    totals: Tensor,
    batch: Tensor,
    potential: Tensor | None = None,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``q + w lambda`` with ``lambda = (Q - sum q) / (sum w + floor)`` of each system.

    Args:
        charges: (n_atoms,) before, in e.
        weights: (n_atoms,), not negative.
        totals: (n_systems,) Q in e.
        batch: (n_atoms,) system of each atom.
        potential: (n_systems,) lambda that is given instead.
        floor: With one above zero systems without weights keep their charges, and others miss the
            total by the share ``floor / (sum w + floor)`` of what is shared out.

    Returns:
        The charges, and lambda, (n_systems,).
    """
    if potential is None:
        n_systems = len(totals)
        missing = totals - segment_sum(charges, batch, n_systems)
        potential = missing / (segment_sum(weights, batch, n_systems) + floor)
    return charges + weights * potential.index_select(0, batch), potential


@dataclass(frozen=True, kw_only=True)
class Bonds:
    """Bonds of a batch.

    Attributes:
        strength: (n_pairs,) from zero to one.
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
    """

    strength: Tensor
    first: Tensor
    second: Tensor


_FULL = 1.0 - 1e-6
"""Bonds from here on are full: what they conduct is without limit."""


def shared_in_molecules(
    charges: Tensor, weights: Tensor, targets: Tensor, bonds: Bonds, floor: float = 0.0
) -> Tensor:
    r"""``q_i + w_i u_i``, the sum over each molecule that of the targets.

    The potentials u solve

    .. math::
        (w_i + \epsilon_i) u_i + \sum_j c_{ij} (u_i - u_j) = t_i - q_i

    with conductances ``c = b / (1 - b)`` of the bonds b: none without a bond, and no limit for a
    full one. Atoms that full bonds join have one potential, that of :func:`shared`, whichever other
    atoms there are; a molecule that comes apart becomes two smoothly. The floor of a group is
    one, however many atoms it has.

    Args:
        charges: (n_atoms,) q in e.
        weights: (n_atoms,) w, not negative.
        targets: (n_atoms,) t in e; their sum over a molecule counts alone.
        bonds: Which atoms are joined.
        floor: See :func:`shared`.
    """
    inputs = (charges, weights, targets, bonds.strength)
    if kernels.is_active(charges):
        return _FusedMolecules.apply(*inputs, bonds, floor)  # pyright: ignore[reportReturnType]
    return plain_molecules(*inputs, bonds, floor)


def plain_molecules(
    charges: Tensor, weights: Tensor, targets: Tensor, strength: Tensor, bonds: Bonds, floor: float
) -> Tensor:
    """See :func:`shared_in_molecules`; in plain PyTorch, differentiable twice."""
    molecules = _bonded_groups(replace(bonds, strength=strength), len(charges))
    group, n_atoms = molecules.group, len(charges)
    # of each group, at the row of one of its atoms
    missing = segment_sum(targets - charges, group, n_atoms)
    total = segment_sum(weights, group, n_atoms) + floor
    joined = molecules.joined
    if len(joined):
        solved = _joined_potentials(missing, total, molecules)
        # their quotients count nothing, and must have derivatives all the same
        total = total.index_fill(0, joined, 1.0)
        potential = (missing / total).index_copy(0, joined, solved)
    else:
        potential = missing / total
    return charges + weights * potential.index_select(0, group)


class _FusedMolecules(torch.autograd.Function):
    """Compiled :func:`plain_molecules`, which gives second derivatives."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        charges: Tensor,
        weights: Tensor,
        targets: Tensor,
        strength: Tensor,
        bonds: Bonds,
        floor: float,
    ) -> Tensor:
        ctx.save_for_backward(charges, weights, targets, strength)
        ctx.rest = replace(bonds, strength=strength.detach()), floor
        return molecule_charges(_inputs(charges, weights, targets, strength, bonds, floor))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, rest = ctx.saved_tensors, ctx.rest
        if torch.is_grad_enabled():
            need = ctx.needs_input_grad[:4]
            out = recorded_gradients(lambda *x: plain_molecules(*x, *rest), inputs, need, grads)
        else:
            out = molecule_charges_backward(grads[0], _inputs(*inputs, *rest))
        return *out, None, None


def _inputs(
    charges: Tensor, weights: Tensor, targets: Tensor, strength: Tensor, bonds: Bonds, floor: float
) -> MoleculeInputs:
    return MoleculeInputs(
        charges=charges,
        weights=weights,
        targets=targets,
        bond=strength,
        first=bonds.first,
        second=bonds.second,
        full=_FULL,
        floor=floor,
    )


def _joined_potentials(missing: Tensor, total: Tensor, molecules: _BondedGroups) -> Tensor:
    """Potentials of the groups that bonds join in part, (n_joined,)."""
    rows, (first, second) = molecules.joined, molecules.ends
    matrix = torch.diag(total.index_select(0, rows).double())
    for i, j in ((first, second), (second, first)):
        matrix = matrix.index_put((i, i), molecules.conductance, accumulate=True)
        matrix = matrix.index_put((i, j), -molecules.conductance, accumulate=True)
    right = missing.index_select(0, rows).double()
    return torch.linalg.solve(matrix, right).to(missing.dtype)


@dataclass(frozen=True, kw_only=True)
class _BondedGroups:
    """Atoms that full bonds join, and bonds between such groups that are there in part.

    Attributes:
        group: (n_atoms,) the first atom of the group of each atom.
        joined: (n_joined,) groups that partial bonds join.
        ends: Rows of ``joined`` at both ends of each partial bond, (n_partial,) each.
        conductance: (n_partial,) ``b / (1 - b)``, in float64.
    """

    group: Tensor
    joined: Tensor
    ends: tuple[Tensor, Tensor]
    conductance: Tensor


def _bonded_groups(bonds: Bonds, n_atoms: int) -> _BondedGroups:
    """Groups of the atoms of a batch."""
    bond, first, second = bonds.strength, bonds.first, bonds.second
    with torch.no_grad():
        is_full = bond >= _FULL
        group = _connected(first[is_full], second[is_full], n_atoms)
        ends = group[first], group[second]
        partial = torch.nonzero((bond > 0.0) & ~is_full & (ends[0] != ends[1])).flatten()
        both = torch.stack([ends[0][partial], ends[1][partial]])
        joined, rows = torch.unique(both, return_inverse=True)
    b = bond.index_select(0, partial).double()
    return _BondedGroups(
        group=group, joined=joined, ends=(rows[0], rows[1]), conductance=b / (1.0 - b)
    )


def _connected(first: Tensor, second: Tensor, n_atoms: int) -> Tensor:
    """The first atom of those that pairs connect, (n_atoms,)."""
    group = torch.arange(n_atoms, device=first.device)
    while True:
        # both ends take the lower number, and atoms that of the atom that they point to
        low = torch.minimum(group[first], group[second])
        found = group.scatter_reduce(0, first, low, "amin").scatter_reduce(0, second, low, "amin")
        found = found.scatter_reduce(0, group[first], low, "amin")
        found = found.scatter_reduce(0, group[second], low, "amin")
        found = found[found]
        if torch.equal(found, group):
            return group
        group = found
