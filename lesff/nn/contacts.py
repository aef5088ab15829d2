r"""Close pairs: distances that level off, walls, and how open bonds leave an atom.

The wall below everything learned has two parts: the repulsion of the nuclei, and crowding,
``C max(0, k_i - m[z_i])^2`` with the bonds k_i of an atom beyond the most that its element has
anywhere (a penalty for over-coordination as in ReaxFF: van Duin et al., J. Phys. Chem. A 105, 9396
(2001), in a form of ours). Without it three learned bonds are worth more than two, and clusters of
overlapping molecules become ever denser.

A hydrogen has one bond to give: with ``shares_protons`` its bonds to several atoms share it, and
nearly all of it belongs to the closest,

.. math::
    b'_{iH} = b_{iH} f_{iH}, \qquad f_{iH} = \frac{b_{iH} w_{iH}}{\sum_k b_{kH} w_{kH}}, \qquad
    w_{iH} = e^{-r_{iH} / (0.2 (R_i + R_H))}

(ours). A proton on its way from one atom to another then takes its charge along, halfway in the
middle. Without it both atoms have a whole bond when a hydrogen bond is shortened to 1.25 of the
sum of radii: chloride beside water would lose its charge there within 0.4 A.

One pass over the pairs in the compiled library where there is one; the functions ``plain_...`` are
the same in plain PyTorch, and give second derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from lesff import kernels
from lesff.atoms.segments import segment_sum
from lesff.autograd import recorded_gradients
from lesff.kernels import ContactTables
from lesff.nn.radial import ScreenedRepulsion
from lesff.nn.saturation import from_below, smooth_step

INNER_WIDTH = 0.08
"""w of :class:`InnerCutoff`, in shares of the sum of covalent radii."""

VALENCES: dict[int, int] = {
    **dict.fromkeys((1, 9, 17, 35, 53), 1),
    **dict.fromkeys((8, 16, 34, 52), 2),
    **dict.fromkeys((5, 7, 15, 33), 3),
    **dict.fromkeys((6, 14, 32), 4),
}
"""Bonds of a neutral atom with full shells (octet rule; boron: its sextet). Other elements count
as open always: their charge is not a matter of counting bonds."""

ONIUM = (5, 7, 8, 15, 16, 33, 34, 52)
"""Elements with one more bond in common ions (BH4-, NH4+, H3O+, PH4+, SH3+, ...) or hypervalent
groups: more bonds than the valence open them, too."""

BOND_FULL, BOND_NONE = 1.25, 1.55
"""Shares of the sum of covalent radii up to which a pair counts as one bond, and from which as
none. Bonds are at 0.77 (N2) to 1.2 (H2), hydrogen bonds of liquid water at 1.9."""

OF_MULTIPLE_BONDS = (5, 6, 7, 8)
"""Elements of strong double and triple bonds, which lose their charge over a longer way when they
break: :meth:`Elements.joined` may go further for pairs of them."""

SHARING_WIDTH = 0.2
"""In which the shares of two atoms in a hydrogen differ by a factor of e, in shares of the sum of
covalent radii: one has 0.85 and the other 0.15 of it where its distances differ by 0.35 of that."""
_LEAST = 1e-9
"""Of the sum of weights: atoms whose only bond is about to end have no share to divide by."""

OPEN_FROM, OPEN_FULL = 0.15, 0.85
"""Missing bonds from which an atom begins to be open, and is."""

MOST_BONDS = {1: 2, 5: 7, 6: 5, 7: 4, 8: 4, 9: 2}
"""Bonds as counted here that no molecule or crystal goes beyond: hydrogen bonds in their middle and
B-H-B, boron's icosahedra with their bonds outwards, CH5+ and bicyclo[1.1.1]pentane, NH4+, ice X."""
MOST_OF_OTHERS = 8
MOST_OF_IONS = {7: 4, 8: 3}
"""Bonds beyond which an atom is in a crowd and no ion: those of NH4+ and H3O+; of others the most
that they have anywhere."""
_FADING = 0.1
"""Share of the cutoff in which :meth:`Elements.joined` fades out."""
CROWDING = 1.5
"""eV of one bond too many, and as much of its other atom if that is crowded, too. With twice as
much, molecules that are pushed through each other fall as their atoms pass; with none, clusters of
overlapping molecules collapse."""


@dataclass(frozen=True, kw_only=True)
class ClosePairs:
    """Pairs of neighbours as the functions here take them.

    Attributes:
        distance: (n_pairs,) in A.
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
        z: (n_atoms,) atomic numbers.
    """

    distance: Tensor
    first: Tensor
    second: Tensor
    z: Tensor


@dataclass(frozen=True, kw_only=True)
class AtomContacts:
    """What close pairs say of every atom; (n_atoms,) each.

    Attributes:
        wall: Repulsion of the nuclei and crowding in eV; empty without a wall.
        openness: 0 for atoms whose bonds are full and for crowded ones, 1 for open ones.
        bonded: 0 for atoms without covalent bonds, 1 from one bond on.
        lacks: 1, or 0 for atoms with more bonds than their valence; without gradient.
    """

    wall: Tensor
    openness: Tensor
    bonded: Tensor
    lacks: Tensor


class Elements(nn.Module):
    """Tables by atomic number: covalent radii in A, valences, elements with onium ions."""

    def __init__(self) -> None:
        super().__init__()
        valence = torch.zeros(len(covalent_radii), dtype=torch.float64)
        onium = torch.zeros_like(valence)
        for z, count in VALENCES.items():
            valence[z] = count
        onium[list(ONIUM)] = 1.0
        multiple = torch.zeros_like(valence)
        multiple[list(OF_MULTIPLE_BONDS)] = 1.0
        most = torch.full_like(valence, MOST_OF_OTHERS)
        for z, count in MOST_BONDS.items():
            most[z] = count
        self.register_buffer("radius", torch.tensor(covalent_radii), persistent=False)
        self.register_buffer("valence", valence, persistent=False)
        self.register_buffer("onium", onium, persistent=False)
        self.register_buffer("multiple", multiple, persistent=False)
        self.register_buffer("most", most, persistent=False)
        counted = most.clone()
        for z, count in MOST_OF_IONS.items():
            counted[z] = count
        self.register_buffer("counted", counted, persistent=False)
        self.radius: Tensor
        self.valence: Tensor
        self.onium: Tensor
        self.multiple: Tensor
        self.most: Tensor
        self.counted: Tensor

    def bond(self, pairs: ClosePairs) -> Tensor:
        """1 for bonds, 0 for pairs without, (n_pairs,); 1 for all pairs of metals."""
        return torch.where(self.may_bond(pairs), self.close(pairs.distance, pairs), 1.0)

    def may_bond(self, pairs: ClosePairs) -> Tensor:
        """Whether contacts are covalent: not those of metals and noble gases, (n_pairs,)."""
        return (self.valence[pairs.z[pairs.first]] > 0) & (self.valence[pairs.z[pairs.second]] > 0)

    def close(self, distance: Tensor, pairs: ClosePairs) -> Tensor:
        """1 for pairs of any elements as close as bonds, falling smoothly to 0, (n_pairs,)."""
        return smooth_step((BOND_NONE - self.share(distance, pairs)) / (BOND_NONE - BOND_FULL))

    def joined(self, pairs: ClosePairs, cutoff: float, until: float | None = None) -> Tensor:
        """:meth:`close`, 0 from the cutoff on.

        Args:
            pairs: The pairs.
            cutoff: In A.
            until: Share of the sum of covalent radii from which pairs of
                :data:`OF_MULTIPLE_BONDS` are not joined; None for that of all others.
        """
        inside = smooth_step((1.0 - pairs.distance / cutoff) / _FADING)
        if until is None:
            return self.close(pairs.distance, pairs) * inside
        share = self.share(pairs.distance, pairs)
        both = self.multiple[pairs.z[pairs.first]] * self.multiple[pairs.z[pairs.second]]
        end = BOND_NONE + (until - BOND_NONE) * both.to(share.dtype)
        return smooth_step((end - share) / (end - BOND_FULL)) * inside

    def share(self, distance: Tensor, pairs: ClosePairs) -> Tensor:
        """Distances in sums of covalent radii, (n_pairs,)."""
        z = pairs.z
        return distance / (self.radius[z[pairs.first]] + self.radius[z[pairs.second]]).to(
            distance.dtype
        )

    def tables(
        self,
        start: float = 1.0,
        crowding: float = 0.0,
        wall_from: float = 0.0,
        wall_stiffness: float = 0.0,
        *,
        shares_protons: bool = False,
    ) -> ContactTables:
        """For the compiled library, with s of the inner cutoff and parts of the wall."""
        return ContactTables(
            radius=self.radius,
            valence=self.valence,
            onium=self.onium,
            most=self.most,
            counted=self.counted,
            inner_start=start,
            inner_width=INNER_WIDTH,
            bond_full=BOND_FULL,
            bond_none=BOND_NONE,
            open_from=OPEN_FROM,
            open_full=OPEN_FULL,
            crowding=crowding,
            wall_from=wall_from,
            wall_stiffness=wall_stiffness,
            sharing_width=SHARING_WIDTH if shares_protons else 0.0,
        )


class InnerCutoff(nn.Module):
    """Distances as they are down to a share of the sum of covalent radii, levelling off below.

    ``r -> R [s - w levelled((s - r/R) / w)]`` for r < s R, with ``w = 0.08``: whatever is learned
    of such distances hardly changes with them below ``(s - 2 w) R``, where nothing was learned, so
    that the repulsion of the nuclei alone decides there.

    Args:
        start: s.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start
        self.elements = Elements()

    def forward(self, pairs: ClosePairs) -> Tensor:
        """(n_pairs,) distances in A, none shorter than given."""
        fused = kernels.backend(pairs.distance)
        if fused is None or not fused.has_contacts:
            return plain_inner(pairs.distance, pairs, self.elements, self.start)
        return _FusedInner.apply(pairs.distance, pairs, self.elements, self.start, fused)  # pyright: ignore[reportReturnType]


class Contacts(nn.Module):
    """Wall and openness of every atom.

    In training mode (:meth:`torch.nn.Module.train`) nothing is crowded: crowding is a barrier
    around what labels say, and weights trained on the difference would learn to undo it.

    Args:
        has_wall: Whether the wall is asked for.
        counts_bonds: Whether atoms with too many bonds are a part of it.
        wall_from: s of the inner cutoff for a repulsion minus what it is at the distances that
            level off, or 0 for all of it.
        wall_stiffness: k of :func:`plain_gap` in eV; without effect if ``wall_from`` is 0.
        shares_protons: Whether the bonds of a hydrogen share the one that it has to give.
    """

    def __init__(
        self,
        *,
        has_wall: bool,
        counts_bonds: bool = True,
        wall_from: float = 0.0,
        wall_stiffness: float = 0.0,
        shares_protons: bool = False,
    ) -> None:
        super().__init__()
        self.has_wall = has_wall
        self.counts_bonds = counts_bonds
        self.wall_from = wall_from
        self.wall_stiffness = wall_stiffness
        self.shares_protons = shares_protons
        self.elements = Elements()
        self.repulsion = ScreenedRepulsion()

    @property
    def crowding(self) -> float:
        """Energy of one bond too many in eV."""
        return CROWDING if self.counts_bonds and not self.training else 0.0

    def tables(self) -> ContactTables:
        """For the compiled library."""
        return self.elements.tables(
            crowding=self.crowding,
            wall_from=self.wall_from,
            wall_stiffness=self.wall_stiffness,
            shares_protons=self.shares_protons,
        )

    def forward(self, pairs: ClosePairs) -> AtomContacts:
        """See :class:`AtomContacts`."""
        fused = kernels.backend(pairs.distance)
        if fused is None or not fused.has_contacts:
            found = self.plain(pairs.distance, pairs)
        else:
            found = _FusedContacts.apply(pairs.distance, pairs, self, fused)
        wall, openness, bonded, lacks = found  # pyright: ignore[reportGeneralTypeIssues]
        return AtomContacts(wall=wall, openness=openness, bonded=bonded, lacks=lacks)

    def plain(self, distance: Tensor, pairs: ClosePairs) -> tuple[Tensor, ...]:
        """Fields of :class:`AtomContacts` in plain PyTorch, differentiable twice."""
        count = plain_count(distance, pairs, self.elements)
        wall = distance.new_empty(0)
        if self.has_wall:
            wall = plain_wall(distance, pairs, self.repulsion)
            if self.wall_from:
                seen = plain_inner(distance, pairs, self.elements, self.wall_from)
                wall = wall - plain_wall(seen, pairs, self.repulsion)
                if self.wall_stiffness:
                    # k ((r' - r) / R)^2
                    gap = plain_gap(distance, seen, pairs, self.elements)
                    wall = wall + _halves(self.wall_stiffness * gap.square(), pairs)
            wall = wall + self.crowding * plain_excess(count, pairs, self.elements).square()
        if self.shares_protons:
            count = plain_shared_count(distance, pairs, self.elements)
        return wall, *plain_bonds(count, pairs, self.elements)


def plain_inner(distance: Tensor, pairs: ClosePairs, elements: Elements, start: float) -> Tensor:
    """See :class:`InnerCutoff`."""
    radius, z = elements.radius, pairs.z
    bond = (radius[z[pairs.first]] + radius[z[pairs.second]]).to(distance.dtype)
    return from_below(distance, start * bond, INNER_WIDTH * bond)


def plain_wall(distance: Tensor, pairs: ClosePairs, repulsion: ScreenedRepulsion) -> Tensor:
    """Repulsion of the nuclei, (n_atoms,) in eV; half of a pair's energy for each of its atoms."""
    z = pairs.z
    return _halves(repulsion(distance, z[pairs.first], z[pairs.second]), pairs)


def plain_gap(distance: Tensor, seen: Tensor, pairs: ClosePairs, elements: Elements) -> Tensor:
    """What levelling off adds to distances, in sums of covalent radii, (n_pairs,).

    ``(r' - r) / R = w (u - levelled(u))`` with ``u = (s - r/R) / w``: zero from s R outwards,
    ``w u^5 / 4`` just below, rising ever more steeply towards ``s - w - r/R``. Its square has nine
    continuous derivatives.

    Args:
        distance: r in A.
        seen: r' in A, from :func:`plain_inner`.
        pairs: The pairs.
        elements: Covalent radii.
    """
    radius, z = elements.radius, pairs.z
    bond = (radius[z[pairs.first]] + radius[z[pairs.second]]).to(distance.dtype)
    return (seen - distance) / bond


def _halves(energy: Tensor, pairs: ClosePairs) -> Tensor:
    """Half of a pair's energy (n_pairs,) for each of its atoms, (n_atoms,)."""
    half, n_atoms = 0.5 * energy, len(pairs.z)
    return segment_sum(half, pairs.first, n_atoms) + segment_sum(half, pairs.second, n_atoms)


def plain_count(distance: Tensor, pairs: ClosePairs, elements: Elements) -> Tensor:
    """Covalent bonds of every atom, (n_atoms,)."""
    # b[p] from one to zero
    bond, n_atoms = elements.close(distance, pairs) * elements.may_bond(pairs), len(pairs.z)
    # k[i] = sum of the pairs at i
    return segment_sum(bond, pairs.first, n_atoms) + segment_sum(bond, pairs.second, n_atoms)


def plain_shared_count(distance: Tensor, pairs: ClosePairs, elements: Elements) -> Tensor:
    """Covalent bonds of every atom where hydrogens share theirs, (n_atoms,)."""
    first, second, n_atoms = pairs.first, pairs.second, len(pairs.z)
    # b[p] from one to zero, and what it weighs among the bonds of a hydrogen
    bond = elements.close(distance, pairs) * elements.may_bond(pairs)
    weight = bond * torch.exp((1.0 - elements.share(distance, pairs)) / SHARING_WIDTH)
    total = segment_sum(weight, first, n_atoms) + segment_sum(weight, second, n_atoms)
    # k[i] = sum_p b[p] f[p], f the share that the other atom gives
    shares = weight / (total[torch.stack([second, first])] + _LEAST)
    is_hydrogen = pairs.z[torch.stack([second, first])] == 1
    of_first, of_second = bond * torch.where(is_hydrogen, shares, 1.0)
    return segment_sum(of_first, first, n_atoms) + segment_sum(of_second, second, n_atoms)


def plain_excess(count: Tensor, pairs: ClosePairs, elements: Elements) -> Tensor:
    """Bonds of every atom beyond the most of its element, (n_atoms,)."""
    return (count - elements.most[pairs.z].to(count.dtype)).clamp(min=0.0)


def plain_bonds(
    count: Tensor, pairs: ClosePairs, elements: Elements
) -> tuple[Tensor, Tensor, Tensor]:
    """``openness``, ``bonded`` and ``lacks`` of :class:`AtomContacts`, of counted bonds.

    Atoms with more bonds than any ion are closed again: water pressed together is no crowd of
    ions.
    """
    z = pairs.z
    valence = elements.valence[z].to(count.dtype)
    # bonds missing; for some elements bonds in excess open, too
    lacking = valence - count
    missing = torch.where(elements.onium[z] > 0, lacking.abs(), lacking)
    is_open = smooth_step((missing - OPEN_FROM) / (OPEN_FULL - OPEN_FROM))
    # nothing can be counted in a crowd
    beyond = count - elements.counted[z].to(count.dtype)
    is_open = is_open * (1.0 - smooth_step((beyond - OPEN_FROM) / (OPEN_FULL - OPEN_FROM)))
    openness = torch.where(valence > 0, is_open, 1.0)
    lacks = torch.where((valence > 0) & (lacking < 0), 0.0, torch.ones_like(count))
    return openness, smooth_step(count), lacks.detach()


class _FusedInner(torch.autograd.Function):
    """Compiled :class:`InnerCutoff`; second derivatives go through plain PyTorch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        distance: Tensor,
        pairs: ClosePairs,
        elements: Elements,
        start: float,
        fused: kernels.Backend,
    ) -> Tensor:
        found = fused.contacts(
            distance, pairs.first, pairs.second, pairs.z, elements.tables(start), inner=True
        )
        ctx.save_for_backward(distance, found.d_inner)
        ctx.rest = pairs, elements, start
        return found.inner

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        distance, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            pairs, elements, start = ctx.rest
            (out,) = recorded_gradients(
                lambda r: plain_inner(r, pairs, elements, start), (distance,), (True,), grads
            )
            return out, None, None, None, None
        return grads[0] * slope, None, None, None, None


class _FusedContacts(torch.autograd.Function):
    """Compiled :class:`Contacts`; second derivatives go through plain PyTorch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, distance: Tensor, pairs: ClosePairs, module: Contacts, fused: kernels.Backend
    ) -> tuple[Tensor, ...]:
        atoms = pairs.first, pairs.second, pairs.z
        found = fused.contacts(distance, *atoms, module.tables(), wall=module.has_wall, bonds=True)
        ctx.save_for_backward(
            distance, found.d_wall, found.d_bond, found.d_open, found.d_bonded, found.d_crowd
        )
        ctx.rest = pairs, module, fused
        ctx.mark_non_differentiable(found.lacks)
        return found.wall, found.openness, found.bonded, found.lacks

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        distance, d_wall, d_bond, d_open, d_bonded, d_crowd = ctx.saved_tensors
        pairs, module, fused = ctx.rest
        first, second = pairs.first, pairs.second
        if torch.is_grad_enabled():
            # what is not asked for is empty, and no function of the distances
            n_used = slice(0 if module.has_wall else 1, 3)
            (out,) = recorded_gradients(
                lambda r: module.plain(r, pairs)[n_used], (distance,), (True,), grads[n_used]
            )
            return out, None, None, None
        # slopes of what atoms get by their bonds, shared or whole, and those of a pair
        atom, of_shared = grads[1] * d_open + grads[2] * d_bonded, None
        if module.shares_protons:
            of_shared = fused.shared_bonds_backward(
                atom, distance, first, second, pairs.z, module.tables()
            )
            atom = torch.zeros_like(atom)
        if module.has_wall:
            atom = torch.addcmul(atom, grads[0], d_crowd)
        both = atom.index_select(0, first) + atom.index_select(0, second)
        out = both * d_bond
        if of_shared is not None:
            out = out + of_shared
        if module.has_wall:
            half = 0.5 * grads[0]
            both = half.index_select(0, first) + half.index_select(0, second)
            out = torch.addcmul(out, both, d_wall)
        return out, None, None, None
