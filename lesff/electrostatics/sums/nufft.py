r"""Structure factor by the non-uniform fast Fourier transform of FINUFFT, for large cells on CPUs.

Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, C479 (2019). Type 1 is the sum, type 2 its
adjoint: with angles ``x = 2 pi s`` and integer modes k

.. math::
    \text{type 1: } F_k = \sum_i c_i e^{i k \cdot x_i}, \qquad
    \text{type 2: } c_i = \sum_k F_k e^{i k \cdot x_i}, \qquad
    -\lfloor N/2 \rfloor \le k \le \lfloor (N - 1)/2 \rfloor

along an axis of N modes. That is ``-limit..limit`` where N = 2 limit + 1; the first axis has the
modes ``n = k + m``, m = floor(N/2), which :func:`_points` takes care of. Fractional coordinates
make every cell a cube, so skew costs nothing. Systems go one after
the other: each is large. FINUFFT uses as many threads as torch; in float32 it rounds mesh
coordinates, so its errors are two to three times those of the other evaluators.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesff.electrostatics.sums.structure_factor import Grid, Transform
from lesff.errors import UnsupportedInputError

try:
    import finufft
except ImportError:  # platforms without wheels
    finufft = None

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative accuracy of each transform, close to the rounding of the type."""


class NufftTransform(Transform):
    """Cost n_atoms + n_k log n_k; relative error of a transform as in ``TOLERANCE``."""

    def sum(self, q: Tensor, s: Tensor, grid: Grid) -> Tensor:
        """See :meth:`Transform.sum`."""
        _check_device(q)
        x, shift = _points(s, grid)
        # c_i = q_i e^{i m x_1}: then F_k is S_n at n1 = k1 + m
        strengths = (q * shift[:, None]).numpy()  # (n_systems, n_channels, n_atoms)
        out = np.empty((*q.shape[:2], *grid.shape), dtype=strengths.dtype)
        for system in range(len(s)):
            # all channels of a system in one plan: they share the points
            plan = _plan(1, grid, q.shape[1], s.dtype)
            plan.setpts(*x[system])
            plan.execute(_squeeze(strengths[system]), out=_squeeze(out[system]))
        return torch.from_numpy(out)

    def field(self, c: Tensor, s: Tensor, grid: Grid, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """See :meth:`Transform.field`."""
        _check_device(c)
        x, shift = _points(s, grid)
        n_systems, n_channels = c.shape[:2]
        n_parts = 4 if gradient else 1  # value, and slopes along the three axes
        phi = s.new_zeros(n_systems, n_parts, n_channels, s.shape[1])
        for system in range(n_systems):
            # phi = Re sum conj(c_n) e^{2 pi i n s}: the value has the modes conj(c)
            modes = torch.empty((n_parts, n_channels, *grid.shape), dtype=c.dtype)
            torch.conj_physical(c[system], out=modes[0])
            for axis in range(n_parts - 1):
                torch.mul(
                    modes[0], 2j * math.pi * grid.along(axis, s), out=modes[1 + axis]
                )  # d/ds_a e^{2 pi i n s} = 2 pi i n_a e^{2 pi i n s}
            # one plan for parts and channels: (n_parts n_channels, n1, n2, n3) -> (.., n_atoms)
            plan = _plan(2, grid, n_parts * n_channels, s.dtype)
            plan.setpts(*x[system])
            values = torch.from_numpy(plan.execute(_squeeze(modes.flatten(0, 1).numpy())))
            # e^{i k x} times e^{i m x_1} is e^{2 pi i n s}; phi is the real part of its sum
            phi[system] = (values.view(n_parts, n_channels, -1) * shift[system]).real
        if not gradient:
            return phi[:, 0], phi.new_zeros(*phi[:, 0].shape, 3)
        # [system, part, channel, atom] -> [system, channel, atom, axis]
        return phi[:, 0], phi[:, 1:].permute(0, 2, 3, 1)


def is_installed() -> bool:
    """Whether FINUFFT is there; it has no wheels for some platforms."""
    return finufft is not None


def _check_device(values: Tensor) -> None:
    """Refuse tensors that FINUFFT, a library for CPUs, cannot read."""
    if values.device.type != "cpu":
        raise UnsupportedInputError(
            f"the evaluator 'nufft' runs on the CPU, got tensors on {values.device}; "
            "use 'mesh' or 'auto'"
        )


def _points(s: Tensor, grid: Grid) -> tuple[np.ndarray, Tensor]:
    """Angles, (n_systems, 3, n_atoms), and the factor that moves modes to 0..limit on axis 1.

    FINUFFT centres its modes; a factor e^{2 pi i m s_1} in the strengths shifts them, so the half
    grid needs no more room than it has entries. The factor is (n_systems, n_atoms), complex.
    """
    middle = grid.shape[0] // 2  # m
    angle = (
        2.0 * math.pi * (s - s.round())
    )  # FINUFFT takes -pi..pi; n is integer, so S_n is the same
    first = middle * angle[..., 0].double()  # large multiples of an angle lose digits in float32
    shift = torch.complex(torch.cos(first).to(s.dtype), torch.sin(first).to(s.dtype))
    return angle.transpose(1, 2).contiguous().numpy(), shift


def _plan(kind: int, grid: Grid, n_transforms: int, dtype: torch.dtype) -> Any:
    """FINUFFT's plan of type 1 or 2 with the sign + in the exponent.

    Raises:
        UnsupportedInputError: if FINUFFT is not installed.
    """
    if finufft is None:
        raise UnsupportedInputError(
            "the evaluator 'nufft' needs FINUFFT, which is not installed; "
            "pip install finufft, or use 'mesh' or 'auto'"
        )
    return finufft.Plan(
        kind,
        grid.shape,
        n_trans=n_transforms,
        eps=TOLERANCE[dtype],
        isign=1,
        dtype="complex64" if dtype == torch.float32 else "complex128",
        nthreads=torch.get_num_threads(),
    )


def _squeeze(values: np.ndarray) -> np.ndarray:
    """FINUFFT wants no axis of transforms if there is one only."""
    return np.ascontiguousarray(values) if len(values) > 1 else values[0]
