"""Length and real spherical harmonics of pair vectors (e3nn's conventions, component norm)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.autograd import recorded_gradients

_SHORTEST = 1e-12
"""Shortest vector in A that has a direction."""


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
    distance = vectors.norm(dim=1)
    # a vector of length zero has harmonics of zero but for l = 0
    units = vectors / distance.clamp_min(_SHORTEST).unsqueeze(1)
    return distance, solid_harmonics(units, max_ell)


def solid_harmonics(vectors: Tensor, max_ell: int) -> Tensor:
    """``r^l Y_lm(x, y, z)``, real and in component norm: the sum of Y_lm^2 over m is 2 l + 1.

    With e3nn's axes: y is the polar axis, m < 0 goes with sines and m >= 0 with cosines of the
    azimuth from z to x, without the Condon-Shortley phase. Recursions of the associated Legendre
    functions: Abramowitz and Stegun 8.5.3, divided by ``sin^m`` and made homogeneous.

    Args:
        vectors: (n, 3).
        max_ell: Highest order.

    Returns:
        (n, (max_ell + 1)^2), all (l, m) on one axis, m from -l to l.
    """
    x, y, z = vectors.unbind(dim=1)
    square = (vectors * vectors).sum(dim=1)
    # (z + i x)^m: cosines and sines of the azimuth times sin^m of the polar angle
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(max_ell):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * z - s * x)
        sines.append(s * z + c * x)
    # place of (l, m): l^2 + l + m
    columns: dict[int, Tensor] = {}
    for m in range(max_ell + 1):
        for l, legendre in enumerate(_legendre(y, square, m, max_ell), start=m):
            # component norm; factor 2 because cosine and sine share an |m|
            ratio = math.factorial(l - m) / math.factorial(l + m)
            scaled = math.sqrt((2 * l + 1) * (2 if m else 1) * ratio) * legendre
            columns[l * l + l + m] = scaled * cosines[m]
            if m:
                columns[l * l + l - m] = scaled * sines[m]
    return torch.stack([columns[place] for place in range(len(columns))], dim=1)


def _legendre(y: Tensor, square: Tensor, m: int, max_ell: int) -> list[Tensor]:
    """``r^(l - m) P_l^m(y / r) / sin^m`` for l from m to ``max_ell``; ``square`` is r^2."""
    # P_m^m / sin^m = (2 m - 1)!!, P_(m+1)^m = (2 m + 1) y P_m^m
    found = [torch.full_like(y, math.prod(range(1, 2 * m, 2)))]
    if m < max_ell:
        found.append((2 * m + 1) * y * found[0])
    # (l - m) P_l = (2 l - 1) y P_(l-1) - (l + m - 1) P_(l-2)
    for l in range(m + 2, max_ell + 1):
        upper = ((2 * l - 1) / (l - m)) * y * found[-1]
        found.append(upper - ((l + m - 1) / (l - m)) * square * found[-2])
    return found


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
