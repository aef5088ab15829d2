"""Length and real spherical harmonics of pair vectors (e3nn's conventions, component norm)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.nn.double_backward import recorded_gradients


def pair_harmonics(vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """Distances and harmonics, in fused kernels where there are any.

    Args:
        vectors: (n_pairs, 3) in A.
        max_ell: Highest order.

    Returns:
        (n_pairs,) in A, and (n_pairs, (max_ell + 1)^2).
    """
    fused = kernels.backend(vectors)
    if fused is not None and fused.has_harmonics(max_ell):
        return _FusedHarmonics.apply(vectors, max_ell, fused)  # pyright: ignore[reportReturnType]
    return plain_harmonics(vectors, max_ell)


def plain_harmonics(vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """Distances and harmonics in plain PyTorch, differentiable any number of times."""
    from e3nn import o3  # start-up: imports torch._dynamo, 2 s of CPU

    # component norm: the sum of Y_lm^2 over m is 2 l + 1; all (l, m) on one axis
    orders = list(range(max_ell + 1))
    values = o3.spherical_harmonics(orders, vectors, normalize=True, normalization="component")
    return vectors.norm(dim=1), values


class _FusedHarmonics(torch.autograd.Function):
    """Fused kernels; second derivatives go through plain PyTorch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, vectors: Tensor, max_ell: int, fused: kernels.Backend
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(vectors)
        ctx.max_ell, ctx.fused = max_ell, fused
        return fused.harmonics(vectors, max_ell)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (vectors,) = ctx.saved_tensors
        # a backward that is itself recorded: the plain form, differentiated by autograd
        if torch.is_grad_enabled():
            (out,) = recorded_gradients(
                lambda x: plain_harmonics(x, ctx.max_ell), (vectors,), (True,), grads
            )
            return out, None, None
        fused: kernels.Backend = ctx.fused
        # distances and harmonics have one gradient together, that of the vectors
        grad_distance, grad_values = grads
        grad = fused.harmonics_backward(grad_distance, grad_values, vectors, ctx.max_ell)
        return grad, None, None
