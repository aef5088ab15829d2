"""Clebsch-Gordan couplings in e3nn's real basis: pair couplings and symmetric contraction bases.

Conventions are those of e3nn (component normalisation); irreps have natural parity (-1)^l where
they stand for node features, and both parities appear inside the bases.
"""

from __future__ import annotations

import math
import pathlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement, permutations

import numpy as np
from safetensors.numpy import load_file

TABLE = pathlib.Path(__file__).with_name("wigner_3j.safetensors")
"""Wigner 3j tensors, written by ``tools/wigner_table.py``."""
TABLE_ORDER = 4
"""Highest order in the table: enough for harmonics up to order 3 and three-body contractions."""

_ZERO = 1e-6
"""Coupling coefficients below this are rounding of zero (published files hold float32)."""


def lm_slice(l: int) -> slice:  # noqa: E741 - l is the field's name for the angular momentum
    """Slice of order ``l`` on an axis that lists all (l, m) up to some maximum."""
    return slice(l * l, (l + 1) * (l + 1))


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real 3j tensor of unit norm, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    Values are e3nn's: from a table of them up to order :data:`TABLE_ORDER`, bit for bit; of higher
    orders they are computed, equal to e3nn's within rounding.
    """
    stored = _stored_tensors().get((l1, l2, l3))
    return computed_wigner_3j(l1, l2, l3) if stored is None else stored


def computed_wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """:func:`wigner_3j` of any order, from Clebsch-Gordan coefficients.

    Raises:
        ValueError: if the orders cannot couple.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"orders must obey |l1 - l2| <= l3 <= l1 + l2, got {l1}, {l2}, {l3}")
    complex_tensor = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            place = l1 + m1, l2 + m2, l3 + m1 + m2
            complex_tensor[place] = clebsch_gordan(l1, m1, l2, m2, l3)
    # i, k, n: complex components; j, l, m: real ones
    bases = (_real_basis(l1), _real_basis(l2), _real_basis(l3).conj())
    real = np.einsum("ij,kl,nm,ikn->jlm", *bases, complex_tensor).real
    return real / np.linalg.norm(real)


def clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """``<l1 m1 l2 m2 | l3 m1+m2>``: Racah's formula, Varshalovich et al. (1988), eq. 8.2.1 (3)."""
    f, m3 = math.factorial, m1 + m2
    squared = Fraction(
        (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3), f(l1 + l2 + l3 + 1)
    )
    squared *= f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = Fraction(0)
    # all factorials of numbers that are not negative
    first = max(0, l2 - l3 - m1, l1 - l3 + m2)
    for k in range(first, min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        denominator *= f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, denominator)
    return math.copysign(math.sqrt(squared * total**2), total)


def _real_basis(l: int) -> np.ndarray:
    """e3nn's real harmonics of order l in complex ones: rows complex m, columns real m."""
    basis = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    basis[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        # complex -m and m from the cosine (real m) and the sine (real -m)
        basis[l - m, [l + m, l - m]] = np.sqrt(0.5), -1j * np.sqrt(0.5)
        basis[l + m, [l + m, l - m]] = sign * np.sqrt(0.5), 1j * sign * np.sqrt(0.5)
    return (-1j) ** l * basis


@cache
def _stored_tensors() -> dict[tuple[int, ...], np.ndarray]:
    """Tensors of the table by their three orders."""
    table = load_file(TABLE)
    ends = np.cumsum(table["counts"])[:-1]
    found = {}
    # one piece of the lists of places and values for each tensor
    for orders, places, values in zip(
        table["orders"].tolist(),
        np.split(table["places"], ends),
        np.split(table["values"], ends),
        strict=True,
    ):
        tensor = np.zeros([2 * l + 1 for l in orders])
        tensor[tuple(places.T)] = values
        found[tuple(orders)] = tensor
    return found


@dataclass(frozen=True)
class Monomials:
    """Sparse form of one symmetric contraction.

    A polynomial in the features ``a`` of one channel is ``sum_t w[t] prod_k a[index[t, k]]``, added
    to output component ``component[t]``; ``w[t] = sum_p basis[t, p] weight[p]``.

    Attributes:
        index: (n_terms, degree) sorted feature components of each monomial.
        component: (n_terms,) output component m, ascending.
        basis: (n_terms, n_paths) coefficient of each path.
    """

    index: np.ndarray
    component: np.ndarray
    basis: np.ndarray


def _coupled_bases(
    max_ell: int, degree: int, l_limit: int
) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Successive couplings of ``degree`` copies of 0e+1o+... to l <= l_limit, sorted stably.

    The order of equal irreps is the order in which the recursion meets them; published MACE
    weights rely on it.
    """
    dim = (max_ell + 1) ** 2
    if degree == 1:
        # one copy: order l is itself, U[m, i] = delta between m and the (l, m) axis i
        eye = np.eye(dim)
        return [((l, (-1) ** l), eye[lm_slice(l)]) for l in range(min(max_ell, l_limit) + 1)]
    coupled = []
    # a left factor of higher order could not couple down to l_limit any more
    for (l_left, p_left), left in _coupled_bases(max_ell, degree - 1, l_limit + max_ell):
        flat = left.reshape(left.shape[0], -1)  # (m_left, components of the left factors)
        # couple one more factor of order l to the left ones, to every order allowed
        for l in range(max_ell + 1):
            for l_out in range(abs(l_left - l), min(l_left + l, l_limit) + 1):
                # i, j, l: m of the result, of the left factors, of the new one;
                # k: components of the left factors, flattened
                c = wigner_3j(l_out, l_left, l) * np.sqrt(2 * l_out + 1)
                block = np.einsum("jk,ijl->ikl", flat, c)
                # the new factor's axis lists all (l, m); other orders than l stay zero
                full = np.zeros((2 * l_out + 1, *left.shape[1:], dim))
                full[..., lm_slice(l)] = block.reshape(2 * l_out + 1, *left.shape[1:], 2 * l + 1)
                coupled.append(((l_out, p_left * (-1) ** l), full))
    return sorted(coupled, key=lambda item: item[0])


@cache
def contraction_basis(max_ell: int, l_out: int, degree: int) -> np.ndarray:
    """Generalised Clebsch-Gordan basis U, shape (2 l_out + 1, [n_lm] * degree, n_paths).

    MACE, arXiv 2206.07697, eq. 10; n_lm = (max_ell + 1)^2.
    """
    # natural parity only; the last axis lists the paths
    wanted = (l_out, (-1) ** l_out)
    blocks = [c for ir, c in _coupled_bases(max_ell, degree, l_out) if ir == wanted]
    return np.stack(blocks, axis=-1)


@cache
def monomials(max_ell: int, l_out: int, degree: int) -> Monomials:
    """Distinct nonzero monomials of :func:`contraction_basis` with summed coefficients."""
    return sparse_form(contraction_basis(max_ell, l_out, degree))


def sparse_form(basis: np.ndarray) -> Monomials:
    """Monomials of a basis U, (n_components, [n_lm] * degree, n_paths)."""
    degree = basis.ndim - 2
    rows_index, rows_component, rows_basis = [], [], []
    for index in combinations_with_replacement(range(basis.shape[1]), degree):
        # one monomial collects the coefficients of all distinct orders of its factors
        total = np.sum([basis[(slice(None), *order)] for order in set(permutations(index))], axis=0)
        # kept where any path has a coefficient, one row per output component m
        for component in np.flatnonzero(np.abs(total).max(axis=1) > _ZERO):
            rows_index.append(index)
            rows_component.append(component)
            rows_basis.append(total[component])
    # components ascending; monomials of a component stay in their order
    order = np.argsort(rows_component, kind="stable")
    return Monomials(
        index=np.array(rows_index)[order],
        component=np.array(rows_component)[order],
        basis=np.array(rows_basis)[order],
    )


@dataclass(frozen=True)
class Path:
    """One tensor-product path: sender order l1, harmonic order l2, message order l3."""

    l1: int
    l2: int
    l3: int


@cache
def convolution_paths(
    feature_l: int, max_ell: int, message_l: int | None = None
) -> tuple[Path, ...]:
    """Paths of the depthwise product (features up to feature_l) x (harmonics up to max_ell).

    Natural parity everywhere, so l1 + l2 + l3 is even. Sorted by l3, then in the order e3nn
    meets them (l1, then l2): the layout of published radial weights.

    Args:
        feature_l: Highest order of the sender features.
        max_ell: Highest order of the harmonics.
        message_l: Highest order of the message, that of the harmonics if not given.
    """
    highest = max_ell if message_l is None else message_l
    # triangle rule |l1 - l2| <= l3 <= l1 + l2, and even parity of the sum
    paths = [
        Path(l1, l2, l3)
        for l1 in range(feature_l + 1)
        for l2 in range(max_ell + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, highest) + 1)
        if (l1 + l2 + l3) % 2 == 0
    ]
    return tuple(sorted(paths, key=lambda path: path.l3))
