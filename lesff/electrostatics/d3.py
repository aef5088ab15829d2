r"""Dispersion D3 with Becke-Johnson damping: coefficients that follow the environment of an atom.

.. math::
    E = -\sum_{i < j} C_6^{ij} \Bigl[\frac{s_6}{r^6 + R^6} + \frac{s_8\, \rho}{r^8 + R^8}\Bigr],
    \quad \rho = 3 Q_i Q_j, \quad R = a_1 \sqrt\rho + a_2

(Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010); Grimme, Ehrlich, Goerigk, J.
Comput. Chem. 32, 1456 (2011)), with a smooth count of neighbours and coefficients between those of
reference molecules A, B with counts ``N_A``, ``N_B``:

.. math::
    N_i = \sum_j \frac{1}{1 + e^{-16 ((r_i + r_j) / r_{ij} - 1)}}, \quad
    C_6^{ij} = \sum_{AB} p_A(N_i)\, p_B(N_j)\, C_6^{AB}, \quad
    p_A(N) \propto e^{-4 (N - N_A)^2} .

The published form divides by the sum over both; it is the same, as counts of references do not
depend on the partner. Molecules: all pairs. Crystals and slabs: pairs up to a cutoff, where energy
and count go to zero smoothly; it takes some 1e-4 eV from an atom of a liquid, about the same in all
its states. No three-body term. Tables are part of a model's weights, in atomic units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.atoms.graph import AtomGraph, vectors_between
from lesff.atoms.neighbors import find_pairs
from lesff.atoms.segments import segment_sum
from lesff.autograd import recomputed, recorded_gradients
from lesff.errors import ConfigError
from lesff.kernels.d3 import D3Atoms, D3Tables, d3_gradients, d3_shares
from lesff.units import BOHR, HARTREE

_STEEPNESS, _WIDTH = 16.0, 4.0
"""k1 and k3 of D3 (2010), eqs. 15 and 16."""
_FADE = 0.8
"""Share of the cutoff from which pairs of crystals fade out."""
_MAX_REFERENCES = 100
_BLOCK_PAIRS = 2**18
"""Pairs whose tables are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class D3Config:
    """D3(BJ) of a functional; part of a model's configuration.

    Attributes:
        s6: Scale of the ``r^-6`` term.
        s8: Scale of the ``r^-8`` term.
        a1: Share of the radius in the damping.
        a2: Constant part of the damping radius in Bohr.
        cutoff: In A, of pairs in crystals and slabs.
        n_references: Reference molecules of an element at most.
    """

    s6: float = 1.0
    s8: float
    a1: float
    a2: float
    cutoff: float = 15.0
    n_references: int = 5

    def __post_init__(self) -> None:
        """Raise ConfigError for values without meaning."""
        for name in ("s6", "s8", "a1", "a2"):
            value = getattr(self, name)
            if not 0.0 <= value < 1000.0:
                raise ConfigError(f"`d3.{name}` must be in [0, 1000), got {value!r}")
        if not 1.0 <= self.cutoff <= 100.0:
            raise ConfigError(f"`d3.cutoff` must be in [1, 100] A, got {self.cutoff!r}")
        if not 1 <= self.n_references <= _MAX_REFERENCES:
            raise ConfigError(
                f"`d3.n_references` must be from 1 to {_MAX_REFERENCES}, got {self.n_references!r}"
            )


@dataclass(frozen=True)
class D3Pairs:
    """Pairs of a batch, each once.

    Attributes:
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
        shifts: (n_pairs, 3) cell shifts, as those of edges from ``first`` to ``second``.
        fades: (n_pairs,) bool, pairs of crystals and slabs, which end at the cutoff.
    """

    first: Tensor
    second: Tensor
    shifts: Tensor
    fades: Tensor

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Both atoms."""
        return self.first, self.second

    def split(self, size: int) -> list[D3Pairs]:
        """Blocks of at most so many pairs."""
        fields = (self.first, self.second, self.shifts, self.fades)
        return [
            D3Pairs(*parts) for parts in zip(*(torch.split(x, size) for x in fields), strict=True)
        ]


class D3(nn.Module):
    """D3(BJ) of a model; its tables are weights that nothing trains.

    Args:
        config: Constants.
        elements: Atomic numbers of the model.
    """

    def __init__(self, config: D3Config, elements: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        n, k = len(elements), config.n_references

        def table(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        # C6[z, z', A, B]; counts of references N[z, A]; covalent radii, times 4/3; Q[z]; most
        # neighbours that an element is counted
        self.register_buffer("c6", table(n, n, k, k))
        self.register_buffer("counts", table(n, k))
        self.register_buffer("radius", table(n))
        self.register_buffer("size", table(n))
        self.register_buffer("most", table(n))
        self.c6: Tensor
        self.counts: Tensor
        self.radius: Tensor
        self.size: Tensor
        self.most: Tensor

    def forward(self, graph: AtomGraph, element: Tensor) -> Tensor:
        """Energy of every atom, half of each of its pairs, (n_atoms,) in eV, float64.

        Args:
            graph: The batch.
            element: (n_atoms,) row of each atom's element in the tables.
        """
        systems, pairs = open_systems(graph), listed_pairs(graph, self.config.cutoff)
        vectors = vectors_between(graph, pairs.first, pairs.second, pairs.shifts)
        positions = graph.positions if graph.exact is None else graph.exact.positions
        positions, vectors = positions.to(torch.float64), vectors.to(torch.float64)
        if kernels.is_active(positions):
            return _Shares.apply(positions, vectors, self, element, systems, pairs)  # pyright: ignore[reportReturnType]
        return self.plain_shares(positions, vectors, element, systems, pairs)

    @property
    def tables(self) -> D3Tables:
        """What compiled kernels take."""
        config = self.config
        return D3Tables(
            s6=config.s6,
            s8=config.s8,
            a1=config.a1,
            a2=config.a2,
            cutoff=config.cutoff,
            fade=_FADE,
            steepness=_STEEPNESS,
            width=_WIDTH,
            c6=self.c6,
            counts=self.counts,
            radius=self.radius,
            size=self.size,
            most=self.most,
        )

    def plain_shares(
        self,
        positions: Tensor,
        vectors: Tensor,
        element: Tensor,
        systems: Tensor,
        listed: D3Pairs,
    ) -> Tensor:
        """The same in plain PyTorch, differentiable to any order.

        Args:
            positions: (n_atoms, 3) in A, float64.
            vectors: (n_pairs, 3) of the listed pairs in A, float64.
            element: (n_atoms,) row of each atom's element in the tables.
            systems: (n_open, 2) of molecules.
            listed: Pairs of other systems.
        """
        n_atoms = len(element)
        pairs = all_pairs(systems, listed)
        between = [positions.index_select(0, x[: len(x) - len(vectors)]) for x in pairs.ends]
        vectors = torch.cat([between[1] - between[0], vectors])
        blocks = torch.split(vectors, _BLOCK_PAIRS)
        parts = pairs.split(_BLOCK_PAIRS)
        # N[i], p[i, A], then u[i, z', B] = sum_A p[i, A] C6[z_i, z', A, B]
        bonds = [
            _kept(lambda v, p=part: self._bonds(v, p, element), block)
            for block, part in zip(blocks, parts, strict=True)
        ]
        share = self.shares(_to_atoms(bonds, pairs, n_atoms), element)
        mixed = torch.einsum("ia,izab->izb", share, self.c6[element])
        halves = [
            _kept(lambda v, m, s, p=part: self._halves(v, m, s, p, element), block, mixed, share)
            for block, part in zip(blocks, parts, strict=True)
        ]
        return _to_atoms(halves, pairs, n_atoms)

    def shares(self, count: Tensor, element: Tensor) -> Tensor:
        """Shares of the references of every atom, (n_atoms, n_references), which sum to one.

        Args:
            count: (n_atoms,) neighbours.
            element: (n_atoms,) rows of the tables.
        """
        count = torch.minimum(count, self.most[element])
        distance = count[:, None] - self.counts[element]
        return torch.softmax(-_WIDTH * distance.square(), dim=1)

    def _bonds(self, vectors: Tensor, pairs: D3Pairs, element: Tensor) -> Tensor:
        """Share of a pair in the neighbours of its atoms, (n_pairs,); vectors in A."""
        distance = vectors.square().sum(1).sqrt()
        reach = self.radius[element[pairs.first]] + self.radius[element[pairs.second]]
        bond = torch.sigmoid(_STEEPNESS * (reach * BOHR / distance - 1.0))
        return bond * self._fade(distance, pairs.fades)

    def _halves(
        self, vectors: Tensor, mixed: Tensor, share: Tensor, pairs: D3Pairs, element: Tensor
    ) -> Tensor:
        """Half of the energy of a pair, (n_pairs,) in eV; vectors in A."""
        first, second = pairs.first, pairs.second
        z1, z2 = element[first], element[second]
        square = vectors.square().sum(1)
        # C6[p] = sum_B u[i, z_j, B] p[j, B]
        rows = mixed.flatten(0, 1).index_select(0, first * len(self.size) + z2)
        c6 = (rows * share.index_select(0, second)).sum(1)
        # rho = 3 Q Q', R = a1 sqrt(rho) + a2
        rho = 3.0 * self.size[z1] * self.size[z2]
        radius2 = (self.config.a1 * rho.sqrt() + self.config.a2).square()
        r2 = square / BOHR**2
        six = self.config.s6 / (r2**3 + radius2**3)
        eight = self.config.s8 * rho / (r2**4 + radius2**4)
        return -0.5 * HARTREE * c6 * (six + eight) * self._fade(square.sqrt(), pairs.fades)

    def _fade(self, distance: Tensor, fades: Tensor) -> Tensor:
        """One, and for pairs of crystals (1 + cos) / 2 over the last part up to the cutoff."""
        end = self.config.cutoff
        x = ((distance - _FADE * end) / ((1.0 - _FADE) * end)).clamp(0.0, 1.0)
        return torch.where(fades, 0.5 + 0.5 * torch.cos(math.pi * x), 1.0)


def _kept(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``; for a full block its tables are not kept but computed again."""
    return function(*inputs) if len(inputs[0]) < _BLOCK_PAIRS else recomputed(function, *inputs)


def _to_atoms(values: list[Tensor], pairs: D3Pairs, n_atoms: int) -> Tensor:
    """Values of pairs, each added to both of its atoms, (n_atoms,)."""
    joined = torch.cat(values)
    return segment_sum(joined, pairs.first, n_atoms) + segment_sum(joined, pairs.second, n_atoms)


class _Shares(torch.autograd.Function):
    """:meth:`D3.forward` of the compiled library."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        positions: Tensor,
        vectors: Tensor,
        module: D3,
        element: Tensor,
        systems: Tensor,
        pairs: D3Pairs,
    ) -> Tensor:
        ctx.save_for_backward(positions, vectors)
        ctx.rest = module, element, systems, pairs
        x = _atoms(positions, vectors, element, systems, pairs)
        shares, ctx.work = d3_shares(x, module.tables)
        return shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, (module, *rest) = ctx.saved_tensors, ctx.rest
        if torch.is_grad_enabled():
            need = ctx.needs_input_grad[:2]
            plain = partial(_plain_shares, module, rest)
            return *recorded_gradients(plain, inputs, need, (grad,)), None, None, None, None
        found = d3_gradients(grad, _atoms(*inputs, *rest), module.tables, ctx.work)
        return *found, None, None, None, None


def _plain_shares(module: D3, rest: Sequence[Any], positions: Tensor, vectors: Tensor) -> Tensor:
    return module.plain_shares(positions, vectors, *rest)


def _atoms(
    positions: Tensor, vectors: Tensor, element: Tensor, systems: Tensor, pairs: D3Pairs
) -> D3Atoms:
    return D3Atoms(
        element=element.contiguous(),
        positions=positions.contiguous(),
        systems=systems,
        first=pairs.first.contiguous(),
        second=pairs.second.contiguous(),
        vectors=vectors.contiguous(),
    )


def open_systems(graph: AtomGraph) -> Tensor:
    """First atom and end of each molecule of a batch, (n_open, 2)."""
    counts = graph.atoms_per_system()
    ends = torch.cumsum(counts, 0)
    return torch.stack([ends - counts, ends], dim=1)[~graph.pbc.any(1)]


def all_pairs(systems: Tensor, listed: D3Pairs) -> D3Pairs:
    """All pairs of molecules, then those listed."""
    device = systems.device
    starts, ends = systems.cpu().unbind(1)
    counts, parts = ends - starts, []
    # molecules of the same size share a table of pairs
    for count in torch.unique(counts).tolist():
        begin = starts[counts == count]
        table = torch.triu_indices(count, count, 1)
        parts.append([(begin[:, None] + row).flatten().to(device) for row in table])
    n_open = sum(len(first) for first, _ in parts)
    return D3Pairs(
        first=torch.cat([*(first for first, _ in parts), listed.first]),
        second=torch.cat([*(second for _, second in parts), listed.second]),
        shifts=torch.cat([listed.shifts.new_zeros(n_open, 3), listed.shifts]),
        fades=torch.cat([listed.fades.new_zeros(n_open), listed.fades]),
    )


def no_pairs(device: torch.device) -> D3Pairs:
    """What is listed of molecules."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return D3Pairs(nothing, nothing, nothing.view(0, 3), nothing.to(torch.bool))


def listed_pairs(graph: AtomGraph, cutoff: float) -> D3Pairs:
    """Pairs closer than ``cutoff`` in A of crystals and slabs."""
    device = graph.batch.device
    chosen = torch.nonzero(graph.pbc.any(1)).flatten().tolist()
    if not chosen:
        return no_pairs(device)
    counts = graph.atoms_per_system().cpu()
    starts = torch.cumsum(counts, 0) - counts
    parts = [_images(graph, k, int(starts[k]), int(counts[k]), cutoff) for k in chosen]
    first, second, shifts = (torch.cat(x).to(device) for x in zip(*parts, strict=True))
    return D3Pairs(first, second, shifts, torch.ones_like(first, dtype=torch.bool))


def _images(
    graph: AtomGraph, system: int, start: int, count: int, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of one crystal or slab: atoms of the batch, and shifts."""
    exact = graph.exact
    positions = graph.positions if exact is None else exact.positions
    cell = graph.cell if exact is None else exact.cell
    first, second, shifts, _ = find_pairs(
        positions[start : start + count].detach().cpu().numpy().astype(np.float64),
        cell[system].detach().cpu().numpy().astype(np.float64),
        graph.pbc[system].cpu().numpy(),
        cutoff,
    )
    return (
        torch.from_numpy(first) + start,
        torch.from_numpy(second) + start,
        torch.from_numpy(shifts),
    )
