"""Quintic splines on a uniform grid: coefficients of B-splines from values and end conditions.

C. de Boor, A Practical Guide to Splines (1978): on a grid of n intervals there are n + 5 quintic
B-splines, and as many conditions: values at n + 1 knots, slopes and curvatures at both ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

AT_KNOTS = (1, 26, 66, 26, 1)
"""120 times the five B-splines that are not zero at a knot, steps of one."""
SLOPES = (-5, -50, 0, 50, 5)
"""The same of their first derivatives."""
CURVATURES = (20, 40, -120, 40, 20)
"""The same of their second derivatives."""


def spline_coefficients(values: Tensor, slopes: Tensor, curvatures: Tensor) -> Tensor:
    """Coefficients of the quintic B-splines through values at knots, four times differentiable.

    Args:
        values: (n + 1, k) functions at the knots, float64.
        slopes: (2, k) first derivatives at the first and the last knot, per step.
        curvatures: (2, k) second derivatives there, per square of the step.

    Returns:
        (n + 5, k). The spline in [i, i + 1] is the sum over j < 6 of row i + j times the B-spline
        that begins at knot i + j - 5.
    """
    n = len(values) - 1
    # collocation[row, coefficient]: ends, values, ends
    collocation = values.new_zeros(n + 5, n + 5)
    for shift, at_knot in enumerate(AT_KNOTS):
        torch.diagonal(collocation[2 : n + 3], shift).fill_(at_knot)
    rows = values.new_tensor([SLOPES, CURVATURES])
    collocation[:2, :5] = rows
    collocation[-2:, -5:] = rows
    right = torch.cat([slopes[:1], curvatures[:1], values, slopes[1:], curvatures[1:]])
    return torch.linalg.solve(collocation, 120.0 * right)
