"""The same kernels for GPUs, in Triton: drop-in for :mod:`lesff.kernels.cpu`.

One program sums over the neighbours of one node for one path (or one feature), or over the
monomials of one component, so that as on a CPU nothing of size edges x channels x (l, m) is
written, and no two programs write to one place: results do not depend on the order of execution.
Without a GPU, Triton's interpreter (``TRITON_INTERPRET=1``) runs the same code for the tests.
"""

# Triton's language is not the Python that a type checker knows:
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lesff.errors import KernelError
from lesff.kernels.arguments import ContractionTerms, ConvolutionEdges, RadialTable

_BLOCK = 32
"""Channels per program: a warp's width."""
_ORDER = tl.constexpr(8)
"""Components of one order, rounded up to a power of two: orders up to 3."""
_FIELDS = tl.constexpr(8)
"""Numbers per path in its table."""


def convolve(
    features: Tensor, kernel: Tensor, radial: Tensor | tuple[Tensor, RadialTable],
    paths: ctypes.Array, edges: ConvolutionEdges, message_cols: tuple[int, ...],
) -> tuple[Tensor, ...]:  # fmt: skip
    """See :func:`lesff.kernels.cpu.convolve`; weights only, no tables."""
    weights = _weights(radial, features, kernel)
    n_nodes, n_rows, channels = features.shape
    sizes = [n_nodes * (2 * order + 1) * cols for order, cols in enumerate(message_cols)]
    out = features.new_empty(sum(sizes))
    table = _path_table(_numbers(paths), message_cols, features.device)
    grid = (n_nodes, len(paths), triton.cdiv(channels, _BLOCK))
    if out.numel():
        _convolve[grid](
            features.contiguous(), kernel.contiguous(), weights, edges.node_start, edges.sender,
            edges.pair, edges.sign, table, out, n_nodes, len(kernel), channels, n_rows,
            kernel.shape[1], weights.shape[1], len(weights) != len(kernel), _BLOCK,
        )  # fmt: skip
    parts = out.split(sizes)
    return tuple(
        part.view(n_nodes, 2 * order + 1, cols)
        for (order, cols), part in zip(enumerate(message_cols), parts, strict=True)
    )


def convolve_backward(
    grads: tuple[Tensor, ...], features: Tensor, kernel: Tensor,
    radial: Tensor | tuple[Tensor, RadialTable], paths: ctypes.Array, edges: ConvolutionEdges,
    *, need_features: bool, need_pairs: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """See :func:`lesff.kernels.cpu.convolve_backward`; weights only, no tables."""
    weights = _weights(radial, features, kernel)
    features, kernel = features.contiguous(), kernel.contiguous()
    n_nodes, n_rows, channels = features.shape
    table = _path_table(_numbers(paths), tuple(g.shape[2] for g in grads), features.device)
    grad = torch.cat([g.reshape(-1) for g in grads])
    is_directed = len(weights) != len(kernel)
    sizes = (n_nodes, len(kernel), channels, n_rows, kernel.shape[1], weights.shape[1])
    grad_features = grad_kernel = grad_weights = None
    if need_features:
        grad_features = torch.zeros_like(features)
        grid = (n_nodes, n_rows, triton.cdiv(channels, _BLOCK))
        if grad_features.numel():
            _convolve_features[grid](
                kernel, weights, edges.node_start, edges.sender, edges.pair, edges.sign, table,
                grad, grad_features, *sizes, len(paths), is_directed, _BLOCK,
            )  # fmt: skip
    if need_pairs:
        grad_kernel, grad_weights = torch.zeros_like(kernel), torch.zeros_like(weights)
        if len(kernel):
            _convolve_pairs[(len(kernel), len(paths))](
                features, kernel, weights, edges.pair_sender, edges.pair_receiver, table, grad,
                grad_kernel, grad_weights, *sizes, is_directed, _BLOCK,
            )  # fmt: skip
    return grad_features, grad_kernel, grad_weights


def contract(features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms) -> Tensor:
    """See :func:`lesff.kernels.cpu.contract`; ``slices`` on the device."""
    _check_dtype(features, table)
    n_nodes, n_rows, channels = features.shape
    output = features.new_empty(n_nodes, terms.n_components, channels)
    found = terms.on(features.device, n_rows)
    grid = (n_nodes, terms.n_components, triton.cdiv(channels, _BLOCK))
    if output.numel():
        _contract[grid](
            features.contiguous(), table.contiguous(), _element(slices, n_nodes), found.factors,
            found.start, output, channels, n_rows, terms.n_components, len(terms.last), _BLOCK,
        )  # fmt: skip
    return output


def contract_backward(
    grad: Tensor, features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms,
    *, need_features: bool, need_table: bool,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """See :func:`lesff.kernels.cpu.contract_backward`; ``slices`` on the device."""
    _check_dtype(features, table)
    grad, features, table = grad.contiguous(), features.contiguous(), table.contiguous()
    n_nodes, n_rows, channels = features.shape
    found, n_blocks = terms.on(features.device, n_rows), triton.cdiv(channels, _BLOCK)
    sizes = (channels, n_rows, terms.n_components, len(terms.last))
    grad_features = torch.empty_like(features) if need_features else None
    grad_table = torch.zeros_like(table) if need_table else None
    if grad_features is not None and grad_features.numel():
        _contract_features[(n_nodes, n_rows, n_blocks)](
            features, table, _element(slices, n_nodes), found.uses, found.use_start, grad,
            grad_features, *sizes, _BLOCK,
        )  # fmt: skip
    if grad_table is not None and len(slices):
        _contract_table[(len(slices), len(terms.last), n_blocks)](
            features, slices, found.factors, found.component, grad, grad_table, *sizes, _BLOCK
        )
    return grad_features, grad_table


def _weights(
    radial: Tensor | tuple[Tensor, RadialTable], features: Tensor, kernel: Tensor
) -> Tensor:
    if not isinstance(radial, Tensor):
        raise KernelError("radial tables are for compiled CPU kernels; got one for a GPU")
    _check_dtype(features, radial)
    _check_dtype(features, kernel)
    return radial.contiguous()


def _check_dtype(features: Tensor, other: Tensor) -> None:
    if other.dtype != features.dtype:
        raise KernelError(f"inputs must be {features.dtype} like the features, got {other.dtype}")


def _numbers(paths: ctypes.Array) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (p.rows, p.cols, p.feature_row, p.kernel_col, p.order, p.block, p.odd) for p in paths
    )


@lru_cache(maxsize=64)
def _path_table(
    paths: tuple[tuple[int, ...], ...], message_cols: tuple[int, ...], device: torch.device
) -> Tensor:
    """(n_paths, 8) int64, made once per device.

    Rows, columns, first feature row, first kernel column, values per node before those of the
    path's order, channels of that order, block, whether the kernel is odd.
    """
    before = [0]
    for order, cols in enumerate(message_cols):
        before.append(before[-1] + (2 * order + 1) * cols)
    rows = [
        (rows, cols, first, column, before[order], message_cols[order], block, odd)
        for rows, cols, first, column, order, block, odd in paths
    ]
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _element(slices: Tensor, n_nodes: int) -> Tensor:
    """Row of the weight table of every node, (n_nodes,)."""
    return slices[:, 2].repeat_interleave(slices[:, 1] - slices[:, 0], output_size=n_nodes)


@triton.jit
def _message_place(path, node, n_nodes, c, channels, m):
    """Offsets of a path's (m, c) tile of one node in the joined messages."""
    cols = tl.load(path + 1)
    width = tl.load(path + 5)
    start = tl.load(path + 4) * n_nodes + node * cols * width + tl.load(path + 6) * channels
    return start + m[:, None] * width + c[None, :]


@triton.jit
def _convolve(
    features, kernel, weights, node_start, senders, pairs, signs, paths, out,
    n_nodes, n_pairs, channels, n_rows, n_cols, n_weights, is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    node = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    path = paths + index * _FIELDS
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    m = tl.arange(0, _ORDER)
    inside = c < channels
    rows, cols = tl.load(path), tl.load(path + 1)
    first, column, odd = tl.load(path + 2), tl.load(path + 3), tl.load(path + 7)
    total = tl.zeros((_ORDER, BLOCK), dtype=out.dtype.element_ty)
    for edge in range(tl.load(node_start + node), tl.load(node_start + node + 1)):
        pair = tl.load(pairs + edge).to(tl.int64)
        sender = tl.load(senders + edge).to(tl.int64)
        is_against = tl.load(signs + edge) < 0
        row = pair
        if is_directed:
            row = tl.where(is_against, pair + n_pairs, pair)
        r = tl.load(weights + row * n_weights + index * channels + c, mask=inside, other=0.0)
        r = tl.where(is_against & (odd != 0), -r, r)
        for a in range(rows):
            h = tl.load(features + (sender * n_rows + first + a) * channels + c, mask=inside,
                        other=0.0)  # fmt: skip
            k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols, other=0.0)
            total += k[:, None] * (r * h)[None, :]
    place = _message_place(path, node, n_nodes, c, channels, m)
    tl.store(out + place, total, mask=(m < cols)[:, None] & inside[None, :])


@triton.jit
def _convolve_features(
    kernel, weights, node_start, senders, pairs, signs, paths, grad, grad_features,
    n_nodes, n_pairs, channels, n_rows, n_cols, n_weights, n_paths, is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # the edges that a node sends are those that it receives, the other way round
    node = tl.program_id(0).to(tl.int64)
    row_of_node = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    m = tl.arange(0, _ORDER)
    inside = c < channels
    total = tl.zeros((BLOCK,), dtype=grad_features.dtype.element_ty)
    for index in range(n_paths):
        path = paths + index * _FIELDS
        a = row_of_node - tl.load(path + 2)
        if (a >= 0) & (a < tl.load(path)):
            cols, column, odd = tl.load(path + 1), tl.load(path + 3), tl.load(path + 7)
            for edge in range(tl.load(node_start + node), tl.load(node_start + node + 1)):
                pair = tl.load(pairs + edge).to(tl.int64)
                receiver = tl.load(senders + edge).to(tl.int64)
                is_against = tl.load(signs + edge) > 0
                row = pair
                if is_directed:
                    row = tl.where(is_against, pair + n_pairs, pair)
                r = tl.load(weights + row * n_weights + index * channels + c, mask=inside,
                            other=0.0)  # fmt: skip
                r = tl.where(is_against & (odd != 0), -r, r)
                k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols,
                            other=0.0)  # fmt: skip
                place = _message_place(path, receiver, n_nodes, c, channels, m)
                g = tl.load(grad + place, mask=(m < cols)[:, None] & inside[None, :], other=0.0)
                total += r * tl.sum(k[:, None] * g, axis=0)
    tl.store(grad_features + (node * n_rows + row_of_node) * channels + c, total, mask=inside)


@triton.jit
def _convolve_pairs(
    features, kernel, weights, pair_sender, pair_receiver, paths, grad, grad_kernel, grad_weights,
    n_nodes, n_pairs, channels, n_rows, n_cols, n_weights, is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    path = paths + index * _FIELDS
    m = tl.arange(0, _ORDER)
    rows, cols = tl.load(path), tl.load(path + 1)
    first, column, odd = tl.load(path + 2), tl.load(path + 3), tl.load(path + 7)
    ends = tl.load(pair_sender + pair).to(tl.int64), tl.load(pair_receiver + pair).to(tl.int64)
    of_kernel = tl.zeros((_ORDER, _ORDER), dtype=grad_kernel.dtype.element_ty)
    for block in range(0, channels, BLOCK):
        c = block + tl.arange(0, BLOCK)
        inside = c < channels
        of_weight = tl.zeros((BLOCK,), dtype=grad_weights.dtype.element_ty)
        for against in tl.static_range(2):
            sender, receiver = ends[against], ends[1 - against]
            row = pair
            if is_directed:
                row = pair + against * n_pairs
            place = row * n_weights + index * channels + c
            r = tl.load(weights + place, mask=inside, other=0.0)
            at = _message_place(path, receiver, n_nodes, c, channels, m)
            g = tl.load(grad + at, mask=(m < cols)[:, None] & inside[None, :], other=0.0)
            if against:
                g = tl.where(odd != 0, -g, g)
            part = tl.zeros((BLOCK,), dtype=grad_weights.dtype.element_ty)
            for a in range(rows):
                h = tl.load(features + (sender * n_rows + first + a) * channels + c, mask=inside,
                            other=0.0)  # fmt: skip
                k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols,
                            other=0.0)  # fmt: skip
                part += h * tl.sum(k[:, None] * g, axis=0)
                line = tl.sum(g * (r * h)[None, :], axis=1)
                of_kernel += tl.where((m == a)[:, None], line[None, :], 0.0)
            if is_directed:
                tl.store(grad_weights + place, part, mask=inside)
            else:
                of_weight += part
        if not is_directed:
            tl.store(grad_weights + pair * n_weights + index * channels + c, of_weight, mask=inside)
    place = pair * n_cols + column + m[:, None] * cols + m[None, :]
    tl.store(grad_kernel + place, of_kernel, mask=(m < rows)[:, None] & (m < cols)[None, :])


@triton.jit
def _factor(features, node, row, channels, n_rows, c, inside):
    """One factor of a monomial; row 0 is the constant 1."""
    known = inside & ((c * 0 + row) > 0)
    return tl.load(features + (node * n_rows + row - 1) * channels + c, mask=known, other=1.0)


@triton.jit
def _contract(
    features, table, elements, factors, starts, out,
    channels, n_rows, n_components, n_terms, BLOCK: tl.constexpr,
):  # fmt: skip
    node = tl.program_id(0).to(tl.int64)
    component = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    element = tl.load(elements + node)
    total = tl.zeros((BLOCK,), dtype=out.dtype.element_ty)
    for term in range(tl.load(starts + component), tl.load(starts + component + 1)):
        value = tl.load(table + (element * n_terms + term) * channels + c, mask=inside, other=0.0)
        for k in tl.static_range(3):
            row = tl.load(factors + term * 3 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    tl.store(out + (node * n_components + component) * channels + c, total, mask=inside)


@triton.jit
def _contract_features(
    features, table, elements, uses, use_start, grad, grad_features,
    channels, n_rows, n_components, n_terms, BLOCK: tl.constexpr,
):  # fmt: skip
    node = tl.program_id(0).to(tl.int64)
    row_of_node = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    element = tl.load(elements + node)
    total = tl.zeros((BLOCK,), dtype=grad_features.dtype.element_ty)
    for use in range(tl.load(use_start + row_of_node), tl.load(use_start + row_of_node + 1)):
        term = tl.load(uses + use * 4)
        component = tl.load(uses + use * 4 + 1)
        value = tl.load(table + (element * n_terms + term) * channels + c, mask=inside, other=0.0)
        value *= tl.load(grad + (node * n_components + component) * channels + c, mask=inside,
                         other=0.0)  # fmt: skip
        for k in tl.static_range(2, 4):
            row = tl.load(uses + use * 4 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    tl.store(grad_features + (node * n_rows + row_of_node) * channels + c, total, mask=inside)


@triton.jit
def _contract_table(
    features, slices, factors, components, grad, grad_table,
    channels, n_rows, n_components, n_terms, BLOCK: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    term = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    component = tl.load(components + term)
    total = tl.zeros((BLOCK,), dtype=grad_table.dtype.element_ty)
    for node in range(tl.load(slices + part * 3), tl.load(slices + part * 3 + 1)):
        value = tl.load(grad + (node * n_components + component) * channels + c, mask=inside,
                        other=0.0)  # fmt: skip
        for k in tl.static_range(3):
            row = tl.load(factors + term * 3 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    element = tl.load(slices + part * 3 + 2)
    tl.store(grad_table + (element * n_terms + term) * channels + c, total, mask=inside)
