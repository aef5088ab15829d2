"""Symmetric contraction (many-body products) over nonzero couplings only.

``B[i, m, c] = sum_t w[z_i, t, c] * a[i, i_t, c] a[i, j_t, c] a[i, k_t, c]`` with
``w[z, t, c] = sum_p U[t, p] weight[z, p, c]`` contracted once per call (MACE, arXiv 2206.07697,
eqs. 10-11). A component "1" is put in front of ``a``, so that terms of lower degree are written as
products of full degree too. Fused kernels (compiled ones on CPUs, Triton ones on GPUs) give value
and first derivatives; in plain PyTorch, and for second derivatives, value and gradient work through
blocks of nodes of one element, with a differentiable backward.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.autograd import recorded_gradients
from lesff.nn.coupling import monomials
from lesff.nn.edge_tables import Topology

_BLOCK_VALUES = 250_000
"""Values per (nodes x terms x channels) block: a few such blocks fit a core's level-2 cache."""


class SymmetricContraction(nn.Module):
    """Products of up to ``correlation`` features per channel, coupled to order ``l_out``.

    Args:
        channels: Number of channels.
        max_ell: Highest order of the incoming features.
        l_out: Order of the result.
        correlation: Highest degree, 1 to 3.
        n_elements: Rows of the element tables; 1 for weights that all elements share.
        stores_basis: Whether the coupling coefficients belong to the saved state.
        n_paths: Paths per degree of a stored basis, if not those of ours.

    The parameter ``weights[nu - 1]`` has shape (n_elements, n_paths, channels).
    """

    def __init__(
        self,
        *,
        channels: int,
        max_ell: int,
        l_out: int,
        correlation: int,
        n_elements: int,
        stores_basis: bool = False,
        n_paths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.n_elements = n_elements
        terms = [monomials(max_ell, l_out, degree) for degree in range(1, correlation + 1)]
        self.weights = nn.ParameterList()
        # weights w[z, p, c] and coupling coefficients U[t, p] of every degree
        for degree, term in enumerate(terms, start=1):
            basis = torch.tensor(term.basis)  # a copy: the cached table must not change
            if n_paths is not None:
                # published coefficients of another basis are loaded into this place
                basis = torch.zeros(len(basis), n_paths[degree - 1], dtype=basis.dtype)
            count = basis.shape[1]
            self.weights.append(nn.Parameter(torch.randn(n_elements, count, channels) / count))
            self.register_buffer(f"basis_{degree}", basis, persistent=stores_basis)
        # component 0 stands for the factor 1 that fills up terms of lower degree
        index = np.zeros((sum(len(t.index) for t in terms), correlation), dtype=np.int64)
        # one row of factors per monomial t, short monomials filled up with zeros in front
        start = 0
        for term in terms:
            stop = start + len(term.index)
            index[start:stop, correlation - term.index.shape[1] :] = term.index + 1
            start = stop
        # t by component, then by what monomials have in common
        component = np.concatenate([term.component for term in terms])
        index, order = grouped_terms(index, component)
        self.n_components = 2 * l_out + 1
        self.terms_per_component: list[int] = np.bincount(component).tolist()
        self.register_buffer("index", torch.from_numpy(index.T.copy()), persistent=False)
        self.register_buffer("term_order", torch.from_numpy(order), persistent=False)
        self.index: Tensor
        self.term_order: Tensor
        self._terms: kernels.ContractionTerms | None = None
        self._kept_table: tuple[tuple[object, ...], list[Tensor], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without what is built when it is needed, the weight table and the monomials."""
        return {**self.__dict__, "_kept_table": None, "_terms": None}

    @property
    def n_terms(self) -> int:
        """Number of monomials, all components together."""
        return self.term_order.shape[0]

    def table(self) -> Tensor:
        """Weight of every monomial, (n_elements, n_terms, channels)."""
        # W[z, t, c] = sum_p U[t, p] w[z, p, c], degree by degree
        parts = [
            torch.einsum("tp,zpc->ztc", self.get_buffer(f"basis_{nu}").to(weight.dtype), weight)
            for nu, weight in enumerate(self.weights, start=1)
        ]
        # monomials of all degrees side by side, in their common order
        return torch.cat(parts, dim=1).index_select(1, self.term_order)

    def inference_table(self) -> Tensor:
        """:meth:`table`, kept while frozen weights stay the same."""
        if any(weight.requires_grad for weight in self.weights):
            return self.table()
        bases = [self.get_buffer(f"basis_{nu}") for nu in range(1, len(self.weights) + 1)]
        # a table is stale when a tensor it was made from was replaced, cast or written to
        sources = [*self.weights, *bases]
        key = tuple((x.data_ptr(), x.dtype, x._version) for x in sources)
        kept = self._kept_table  # several threads may ask at once
        if kept is None or kept[0] != key:
            # an address stays taken as long as its memory is held
            self._kept_table = kept = (key, [x.detach() for x in sources], self.table())
        return kept[2]

    def terms(self) -> kernels.ContractionTerms:
        """Monomials as compiled kernels read them, grouped by their leading two factors."""
        terms = self._terms
        if terms is None:
            # factors i <= j, k of every monomial: always three, zeros (the constant 1) in front
            index = self.index.cpu().numpy()
            padded = np.zeros((3, index.shape[1]), dtype=np.int32)
            padded[3 - len(index) :] = index
            # monomials with the same (i, j, component) are neighbours: one group each
            component = np.repeat(np.arange(self.n_components), self.terms_per_component)
            lead = np.stack([padded[0], padded[1], component])
            ends = np.flatnonzero(np.append((lead[:, 1:] != lead[:, :-1]).any(0), True)) + 1
            # i, j, component of a group's last monomial, and where the group ends
            groups = np.concatenate([lead[:, ends - 1], ends[None]]).T
            self._terms = terms = kernels.ContractionTerms(
                groups=torch.from_numpy(groups.astype(np.int32).copy()),
                last=torch.from_numpy(padded[2].copy()),
                n_components=self.n_components,
            )
        return terms

    def forward(self, features: Tensor, topology: Topology) -> Tensor:
        """Value of the contraction, in fused kernels where there are any.

        Args:
            features: (n_nodes, (max_ell + 1)^2, channels), element order.
            topology: Index tables.

        Returns:
            (n_nodes, 2 l_out + 1, channels).
        """
        fused = kernels.backend(features)
        if fused is not None:
            return _FusedContract.apply(features, self.inference_table(), self, topology, fused)  # pyright: ignore[reportReturnType]
        return self.plain(features, self.table(), topology)

    def plain(self, features: Tensor, table: Tensor, topology: Topology) -> Tensor:
        """The contraction in plain PyTorch from the weight table."""
        return _Contract.apply(features, table, self, topology)  # pyright: ignore[reportReturnType]

    def blocks(self, topology: Topology, channels: int) -> list[tuple[int, int, int]]:
        """(element row, start, stop) of blocks of nodes that share an element."""
        # values of a block: nodes x terms x channels
        step = max(_BLOCK_VALUES // (self.n_terms * channels), 4)
        return [
            (min(part.element, self.n_elements - 1), start, min(start + step, part.stop))
            for part in topology.elements
            for start in range(part.start, part.stop, step)
        ]

    def factors(self, features: Tensor) -> list[Tensor]:
        """The factors of every monomial, each (n_terms, n, channels)."""
        # a[n, i, c] -> [1 + i, n, c] with the constant 1 in front, then one row per monomial
        ones = features.new_ones(1, features.shape[0], features.shape[2])
        extended = torch.cat([ones, features.transpose(0, 1)])
        return [extended.index_select(0, rows) for rows in self.index]

    def sum_terms(self, values: Tensor) -> Tensor:
        """Sum (n_terms, n, c) over the terms of each component into (n, n_components, c)."""
        if self.n_components == 1:
            return values.sum(0)[:, None]
        # [t, n, c] -> sum over the t of each component m -> [n, m, c]
        parts = torch.split(values, self.terms_per_component)
        return torch.stack([part.sum(0) for part in parts], dim=1)

    def spread(self, grad: Tensor) -> Tensor:
        """(n, n_components, c) to one row per term; left to broadcast for one component."""
        if self.n_components == 1:
            # G[n, 1, c] -> [1, n, c]
            return grad.transpose(0, 1)
        # G[n, m, c] -> [t, n, c], the row of the component m that t belongs to
        rows = [
            grad[:, m].expand(count, -1, -1) for m, count in enumerate(self.terms_per_component)
        ]
        return torch.cat(rows)


class _FusedContract(torch.autograd.Function):
    """Fused kernels; second derivatives go through plain PyTorch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        features: Tensor,
        table: Tensor,
        module: SymmetricContraction,
        topology: Topology,
        fused: kernels.Backend,
    ) -> Tensor:
        ctx.save_for_backward(features, table)
        ctx.module, ctx.topology, ctx.fused = module, topology, fused
        slices = topology.element_slices(table.shape[0])
        return fused.contract(features, table, slices, module.terms())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, table = ctx.saved_tensors
        module: SymmetricContraction = ctx.module
        need = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            # a backward that is itself recorded: the plain form, differentiated by autograd
            def run(features: Tensor, table: Tensor) -> Tensor:
                return module.plain(features, table, ctx.topology)

            return (*recorded_gradients(run, (features, table), need, (grad,)), None, None, None)
        fused: kernels.Backend = ctx.fused
        result = fused.contract_backward(
            grad,
            features,
            table,
            ctx.topology.element_slices(table.shape[0]),
            module.terms(),
            need_features=need[0],
            need_table=need[1],
        )
        return (*result, None, None, None)


class _Contract(torch.autograd.Function):
    """Blocked evaluation; ``table`` holds the contracted weights (n_elements, n_terms, c)."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, features: Tensor, table: Tensor, module: SymmetricContraction, topology: Topology
    ) -> Tensor:
        ctx.save_for_backward(features, table)
        ctx.module, ctx.topology = module, topology
        out = []
        for element, start, stop in module.blocks(topology, features.shape[2]):
            # B[n, m, c] = sum_t W[z, t, c] a[t, n, c] a'[t, n, c] a''[t, n, c]
            factors = module.factors(features[start:stop])
            out.append(module.sum_terms(_product(factors) * table[element][:, None]))
        return torch.cat(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, table = ctx.saved_tensors
        module: SymmetricContraction = ctx.module
        need_features, need_table = ctx.needs_input_grad[:2]
        grad_features, grad_table = [], {}
        for element, start, stop in module.blocks(ctx.topology, features.shape[2]):
            factors = module.factors(features[start:stop])
            g = module.spread(grad[start:stop])
            if need_features:
                # d/da_k of a monomial: its weight and gradient times the other factors ...
                gw = table[element][:, None] * g
                total = gw.new_zeros(features.shape[1] + 1, stop - start, features.shape[2])
                for k, rows in enumerate(module.index):
                    others = [f for other, f in enumerate(factors) if other != k]
                    # ... added to the row of that factor; row 0, the constant 1, is dropped
                    total = total.index_add(0, rows, _product([gw, *others]))
                # [i, n, c] -> [n, i, c]
                grad_features.append(total[1:].transpose(0, 1))
            if need_table:
                # dW[z, t, c] = sum over the nodes n of element z of the monomial times G
                part = (_product(factors) * g).sum(1)
                before = grad_table.get(element)
                grad_table[element] = part if before is None else before + part
        out_features = torch.cat(grad_features) if need_features else None
        out_table = None
        if need_table:
            # elements without a node have no gradient
            zero = torch.zeros_like(table[0])
            out_table = torch.stack([grad_table.get(z, zero) for z in range(table.shape[0])])
        return out_features, out_table, None, None


def grouped_terms(index: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order terms so that few products of two factors serve all terms of a component.

    Greedy: the pair of factors that most terms still contain comes first in all of them.

    Args:
        index: (n_terms, degree) factors of each monomial, any order.
        component: (n_terms,) output component of each.

    Returns:
        The index with its rows sorted by component, and factors and rows rearranged; and the
        original row of each new row.
    """
    degree = index.shape[1]
    if degree < 3:
        # fewer than three factors share no product of two: sorted by component, then by factors
        order = np.lexsort((*index.T[::-1], component))
        return index[order], order
    rows: list[tuple[int, ...]] = []
    sources: list[int] = []
    for m in np.unique(component):
        # monomials of component m that have no place yet
        left = {int(t): tuple(index[t].tolist()) for t in np.flatnonzero(component == m)}
        held = {t: set(_pairs(term)) for t, term in left.items()}
        count = Counter(pair for pairs in held.values() for pair in pairs)
        while left:
            # the pair of factors in most of them; ties go to the larger pair
            first, second = max(count, key=lambda pair: (count[pair], pair))
            for t in [t for t in left if (first, second) in held[t]]:
                # the pair first, what remains of the monomial last
                rest = list(left.pop(t))
                rest.remove(first)
                rest.remove(second)
                rows.append((first, second, *rest))
                sources.append(t)
                count.subtract(held[t])
            count = +count
    return np.array(rows), np.array(sources)


def _pairs(term: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(i, j) for i, j in combinations(sorted(term), 2)]


def _product(factors: list[Tensor]) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result
