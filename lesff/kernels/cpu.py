"""Calls of the compiled kernels on CPU tensors, without autograd.

The structures mirror ``csrc/arguments.h`` field by field.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lesff.errors import KernelError
from lesff.kernels.library import call


class ConvolutionPath(ctypes.Structure):
    """One tensor-product path, see ``LesffPath``."""

    _fields_ = [
        (name, c_int32)
        for name in ("rows", "cols", "feature_row", "kernel_col", "order", "block", "odd")
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_nodes", "n_pairs", "n_edges", "channels", "feature_rows")],
        ("kernel_cols", c_int64),
        ("n_paths", c_int32),
        ("n_threads", c_int32),
        ("paths", c_void_p),
        ("message_cols", c_int64 * 4),
        *[(n, c_void_p) for n in ("node_start", "edge_sender", "edge_pair", "edge_sign")],
        *[(n, c_void_p) for n in ("pair_sender", "pair_receiver", "features", "kernel", "weights")],
        ("weight_rows", c_int64),
        ("distance", c_void_p),
        ("table", c_void_p),
        ("n_intervals", c_int64),
        ("table_start", c_double),
        ("table_inverse_step", c_double),
        ("messages", c_void_p * 4),
        *[(n, c_void_p) for n in ("grad_features", "grad_kernel", "grad_weights", "grad_distance")],
    ]


class _Contraction(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_nodes", "channels", "n_rows", "n_components", "n_terms")],
        *[(n, c_int64) for n in ("n_groups", "n_slices", "n_elements")],
        ("n_threads", c_int32),
        *[(n, c_void_p) for n in ("slices", "groups", "last", "features", "table")],
        *[(n, c_void_p) for n in ("output", "grad", "grad_features", "grad_table")],
    ]


class _Harmonics(ctypes.Structure):
    _fields_ = [
        ("n_pairs", c_int64),
        ("max_ell", c_int32),
        ("n_threads", c_int32),
        *[(n, c_void_p) for n in ("vectors", "distance", "harmonics", "grad_distance")],
        *[(n, c_void_p) for n in ("grad_harmonics", "grad_vectors")],
    ]


@dataclass(frozen=True)
class ConvolutionEdges:
    """Edges grouped by receiver, int32 but for the sign.

    Attributes:
        node_start: (n_nodes + 1,) first edge of each receiver.
        sender: (n_edges,) sending node.
        pair: (n_edges,) undirected pair.
        sign: (n_edges,) int8, +1 along the pair's edge, -1 against it.
        pair_sender, pair_receiver: (n_pairs,) nodes.
    """

    node_start: Tensor
    sender: Tensor
    pair: Tensor
    sign: Tensor
    pair_sender: Tensor
    pair_receiver: Tensor


@dataclass(frozen=True)
class RadialTable:
    """Piecewise quintic radial weights.

    Attributes:
        knots: (n_paths, n_blocks, n_intervals + 3, 3, 16): value, slope and curvature in units of
            the step at every knot; two more knots, of zeros, stand for all beyond the cutoff.
        start: First knot in A.
        inverse_step: Intervals per A.
    """

    knots: Tensor
    start: float
    inverse_step: float

    @property
    def n_intervals(self) -> int:
        """Intervals below the cutoff."""
        return self.knots.shape[2] - 3


@dataclass(frozen=True)
class ContractionTerms:
    """Monomials of a symmetric contraction, int32.

    Attributes:
        groups: (n_groups, 4): leading factors i <= j, output component, end of the group's terms.
        last: (n_terms,) last factor k of each term. Factor 0 is the constant 1.
        n_components: Components of the output.
    """

    groups: Tensor
    last: Tensor
    n_components: int
    _on_device: dict[tuple[torch.device, int], DeviceTerms] = field(
        default_factory=dict, compare=False
    )

    def on(self, device: torch.device, n_rows: int) -> DeviceTerms:
        """Term by term for Triton kernels, made once per device; for ``n_rows`` feature rows."""
        key = device, n_rows
        if key not in self._on_device:
            self._on_device[key] = self._expanded(device, n_rows)
        return self._on_device[key]

    def _expanded(self, device: torch.device, n_rows: int) -> DeviceTerms:
        groups = self.groups.long()
        ends = groups[:, 3]
        count = torch.diff(ends, prepend=ends.new_zeros(1))
        lead = groups[:, :3].repeat_interleave(count, 0)
        factors = torch.cat([lead[:, :2], self.last[:, None].long()], 1)
        component = lead[:, 2].contiguous()
        start = torch.searchsorted(component, torch.arange(self.n_components + 1))
        term = torch.arange(len(factors))
        uses = [
            torch.stack([factors[:, k], term, component, factors[:, i], factors[:, j]], 1)
            for k, i, j in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
        ]
        all_uses = torch.cat(uses)
        all_uses = all_uses[all_uses[:, 0] > 0]
        all_uses = all_uses[all_uses[:, 0].argsort(stable=True)]
        rows = torch.arange(1, n_rows + 2)
        use_start = torch.searchsorted(all_uses[:, 0].contiguous(), rows)
        return DeviceTerms(
            factors=factors.to(device),
            component=component.to(device),
            start=start.to(device),
            uses=all_uses[:, 1:].contiguous().to(device),
            use_start=use_start.to(device),
        )


@dataclass(frozen=True)
class DeviceTerms:
    """Monomials term by term, int64.

    Attributes:
        factors: (n_terms, 3) factors; factor 0 is the constant 1.
        component: (n_terms,) output component, ascending.
        start: (n_components + 1,) first term of each component.
        uses: (n_uses, 4) for every factor of every term, by factor: the term, its component, and
            the other two factors.
        use_start: (n_rows + 1,) first use of each feature row.
    """

    factors: Tensor
    component: Tensor
    start: Tensor
    uses: Tensor
    use_start: Tensor


def convolve(
    features: Tensor, kernel: Tensor, radial: Tensor | tuple[Tensor, RadialTable],
    paths: ctypes.Array, edges: ConvolutionEdges, message_cols: tuple[int, ...],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Messages of every node, one tensor (n_nodes, 2 l + 1, message_cols[l]) per order.

    Args:
        features: (n_nodes, (feature_l + 1)^2, channels).
        kernel: (n_pairs, kernel_cols) angular kernel along the pair's edge.
        radial: Weights (n_pairs or 2 n_pairs, n_paths * channels), or distances (n_pairs,) in A
            and the table to look up.
        paths: Array of :class:`ConvolutionPath`.
        edges: Index tables.
        message_cols: Channels of each order's message.
    """
    n_nodes = features.shape[0]
    messages = tuple(
        features.new_empty(n_nodes, 2 * order + 1, cols) for order, cols in enumerate(message_cols)
    )
    inputs = _Inputs(features, kernel, radial)
    call("convolve", features.dtype, _convolution(inputs, paths, edges, messages))
    return messages


def convolve_backward(
    grads: tuple[Tensor, ...], features: Tensor, kernel: Tensor,
    radial: Tensor | tuple[Tensor, RadialTable], paths: ctypes.Array, edges: ConvolutionEdges,
    *, need_features: bool, need_pairs: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of features, angular kernel and radial weights (or distances).

    Args:
        grads: Gradients of the messages.
        features: As for :func:`convolve`.
        kernel: As for :func:`convolve`.
        radial: As for :func:`convolve`.
        paths: As for :func:`convolve`.
        edges: As for :func:`convolve`.
        need_features: Whether the gradient of the features is computed.
        need_pairs: Whether those of kernel and radial weights are.
    """
    grads = tuple(grad.contiguous() for grad in grads)
    inputs = _Inputs(features, kernel, radial)
    arguments = _convolution(inputs, paths, edges, grads)
    grad_features = grad_kernel = grad_radial = None
    if need_features:
        grad_features = torch.zeros_like(inputs.features)
        arguments.grad_features = grad_features.data_ptr()
    if need_pairs:
        grad_kernel = torch.zeros_like(inputs.kernel)
        arguments.grad_kernel = grad_kernel.data_ptr()
        if inputs.weights is not None:
            grad_radial = torch.empty_like(inputs.weights)
            arguments.grad_weights = grad_radial.data_ptr()
        elif inputs.distance is not None:
            grad_radial = torch.zeros_like(inputs.distance)
            arguments.grad_distance = grad_radial.data_ptr()
    call("convolve_backward", features.dtype, arguments)
    return grad_features, grad_kernel, grad_radial


class _Inputs:
    """Contiguous tensors, kept alive while the kernels use their memory."""

    def __init__(
        self, features: Tensor, kernel: Tensor, radial: Tensor | tuple[Tensor, RadialTable]
    ) -> None:
        self.features = features.contiguous()
        self.kernel = kernel.contiguous()
        self.weights = self.distance = self.table = None
        if isinstance(radial, Tensor):
            self.weights = radial.contiguous()
        else:
            self.distance, self.table = radial[0].contiguous(), radial[1]
        for tensor in (self.kernel, self.weights, self.distance):
            if tensor is not None and tensor.dtype != features.dtype:
                raise KernelError(f"inputs must be {features.dtype}, got {tensor.dtype}")


def _convolution(
    inputs: _Inputs, paths: ctypes.Array, edges: ConvolutionEdges, messages: tuple[Tensor, ...]
) -> _Convolution:
    n_nodes, feature_rows, channels = inputs.features.shape
    arguments = _Convolution(
        n_nodes=n_nodes,
        n_pairs=len(edges.pair_sender),
        n_edges=len(edges.sender),
        channels=channels,
        feature_rows=feature_rows,
        kernel_cols=inputs.kernel.shape[1],
        n_paths=len(paths),
        n_threads=torch.get_num_threads(),
        paths=ctypes.addressof(paths),
        node_start=edges.node_start.data_ptr(),
        edge_sender=edges.sender.data_ptr(),
        edge_pair=edges.pair.data_ptr(),
        edge_sign=edges.sign.data_ptr(),
        pair_sender=edges.pair_sender.data_ptr(),
        pair_receiver=edges.pair_receiver.data_ptr(),
        features=inputs.features.data_ptr(),
        kernel=inputs.kernel.data_ptr(),
    )
    for order, message in enumerate(messages):
        arguments.message_cols[order] = message.shape[2]
        arguments.messages[order] = message.data_ptr()
    if inputs.weights is not None:
        arguments.weights = inputs.weights.data_ptr()
        arguments.weight_rows = inputs.weights.shape[0]
    elif inputs.table is not None and inputs.distance is not None:
        arguments.distance = inputs.distance.data_ptr()
        arguments.table = inputs.table.knots.data_ptr()
        arguments.n_intervals = inputs.table.n_intervals
        arguments.table_start = inputs.table.start
        arguments.table_inverse_step = inputs.table.inverse_step
    return arguments


def contract(features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms) -> Tensor:
    """Value of the contraction, (n_nodes, n_components, channels).

    Args:
        features: (n_nodes, n_rows, channels).
        table: (n_elements, n_terms, channels) weight of every monomial.
        slices: (n_slices, 3) int64: nodes ``start:stop`` have row ``element`` of the table; every
            row at most once.
        terms: The monomials.
    """
    features, table = features.contiguous(), table.contiguous()
    output = features.new_empty(features.shape[0], terms.n_components, features.shape[2])
    arguments = _contraction(features, table, slices, terms)
    arguments.output = output.data_ptr()
    call("contract", features.dtype, arguments)
    return output


def contract_backward(
    grad: Tensor, features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms,
    *, need_features: bool, need_table: bool,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of features and table.

    Args:
        grad: (n_nodes, n_components, channels) gradient of the output.
        features: As for :func:`contract`.
        table: As for :func:`contract`.
        slices: As for :func:`contract`.
        terms: As for :func:`contract`.
        need_features: Whether the gradient of the features is computed.
        need_table: Whether that of the table is.
    """
    grad, features, table = grad.contiguous(), features.contiguous(), table.contiguous()
    arguments = _contraction(features, table, slices, terms)
    arguments.grad = grad.data_ptr()
    grad_features = torch.empty_like(features) if need_features else None
    grad_table = torch.zeros_like(table) if need_table else None
    if grad_features is not None:
        arguments.grad_features = grad_features.data_ptr()
    if grad_table is not None:
        arguments.grad_table = grad_table.data_ptr()
    call("contract_backward", features.dtype, arguments)
    return grad_features, grad_table


def _contraction(
    features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms
) -> _Contraction:
    if table.dtype != features.dtype:
        raise KernelError(f"weights must be {features.dtype} like the features, got {table.dtype}")
    n_nodes, n_rows, channels = features.shape
    return _Contraction(
        n_nodes=n_nodes,
        channels=channels,
        n_rows=n_rows,
        n_components=terms.n_components,
        n_terms=len(terms.last),
        n_groups=len(terms.groups),
        n_slices=len(slices),
        n_elements=len(table),
        n_threads=torch.get_num_threads(),
        slices=slices.data_ptr(),
        groups=terms.groups.data_ptr(),
        last=terms.last.data_ptr(),
        features=features.data_ptr(),
        table=table.data_ptr(),
    )


def harmonics(vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """Lengths (n,) in A and real harmonics (n, (max_ell + 1)^2) of vectors (n, 3) in A."""
    vectors = vectors.contiguous()
    distance = vectors.new_empty(len(vectors))
    values = vectors.new_empty(len(vectors), (max_ell + 1) ** 2)
    arguments = _Harmonics(
        n_pairs=len(vectors),
        max_ell=max_ell,
        n_threads=torch.get_num_threads(),
        vectors=vectors.data_ptr(),
        distance=distance.data_ptr(),
        harmonics=values.data_ptr(),
    )
    call("harmonics", vectors.dtype, arguments)
    return distance, values


def harmonics_backward(
    grad_distance: Tensor, grad_harmonics: Tensor, vectors: Tensor, max_ell: int
) -> Tensor:
    """Gradient of the vectors, (n, 3)."""
    vectors, grad_distance = vectors.contiguous(), grad_distance.contiguous()
    grad_harmonics, grad_vectors = grad_harmonics.contiguous(), torch.empty_like(vectors)
    arguments = _Harmonics(
        n_pairs=len(vectors),
        max_ell=max_ell,
        n_threads=torch.get_num_threads(),
        vectors=vectors.data_ptr(),
        grad_distance=grad_distance.data_ptr(),
        grad_harmonics=grad_harmonics.data_ptr(),
        grad_vectors=grad_vectors.data_ptr(),
    )
    call("harmonics_backward", vectors.dtype, arguments)
    return grad_vectors
