r"""Energy of Gaussian charges: periodic k sum and open-boundary pair sum.

Pair kernel ``ke erf(r / (sqrt(2) sigma)) / r``. Periodic (LES, arXiv 2412.15455, eqs. 3-5):

.. math::
    E = \frac{2\pi k_e}{V} \sum_{0<|k|\le 2\pi/dl} \frac{e^{-\sigma^2 k^2/2}}{k^2} |S(k)|^2
        - \frac{k_e}{\sigma\sqrt{2\pi}} \sum_i q_i^2, \qquad S(k) = \sum_i q_i e^{i k r_i}

without the k = 0 term (conducting surroundings, uniform neutralising background). Everything is
written in differentiable operations: derivatives of any order, in charges, positions and cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lesff.electrostatics.padding import Padding
from lesff.errors import ConfigError
from lesff.units import COULOMB_CONSTANT, EWALD_PREFACTOR

_BLOCK_VALUES = 4_000_000
"""Values of the largest temporary (phases, pairs); beyond it atoms or pairs go in blocks."""
_SERIES_RADIUS = 0.05
"""Below this value of r / (sqrt(2) sigma) the kernel uses its series; error < 1e-15."""


@dataclass(frozen=True, kw_only=True)
class EwaldSettings:
    """Constants of the latent Coulomb energy; they are part of a trained model.

    Attributes:
        sigma: Gaussian width in A.
        dl: Resolution in A: wave vectors up to 2 pi / dl are summed.
        remove_self_interaction: Whether the energy of each Gaussian with itself is left out.
        prefactor: 1 / (2 eps0) in eV A / e^2; some published weights carry another value.
    """

    sigma: float = 1.0
    dl: float = 2.0
    remove_self_interaction: bool = True
    prefactor: float = EWALD_PREFACTOR

    def __post_init__(self) -> None:
        """Raise ConfigError for values without meaning."""
        for name in ("sigma", "dl", "prefactor"):
            value = getattr(self, name)
            if not (0.0 < value < 1000.0):
                raise ConfigError(f"`long_range.{name}` must be in (0, 1000), got {value!r}")

    @property
    def self_energy(self) -> float:
        """Energy of a unit Gaussian with itself, ke / (sigma sqrt(2 pi)), in eV / e^2."""
        return self.prefactor / (2.0 * math.pi) / (self.sigma * math.sqrt(2.0 * math.pi))

    @property
    def coulomb_constant(self) -> float:
        """Ke that belongs to the prefactor."""
        return COULOMB_CONSTANT * (self.prefactor / EWALD_PREFACTOR)


def periodic_energy(
    charges: Tensor, positions: Tensor, cell: Tensor, batch: Tensor, settings: EwaldSettings
) -> Tensor:
    """Energy of each system, all periodic in three directions, (n_systems,) in eV.

    The phases factorise over the lattice directions: S(k) is one matrix product per system.

    Args:
        charges: (n_atoms,) in e.
        positions: (n_atoms, 3) in A.
        cell: (n_systems, 3, 3) in A, rows are lattice vectors, either handedness.
        batch: (n_atoms,) system of each atom, ascending.
        settings: Constants.
    """
    n_systems = cell.shape[0]
    padding = Padding.of(batch, n_systems)
    inverse = torch.linalg.inv(cell)
    volume = torch.linalg.det(cell).abs()
    fractional = torch.einsum("ni,nij->nj", positions, inverse[batch])
    fractional = fractional - fractional.detach().floor()  # small phases: exact in float32
    q, s = padding.pad(charges), padding.pad(fractional)

    # |n_i| = |k . a_i| / (2 pi) <= |a_i| / dl for any skew
    limits = (cell.detach().norm(dim=2) / settings.dl).amax(0).floor().to(torch.int64)
    axes = [torch.arange(-n, n + 1, device=cell.device) for n in limits.tolist()]
    axes[0] = axes[0][axes[0] >= 0]  # S(-k) is the conjugate of S(k)
    structure = _structure_factor(q, s, axes)

    n = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)
    multiplicity = torch.where(n[:, 0] > 0, 2.0, 1.0).to(cell.dtype)
    k = 2.0 * math.pi * torch.einsum("kj,sij->ski", n.to(cell.dtype), inverse)
    k2 = (k * k).sum(-1)  # (n_systems, n_k)
    inside = (k2 <= (2.0 * math.pi / settings.dl) ** 2) & (n != 0).any(-1)
    k2 = torch.where(inside, k2, torch.ones_like(k2))
    weight = torch.exp(-0.5 * settings.sigma**2 * k2) / k2 * multiplicity * inside
    power = structure.real.square() + structure.imag.square()
    energy = settings.prefactor / volume * (weight * power).sum(1)
    if settings.remove_self_interaction:
        energy = energy - settings.self_energy * (q * q).sum(1)
    return energy


def _structure_factor(q: Tensor, s: Tensor, axes: list[Tensor]) -> Tensor:
    """S(k) on the product grid of the integer axes, (n_systems, n_1 * n_2 * n_3), complex."""
    n_systems, n_max = q.shape
    width = len(axes[0]) * len(axes[1])
    step = max(_BLOCK_VALUES // (n_systems * width), 1)
    if step >= n_max:
        return _structure_block(q, s, axes).flatten(1)
    total = torch.zeros((), dtype=torch.complex64, device=q.device)
    for start in range(0, n_max, step):
        block = slice(start, start + step)
        part = checkpoint(_structure_block, q[:, block], s[:, block], axes, use_reentrant=False)
        total = total + part
    return total.flatten(1)


def _structure_block(q: Tensor, s: Tensor, axes: list[Tensor]) -> Tensor:
    phases = []
    for axis, n in enumerate(axes):
        angle = 2.0 * math.pi * s[:, :, axis, None] * n.to(s.dtype)
        phases.append(torch.complex(torch.cos(angle), torch.sin(angle)))
    first, second, third = phases  # (n_systems, n_atoms, n_axis)
    plane = (q[:, :, None] * first)[:, :, :, None] * second[:, :, None, :]
    return torch.bmm(plane.flatten(2).transpose(1, 2), third)


def open_energy(
    charges: Tensor, positions: Tensor, batch: Tensor, n_systems: int, settings: EwaldSettings
) -> Tensor:
    """Energy of each isolated system, (n_systems,) in eV.

    ``E = 1/2 ke sum_{i != j} q_i q_j erf(r_ij / (sqrt(2) sigma)) / r_ij``, plus the self energy
    ``ke sum q^2 / (sigma sqrt(2 pi))`` where the settings keep it.

    Args:
        charges: (n_atoms,) in e.
        positions: (n_atoms, 3) in A.
        batch: (n_atoms,) system of each atom, ascending.
        n_systems: Number of systems.
        settings: Constants.
    """
    padding = Padding.of(batch, n_systems)
    q, r = padding.pad(charges), padding.pad(positions)
    first, second = torch.triu_indices(padding.n_max, padding.n_max, 1, device=r.device)
    step = max(_BLOCK_VALUES // n_systems, 1)
    energy = q.new_zeros(n_systems)
    for start in range(0, len(first), step):
        i, j = first[start : start + step], second[start : start + step]
        if step >= len(first):
            part = _pair_block(q, r, i, j, settings)
        else:
            part = checkpoint(_pair_block, q, r, i, j, settings, use_reentrant=False)
        energy = energy + part
    if not settings.remove_self_interaction:
        energy = energy + settings.self_energy * (q * q).sum(1)
    return energy


def _pair_block(q: Tensor, r: Tensor, i: Tensor, j: Tensor, settings: EwaldSettings) -> Tensor:
    product = q[:, i] * q[:, j]  # padding has charge zero
    r2 = (r[:, i] - r[:, j]).square().sum(-1)
    kernel = gaussian_kernel(r2, settings.sigma)
    return settings.coulomb_constant * (product * kernel).sum(1)


def gaussian_kernel(r2: Tensor, sigma: float) -> Tensor:
    """``erf(r / (sqrt(2) sigma)) / r`` in 1/A from squared distances in A^2, smooth at r = 0."""
    a = 1.0 / (math.sqrt(2.0) * sigma)
    x2 = r2 * (a * a)
    near = x2 < _SERIES_RADIUS**2
    far_r = torch.where(near, torch.ones_like(r2), r2).sqrt()
    far = torch.erf(a * far_r) / far_r
    x2 = torch.where(near, x2, torch.zeros_like(x2))
    series = 1.0 - x2 * (1 / 3 - x2 * (1 / 10 - x2 * (1 / 42 - x2 * (1 / 216 - x2 / 1320))))
    return torch.where(near, 2.0 * a / math.sqrt(math.pi) * series, far)
