"""Direct evaluation of the structure factor by real matrix products.

Phases factorise over the lattice directions. With ``U_a = [cos 2 pi n s_a | sin 2 pi n s_a]``,
n >= 0, everything follows from the real table ``M = sum_i q_i U_x,i (x) U_y,i (x) U_z,i``: one
matrix product ``(U_x (x) U_y)^T (q U_z)`` over atom blocks that fit the processor's cache. The sums
and differences of ``M`` for each sign of n give ``S_n``, by ``e^{+-i t} = cos t +- i sin t`` along
one axis after the other. Memory: the grid plus one block.

The adjoint takes the transposed steps in reverse order: from c to a real table T of the shape of M
with ``sum(T M) = Re sum conj(c) S`` for every M, then ``phi_i = T contracted with U_x,i, U_y,i and
U_z,i``, and the slope along one axis with ``dU/ds`` in place of U there.

Index letters: s system, c channel, a atom, (x, y, z) columns of U along the three axes *sorted by
their number of waves* (not Cartesian), 2 limit + 2 of them each; (n1, n2, n3) wave vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lesff.electrostatics.sums.structure_factor import Grid, Transform

_CACHE_VALUES = 2**18
"""Values of one block of phase products on a CPU: one megabyte in float32, inside L2."""
_DEVICE_VALUES = 2**25
"""The same on a GPU, where few large products are faster."""


class DirectTransform(Transform):
    """Sums of n_atoms x n_k terms, exact to rounding, all systems of a batch at once."""

    def sum(self, q: Tensor, s: Tensor, grid: Grid) -> Tensor:
        """See :meth:`Transform.sum`."""
        n_systems, n_channels, n_atoms = q.shape
        order = _axis_order(grid)
        x, y, z = (_phases(s[..., a], grid.limits[a])[0] for a in order)  # [s, a, x], ...
        n_plane = x.shape[2] * y.shape[2]
        # q U_z, the right factor: [s, a, c, 1] x [s, a, 1, z] -> [s, a, c z]
        weighted = (q.transpose(1, 2)[..., None] * z[:, :, None, :]).flatten(2)
        total = q.new_zeros(n_systems, n_plane, weighted.shape[2])  # M, [s, x y, c z]
        step = _block(n_systems * n_plane, q, n_atoms)
        buffer = q.new_empty(n_systems, step, n_plane)
        for start in range(0, n_atoms, step):
            block = slice(start, min(start + step, n_atoms))
            # U_x (x) U_y of the block, in the same memory every time: [s, a, x y]
            plane = buffer[:, : block.stop - start]
            torch.mul(
                x[:, block, :, None],
                y[:, block, None, :],
                out=plane.view(*plane.shape[:2], x.shape[2], y.shape[2]),
            )
            # sum over the atoms of the block: [s, x y, a] @ [s, a, c z]
            total.baddbmm_(plane.transpose(1, 2), weighted[:, block])
        table = total.view(n_systems, x.shape[2], y.shape[2], n_channels, z.shape[2])
        # back to (system, channel, axis 1, axis 2, axis 3): axis a was sorted to rank inverse[a],
        # and the axes of rank 0, 1, 2 are dimensions 1, 2, 4 of [s, x, y, c, z]
        inverse = [order.index(a) for a in range(3)]
        place = [1, 2, 4]
        return _to_waves(table.permute(0, 3, *(place[i] for i in inverse)))

    def field(self, c: Tensor, s: Tensor, grid: Grid, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """See :meth:`Transform.field`."""
        n_systems, n_channels = c.shape[:2]
        n_atoms = s.shape[1]
        order = _axis_order(grid)
        # T, [s, c, axis 1, axis 2, axis 3] -> [s, z, c, y, x] with the axes sorted
        table = _from_waves(c).permute(0, 2 + order[2], 1, 2 + order[1], 2 + order[0])
        (x, dx), (y, dy), (z, dz) = (_phases(s[..., a], grid.limits[a]) for a in order)
        matrix = table.flatten(2)  # [s, z, c y x]
        phi = s.new_zeros(n_systems, n_channels, n_atoms)
        d_phi = s.new_zeros(n_systems, n_channels, n_atoms, 3)
        step = _block(n_systems * matrix.shape[2] * (1 + gradient), s, n_atoms)
        shape = (n_channels, y.shape[2], x.shape[2])
        for start in range(0, n_atoms, step):
            block = slice(start, min(start + step, n_atoms))
            count = block.stop - start
            # contract z, the longest axis: U_z in the first `count` rows, dU_z/ds below them
            left = torch.cat([z[:, block], dz[:, block]], 1) if gradient else z[:, block]
            plane = torch.bmm(left, matrix).view(n_systems, -1, *shape)  # [s, a (2 a), c, y, x]
            # contract y with U_y and dU_y/ds: [s, a, 1, 1 or 2, y] @ [s, a, c, y, x]
            yb = torch.stack([y[:, block], dy[:, block]], 2) if gradient else y[:, block, None]
            row = torch.matmul(yb[:, :, None], plane[:, :count])  # [s, a, c, 1 or 2, x]
            xb = x[:, block, None, :]  # contract x: [s, a, c, x] x [s, a, 1, x] -> [s, c, a]
            phi[:, :, block] = (row[..., 0, :] * xb).sum(-1).transpose(1, 2)
            if gradient:
                # the slope along an axis has its U replaced by dU/ds: U_x' U_y U_z, U_x U_y' U_z
                # and U_x U_y U_z', the last from the lower rows of `plane`
                last = torch.matmul(yb[:, :, None, :1], plane[:, count:])  # [s, a, c, 1, x]
                parts = (
                    row[..., 0, :] * dx[:, block, None, :],
                    row[..., 1, :] * xb,
                    last[..., 0, :] * xb,
                )  # [s, a, c, x] each, in the sorted order of the axes
                for axis, part in zip(order, parts, strict=True):
                    d_phi[:, :, block, axis] = part.sum(-1).transpose(1, 2)
        return phi, d_phi


def _axis_order(grid: Grid) -> list[int]:
    """Axes by their number of waves, the longest last: it is the inner one of the product."""
    return sorted(range(3), key=lambda axis: grid.limits[axis])


def _block(values_per_atom: int, like: Tensor, n_atoms: int) -> int:
    """Atoms of a block: as many as the cache holds, at least 16, at most all."""
    limit = _CACHE_VALUES if like.device.type == "cpu" else _DEVICE_VALUES
    return max(min(limit // max(values_per_atom, 1), n_atoms), min(16, n_atoms), 1)


def _phases(s: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """[cos 2 pi n s | sin 2 pi n s] for n = 0..limit, (..., 2 limit + 2), and its s derivative."""
    n = torch.arange(limit + 1, dtype=s.dtype, device=s.device)
    angle = 2.0 * math.pi * (s[..., None] * n)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    slope = 2.0 * math.pi * n  # d angle / ds
    return torch.cat([cosine, sine], -1), torch.cat([-slope * sine, slope * cosine], -1)


def _to_waves(table: Tensor) -> Tensor:
    """Real table over [cos | sin] of each axis to complex sums over signed indices.

    Args:
        table: M, (n_systems, n_channels, *(2 limit + 2 of each axis)).

    Returns:
        S, (n_systems, n_channels, *grid.shape): n_1 >= 0, n_2 and n_3 of both signs.
    """
    # axis 3, cosine columns C and sine columns D: C + i D for n3 >= 0, its conjugate for -n3, since
    # the table is real
    first = torch.complex(*table.chunk(2, dim=4))
    waves = torch.cat([first[..., 1:].flip(4).conj(), first], dim=4)  # n3 = -limit..limit
    # axis 2: entries are complex by now, so n2 < 0 needs its own C - i D; n2 = 0 comes once
    cosine, sine = waves.chunk(2, dim=3)
    plus, minus = cosine + 1j * sine, (cosine - 1j * sine)[:, :, :, 1:].flip(3)
    waves = torch.cat([minus, plus], dim=3)
    cosine, sine = waves.chunk(2, dim=2)  # axis 1: n1 >= 0 only
    return cosine + 1j * sine


def _from_waves(c: Tensor) -> Tensor:
    """Transpose of :func:`_to_waves` for the real scalar product Re sum conj(c) S.

    Args:
        c: (n_systems, n_channels, *grid.shape) complex.

    Returns:
        The real table T, of the shape of M.
    """
    # axis 1, S_n = C_n + i D_n: Re conj(c) (C + i D) = Re conj(c) C + Re conj(-i c) D
    table = torch.cat([c, -1j * c], dim=2)
    # axis 2, S_{+-n} = C_n +- i D_n: C takes p + m, D takes -i (p - m), p and m those of n and -n
    plus, minus = _halves(table, 3)
    table = torch.cat([plus + minus, -1j * (plus - minus)], dim=3)
    # axis 3, the same with real C and D: Re conj(p) C = (Re p) C, Re conj(p) i D = (Im p) D
    plus, minus = _halves(table, 4)
    return torch.cat([(plus + minus).real, (plus - minus).imag], dim=4)


def _halves(table: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Entries n >= 0, and entries -n in the same order with zero at n = 0."""
    limit = table.shape[axis] // 2
    plus = table.narrow(axis, limit, limit + 1)
    minus = table.narrow(axis, 0, limit).flip(axis)
    zero = torch.zeros_like(plus.narrow(axis, 0, 1))
    return plus, torch.cat([zero, minus], dim=axis)
