"""Radial functions: bases, cutoff, transforms of the distance, networks, short-range repulsion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor, nn
from torch.nn import functional

from lesff.nn.activations import normalised_silu

_ZBL_BOHR = 0.529
_ZBL_COULOMB = 14.3996
"""Rounded as in published models, whose weights depend on them."""


def polynomial_cutoff(x: Tensor, p: int) -> Tensor:
    """Envelope u(x), 1 at x = 0 and 0 with two derivatives at x = 1; 0 beyond.

    ``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)`` (DimeNet, arXiv 2003.03123, eq. 8).
    """
    # factored so that x^p is computed once; beyond the cutoff the polynomial itself is not zero
    xp = x**p
    u = 1.0 - xp * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return u * (x < 1.0)


class RadialBasis(nn.Module, ABC):
    """Functions of the (transformed) distance, times the polynomial cutoff unless told otherwise.

    Args:
        cutoff: rc in A.
        p: Power of the polynomial cutoff.
        has_envelope: Whether :meth:`forward` multiplies by the cutoff; if not, whoever uses the
            basis multiplies by :meth:`envelope` later.
    """

    def __init__(self, *, cutoff: float, p: int, has_envelope: bool = True) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.p = p
        self.has_envelope = has_envelope

    @abstractmethod
    def values(self, x: Tensor) -> Tensor:
        """Bare functions of x (n, 1), (n, n_basis)."""

    def envelope(self, distance: Tensor) -> Tensor:
        """Polynomial cutoff of distances in A, (n, 1)."""
        return polynomial_cutoff(distance[:, None] / self.cutoff, self.p)

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """Basis values, (n, n_basis).

        Args:
            x: (n,) argument of the functions: the distance in A, or a transform of it.
            distance: (n,) distance in A, argument of the cutoff.
        """
        bare = self.values(x[:, None])
        return bare * self.envelope(distance) if self.has_envelope else bare


@final
class BesselBasis(RadialBasis):
    """``sqrt(2/rc) sin(n pi r / rc) / r`` (DimeNet, arXiv 2003.03123, eq. 7).

    Args:
        cutoff: rc in A.
        n_basis: Number of functions.
        p: Power of the polynomial cutoff.
        frequencies: Other frequencies than n pi / rc, in 1/A.
        prefactor: Another factor than sqrt(2 / rc).
        has_envelope: See :class:`RadialBasis`.
    """

    def __init__(
        self,
        *,
        cutoff: float,
        n_basis: int,
        p: int,
        frequencies: tuple[float, ...] | None = None,
        prefactor: float | None = None,
        has_envelope: bool = True,
    ) -> None:
        super().__init__(cutoff=cutoff, p=p, has_envelope=has_envelope)
        self.prefactor = math.sqrt(2.0 / cutoff) if prefactor is None else prefactor
        if frequencies is None:
            # n pi / rc: every function is zero at the cutoff
            # by numpy: torch.arange on the meta device would import torch._dynamo, 1 s of CPU
            table = torch.from_numpy(np.arange(1.0, n_basis + 1.0) * math.pi / cutoff)
        else:
            table = torch.tensor(frequencies, dtype=torch.float64)
        self.register_buffer("frequencies", table, persistent=False)
        self.frequencies: Tensor

    def values(self, x: Tensor) -> Tensor:
        """Bare functions of x (n, 1), (n, n_basis)."""
        # x[n, 1] f[k] -> [n, k]
        return torch.sin(x * self.frequencies.to(x.dtype)) / x * self.prefactor


@final
class GaussianBasis(RadialBasis):
    """``exp(-exponent (x - c_n)^2)`` (Behler and Parrinello, PRL 98, 146401, eq. 4).

    Args:
        cutoff: rc in A.
        p: Power of the polynomial cutoff.
        centers: c_n.
        exponent: Positive.
        has_envelope: See :class:`RadialBasis`.
    """

    def __init__(
        self,
        *,
        cutoff: float,
        p: int,
        centers: tuple[float, ...],
        exponent: float,
        has_envelope: bool = True,
    ) -> None:
        super().__init__(cutoff=cutoff, p=p, has_envelope=has_envelope)
        self.exponent = exponent
        table = torch.tensor(centers, dtype=torch.float64)
        self.register_buffer("centers", table, persistent=False)
        self.centers: Tensor

    def values(self, x: Tensor) -> Tensor:
        """Bare functions of x (n, 1), (n, n_basis)."""
        # x[n, 1] - c[k] -> [n, k]
        return torch.exp(-self.exponent * (x - self.centers.to(x.dtype)).square())


@final
class ChebyshevBasis(RadialBasis):
    """Chebyshev polynomials of the first kind, T_1(x) .. T_n(x), by their recursion.

    Args:
        cutoff: rc in A.
        n_basis: Number of functions.
        p: Power of the polynomial cutoff.
        has_envelope: See :class:`RadialBasis`.
    """

    def __init__(self, *, cutoff: float, n_basis: int, p: int, has_envelope: bool = True) -> None:
        super().__init__(cutoff=cutoff, p=p, has_envelope=has_envelope)
        self.n_basis = n_basis

    def values(self, x: Tensor) -> Tensor:
        """Bare functions of x (n, 1), (n, n_basis)."""
        # T_0 = 1, T_1 = x, T_(k+1) = 2 x T_k - T_(k-1); T_0 is left out
        rows = [torch.ones_like(x), x]
        while len(rows) <= self.n_basis:
            rows.append(2.0 * x * rows[-1] - rows[-2])
        return torch.cat(rows[1 : self.n_basis + 1], dim=1)


class AgnesiTransform(nn.Module):
    """``[1 + a (r/r0)^q / (1 + (r/r0)^(q-p))]^-1``, r0 the mean covalent radius of the pair.

    ACE's transform (Witt et al., arXiv 2309.03161, eq. 27, as used by MACE): resolves short
    distances of light elements finely.

    Args:
        a: Slope.
        q: Power at long distance.
        p: Power at short distance.
    """

    def __init__(self, a: float, q: float, p: float) -> None:
        super().__init__()
        self.a, self.q, self.p = a, q, p
        self.register_buffer("radii", torch.tensor(covalent_radii), persistent=False)
        self.radii: Tensor

    def forward(self, distance: Tensor, z_first: Tensor, z_second: Tensor) -> Tensor:
        """(n_pairs,) distances in A to numbers between 0 and 1."""
        # distances count on the scale of the pair's own radii, short for hydrogen, long for iodine
        mean = 0.5 * (self.radii[z_first] + self.radii[z_second]).to(distance.dtype)
        x = distance / mean
        return 1.0 / (1.0 + self.a * x**self.q / (1.0 + x ** (self.q - self.p)))


class SoftTransform(nn.Module):
    """``p0 + (r - p0) (1 + tanh(alpha (r - m) / (p1 - p0))) / 2``, the soft transform of MACE.

    ``p0`` and ``p1`` are 3/4 and 4/3 of the sum of covalent radii, ``m`` is their mean: distances
    far below a bond are mapped to p0.

    Args:
        alpha: Steepness.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("radii", torch.tensor(covalent_radii), persistent=False)
        self.radii: Tensor

    def forward(self, distance: Tensor, z_first: Tensor, z_second: Tensor) -> Tensor:
        """(n_pairs,) distances in A to transformed distances in A."""
        bond = (self.radii[z_first] + self.radii[z_second]).to(distance.dtype)
        # a step between 3/4 and 4/3 of a bond: far below it, every distance becomes the lower end
        low, high = 0.75 * bond, bond * 4.0 / 3.0
        x = self.alpha * (distance - 0.5 * (low + high)) / (high - low)
        return low + (distance - low) * 0.5 * (1.0 + torch.tanh(x))


class RadialNetwork(nn.Module):
    """Bias-free perceptron, e3nn ``FullyConnectedNet``: ``1.679 silu(x @ W / sqrt(n_in))``.

    The parameter ``weights[k]`` has shape (n_in, n_out); the last layer is linear.

    Args:
        sizes: Inputs, hidden sizes, outputs.
        is_scaled: Whether the factors 1.679 and 1 / sqrt(n_in) are there; if not, weights start
            smaller instead, ``silu(x @ W)``.
    """

    def __init__(self, *, sizes: tuple[int, ...], is_scaled: bool = True) -> None:
        super().__init__()
        self.is_scaled = is_scaled
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(a, b) * (1.0 if is_scaled else a**-0.5))
            for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, sizes[0]) to (n, sizes[-1])."""
        *hidden, last = self.weights
        if not self.is_scaled:
            for weight in hidden:
                x = functional.silu(x @ weight)
            return x @ last
        # 1/sqrt(n_in) keeps the second moment at one from layer to layer; the last layer is linear
        for weight in hidden:
            x = normalised_silu(x @ (weight * weight.shape[0] ** -0.5))
        return x @ (last * last.shape[0] ** -0.5)


class EdgePerceptron(nn.Module):
    """Perceptron with layer norms on [basis, source embedding, target embedding] of directed edges.

    ``Linear (LayerNorm SiLU Linear)*`` as in eSEN (arXiv 2502.12147). The first linear map acts on
    the three parts one by one, so that the embeddings enter as one row per element.

    Args:
        n_basis: Radial functions.
        channels: Width of the embeddings.
        sizes: Hidden sizes and the number of outputs.
    """

    def __init__(self, *, n_basis: int, channels: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        inputs = (n_basis + 2 * channels, *sizes[:-1])
        self.parts = (n_basis, channels, channels)
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(inputs, sizes, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(n) for n in sizes[:-1])

    def forward(
        self, basis: Tensor, source: Tensor, target: Tensor, edge: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Outputs (n_edges, sizes[-1]).

        Args:
            basis: (n_edges, n_basis).
            source: (n_rows, channels) table of source embeddings.
            target: (n_rows, channels) table of target embeddings.
            edge: Row of the source and of the target of each edge, (n_edges,) each.
        """
        first, *others = self.linears
        # W [basis, source, target] = W_b basis + W_s source[z_j] + W_t target[z_i]:
        # the two products with tables have one row per element, not one per edge
        w_basis, w_source, w_target = torch.split(first.weight, self.parts, dim=1)  # pyright: ignore[reportArgumentType]
        x = (
            basis @ w_basis.T
            + (source @ w_source.T)[edge[0]]
            + (target @ w_target.T)[edge[1]]
            + first.bias  # pyright: ignore[reportOperatorIssue]
        )
        for norm, linear in zip(self.norms, others, strict=True):
            x = linear(functional.silu(norm(x)))
        return x


class ScreenedRepulsion(nn.Module):
    """Ziegler-Biersack-Littmark nuclear repulsion, cut off at the sum of covalent radii.

    ``E = 1/2 sum_ij ke Z_i Z_j phi(r/a) / r u(r / (R_i + R_j))`` with the universal screening
    function phi and ``a = 0.4543 bohr / (Z_i^0.3 + Z_j^0.3)`` (Ziegler, Biersack, Littmark 1985,
    in the fitted form used by MACE, arXiv 2401.00096).

    Args:
        p: Power of the polynomial cutoff u.
    """

    _COEFFICIENTS = (0.1818, 0.5099, 0.2802, 0.02817)
    _EXPONENTS = (3.2, 0.9423, 0.4028, 0.2016)

    def __init__(self, *, p: int = 6) -> None:
        super().__init__()
        self.p = p
        radii = torch.tensor(covalent_radii)
        self.register_buffer("radii", radii, persistent=False)
        self.radii: Tensor

    def forward(self, distance: Tensor, z_first: Tensor, z_second: Tensor) -> Tensor:
        """Energy of each pair in eV, (n_pairs,).

        Args:
            distance: (n_pairs,) in A.
            z_first: (n_pairs,) atomic numbers.
            z_second: (n_pairs,) atomic numbers.
        """
        dtype = distance.dtype
        # screening length a: the more electrons, the closer to the nucleus they screen its charge
        z1, z2 = z_first.to(dtype), z_second.to(dtype)
        length = 0.4543 * _ZBL_BOHR / (z1**0.3 + z2**0.3)
        x = distance / length
        # universal screening function phi(x), four exponentials fitted to many pairs of atoms
        terms = zip(self._COEFFICIENTS, self._EXPONENTS, strict=True)
        screening = torch.stack([c * torch.exp(-a * x) for c, a in terms]).sum(0)
        # the repulsion of the bare nuclei ends where a bond begins; the rest is for the network
        reach = (self.radii[z_first] + self.radii[z_second]).to(dtype)
        envelope = polynomial_cutoff(distance / reach, self.p)
        return _ZBL_COULOMB * z1 * z2 / distance * screening * envelope
