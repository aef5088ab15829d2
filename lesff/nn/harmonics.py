"""Length and real spherical harmonics of pair vectors (e3nn's conventions, component norm)."""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from lesff import kernels
from lesff.nn.double_backward import recorded_gradients


def pair_harmonics(vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """Distances and harmonics.

    Args:
        vectors: (n_pairs, 3) in A.
        max_ell: Highest order, at most 3 for compiled kernels.

    Returns:
        (n_pairs,) in A, and (n_pairs, (max_ell + 1)^2).
    """
    if kernels.is_active(vectors) and max_ell <= 3:
        return _CompiledHarmonics.apply(vectors, max_ell)  # pyright: ignore[reportReturnType]
    return plain_harmonics(vectors, max_ell)


def plain_harmonics(vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    orders = list(range(max_ell + 1))
    values = o3.spherical_harmonics(orders, vectors, normalize=True, normalization="component")
    return vectors.norm(dim=1), values


class _CompiledHarmonics(torch.autograd.Function):
    """Compiled kernels; second derivatives go through plain PyTorch."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(vectors)
        ctx.max_ell = max_ell
        return kernels.harmonics(vectors, max_ell)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (vectors,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            (out,) = recorded_gradients(
                lambda x: plain_harmonics(x, ctx.max_ell), (vectors,), (True,), grads
            )
            return out, None
        grad_distance, grad_values = grads
        return kernels.harmonics_backward(grad_distance, grad_values, vectors, ctx.max_ell), None
