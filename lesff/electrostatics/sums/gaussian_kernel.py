"""The pair kernel of Gaussian charges and its derivatives.

``erf(r / (sqrt(2) sigma)) / r`` is the Coulomb energy, in units of ke, of two unit charges with
densities proportional to ``exp(-r^2 / sigma^2)``, that is Gaussians of standard deviation ``sigma /
sqrt(2)`` along each axis. Its Fourier transform is ``4 pi exp(-sigma^2 k^2 / 2) / k^2``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SERIES_RADIUS = 0.5
"""Below this value of r / (sqrt(2) sigma) kernels use their series."""
_SERIES_TERMS = 14
"""0.5^28 / (14! 29) = 1e-21."""


def gaussian_kernel(r2: Tensor, sigma: float) -> Tensor:
    """``erf(r / (sqrt(2) sigma)) / r`` in 1/A from squared distances in A^2, smooth at r = 0."""
    return kernel_derivatives(r2, sigma, 0)[0]


def kernel_derivatives(r2: Tensor, sigma: float, order: int) -> list[Tensor]:
    """The kernel and its derivatives with respect to r^2 up to ``order``.

    ``K^(m) = ((-a^2)^(m-1) g - (2m - 1) K^(m-1)) / (2u)`` with ``a = 1 / (sqrt(2) sigma)``,
    ``u = r^2`` and ``g = 2a/sqrt(pi) exp(-a^2 u)``: ``K = erf(a sqrt(u)) / sqrt(u)`` obeys ``2u K'
    + K = g``, and m - 1 further derivatives of that are the recursion. Near zero, where it
    cancels, the series ``2a/sqrt(pi) sum_n (-a^2 u)^n / (n! (2n + 1))`` term by term.

    Args:
        r2: Squared distances in A^2, any shape.
        sigma: Gaussian width in A.
        order: Highest derivative.
    """
    a = 1.0 / (math.sqrt(2.0) * sigma)
    near = r2 < (_SERIES_RADIUS / a) ** 2
    # 1 instead of small r^2: neither values nor gradients of the branch not taken may be infinite
    u = torch.where(near, torch.ones_like(r2), r2)
    root = u.sqrt()
    values = [torch.erf(a * root) / root]
    if order:
        gauss, half = 2.0 * a / math.sqrt(math.pi) * torch.exp(-(a * a) * u), 0.5 / u
        for m in range(1, order + 1):
            values.append(((-a * a) ** (m - 1) * gauss - (2 * m - 1) * values[-1]) * half)
    if not is_on_host(r2):  # no question whose answer the host would wait for
        y = torch.where(near, -a * a * r2, 0.0)
        return [torch.where(near, _series(y, a, m), v) for m, v in enumerate(values)]
    if not bool(near.any()):
        return values
    y = -a * a * r2[near]  # few pairs: atoms do not overlap
    return [v.masked_scatter(near, _series(y, a, m)) for m, v in enumerate(values)]


def is_on_host(tensor: Tensor) -> bool:
    """Whether the host may look at values without waiting for a device."""
    return tensor.device.type == "cpu"


def _series(y: Tensor, a: float, order: int) -> Tensor:
    """Derivative of the series with respect to r^2; y = -a^2 r^2.

    ``2a/sqrt(pi) (-a^2)^m sum_{n >= m} y^(n - m) / ((n - m)! (2n + 1))`` for the m-th.
    """
    terms = range(order, _SERIES_TERMS + order)
    factors = [1.0 / (math.factorial(n - order) * (2 * n + 1)) for n in terms]
    total = torch.full_like(y, factors[-1])  # Horner's scheme, from the highest power
    for factor in factors[-2::-1]:
        total = total * y + factor
    return 2.0 * a / math.sqrt(math.pi) * (-a * a) ** order * total
