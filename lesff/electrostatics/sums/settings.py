"""Constants of pair interactions that are summed over wave vectors, first of all Coulomb's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lesff.electrostatics.sums.gaussian_kernel import kernel_derivatives
from lesff.errors import ConfigError
from lesff.kernels import PairKind
from lesff.units import COULOMB_CONSTANT, EWALD_PREFACTOR

Cutoff = Literal["sharp", "smooth"]

SPHERE_TOLERANCE = 2e-6
"""Relative widening of k_max^2, so that a vector on the sphere (cell length a multiple of dl) is
inside in float32 and in float64, whatever the order of summation."""
TAPER_START = 0.85
"""The smooth cutoff switches off between this fraction of k_max and k_max."""


class PairSettings(Protocol):
    """What the sums ask of an interaction ``c/2 sum_ij q_i q_j K(r_ij^2)``, ``r_ii = 0`` included.

    ``prefactor weight(k^2)`` is half the Fourier transform of ``c K``, so that the periodic energy
    is ``prefactor / V sum_k weight(k^2) |S(k)|^2``.
    """

    @property
    def sigma(self) -> float:
        """Width in A below which the kernel is smooth."""
        ...

    @property
    def dl(self) -> float:
        """Resolution in A: wave vectors up to 2 pi / dl are summed."""
        ...

    @property
    def prefactor(self) -> float:
        """Factor of the sum over wave vectors."""
        ...

    @property
    def pair_constant(self) -> float:
        """Factor c of the pair sum."""
        ...

    @property
    def remove_self_interaction(self) -> bool:
        """Whether the terms i = j are left out."""
        ...

    @property
    def self_energy(self) -> float:
        """Energy ``c K(0) / 2`` of a unit charge with itself."""
        ...

    @property
    def pair_kind(self) -> PairKind:
        """Name of the kernel K in the compiled library."""
        ...

    @property
    def slab_vacuum(self) -> float:
        """Least empty height in A of the auxiliary cell of a slab."""
        ...

    @property
    def truncates_images(self) -> bool:
        """Whether images of a slab are removed by the truncated Coulomb kernel."""
        ...

    def weight(self, k2: Tensor) -> Tensor:
        """Weight of wave vectors from their squares in 1/A^2, any shape."""
        ...

    def kernel(self, r2: Tensor, order: int) -> list[Tensor]:
        """K and its derivatives with respect to r^2 in A^2 up to ``order``."""
        ...


_TAIL_WIDTHS = 7.0
"""erfc(7 / sqrt(2)) = 3e-12: reach of a Gaussian pair in units of sigma."""


@dataclass(frozen=True, kw_only=True)
class EwaldSettings:
    """Constants of the latent Coulomb energy; they are part of a trained model.

    Attributes:
        sigma: Width in A of the pair kernel ``erf(r / (sqrt(2) sigma)) / r``; see
            :mod:`.gaussian_kernel` for the charges that have it.
        dl: Resolution in A: wave vectors up to 2 pi / dl are summed.
        remove_self_interaction: Whether the energy of each Gaussian with itself is left out.
        prefactor: 1 / (2 eps0) in eV A / e^2; some published weights carry another value.
        cutoff: ``"sharp"``: all vectors of the sphere count in full (published LES weights); the
            energy jumps where a changing cell moves a vector through the sphere.
            ``"smooth"``: weights go to zero at the sphere, the energy is smooth in the cell.
    """

    sigma: float = 1.0
    dl: float = 2.0
    remove_self_interaction: bool = True
    prefactor: float = EWALD_PREFACTOR
    cutoff: Cutoff = "sharp"

    def __post_init__(self) -> None:
        """Raise ConfigError for values without meaning."""
        for name in ("sigma", "dl", "prefactor"):
            value = getattr(self, name)
            if not (0.0 < value < 1000.0):
                raise ConfigError(f"`long_range.{name}` must be in (0, 1000), got {value!r}")
        if self.cutoff not in ("sharp", "smooth"):
            raise ConfigError(
                f"`long_range.cutoff` must be 'sharp' or 'smooth', got {self.cutoff!r}"
            )

    @property
    def k_max(self) -> float:
        """Radius of the sphere of wave vectors, 2 pi / dl in 1/A."""
        return 2.0 * math.pi / self.dl

    @property
    def self_energy(self) -> float:
        """Energy of a unit Gaussian with itself, ke / (sigma sqrt(2 pi)), in eV / e^2."""
        return self.prefactor / (2.0 * math.pi) / (self.sigma * math.sqrt(2.0 * math.pi))

    @property
    def coulomb_constant(self) -> float:
        """Coulomb constant ``ke = prefactor / (2 pi)`` in eV A / e^2.

        Pair sums use it, so that a model whose weights were published with another prefactor has
        one ke in crystals and in open space.
        """
        return COULOMB_CONSTANT * (self.prefactor / EWALD_PREFACTOR)

    @property
    def pair_constant(self) -> float:
        """Factor ``ke`` of Coulomb's law ``E = ke/2 sum q_i q_j K``, in eV A / e^2; repulsive."""
        return self.coulomb_constant

    @property
    def pair_kind(self) -> PairKind:
        """Name of the kernel K in the compiled library."""
        return "gaussian"

    @property
    def slab_vacuum(self) -> float:
        """Least empty height, A: the tails of the Gaussians on both sides of a slab.

        Beyond it the kernel of two atoms is the 1/r that the truncation cuts.
        """
        return 2.0 * _TAIL_WIDTHS * self.sigma

    @property
    def truncates_images(self) -> bool:
        """Whether images of a slab are removed exactly: yes, the kernel is cut between them."""
        return True

    @property
    def in_words(self) -> str:
        """The sum over wave vectors, and whether energies are continuous in the cell."""
        if self.cutoff == "smooth":
            return f"smooth cutoff, dl = {self.dl:g} A; energies are continuous in the cell"
        return (
            f"sharp sphere, dl = {self.dl:g} A, as published LES weights have it; energies of "
            "periodic structures jump by some meV where a changing cell (NPT) moves a wave vector "
            "through it"
        )

    def kernel(self, r2: Tensor, order: int) -> list[Tensor]:
        """See :func:`.gaussian_kernel.kernel_derivatives`."""
        return kernel_derivatives(r2, self.sigma, order)

    def weight(self, k2: Tensor) -> Tensor:
        """``exp(-sigma^2 k^2 / 2) / k^2`` inside the sphere in A^2; zero outside and at k = 0.

        Args:
            k2: Squared wave vectors in 1/A^2, any shape.
        """
        # k = 0 is left out: conducting surroundings, and a background that neutralises net charges
        inside = (k2 <= self.k_max**2 * (1.0 + SPHERE_TOLERANCE)) & (k2 > 0)
        # 1 elsewhere keeps value and gradient of the factor that `inside` removes finite
        k2 = torch.where(inside, k2, torch.ones_like(k2))
        return torch.exp(-0.5 * self.sigma**2 * k2) / k2 * inside * self.taper(k2)

    def taper(self, k2: Tensor) -> Tensor:
        """Factor of the smooth cutoff (1 for the sharp one), twice continuously differentiable.

        ``1 - 10 t^3 + 15 t^4 - 6 t^5`` with t rising from 0 to 1 over the last part of the sphere.

        Args:
            k2: Squared wave vectors in 1/A^2, positive.
        """
        if self.cutoff == "sharp":
            return torch.ones_like(k2)
        # a vector that a strained cell moves through the sphere has weight zero there, with zero
        # first and second derivatives, so that energy and stress do not jump
        start = TAPER_START * self.k_max
        t = ((k2.sqrt() - start) / (self.k_max - start)).clamp(0.0, 1.0)
        return 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))
