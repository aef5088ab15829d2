"""Depthwise equivariant convolution: sum over neighbours of R(r) * (h x Y), per channel.

Fused kernels (compiled ones on CPUs, Triton ones on GPUs) sum over the neighbours of each receiver,
and give first derivatives. In plain PyTorch, and for second derivatives, the sum is a batched
matrix product over chunks of receivers (see ``topology``); its backward is written out, recomputes
what it needs from the inputs, and is itself differentiable. Neither writes anything of size
edges x channels x (l, m).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from lesff import kernels
from lesff.autograd import recorded_gradients
from lesff.nn.coupling import convolution_paths, lm_slice, wigner_3j
from lesff.nn.edge_tables import Chunk, Topology
from lesff.nn.radial_table import TabulatedWeights


class Convolution(nn.Module):
    """Message of every receiver, before the linear map that mixes paths and channels.

    ``A[i, l3 m3, (path, c)] = sum_j R_path[ij, c] sum_{m1 m2} C[m1, m2, m3] h[j, m1, c] Y[ij, m2]``
    with ``C = sqrt(2 l3 + 1)`` times the 3j tensor (MACE, arXiv 2206.07697, eq. 8; e3nn "uvu").

    Args:
        channels: Channels of the sender features.
        feature_l: Highest order of the sender features.
        max_ell: Highest order of the harmonics.
        message_l: Highest order of the message, that of the harmonics if not given.
    """

    def __init__(
        self, *, channels: int, feature_l: int, max_ell: int, message_l: int | None = None
    ) -> None:
        super().__init__()
        message_l = max_ell if message_l is None else message_l
        self.channels = channels
        self.feature_l = feature_l
        self.max_ell = max_ell
        # index letters below: a = m1, b = m2, m = m3; k counts the (a, m) columns of all paths
        paths = convolution_paths(feature_l, max_ell, message_l)
        self.n_paths = len(paths)
        self.blocks_per_order = tuple(
            sum(path.l3 == order for path in paths) for order in range(message_l + 1)
        )
        rows_of_paths, start, seen = [], 0, [0] * (message_l + 1)
        n_kernel = sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in paths)
        coupling = torch.zeros((max_ell + 1) ** 2, n_kernel, dtype=torch.float64)
        changes_sign = torch.zeros(n_kernel, dtype=torch.bool)
        for path in paths:
            # where the path reads the features and the kernel, and where it writes its messages
            row = kernels.ConvolutionPath(
                rows=2 * path.l1 + 1,
                cols=2 * path.l3 + 1,
                feature_row=lm_slice(path.l1).start,
                kernel_col=start,
                order=path.l3,
                block=seen[path.l3],
                is_odd=path.l2 % 2 == 1,  # Y_l(-r) = (-1)^l Y_l(r)
            )
            # C[a, b, m] -> [b, a, m] -> one row per b, columns k = (a, m)
            c = torch.from_numpy(wigner_3j(path.l1, path.l2, path.l3)) * row.cols**0.5
            coupling[lm_slice(path.l2), row.kernel] = c.transpose(0, 1).reshape(2 * path.l2 + 1, -1)
            changes_sign[row.kernel] = row.is_odd
            rows_of_paths.append(row)
            seen[path.l3] += 1
            start = row.kernel.stop
        self.paths = kernels.ConvolutionPaths(
            paths=tuple(rows_of_paths),
            message_cols=tuple(n * channels for n in self.blocks_per_order),
        )
        # scalars and messages of every order: the kernel is the harmonics themselves
        self.is_trivial = feature_l == 0 and message_l == max_ell
        self.register_buffer("coupling", coupling, persistent=False)
        self.register_buffer("changes_sign", changes_sign, persistent=False)
        self.coupling: Tensor
        self.changes_sign: Tensor

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        radial: Tensor | TabulatedWeights,
        topology: Topology,
    ) -> list[Tensor]:
        """Messages by order.

        Args:
            features: (n_nodes, (feature_l + 1)^2, channels), element order.
            harmonics: (n_pairs, (max_ell + 1)^2) of the vectors along the pairs' edges.
            radial: (n_pairs, n_paths * channels), or a table of them and the distances; or twice as
                many rows where the two directions of a pair differ, those along the pairs' edges
                first.
            topology: Index tables.

        Returns:
            One tensor (n_nodes, 2 l + 1, n_blocks * channels) per order l, element order.
        """
        # angular kernel of every pair p: K[p, k] = sum_b Y[p, b] C[b, k]
        # (scalar senders have the one component a = 0 and C = delta_bm)
        kernel = harmonics if self.is_trivial else harmonics @ self.coupling.to(harmonics.dtype)
        # gradients of a table go to the distances, those of weights to the weights
        table = radial if isinstance(radial, TabulatedWeights) else None
        given = radial.distance if isinstance(radial, TabulatedWeights) else radial
        fused = kernels.backend(features)
        if fused is not None:
            args = (features, kernel, given, table, self, topology, fused)
            return list(_FusedConvolve.apply(*args))
        # no kernels: exact weights take the place of a table
        weights = given if table is None else table.exact(given)
        return list(self.plain(features, kernel, weights, topology))

    def plain(
        self, features: Tensor, kernel: Tensor, radial: Tensor, topology: Topology
    ) -> tuple[Tensor, ...]:
        """The messages in plain PyTorch from the angular kernel (n_pairs, k) of every pair."""
        slots = topology.slots
        # slot by slot: +1 and -1 for the two directions of a pair, 0 for padding
        sign = slots.sign.to(kernel.dtype)[:, None]
        # the even columns need |sign| to vanish on padding
        factor = torch.where(self.changes_sign, sign, sign.abs())
        # K[p, k] -> K[s, k]: the kernel of the slot's pair, turned into the slot's direction
        padded = kernel.index_select(0, slots.pair) * factor
        messages = _Convolve.apply(features, padded, radial, self, topology)
        # rows from chunk order back to element order
        return tuple(message.index_select(0, slots.chunk_rank) for message in messages)


class _FusedConvolve(torch.autograd.Function):
    """Fused kernels; second derivatives go through plain PyTorch with exact radial weights."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        features: Tensor,
        kernel: Tensor,
        radial: Tensor,
        tabulated: TabulatedWeights | None,
        conv: Convolution,
        topology: Topology,
        fused: kernels.Backend,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, kernel, radial)
        ctx.tabulated, ctx.conv, ctx.topology, ctx.fused = tabulated, conv, topology, fused
        # weights as they are, or distances with the table to look up
        source = radial if tabulated is None else (radial, tabulated.table)
        return fused.convolve(features, kernel, source, conv.paths, topology.edges)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, kernel, radial = ctx.saved_tensors
        conv: Convolution = ctx.conv
        tabulated: TabulatedWeights | None = ctx.tabulated
        need = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # a backward that is itself recorded: the plain form, differentiated by autograd
            def run(features: Tensor, kernel: Tensor, radial: Tensor) -> tuple[Tensor, ...]:
                weights = radial if tabulated is None else tabulated.exact(radial)
                return conv.plain(features, kernel, weights, ctx.topology)

            out = recorded_gradients(run, (features, kernel, radial), need, grads)
            return (*out, None, None, None, None)
        source = radial if tabulated is None else (radial, tabulated.table)
        fused: kernels.Backend = ctx.fused
        result = fused.convolve_backward(
            grads,
            features,
            kernel,
            source,
            conv.paths,
            ctx.topology.edges,
            need_features=need[0],
            need_pairs=need[1] or need[2],
        )
        return (*result, None, None, None, None)


class _Convolve(torch.autograd.Function):
    """Chunked sum over neighbours with a hand-written, differentiable backward."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        features: Tensor,
        kernel: Tensor,
        radial: Tensor,
        conv: Convolution,
        topology: Topology,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, kernel, radial)
        ctx.conv, ctx.topology = conv, topology
        return _convolve(features, kernel, radial, conv, topology)

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_messages: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, kernel, radial = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        need = ctx.needs_input_grad[:3]  # pyright: ignore[reportAttributeAccessIssue]
        grads = _convolve_backward(
            grad_messages,
            features,
            kernel,
            radial,
            ctx.conv,  # pyright: ignore[reportAttributeAccessIssue]
            ctx.topology,  # pyright: ignore[reportAttributeAccessIssue]
            need,
        )
        return (*grads, None, None)


def _chunk_inputs(
    features: Tensor,
    kernel: Tensor,
    radial: Tensor,
    conv: Convolution,
    topology: Topology,
    chunk: Chunk,
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel (n, width, k), radial (n, width, path, 1, c), sender features (n, width, m, c)."""
    # n receivers of width w each: slot s = (n, w), receivers one after the other
    n, width = chunk.node_stop - chunk.node_start, chunk.width
    slots = slice(chunk.edge_start, chunk.edge_stop)
    # K[s, k] -> [n, w, k], R[s, (path, c)] -> [n, w, path, 1, c], h[s, a, c] -> [n, w, a, c]
    k = kernel[slots].view(n, width, kernel.shape[1])
    # rows of the slots' pairs (and directions), and of their senders j
    r = radial.index_select(0, topology.slot_rows(slots, len(radial)))
    h = features.index_select(0, topology.slots.sender[slots])
    return (
        k,
        r.view(n, width, conv.n_paths, 1, conv.channels),
        h.view(n, width, features.shape[1], conv.channels),
    )


def _convolve(
    features: Tensor, kernel: Tensor, radial: Tensor, conv: Convolution, topology: Topology
) -> tuple[Tensor, ...]:
    channels = conv.channels
    # A[i, m, (path, c)] of every order; a chunk writes the rows of its receivers
    out = [
        features.new_empty(len(topology.node_rank), 2 * order + 1, blocks * channels)
        for order, blocks in enumerate(conv.blocks_per_order)
    ]
    for chunk in topology.slots.chunks:
        k, r, h = _chunk_inputs(features, kernel, radial, conv, topology, chunk)
        n, width = k.shape[:2]
        nodes = slice(chunk.node_start, chunk.node_stop)
        for index, path in enumerate(conv.paths.paths):
            # V[n, w, a, c] = R[n, w, 1, c] h[n, w, a, c], for the a of the path
            value = r[:, :, index] * h[:, :, path.features]
            # neighbours w and components a are summed over together: (w, a) becomes a single axis
            value = value.reshape(n, width * path.rows, channels)
            k_path = k[:, :, path.kernel].reshape(n, width * path.rows, path.cols)
            # A[n, m, c] = sum_(w, a) K[n, (w, a), m] V[n, (w, a), c]
            message = torch.bmm(k_path.transpose(1, 2), value)
            out[path.order][nodes, :, path.columns(channels)] = message
    return tuple(out)


def _convolve_backward(
    grad_messages: tuple[Tensor, ...],
    features: Tensor,
    kernel: Tensor,
    radial: Tensor,
    conv: Convolution,
    topology: Topology,
    need: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of features, kernel and radial weights; None where not needed."""
    n_slots = len(topology.slots.pair)
    shapes = (features.shape[1:], kernel.shape[1:], radial.shape[1:])
    # the three gradients slot by slot, None where not needed
    rows = [
        _SlotRows(features, n_slots, shape) if wanted else None
        for shape, wanted in zip(shapes, need, strict=True)
    ]
    # chunk by chunk, from the gradients of its receivers' messages
    for chunk in topology.slots.chunks:
        inputs = _chunk_inputs(features, kernel, radial, conv, topology, chunk)
        grads = [message[chunk.node_start : chunk.node_stop] for message in grad_messages]
        values = _chunk_gradients(conv, inputs, grads, need)
        for part, value in zip(rows, values, strict=True):
            if part is not None:
                part.add(slice(chunk.edge_start, chunk.edge_stop), value)
    # slots -> senders, slots -> pairs; the kernel's slots are put together by autograd in `plain`
    grad_h, grad_k, grad_r = (None if part is None else part.all() for part in rows)
    if grad_h is not None:
        grad_h = torch.zeros_like(features).index_add(0, topology.slots.sender, grad_h)
    if grad_r is not None:
        # every pair has two slots, one per direction; padding belongs to none
        along, against = (grad_r.index_select(0, k) for k in topology.slots.of_pair.unbind(1))
        grad_r = along + against if len(radial) == topology.n_pairs else torch.cat([along, against])
    return grad_h, grad_k, grad_r


class _SlotRows:
    """Collects rows slot by slot: in place, or joined at the end where a graph is recorded."""

    def __init__(self, like: Tensor, n_slots: int, shape: torch.Size) -> None:
        self._parts: list[Tensor] | None = [] if torch.is_grad_enabled() else None
        self._buffer = like.new_empty(n_slots if self._parts is None else 0, *shape)

    def add(self, slots: slice, rows: Tensor) -> None:
        """Rows of some slots; slots come in order."""
        if self._parts is None:
            self._buffer[slots] = rows
        else:
            self._parts.append(rows)

    def all(self) -> Tensor:
        """The rows of all slots, (n_slots, ...)."""
        return self._buffer if self._parts is None else torch.cat([self._buffer, *self._parts])


def _chunk_gradients(
    conv: Convolution,
    inputs: tuple[Tensor, Tensor, Tensor],
    grads: list[Tensor],
    need: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the three gradients for the slots of one chunk; empty where not needed."""
    k, r, h = inputs
    need_features, need_kernel, need_radial = need
    (n, width), channels = k.shape[:2], conv.channels
    # G[n, m, c] is the gradient of the path's messages; A = K^T (R h) gives the three rules below
    by_feature: dict[int, Tensor] = {}  # by 2 l1 + 1, ascending: paths of l3 = 0 come first
    by_kernel, by_radial = [k.new_empty(n * width, 0)], [k.new_empty(n * width, 0)]
    for index, path in enumerate(conv.paths.paths):
        g = grads[path.order][:, :, path.columns(channels)]
        r_path, h_path = r[:, :, index], h[:, :, path.features]
        if need_kernel:
            # dK[n, (w, a), m] = sum_c (R h)[n, (w, a), c] G[n, m, c]
            value = (r_path * h_path).reshape(n, width * path.rows, channels)
            gk = torch.bmm(value, g.transpose(1, 2))
            by_kernel.append(gk.view(n * width, path.rows * path.cols))
        # dV[n, (w, a), c] = sum_m K[n, (w, a), m] G[n, m, c], V = R h as in the forward
        k_path = k[:, :, path.kernel].reshape(n, width * path.rows, path.cols)
        gv = torch.bmm(k_path, g).view(n, width, path.rows, channels)
        if need_radial:
            # dR[n, w, c] = sum_a dV[n, w, a, c] h[n, w, a, c]
            product = gv * h_path
            product = product.sum(2) if path.rows > 1 else product
            by_radial.append(product.view(n * width, channels))
        if need_features:
            # dh[n, w, a, c] = sum over the paths that read a of dV R
            term = gv * r_path
            before = by_feature.get(path.rows)
            by_feature[path.rows] = term if before is None else before + term
    # orders side by side again: [n, w, (l, m), c], then slots s = (n, w)
    rows = torch.cat(list(by_feature.values()), dim=2) if need_features else h
    return (
        rows.view(n * width, h.shape[2], channels),
        torch.cat(by_kernel, dim=1),
        torch.cat(by_radial, dim=1),
    )
