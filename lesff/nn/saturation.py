"""Values that level off: the identity near zero, and never beyond a limit."""

from __future__ import annotations

import torch
from torch import Tensor

LINEAR_SHARE = 0.8
"""Up to this share of the limit a value stays as it is, bit by bit."""
_FAR = 1.0e4
"""Arguments beyond are those: the fourth power of larger ones overflows in float32."""


def levelled(u: Tensor) -> Tensor:
    """``u (1 + u^4)^(-1/4)`` for u >= 0: ``u - u^5 / 4`` near zero, one far out.

    Its slope ``(1 + u^4)^(-5/4)`` is positive, so that the order of values is kept.
    """
    u = u.clamp(max=_FAR)
    return u * (1.0 + u.square().square()) ** -0.25


def saturated(x: Tensor, limit: Tensor | float) -> Tensor:
    """``x`` where ``|x| <= 0.8 L``, levelling off towards ``+-L`` beyond.

    ``sign(x) L [s + (1 - s) levelled((|x| / L - s) / (1 - s))]`` with ``s = 0.8``: four continuous
    derivatives, strictly increasing, and exactly ``x`` below s L.

    Args:
        x: Values.
        limit: L > 0, broadcast against ``x``.
    """
    size = x.abs()
    # share of the way from where the identity ends to the limit
    beyond = ((size - LINEAR_SHARE * limit) / ((1.0 - LINEAR_SHARE) * limit)).clamp(min=0.0)
    level = limit * (LINEAR_SHARE + (1.0 - LINEAR_SHARE) * levelled(beyond))
    return torch.where(beyond > 0.0, torch.sign(x) * level, x)


def saturation_slope(x: Tensor, limit: Tensor | float) -> Tensor:
    """Derivative of :func:`saturated` by its first argument."""
    beyond = (x.abs() - LINEAR_SHARE * limit) / ((1.0 - LINEAR_SHARE) * limit)
    return (1.0 + beyond.clamp(0.0, _FAR).square().square()) ** -1.25


def saturated_norm(x: Tensor, limit: Tensor, n_axes: int = 1) -> Tensor:
    """Vectors or tensors whose norm levels off like :func:`saturated`, direction kept.

    Args:
        x: (n, ...) with ``n_axes`` axes after the first.
        limit: (n,) largest norms.
        n_axes: Axes that the norm runs over.
    """
    # the norm of zero has no derivative: such rows are no longer than the limit, and stay
    square = x.flatten(1).square().sum(1)
    is_long = square > (LINEAR_SHARE * limit).square()
    norm = torch.where(is_long, square, torch.ones_like(square)).sqrt()
    factor = torch.where(is_long, saturated(norm, limit) / norm, torch.ones_like(norm))
    return x * factor.view(-1, *(1,) * n_axes)


def from_below(x: Tensor, start: Tensor | float, width: Tensor | float) -> Tensor:
    """``x`` where ``x >= start``, levelling off towards ``start - width`` below."""
    below = ((start - x) / width).clamp(min=0.0)
    return torch.where(below > 0.0, start - width * levelled(below), x)


def smooth_step(x: Tensor) -> Tensor:
    """0 for x <= 0, 1 for x >= 1, ``x^3 (10 - 15 x + 6 x^2)`` between: two derivatives, both 0."""
    x = x.clamp(0.0, 1.0)
    return x * x * x * (10.0 + x * (6.0 * x - 15.0))
