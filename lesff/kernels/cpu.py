"""Calls of the compiled kernels on CPU tensors, without autograd.

The structures mirror ``csrc/arguments.h`` field by field.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lesff.errors import KernelError
from lesff.kernels.arguments import (
    ContractionTerms,
    ConvolutionEdges,
    RadialTable,
    _Contraction,
    _Convolution,
    _Harmonics,
    _Inputs,
)
from lesff.kernels.library import call


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
