"""Quintic splines: exact for quintic polynomials, of sixth order for others, smooth at knots."""

import math

import torch
from torch import Tensor

from lesff.nn.spline import spline_coefficients


def basis(t: float) -> list[float]:
    """B-splines of degree 5 on the integers at t, by the recursion of Cox and de Boor."""

    def spline(i: int, degree: int, x: float) -> float:
        if degree == 0:
            return float(i <= x < i + 1)
        left = (x - i) / degree * spline(i, degree - 1, x)
        return left + (i + degree + 1 - x) / degree * spline(i + 1, degree - 1, x)

    return [spline(j - 5, 5, t) for j in range(6)]


def fitted(function, n: int) -> Tensor:
    """Coefficients (n + 5, 1) of a function with derivatives on [0, 1]."""
    knots = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
    ends = [torch.tensor([[function(x, k)] for x in (0.0, 1.0)]).double() for k in (1, 2)]
    values = torch.tensor([[function(float(x), 0)] for x in knots], dtype=torch.float64)
    return spline_coefficients(values, ends[0] / n, ends[1] / n**2)


def value(coefficients: Tensor, n: int, x: float) -> float:
    i = min(int(x * n), n - 1)
    return sum(w * float(coefficients[i + j, 0]) for j, w in enumerate(basis(x * n - i)))


def worst(function, n: int) -> float:
    coefficients = fitted(function, n)
    points = [(i + 0.37) / 200 for i in range(200)]
    return max(abs(value(coefficients, n, x) - function(x, 0)) for x in points)


def quintic(x: float, k: int) -> float:
    """3 x^5 - x^4 + 2 x^2 - 0.5 and its derivatives."""
    terms = {5: 3.0, 4: -1.0, 2: 2.0, 0: -0.5}
    return sum(c * math.perm(p, k) * x ** (p - k) for p, c in terms.items() if p >= k)


def wave(x: float, k: int) -> float:
    """sin(7 x + 0.3) and its derivatives."""
    return 7.0**k * math.sin(7.0 * x + 0.3 + k * math.pi / 2)


def test_quintic_polynomials_are_reproduced():
    assert worst(quintic, 8) < 1e-13


def test_the_error_falls_with_the_sixth_power_of_the_step():
    ratio = worst(wave, 20) / worst(wave, 40)
    assert 2.0**5.5 < ratio < 2.0**6.5
