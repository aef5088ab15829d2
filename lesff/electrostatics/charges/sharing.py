"""What is lacking to a total charge, shared out by weights; charges that layers pass on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lesff.atoms.segments import segment_sum


@dataclass(frozen=True, kw_only=True)
class CarriedCharges:
    """Charges that an architecture makes and passes on between its layers.

    Attributes:
        local: (n_atoms,) before they are last brought to the total charge, in e.
        charges: (n_atoms,) in e.
        potentials: (n_systems, n_potentials) numbers by which they depend on their whole system.
    """

    local: Tensor
    charges: Tensor
    potentials: Tensor


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


def shared_nearby(
    charges: Tensor,
    weights: Tensor,
    targets: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    floor: float = 0.0,
) -> Tensor:
    """``q_i + w_i sum_j K_ij (t_j - q_j) / (sum_k K_jk w_k + floor)`` with ``K_ii = 1``.

    The sum becomes that of the targets, but for the floor, and an atom that lacks nothing and whose
    neighbours lack nothing keeps its charge. With K one for all pairs of a system it is
    :func:`shared`.

    Args:
        charges: (n_atoms,) before, in e.
        weights: (n_atoms,) w, not negative.
        targets: (n_atoms,) t in e.
        pairs: Two atoms of each pair of neighbours and K, (n_pairs,) each.
        floor: See :func:`shared`.
    """
    first, second, near = pairs

    def gathered(own: Tensor) -> Tensor:
        """Sum over an atom and its neighbours."""
        total = own.index_add(0, first, near * own.index_select(0, second))
        return total.index_add(0, second, near * own.index_select(0, first))

    return charges + weights * gathered((targets - charges) / (gathered(weights) + floor))
