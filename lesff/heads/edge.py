r"""Charges from antisymmetric transfers along edges: conserved without any global step.

.. math::
    q_i = N_i + \sum_j t_{ij}, \quad t_{ij} = -t_{ji}, \qquad
    P = \sum_i N_i r_i - \frac12 \sum_{ij} t_{ij} (r_j - r_i)

(bond charge increments; Bush, Bayly, Halgren, J. Comput. Chem. 20, 1495 (1999)). The sum of charges
is ``sum N_i = Q`` for any positions, so fragments out of each other's reach keep their charge, P
has one value in any cell, and its derivatives obey the acoustic sum rule exactly.

With ``residual`` N_i are the charges of a pretrained free head and transfers start at zero. Then
charges and energies are those of that head at the start, and the sum stays what that head makes it.

With a local state N_i are its charges, integers for fragments out of each other's reach, and atoms
without a covalent bond between them exchange 0.006 e at most: charge stays on its molecule. Ions
without bonds give at most 0.003 e of their charge to an atom, and take none of that sign.

On top of another head (``bases``) N_i are its charges, whatever they depend on.

With ``reference_charges`` N_i are those of the elements, shifted alike to the total charge, and
transfers start at zero: labels of a short-ranged teacher do not tell charges apart from short-range
interactions, and training goes on from where it starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff import kernels
from lesff.atoms.graph import AtomGraph, edge_vectors, first_edges
from lesff.atoms.segments import segment_sum, shift_to_total
from lesff.autograd import recorded_gradients
from lesff.errors import ConfigError
from lesff.heads.base import ChargeModel, HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import Layers, LongRangeConfig
from lesff.kernels import TransferLimits
from lesff.kernels.recording import all_zero
from lesff.nn.contacts import BOND_FULL, BOND_NONE, ClosePairs, Elements, plain_count
from lesff.nn.radial import BesselBasis
from lesff.nn.saturation import LINEAR_SHARE, saturated, smooth_step

_HIDDEN, _N_RADIAL, _POWER = 16, 8, 5
"""Hidden units, radial functions, and power of their cutoff: two smooth derivatives at least."""
_BETWEEN = 0.006
"""e, largest transfer between atoms without a bond in a model with a local state. Across a hydrogen
bond of water a few thousandths flow (Khaliullin, Bell, Head-Gordon, Chem. Eur. J. 15, 851 (2009));
without limit the transfers of a few dozen neighbours add up to whole charges."""
_FROM_IONS = 0.003
"""e, the same of ions without bonds, which some fifty atoms of a solvent surround: all together
they take 0.15 e: charge that a model has no better reason to move stays on its ion."""
_SOFT = 1e-3
"""e of a transfer, where its size is rounded off."""


@final
class EdgeHead(ChargeModel):
    """``"edge"``: see the module's text."""

    is_local = True
    extra_hops = 1  # a transfer reads the invariants of both ends
    limited_hops = 1  # and, within limits, what its neighbours take and give altogether

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        given = config.reference_charges
        if given is not None and len(given) != sizes.n_elements:
            raise ConfigError(
                "`long_range.reference_charges` must have one value per element "
                f"({sizes.n_elements}), got {len(given)}"
            )
        super().__init__(
            reference=None if given is None else torch.tensor(given, dtype=torch.float64)
        )
        self.readouts = make_readouts(config, sizes) if config.residual else None
        starts_at_zero = config.residual or given is not None or bool(config.bases)
        self.transfers = EdgeTransfers(
            sizes,
            layers=config.transfer_layers,
            starts_at_zero=starts_at_zero,
        )
        self.elements = Elements()
        # else N_i depend on positions
        self.has_polarization = self.readouts is None and not config.bases

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        moved = self._moved(x)
        if self.base is not None:
            return self.base.local(x) + moved
        if self.readouts is not None:
            return self.read(self.readouts, x) + moved
        # q_i = N_i + sum_j t_ij: what an atom takes over all edges that it receives
        start = self.element_charges(x.element)
        moved = x.with_state(moved)
        return moved if start is None else start.to(moved.dtype) + moved

    def references(self, x: HeadInput) -> Tensor:
        """``N_i`` without ``residual``, summing to the total charge, (n_atoms,) in e."""
        start = self.element_charges(x.element)
        if start is None:
            start = x.graph.positions.new_zeros(len(x.element))
        if x.state_charges is not None:
            return start.to(x.state_charges.dtype) + x.state_charges
        return _shifted(start.to(x.graph.positions.dtype), x.graph)

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; those of the head below, if any."""
        if self.base is None:
            return self.local(x)
        return self.base_at_potentials(x, potentials) + self._moved(x)

    def polarization(self, x: HeadInput) -> Tensor:
        """See :class:`HasPolarization`; in plain PyTorch, which has second derivatives."""
        pairs = x.neighbours()
        transfers = self.transfers.of_pairs(x, pairs)
        transfers = limited_transfers(
            transfers, pairs.distance, pairs, self.limits(x), self.elements
        )
        return transfer_polarization(self.references(x), transfers, x.graph)

    def _moved(self, x: HeadInput) -> Tensor:
        """What each atom takes from its neighbours, (n_atoms,) in e.

        With limits ``t_ij s_i s_j``, ``s_i = sat(B_i; L_i) / B_i`` with what atom i takes and gives
        altogether, ``B_i = sum_j |t_ij|``: no atom's charge changes by more than its limit, charge
        stays conserved, and nothing changes as long as all B_i are below 0.8 L_i.
        """
        pairs, limits = x.neighbours(), self.limits(x)
        transfers = self.transfers.of_pairs(x, pairs)
        if x.state_charges is not None:
            transfers = from_ions(transfers, pairs, x.state_charges, self.elements)
        fused = kernels.backend(transfers)
        if fused is None or not fused.has_contacts:
            return plain_moved(transfers, pairs.distance, pairs, limits, self.elements)
        return _FusedMoved.apply(transfers, pairs.distance, pairs, limits, self.elements, fused)  # pyright: ignore[reportReturnType]

    def limits(self, x: HeadInput) -> TransferLimits:
        """What the charge of atoms may change by, as the kernels take it."""
        return TransferLimits(
            radius=self.elements.radius,
            valence=self.elements.valence,
            atoms=x.limits,
            has_bonds=x.state_charges is not None,
            bond_full=BOND_FULL,
            bond_none=BOND_NONE,
            between=_BETWEEN,
            soft=_SOFT,
        )

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        if self.base is not None:
            below, moved = self.below(x), self._moved(x)
            latent = below.latent + moved
            return HeadOutput(
                local=below.local + moved,
                charges=below.charges + moved,
                latent=latent,
                coulomb=latent,
                potentials=below.potentials,
            )
        local = self.local(x)
        # without `residual` the shift does not depend on positions; the charges of the local state
        # have the total charge already
        has_total = self.readouts is not None or (
            x.state_charges is not None and self.reference is None
        )
        charges = local if has_total else _shifted(local, x.graph)
        return HeadOutput(local=local, charges=charges, latent=charges, coulomb=charges)


def plain_moved(
    transfers: Tensor,
    distance: Tensor,
    pairs: ClosePairs,
    limits: TransferLimits,
    elements: Elements,
) -> Tensor:
    """What each atom takes within limits, (n_atoms,) in e, in plain PyTorch."""
    transfers = limited_transfers(transfers, distance, pairs, limits, elements)
    # what the second atom takes, the first one gives
    taken = transfers.new_zeros(len(pairs.z)).index_add(0, pairs.second, transfers)
    return taken.index_add(0, pairs.first, transfers, alpha=-1)


def limited_transfers(
    transfers: Tensor,
    distance: Tensor,
    pairs: ClosePairs,
    limits: TransferLimits,
    elements: Elements,
) -> Tensor:
    """Charge that the second atom of each pair takes within limits, (n_pairs,) in e."""
    first, second, n_atoms = pairs.first, pairs.second, len(pairs.z)
    if limits.has_bonds:
        bond = elements.bond(replace(pairs, distance=distance))
        transfers = bond * transfers + (1.0 - bond) * saturated(transfers, limits.between)
    if limits.atoms is not None:
        # |t| with a slope everywhere: t^2 / sqrt(t^2 + e^2), less than |t| by 0.3 e at most
        square = transfers.square()
        size = square * torch.rsqrt(square + limits.soft**2)
        total = segment_sum(size, first, n_atoms).index_add(0, second, size)
        factor = saturated(total, limits.atoms) / total.clamp(min=limits.soft)
        factor = torch.where(total > LINEAR_SHARE * limits.atoms, factor, 1.0)
        transfers = transfers * factor.index_select(0, first) * factor.index_select(0, second)
    return transfers


def from_ions(transfers: Tensor, pairs: ClosePairs, charges: Tensor, elements: Elements) -> Tensor:
    """Transfers of which ions without bonds only give their charge away, (n_pairs,) in e.

    Args:
        transfers: (n_pairs,) charge that the second atom of each pair takes, of any sign.
        pairs: The pairs.
        charges: (n_atoms,) of the local state in e.
        elements: Tables by atomic number.
    """
    # liquids of closed shells have no ions
    if all_zero(charges):
        return transfers
    bonded = smooth_step(plain_count(pairs.distance, pairs, elements))
    ion = (1.0 - bonded) * charges
    # +-1 where the first atom is such a cation, or anion, or the second an anion, or cation
    excess = ion.index_select(0, pairs.first) - ion.index_select(0, pairs.second)
    share = smooth_step(excess.abs())
    square = transfers.square()
    size = saturated(square * torch.rsqrt(square + _SOFT**2), _FROM_IONS)
    return (1.0 - share) * transfers + torch.sign(excess) * share * size


class _FusedMoved(torch.autograd.Function):
    """Compiled :func:`plain_moved`, which gives second derivatives."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        transfers: Tensor,
        distance: Tensor,
        pairs: ClosePairs,
        limits: TransferLimits,
        elements: Elements,
        fused: kernels.Backend,
    ) -> Tensor:
        ctx.save_for_backward(transfers, distance)
        ctx.rest = pairs, limits, elements, fused
        return fused.transfers(transfers, distance, pairs, limits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        transfers, distance = ctx.saved_tensors
        pairs, limits, elements, fused = ctx.rest
        if torch.is_grad_enabled():
            out = recorded_gradients(
                lambda t, r: plain_moved(t, r, pairs, limits, elements),
                (transfers, distance),
                (True, limits.has_bonds),
                grads,
            )
        else:
            out = fused.transfers_backward(grads[0], transfers, distance, pairs, limits)
        return *out, None, None, None, None


class EdgeTransfers(nn.Module):
    """``t = w . [silu(u(i, j)) - silu(u(j, i))]``, ``u(i, j) = (A x_i + B x_j + C) . b(r_ij)``.

    Each hidden unit is a product of features, of the last layer or of all, and radial functions,
    which vanish at the cutoff.
    """

    def __init__(self, sizes: HeadSizes, *, layers: Layers = "last", starts_at_zero: bool) -> None:
        super().__init__()
        self.reads_all = layers == "all"
        channels = sizes.channels * (sizes.n_layers if self.reads_all else 1)
        self.sender = nn.Linear(channels, _HIDDEN, bias=False)
        self.receiver = nn.Linear(channels, _HIDDEN)
        self.radial = nn.Linear(_N_RADIAL, _HIDDEN, bias=False)
        self.basis = BesselBasis(cutoff=sizes.cutoff, n_basis=_N_RADIAL, p=_POWER)
        start = torch.zeros(_HIDDEN) if starts_at_zero else torch.randn(_HIDDEN)
        self.out = nn.Parameter(start)

    def forward(self, x: HeadInput) -> Tensor:
        """Charge that each edge's receiver takes from its sender, (n_edges,) in e."""
        graph = x.graph
        along = first_edges(graph)
        transfers = self.of_pairs(x, replace(x, pairs=None).neighbours())
        out = transfers.new_zeros(graph.n_edges).index_add(0, along, transfers)
        return out.index_add(0, graph.reverse_edge[along], transfers, alpha=-1)

    def of_pairs(self, x: HeadInput, pairs: ClosePairs) -> Tensor:
        """Charge that the second atom of each pair takes from the first, (n_pairs,) in e."""
        features = torch.cat(x.invariants, dim=1) if self.reads_all else x.invariants[-1]
        # b[p, h] from Bessel functions with the cutoff: transfers vanish smoothly with distance
        radial = self.radial(self.basis(pairs.distance, pairs.distance))
        # u[p, h] in both directions
        sender, receiver = self.sender(features), self.receiver(features)
        ahead = sender.index_select(0, pairs.first) + receiver.index_select(0, pairs.second)
        back = sender.index_select(0, pairs.second) + receiver.index_select(0, pairs.first)
        # antisymmetric: what i takes from j is what j gives, so charge is conserved exactly
        hidden = functional.silu(ahead * radial) - functional.silu(back * radial)
        return hidden @ (self.out * _HIDDEN**-0.5)


def transfer_polarization(references: Tensor, transfers: Tensor, graph: AtomGraph) -> Tensor:
    """``P = sum_i N_i r_i - 1/2 sum_ij t_ij (r_j - r_i)`` of each system, (n_systems, 3) in e A.

    Positions must be unwrapped along a trajectory where some N_i is not zero.

    Args:
        references: (n_atoms,) N_i in e.
        transfers: (n_pairs,) charge in e that the receiver takes from the sender, of the first edge
            of each pair.
        graph: The batch.
    """
    along = first_edges(graph)
    # charges N_i at their places, then each transfer times the vector it goes along
    total = segment_sum(references[:, None] * graph.positions, graph.batch, graph.n_systems)
    # t_ij is what i takes from j: the vector of that edge, from its sender j to i, is r_i - r_j
    moved = transfers[:, None] * edge_vectors(graph)[along]
    return total.index_add(0, graph.batch[graph.edge_index[1, along]], moved)


def _shifted(charges: Tensor, graph: AtomGraph) -> Tensor:
    return shift_to_total(charges, graph.batch, graph.total_charge, graph.atoms_per_system())
