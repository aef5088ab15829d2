r"""London dispersion between all pairs of atoms, beyond the reach of the short-range model.

.. math::
    E = -\frac12 \sum_{i \ne j} c_i c_j K(r_{ij}), \quad
    K(r) = \frac{1 - e^{-a} (1 + a + a^2/2)}{r^6}, \quad a = \frac{r^2}{2 \sigma^2},

with ``c_i = sqrt(C6_i)`` of the element (geometric mean ``C6_ij = c_i c_j``, Grimme, J. Comput.
Chem. 27, 1787 (2006), eq. 13): ``-C6/r^6`` at long range, finite at r = 0. It is the part of
``1/r^6`` that an Ewald sum takes in reciprocal space (Williams, Acta Cryst. A 27, 452 (1971);
latent Ewald with p = 6, arXiv 2408.15165):

.. math::
    E = -\frac{\pi^{3/2}}{24 V} \sum_{|k| \le 2\pi/dl}
        k^3 \Bigl[\sqrt\pi \, \mathrm{erfc}(b)
        + \Bigl(\frac{1}{2 b^3} - \frac1b\Bigr) e^{-b^2}\Bigr] |S(k)|^2
        + \frac{1}{96 \sigma^6} \sum_i c_i^2, \quad b = \frac{\sigma k}{\sqrt 2},

``S(k) = sum_i c_i exp(i k.r_i)``, with its finite k = 0 term. Nothing is left to a real-space sum:
the short-range model learns what damping leaves out at short range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.sums.pair_sum import check_boundaries, pair_sum
from lesff.electrostatics.sums.plan import CoulombPlan, plan_coulomb
from lesff.electrostatics.sums.settings import SPHERE_TOLERANCE
from lesff.errors import ConfigError
from lesff.kernels import PairKind
from lesff.units import JOULE_NM6_PER_MOL

C6_D2 = (
    *(0.14, 0.08),
    *(1.61, 1.61, 3.13, 1.75, 1.23, 0.70, 0.75, 0.63),
    *(5.71, 5.71, 10.79, 9.23, 7.84, 5.57, 5.07, 4.61),
    *(10.8,) * 12,
    *(16.99, 17.10, 16.37, 12.64, 12.47, 12.01),
    *(24.67,) * 12,
    *(37.32, 38.71, 38.44, 31.74, 31.50, 29.99),
)
"""C6 of H to Xe in J nm^6/mol: Grimme, J. Comput. Chem. 27, 1787 (2006), table 1."""

_SERIES_LIMIT = 2.0
"""Below this value of r^2 / (2 sigma^2) the kernel uses its series."""
_SERIES_TERMS = {torch.float32: 9, torch.float64: 18}
"""The first terms left out are at most 2^10 / (3 ... 13) = 3e-7 and 2^19 / (3 ... 22) = 9e-16; the
sum is 0.6 there."""
_SLAB_VACUUM = 60.0
"""A. The images of a slab attract it as A / (12 pi d^2) with a Hamaker constant A of at most an
eV: 1e-5 eV per A^2 of surface."""


@dataclass(frozen=True, kw_only=True)
class DispersionConfig:
    """Dispersion of a model; part of its configuration.

    Attributes:
        coefficients: Table of C6: ``"d2"``, H to Xe, :data:`C6_D2`.
        sigma: Width in A; the interaction is damped to half at ``2.31 sigma``.
        dl: Resolution in A of the sum over wave vectors in crystals and slabs.
    """

    coefficients: Literal["d2"] = "d2"
    sigma: float = 1.4
    dl: float = 2.0

    def __post_init__(self) -> None:
        """Raise ConfigError for values without meaning."""
        for name in ("sigma", "dl"):
            value = getattr(self, name)
            if not (0.0 < value < 1000.0):
                raise ConfigError(f"`dispersion.{name}` must be in (0, 1000), got {value!r}")
        if self.coefficients != "d2":
            raise ConfigError(f"`dispersion.coefficients` must be 'd2', got {self.coefficients!r}")

    def of_elements(self, elements: Sequence[int]) -> Tensor:
        """``sqrt(C6)`` of each element in eV^(1/2) A^3, float64.

        Raises:
            ConfigError: for an element without coefficient.
        """
        missing = [chemical_symbols[z] for z in elements if z > len(C6_D2)]
        if missing:
            raise ConfigError(
                f"`dispersion` must be left out for a model of {', '.join(missing)}: table "
                f"{self.coefficients!r} ends at {chemical_symbols[len(C6_D2)]}"
            )
        c6 = [C6_D2[z - 1] * JOULE_NM6_PER_MOL for z in elements]
        return torch.tensor(c6, dtype=torch.float64).sqrt()

    # the interaction, as :class:`lesff.electrostatics.sums.settings.PairSettings` says

    @property
    def prefactor(self) -> float:
        """Factor ``-pi^(3/2) / 24`` of the sum over wave vectors, negative: attraction."""
        return -(math.pi**1.5) / 24.0

    @property
    def pair_constant(self) -> float:
        """Factor of the pair sum ``-1/2 sum c_i c_j K``: -1, as atoms attract each other."""
        return -1.0

    @property
    def pair_kind(self) -> PairKind:
        """Name of the kernel K in the compiled library."""
        return "dispersion"

    @property
    def remove_self_interaction(self) -> bool:
        """Whether the terms i = j are left out: yes, an atom does not attract itself.

        In crystals it does attract its own images.
        """
        return True

    @property
    def self_energy(self) -> float:
        """``-K(0) / 2 = -1 / (96 sigma^6)`` in 1/A^6."""
        return -1.0 / (96.0 * self.sigma**6)

    @property
    def slab_vacuum(self) -> float:
        """Empty height in A between a slab and its images."""
        return _SLAB_VACUUM

    @property
    def truncates_images(self) -> bool:
        """Whether images of a slab are removed: no, ``slab_vacuum`` keeps them far away.

        The truncation is that of 1/r, and 1/r^6 has fallen to almost nothing at that distance.
        """
        return False

    def weight(self, k2: Tensor) -> Tensor:
        """``k^3 [sqrt(pi) erfc(b) + (1/(2 b^3) - 1/b) exp(-b^2)]`` inside the sphere, 1/A^3.

        Args:
            k2: Squared wave vectors in 1/A^2, any shape.
        """
        # k = 0 counts: the kernel falls faster than r^-3, so its integral is finite
        k_max = 2.0 * math.pi / self.dl
        inside = k2 <= k_max**2 * (1.0 + SPHERE_TOLERANCE)
        # with k = scale b, y = b^2: scale^3 [sqrt(pi) b^3 erfc(b) + (1/2 - b^2) exp(-b^2)], that is
        # scale^3 / 2 at the origin; there y = 1 keeps the gradient of the root finite
        scale = math.sqrt(2.0) / self.sigma
        origin = k2 <= 0
        y = torch.where(origin, torch.ones_like(k2), k2) / scale**2
        b = y.sqrt()
        value = math.sqrt(math.pi) * y * b * torch.erfc(b) + (0.5 - y) * torch.exp(-y)
        return scale**3 * torch.where(origin, 0.5, value) * inside

    def kernel(self, r2: Tensor, order: int) -> list[Tensor]:
        """K and its derivatives with respect to r^2.

        ``K^(m) = (-1)^m s^(3+m) G(3 + m)``, ``s = 1/(2 sigma^2)``, ``a = s r^2``, with ``G(p) =
        1/2 int_0^1 t^(p-1) exp(-a t) dt``. The highest one is ``(p-1)! [1 - exp(-a) sum_{n<p}
        a^n/n!] / (2 a^p)``, near zero ``exp(-a)/2 sum_n a^n / (p (p+1) ... (p+n))``; the others
        follow from ``p G(p) = exp(-a)/2 + a G(p+1)``, where nothing cancels.

        Args:
            r2: Squared distances in A^2, any shape.
            order: Highest derivative.
        """
        s = 0.5 / self.sigma**2
        a = s * r2
        # K^(m) needs G(3 + m): the highest one first, then downward to G(3)
        half = 0.5 * torch.exp(-a)
        value = _highest(a, half, 3 + order)
        values = [(-1) ** order * s ** (3 + order) * value]
        for p in range(2 + order, 2, -1):
            value = (half + a * value) / p
            values.append((-1) ** (p - 3) * s**p * value)
        return values[::-1]  # K, K', K'', ...


def _highest(a: Tensor, half: Tensor, p: int) -> Tensor:
    """G(p) of :meth:`DispersionConfig.kernel`; ``half`` is exp(-a)/2."""
    # small a: the closed form cancels; each branch has an argument that is harmless in the other's
    # range, so that gradients of the branch not taken are finite
    near = a < _SERIES_LIMIT
    y, x = torch.where(near, a, 0.0), torch.where(near, _SERIES_LIMIT, a)
    n_terms = _SERIES_TERMS[a.dtype]
    # sum_n y^n / (p (p+1) ... (p+n)) by Horner's scheme
    series = torch.full_like(a, 1.0 / (p + n_terms))
    for n in range(n_terms - 1, -1, -1):
        series = (1.0 + y * series) / (p + n)
    # sum_{n<p} x^n / n! by Horner's scheme, and x^p
    head = torch.ones_like(a)
    for n in range(p - 1, 0, -1):
        head = 1.0 + x * head / n
    power = x.square() * x
    for _ in range(p - 3):
        power = power * x
    return torch.where(near, half * series, math.factorial(p - 1) * (0.5 - half * head) / power)


def dispersion_energy(
    coefficients: Tensor,
    graph: AtomGraph,
    config: DispersionConfig,
    *,
    plan: CoulombPlan | None = None,
) -> Tensor:
    """Energy of every system, (n_systems,) in eV, at most zero for atoms apart.

    Differentiable to any order in coefficients, positions and cell. Slabs keep an attraction to
    images at least 60 A away, 1e-5 eV per A^2 of surface.

    Args:
        coefficients: (n_atoms,) ``sqrt(C6)`` in eV^(1/2) A^3.
        graph: Positions, cells and boundaries.
        config: Constants.
        plan: What :func:`lesff.electrostatics.sums.plan.plan_coulomb` found for this batch of
            crystals and molecules with this configuration.

    Raises:
        UnsupportedInputError: for wires, slabs that look wrapped, cells with too many wave vectors.
    """
    cell = graph.cell
    if plan is None:
        check_boundaries(graph.pbc)
        plan, cell = plan_coulomb(graph, config)
    return pair_sum(coefficients, graph, config, plan, cell)


class Dispersion(nn.Module):
    """Dispersion of a model; without parameters.

    Args:
        config: Constants.
        elements: Atomic numbers of the model.
    """

    def __init__(self, config: DispersionConfig, elements: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", config.of_elements(elements), persistent=False)
        self.table: Tensor

    def forward(
        self, graph: AtomGraph, element: Tensor, plan: CoulombPlan | None = None
    ) -> tuple[Tensor, Tensor]:
        """Coefficients of the atoms, and the energy of the systems in eV, float64.

        Args:
            graph: The batch.
            element: (n_atoms,) row of each atom's element in the model's table.
            plan: See :func:`dispersion_energy`.
        """
        coefficients = self.table[element].to(graph.positions.dtype)
        coefficients.requires_grad_(graph.positions.requires_grad)  # for the shares of atoms
        energy = dispersion_energy(coefficients, graph, self.config, plan=plan)
        return coefficients, energy.to(torch.float64)
