r"""Structure factor on a particle mesh in plain torch: any device, for large systems on GPUs.

Charges are spread on a regular mesh of at least twice the resolution of the wave vectors, with the
"exponential of semicircle" kernel ``exp(beta (sqrt(1 - z^2) - 1))`` (Barnett, Magland, af
Klinteberg, SIAM J. Sci. Comput. 41, C479 (2019)); an FFT and a division by the kernel's transform
give ``S_n`` for exactly the wave vectors asked for, so the energy is the one of the direct sum and
not that of another k cutoff. Gradients use the coefficients times 2 pi i n, hence the pair of sums
stays adjoint and differentiable to any order.

Along one axis with M mesh points, w of them under the kernel ``f``, Poisson's summation gives

.. math::
    \sum_l f\Bigl(\frac{l - M s}{w/2}\Bigr) e^{2\pi i n l / M}
    = \hat f(n)\, e^{2\pi i n s} + \text{aliases } n \pm M, \ldots, \qquad
    \hat f(n) = \frac w2 \int_{-1}^{1} f(z) \cos(\pi n w z / M)\, dz .

``f_hat`` is small at the aliases because M is at least twice the number of wave vectors. Read from
left to right it is the sum (spread, transform, divide), from right to left its adjoint (divide,
transform back, interpolate). Index letters: s system, a atom, c channel, p part (value and three
slopes), w point under the kernel, (m1, m2, m3) mesh point, (n1, n2, n3) wave vector.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lesff.electrostatics.sums.structure_factor import Grid, Transform
from lesff.errors import ConfigError

_OVERSAMPLING = 2
_BETA_PER_POINT = 2.30
"""Shape of the kernel at twofold oversampling, eq. 4.5 of the paper."""
_BLOCK_VALUES = 2**20
"""Spread values of one block of atoms."""
DEFAULT_WIDTH = {torch.float32: 7, torch.float64: 12}
"""Mesh points under the kernel along an axis; the error of a sum is about 10^(1 - width)."""


class MeshTransform(Transform):
    """Cost n_atoms width^3 + n_k log n_k.

    Args:
        width: Mesh points under the kernel, 2 to 14; None takes ``DEFAULT_WIDTH`` of the dtype.
    """

    def __init__(self, width: int | None = None) -> None:
        if width is not None and not 2 <= width <= 14:
            raise ConfigError(f"`width` of the mesh must be 2 to 14, got {width}")
        self.width = width

    def sum(self, q: Tensor, s: Tensor, grid: Grid) -> Tensor:
        """See :meth:`Transform.sum`."""
        n_systems, n_channels = q.shape[:2]
        mesh = self._mesh(grid, s.dtype)
        n_mesh = math.prod(mesh)
        # spread: mesh value = sum of q f over the atoms near it; meshes of all systems in one row
        values = q.new_zeros(n_channels, n_systems * n_mesh)  # [c, s m1 m2 m3]
        for block, index, weight in self._spread(s, mesh):
            spread = q.transpose(0, 1)[:, :, block, None] * weight  # [c, s, a, w]
            values.index_add_(1, index.flatten(), spread.flatten(1))
        values = values.view(n_channels, n_systems, *mesh)  # [c, s, m1, m2, m3]
        # the FFT has exp(-2 pi i n l / M), S_n has the plus sign: conjugate, as the mesh is real
        waves = torch.fft.rfftn(values, dim=(4, 3, 2)).conj()  # the halved axis is the first one
        factor = self._deconvolution(grid, mesh, s)
        rows = [_wrapped(grid, axis, mesh, s.device) for axis in (1, 2)]
        # the wave vectors of the grid only, [c, s, n1, n2, n3], without the kernel's smoothing
        kept = waves[:, :, : grid.shape[0]][..., rows[0], :][..., rows[1]]
        return (kept * factor).transpose(0, 1).contiguous()  # [s, c, n1, n2, n3]

    def field(self, c: Tensor, s: Tensor, grid: Grid, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """See :meth:`Transform.field`."""
        n_systems, n_channels = c.shape[:2]
        mesh = self._mesh(grid, s.dtype)
        # phi has the coefficients conj(c_n), its slope along s_a has 2 pi i n_a conj(c_n)
        parts = [c.conj()]
        if gradient:
            parts += [2j * math.pi * grid.along(axis, s) * parts[0] for axis in range(3)]
        # each coefficient over f_hat: the interpolation below multiplies it with f_hat again
        waves = _hermitian(torch.stack(parts, dim=0)) * self._deconvolution(grid, mesh, s)
        # put them where the FFT expects them, zero at the wave vectors outside the grid
        half = (mesh[0] // 2 + 1, *mesh[1:])
        full = waves.new_zeros(*waves.shape[:3], *half)  # [p, s, c, half m1, m2, m3]
        rows = [_wrapped(grid, axis, mesh, s.device) for axis in (1, 2)]
        first = torch.arange(grid.shape[0], device=s.device)
        full[:, :, :, first[:, None, None], rows[0][:, None], rows[1]] = waves  # [.., n1, n2, n3]
        # "forward" has the factor 1/(M1 M2 M3) on the other transform: this is the plain sum over n
        values = torch.fft.irfftn(full, s=mesh[::-1], dim=(5, 4, 3), norm="forward")
        # [p, s, c, m1, m2, m3] -> [s m1 m2 m3, p c]: one row per mesh point, as `_spread` counts
        values = values.permute(1, 3, 4, 5, 0, 2).reshape(n_systems * math.prod(mesh), -1)
        # interpolate with the weights of the spreading, whose transpose this is
        out = s.new_empty(n_systems, s.shape[1], values.shape[1])
        for block, index, weight in self._spread(s, mesh):
            near = values.index_select(0, index.flatten()).view(*index.shape, -1)  # [s, a, w, p c]
            out[:, block] = torch.einsum("snw,snwc->snc", weight, near)  # n: atom, c: p c
        # [s, a, p c] -> [s, a, p, c] -> [p, s, c, a]
        phi = out.view(n_systems, s.shape[1], len(parts), n_channels).permute(2, 0, 3, 1)
        if not gradient:
            return phi[0], phi.new_zeros(*phi[0].shape, 3)
        return phi[0], phi[1:].permute(1, 2, 3, 0)  # [s, c, a], [s, c, a, axis]

    def _width(self, dtype: torch.dtype) -> int:
        """Mesh points under the kernel."""
        return DEFAULT_WIDTH[dtype] if self.width is None else self.width

    def _mesh(self, grid: Grid, dtype: torch.dtype) -> tuple[int, int, int]:
        """Mesh points of each axis: twice the wave vectors, and no less than two kernels."""
        low = 2 * self._width(dtype)
        sizes = [max(_OVERSAMPLING * (2 * limit + 1), low) for limit in grid.limits]
        return _smooth_size(sizes[0]), _smooth_size(sizes[1]), _smooth_size(sizes[2])

    def _spread(self, s: Tensor, mesh: tuple[int, int, int]):
        """Blocks of atoms with mesh indices and weights, both (n_systems, n_block, width^3).

        The index counts the mesh points of all systems: ``((s M1 + m1) M2 + m2) M3 + m3``; the
        weight is the product of the kernel's values along the three axes.
        """
        n_systems, n_atoms = s.shape[:2]
        width = self._width(s.dtype)
        step = max(_BLOCK_VALUES // (width**3 * n_systems), 1)
        offset = torch.arange(width, device=s.device)
        system = torch.arange(n_systems, device=s.device)[:, None, None]
        for start in range(0, n_atoms, step):
            block = slice(start, start + step)
            index, weight = system, s.new_ones(1, 1, 1)
            for axis, points in enumerate(mesh):
                # the `width` mesh points in [x - width/2, x + width/2), x in mesh spacings
                x = s[:, block, axis] * points  # [s, a]
                left = torch.ceil(x - 0.5 * width)
                # their distance from x in half widths, -1 to 1, and the kernel there: [s, a, w]
                z = (left[..., None] + offset - x[..., None]) * (2.0 / width)
                root = (1.0 - z * z).clamp_min(0.0).sqrt()  # rounding may bring |z| above 1
                value = torch.exp(_BETA_PER_POINT * width * (root - 1.0))
                column = torch.remainder(left.to(torch.int64)[..., None] + offset, points)
                # outer product with the axes before: [s, a, w.., 1] x [s, a, 1, w] -> [s, a, w.. w]
                index = (index[..., None] * points + column[:, :, None]).flatten(2)
                weight = (weight[..., None] * value[:, :, None]).flatten(2)
            yield block, index, weight

    def _deconvolution(self, grid: Grid, mesh: tuple[int, int, int], like: Tensor) -> Tensor:
        """1 / (transform of the kernel) of every wave vector, (*grid.shape)."""
        width = self._width(like.dtype)
        factor = like.new_ones(1, 1, 1)
        for axis, (limit, points) in enumerate(zip(grid.limits, mesh, strict=True)):
            column = _deconvolution_column(width, limit, points, like.dtype, like.device)
            shape = [1, 1, 1]
            shape[axis] = -1
            # the kernel is a product over axes, so is its transform; axis 1 has n >= 0 only
            factor = factor * column[0 if axis else limit :].view(shape)  # [n1, n2, n3]
        return factor


@lru_cache(maxsize=256)
def _deconvolution_column(
    width: int, limit: int, points: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``1 / transform`` for indices -limit..limit, on the device once and for all."""
    half = 1.0 / _kernel_transform(width, limit, points)
    # the kernel is even, so is its transform: limit..1 mirrored in front of 0..limit
    both = np.concatenate([half[:0:-1], half])
    return torch.from_numpy(both).to(device=device, dtype=dtype)


def _kernel_transform(width: int, limit: int, points: int) -> np.ndarray:
    """``width / 2 * integral_-1^1 exp(beta (sqrt(1 - z^2) - 1)) cos(pi n width z / points) dz``.

    For n = 0..limit, (limit + 1,), by Gauss-Legendre quadrature.
    """
    # z = sin t, dz = cos t dt, makes the integrand smooth at the ends: sqrt(1 - z^2) = cos t
    node, node_weight = np.polynomial.legendre.leggauss(160)
    t = 0.5 * np.pi * node  # -1..1 to -pi/2..pi/2: the factor pi/2 of the last line
    kernel = np.exp(_BETA_PER_POINT * width * (np.cos(t) - 1.0)) * np.cos(t)
    n = np.arange(limit + 1)
    phase = np.cos(np.pi * width / points * n[:, None] * np.sin(t))  # [n, node]
    return 0.5 * width * 0.5 * np.pi * (phase @ (node_weight * kernel))  # sum over nodes


def _wrapped(grid: Grid, axis: int, mesh: tuple[int, int, int], device: torch.device) -> Tensor:
    """Mesh row of each signed index: n >= 0 in row n, n < 0 in row M + n."""
    limit = grid.limits[axis]
    return torch.remainder(torch.arange(-limit, limit + 1, device=device), mesh[axis])


def _hermitian(waves: Tensor) -> Tensor:
    """Half-axis coefficients whose real transform is the real part of the plain sum.

    A real FFT adds the conjugate of every coefficient at -n. Given F it sums ``F_n e_n + conj(F_n
    e_n) = 2 Re F_n e_n`` over n_1 > 0, so F = C/2 there; in the plane n_1 = 0, which holds n and -n
    both, F must be Hermitian itself: ``F_n = (C_n + conj C_-n) / 2``.

    Args:
        waves: (..., n1, n2, n3) coefficients C, indices along the last two axes symmetric about 0.
    """
    plane = waves[..., :1, :, :]
    plane = 0.5 * (plane + plane.flip((-1, -2)).conj())  # flip: (n2, n3) -> (-n2, -n3)
    return torch.cat([plane, 0.5 * waves[..., 1:, :, :]], dim=-3)


def _smooth_size(least: int) -> int:
    """Smallest even number >= least with no prime factor above 5: fast Fourier transforms."""
    size = least + least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
