r"""Energy of Gaussian charges in crystals and slabs: a sum over wave vectors, no real-space part.

Pair kernel ``ke erf(r / (sqrt(2) sigma)) / r``. Periodic (LES, arXiv 2412.15455, eqs. 3-5):

.. math::
    E = \frac{2\pi k_e}{V} \sum_{0<|k|\le 2\pi/dl} \frac{e^{-\sigma^2 k^2/2}}{k^2} |S(k)|^2
        - \frac{k_e}{\sigma\sqrt{2\pi}} \sum_i q_i^2, \qquad S(k) = \sum_i q_i e^{i k r_i}

without the k = 0 term (conducting surroundings, uniform neutralising background): a cell of net
charge Q keeps the offset ``pi ke sigma^2 Q^2 / V`` of its Gaussians against point charges.

Slabs use the same sum with the kernel cut off at half the height L of an auxiliary cell, so that
images along the normal do not interact at all (Rozzi et al., PRB 73, 205119 (2006), eq. 18; Ismail-
Beigi, PRB 73, 233103 (2006)): ``1/k^2`` becomes

.. math::
    \frac{1 - (-1)^{n_3} e^{-k_\parallel L/2}}{k^2}, \qquad -L^2/8 \text{ at } k = 0,

``k_3 = 2 pi n_3 / L``. It is the limit that EW3DC with its net-charge terms (Yeh and Berkowitz, JCP
111, 3155 (1999); Ballenegger, Arnold, Cerda, JCP 131, 094107 (2009)) reaches for infinite vacuum,
but exact for L > 2 (thickness + tails), whatever the in-plane period, and no moments of the
charges appear.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lesff.atoms.cell import cell_volume, inverse_cell
from lesff.autograd import recomputed
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import SPHERE_TOLERANCE, PairSettings
from lesff.electrostatics.sums.structure_factor import Grid, Transform, structure_factor
from lesff.errors import UnsupportedInputError

MAX_WAVES = 200_000_000
"""Largest grid of wave vectors of one system; its structure factor takes 1.6 GB in float32."""
_BLOCK_WAVES = 4_000_000
"""Wave vectors weighted at once; more go in blocks that are recomputed in the backward pass."""


def wave_limits(cell: Tensor, dl: float) -> Tensor:
    """Largest index of each reciprocal axis inside the sphere, (n_systems, 3) int64.

    ``|n_i| = |k . a_i| / (2 pi) <= |a_i| / dl`` for any skew.

    Args:
        cell: (n_systems, 3, 3) in A.
        dl: Resolution in A.

    Raises:
        UnsupportedInputError: if the grid of a system would not fit in memory.
    """
    ratio = cell.detach().double().norm(dim=2) / dl
    limits = (ratio * (1.0 + 0.5 * SPHERE_TOLERANCE)).floor()
    size = (limits[:, 0] + 1) * (2 * limits[:, 1] + 1) * (2 * limits[:, 2] + 1)
    if bool((size > MAX_WAVES).any()):
        worst = int(size.argmax())
        raise UnsupportedInputError(
            f"cell with edges of {[round(x, 1) for x in (ratio[worst] * dl).tolist()]} A has "
            f"{float(size[worst]):.1e} wave vectors at dl = {dl} A, the limit is {MAX_WAVES:.0e}; "
            "use a smaller or less skewed cell, or pbc = False for a molecule in vacuum"
        )
    return limits.to(torch.int64)


def common_grid(cell: Tensor, dl: float) -> Grid:
    """Grid that holds the spheres of all cells; arguments and errors of :func:`wave_limits`."""
    first, second, third = wave_limits(cell, dl).amax(0).tolist()
    return Grid((first, second, third))


def periodic_energy(
    charges: Tensor,
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    settings: PairSettings,
    transform: Transform,
    *,
    slab: bool = False,
    padding: Padding | None = None,
    grid: Grid | None = None,
) -> Tensor:
    """Energy of each system, (n_systems,) in eV, differentiable to any order.

    Args:
        charges: (n_atoms,) in e.
        positions: (n_atoms, 3) in A.
        cell: (n_systems, 3, 3) in A, rows are lattice vectors, either handedness.
        batch: (n_atoms,) system of each atom, ascending.
        settings: Constants.
        transform: Evaluator of the structure factor.
        slab: Whether all systems are open along the last row of the cell, which is then normal to
            the other two and longer than twice the thickness; see :mod:`.slab`.
        padding: That of ``batch``, if it is known.
        grid: Wave vectors that hold the sphere of every cell, if they are known.
    """
    padding = padding or Padding.of(batch, cell.shape[0])
    grid = grid or common_grid(cell, settings.dl)
    # s = r h^-1; n: atom, i: Cartesian, j: lattice vector
    inverse = inverse_cell(cell.double())
    fractional = torch.einsum("ni,nij->nj", positions.double(), inverse[batch])
    # whole lattice vectors change no phase: n . s is an integer for them
    fractional = fractional - fractional.detach().round()
    # float64 up to here: in float32 the phases of large cells would lose two more digits
    q, s = padding.pad(charges), padding.pad(fractional.to(positions.dtype))
    inverse = inverse.to(cell.dtype)
    volume = cell_volume(cell)
    # S_n of one channel, the charges: (n_systems, n1, n2, n3)
    structure = structure_factor(q[:, None], s, grid, transform)[:, 0]
    height = cell[:, 2].norm(dim=1) if slab else None
    energy = (
        settings.prefactor / volume * weighted_power(structure, inverse, grid, settings, height)
    )
    # |S|^2 holds the terms i = j: each Gaussian in its own potential, which is no interaction. Its
    # interaction with its own images stays.
    if settings.remove_self_interaction:
        energy = energy - settings.self_energy * (q * q).sum(1)
    return energy


def weighted_power(
    structure: Tensor, inverse: Tensor, grid: Grid, settings: PairSettings, height: Tensor | None
) -> Tensor:
    """Sum of weight `abs(S)^2` over the whole sphere, (n_systems,), in blocks along the first axis.

    Args:
        structure: (n_systems, n1, n2, n3) complex, in the shape of the grid.
        inverse: (n_systems, 3, 3) inverse cells in 1/A.
        grid: Wave vectors.
        settings: The interaction.
        height: See :func:`wave_weights`.
    """
    n_planes = grid.shape[0]
    # weights are as large as the grid and a derivative keeps several tables of that size
    step = max(_BLOCK_WAVES * n_planes // (grid.size * len(structure)), 1)
    if step >= n_planes:
        return _power_block(structure, inverse, height, start=0, grid=grid, settings=settings)
    total = inverse.new_zeros(len(inverse))
    for start in range(0, n_planes, step):
        planes = structure[:, start : start + step]
        block = partial(_power_block, start=start, grid=grid, settings=settings)
        total = total + recomputed(block, planes, inverse, height)
    return total


def _power_block(
    structure: Tensor,
    inverse: Tensor,
    height: Tensor | None,
    *,
    start: int,
    grid: Grid,
    settings: PairSettings,
) -> Tensor:
    """Part of :func:`weighted_power` for the planes of ``structure``, counted from ``start``."""
    weight = wave_weights(inverse, slice(start, start + structure.shape[1]), grid, settings, height)
    power = structure.real.square() + structure.imag.square()
    return (weight * power).flatten(1).sum(1)  # [s, i j l]


def wave_weights(
    inverse: Tensor, planes: slice, grid: Grid, settings: PairSettings, height: Tensor | None
) -> Tensor:
    """Weight of ``|S|^2`` of some planes of the grid, (n_systems, planes, n2, n3), in A^2.

    The half sphere stands for the whole: vectors off the plane ``n_1 = 0`` count twice.

    Args:
        inverse: (n_systems, 3, 3) inverse cells in 1/A.
        planes: Indices along the first axis.
        grid: Wave vectors.
        settings: Constants.
        height: (n_systems,) height of the auxiliary cell of slabs in A, or None for crystals.
    """
    n1, n2, n3 = (grid.indices(axis, inverse) for axis in range(3))
    n1 = n1[planes]
    # a_i . b_j = 2 pi delta_ij: columns of h^-1 times 2 pi, (n_systems, reciprocal vector, xyz)
    b = 2.0 * math.pi * inverse.transpose(1, 2)
    # k = n1 b1 + n2 b2 + n3 b3; s: system, x: Cartesian, i, j, l: places of n1, n2, n3
    plane = torch.einsum("i,sx->sxi", n1, b[:, 0])[..., None]
    plane = plane + torch.einsum("j,sx->sxj", n2, b[:, 1])[:, :, None]  # [s, x, i, j]
    line = torch.einsum("l,sx->sxl", n3, b[:, 2])
    # |k|^2 = sum over x of ([s, i, j, 1] + [s, 1, 1, l])^2, without a table of k itself
    k2 = sum((plane[:, x, :, :, None] + line[:, x, None, None]).square() for x in range(3))
    weight = settings.weight(k2)  # pyright: ignore[reportArgumentType]
    if height is not None:
        weight = _open_along_normal(weight, plane, n1, n2, n3, height)
    multiplicity = torch.where(n1 > 0, 2.0, 1.0).to(inverse.dtype)  # S(-k) is the conjugate
    return weight * multiplicity[:, None, None]  # [s, i, j, l] x [i, 1, 1]


def _open_along_normal(
    weight: Tensor, plane: Tensor, n1: Tensor, n2: Tensor, n3: Tensor, height: Tensor
) -> Tensor:
    """Weights of the kernel cut off at half the height along the third axis.

    Cut at ``|z| < R`` the kernel 1/r has the transform ``4 pi / k^2 [1 + exp(-k_par R) ((k_3/k_par)
    sin k_3 R - cos k_3 R)]``. With R = L/2 and ``k_3 = 2 pi n_3 / L`` the sine is zero and the
    cosine ``(-1)^n_3``. Where ``k_par = 0`` the potential is that of charged planes, ``-2 pi |z|``
    for ``|z| < R``, with the transform ``4 pi / k_3^2 [1 - (-1)^n_3]``, and ``-2 pi R^2 = 4 pi
    (-L^2/8)`` at the origin. Images along the normal are farther than R, where the kernel is zero.

    Args:
        weight: (n_systems, n1, n2, n3) weights of the full kernel.
        plane: (n_systems, 3, n1, n2) in-plane wave vectors: the third axis is normal to them.
        n1: Indices of the first axis.
        n2: Indices of the second axis.
        n3: Indices of the third axis.
        height: (n_systems,) L in A.
    """
    in_plane = (n1[:, None] != 0) | (n2 != 0)  # [n1, n2], where k_par is not zero
    # k_par, [s, n1, n2]; the root is taken of 1 where it is zero: its slope would be infinite
    squared = torch.where(in_plane, plane.square().sum(1), torch.zeros_like(plane[:, 0]))
    k_parallel = torch.where(in_plane, squared, torch.ones_like(squared)).sqrt() * in_plane
    decay = torch.exp(-0.5 * k_parallel * height[:, None, None])
    # 1 - (-1)^n3 exp(-k_par L/2): removes the images of the slab along its normal
    sign = 1.0 - 2.0 * torch.remainder(n3, 2.0)
    weight = weight * (1.0 - sign * decay[..., None])  # [s, n1, n2, 1] with [n3]
    # k = 0: the weight of the settings leaves it out; an open direction has no background, and the
    # mean of -2 pi |z| over the cell belongs to the energy
    origin = (~in_plane)[..., None] & (n3 == 0)  # [n1, n2, n3]
    return weight - origin * (height.square() / 8.0)[:, None, None, None]
