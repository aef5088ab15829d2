"""Radial weights tabulated over the distance, for inference.

The weights are quintic splines through those of the exact radial network at the knots, with its
slopes and curvatures at both ends (:mod:`lesff.nn.spline`): four times continuously differentiable.
The derivative used for forces is that of the spline, so that forces are exact derivatives of the
tabulated energy. A knot has one number for each weight, so that the table of what kernels compute
together stays in the fastest cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.kernels import TABLE_BLOCK, RadialTable
from lesff.nn.radial import RadialBasis
from lesff.nn.spline import spline_coefficients

KNOTS_PER_ANGSTROM = 96
"""Interpolation errors of forces below 1e-6 eV/A for published models; see test_convert_mace.py."""
TABLE_START = 0.4
"""Lower end in A; closer pairs take exact weights."""


@dataclass(frozen=True)
class TabulatedWeights:
    """Radial weights of every pair, as a table and where to look.

    Attributes:
        distance: (n_pairs,) in A; gradients go there.
        table: The table.
        exact: Exact weights from distances (n,), (n, n_paths * channels).
    """

    distance: Tensor
    table: RadialTable
    exact: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TableSource:
    """What a table needs to know of the pairs.

    Attributes:
        distance: (n_pairs,) in A.
        basis: Radial basis, a function of the distance alone.
        cutoff: In A.
    """

    distance: Tensor
    basis: RadialBasis
    cutoff: float

    @staticmethod
    def of(
        distance: Tensor, basis: RadialBasis, cutoff: float, *, stays_apart: bool = False
    ) -> TableSource | None:
        """None where exact weights are due: no kernels that read tables, or a pair below it.

        ``stays_apart`` says that no pair is below it, so that nobody looks.
        """
        fused = kernels.backend(distance)
        if fused is None or not fused.has_tables or distance.numel() == 0:
            return None
        # below the table the network, not the polynomial, decides
        if not stays_apart and float(distance.detach().min()) < TABLE_START:
            return None
        return TableSource(distance, basis, cutoff)

    def exact(self, network: Callable[[Tensor], Tensor], distance: Tensor) -> Tensor:
        """Weights of a network that reads the basis, times the cutoff, (n, n_weights)."""
        weights = network(self.basis(distance, distance))
        return weights if self.basis.has_envelope else weights * self.basis.envelope(distance)


def split_weights(weights: Tensor, blocks: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """(..., all weights) as (..., n_paths * channels) of each convolution.

    Args:
        weights: Of all convolutions, one after the other.
        blocks: Paths and channels of each.
    """
    sizes = [n_paths * channels for n_paths, channels in blocks]
    return [part.contiguous() for part in torch.split(weights, sizes, dim=-1)]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Tables, what they depend on, and memory whose addresses say so."""

    key: tuple[object, ...]
    held: list[Tensor]
    tables: tuple[RadialTable, ...]


class RadialTabulator:
    """Keeps the table of one radial network; builds it again when the network changed.

    A change is noticed by the identity and version of the parameters; writing through
    ``parameter.data`` escapes the version counter, so does not count as a change. Several threads
    may ask at once: the network is never changed, and what is kept is replaced in one go.

    Args:
        blocks: Paths and channels of each convolution that the weights are for, in their order.
    """

    def __init__(self, *, blocks: tuple[tuple[int, int], ...]) -> None:
        self.blocks = blocks
        self._kept: _Kept | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the table, which is built again when it is needed."""
        return {**self.__dict__, "_kept": None}

    def weights(
        self, source: TableSource, network: nn.Module
    ) -> Sequence[TabulatedWeights | Tensor]:
        """Of each convolution, the table looked up at the pairs.

        Exact weights, (n_pairs, n_paths * channels), if the network is being trained.
        """
        parameters = [*network.parameters(), *source.basis.parameters()]
        if any(p.requires_grad for p in parameters):
            return split_weights(source.exact(network, source.distance), self.blocks)
        dtype = source.distance.dtype
        # whatever a table depends on, apart from values written past the version counter
        key = (dtype, source.cutoff, *((p.data_ptr(), p.dtype, p._version) for p in parameters))
        kept = self._kept
        if kept is None or kept.key != key:
            # an address stays taken as long as its memory is held
            held = [p.detach() for p in parameters]
            kept = _Kept(key=key, held=held, tables=self._build(source, network, dtype))
            self._kept = kept
        return [
            TabulatedWeights(source.distance, table, partial(self._exact, source, network, index))
            for index, table in enumerate(kept.tables)
        ]

    def _exact(
        self, source: TableSource, network: nn.Module, index: int, distance: Tensor
    ) -> Tensor:
        return split_weights(source.exact(network, distance), self.blocks)[index]

    def _build(
        self, source: TableSource, network: nn.Module, dtype: torch.dtype
    ) -> tuple[RadialTable, ...]:
        # n intervals from TABLE_START to the cutoff, n + 1 knots
        n = max(round((source.cutoff - TABLE_START) * KNOTS_PER_ANGSTROM), 1)
        step = (source.cutoff - TABLE_START) / n
        knots = torch.linspace(TABLE_START, source.cutoff, n + 1, dtype=torch.float64)
        # in float64: second derivatives in float32 would show in the forces
        precise = copy.deepcopy(network).double()

        def function(r: Tensor) -> Tensor:
            return source.exact(precise, r)

        with torch.no_grad():
            values = function(knots)
        _, slopes, curvatures = _with_derivatives(function, knots[[0, -1]])
        # splines s[i, (path, c)] in units of the step
        splines = spline_coefficients(values, slopes * step, curvatures * step**2)
        tables, parts = [], split_weights(splines, self.blocks)
        for (n_paths, channels), part in zip(self.blocks, parts, strict=True):
            split = part.view(n + 5, n_paths, channels)
            # channels up to whole blocks of 16, and six rows of zeros beyond the cutoff
            padded = nn.functional.pad(split, (0, -channels % TABLE_BLOCK, 0, 0, 0, 6))
            # s[i, path, (block, lane)] -> [path, block, i, lane], as kernels read it
            rows = padded.view(n + 11, n_paths, -1, TABLE_BLOCK).permute(1, 2, 0, 3)
            rows = rows.to(dtype).contiguous()
            tables.append(RadialTable(splines=rows, start=TABLE_START, inverse_step=1.0 / step))
        return tuple(tables)


def _with_derivatives(function: Callable[[Tensor], Tensor], r: Tensor) -> list[Tensor]:
    """Function (n,) to (n, k), row by row, its first and its second derivative."""
    with torch.enable_grad():
        r = r.detach().requires_grad_()
        rows = [function(r)]
        for _ in range(2):
            # sum_k v_k f'_k(r) is linear in v: its gradient with respect to v is f'
            v = torch.zeros_like(rows[-1]).requires_grad_()
            # as a scalar: with grad_outputs torch would import sympy, 0.5 s of CPU at a first call
            (along,) = torch.autograd.grad((rows[-1] * v).sum(), [r], create_graph=True)
            rows.append(torch.autograd.grad(along.sum(), [v], create_graph=True)[0])
    return [row.detach() for row in rows]
