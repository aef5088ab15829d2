"""Activation energies from values at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesff.errors import DataError
from lesff.units import BOLTZMANN


@dataclass(frozen=True, kw_only=True)
class Arrhenius:
    """``ln y = ln y0 - E_a / kT``, a straight line in 1/T.

    Attributes:
        activation_energy: E_a in eV.
        error: Its standard error; NaN for two points without errors.
        log_prefactor: ln y0.
        covariance: (2, 2) of E_a and ln y0.
        chi_squared: Of the fit over its degrees of freedom; NaN without errors or for two points.
    """

    activation_energy: float
    error: float
    log_prefactor: float
    covariance: np.ndarray
    chi_squared: float

    def at(self, temperature: float) -> tuple[float, float]:
        """Value at a temperature in K and its standard error, from the fit."""
        gradient = np.array([-1.0 / (BOLTZMANN * temperature), 1.0])
        log = float(gradient @ [self.activation_energy, self.log_prefactor])
        error = float(np.sqrt(gradient @ self.covariance @ gradient))
        return float(np.exp(log)), float(np.exp(log) * error)


def arrhenius(
    temperatures: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    errors: Sequence[float] | np.ndarray | None = None,
) -> Arrhenius:
    """Fit of diffusion coefficients, or of conductivity times temperature.

    Points weigh with their errors. Errors of the fit come from those of the points, and are raised
    by the square root of ``chi_squared`` where the points scatter more than their errors; without
    errors of all points, from the scatter alone.

    Args:
        temperatures: (n,) K.
        values: (n,) positive.
        errors: (n,) standard errors of the values.

    Raises:
        DataError: for fewer than two temperatures, or values that are not positive.
    """
    t, y = np.asarray(temperatures, float), np.asarray(values, float)
    if t.ndim != 1 or t.shape != y.shape or len(np.unique(t)) < 2:
        raise DataError(
            f"a fit must have values at two temperatures or more, got {y.size} at {t.tolist()}"
        )
    if not ((t > 0).all() and (y > 0).all() and np.isfinite(y).all()):
        raise DataError(
            f"temperatures and values must be positive, got {y.tolist()} at {t.tolist()} K; where "
            "nothing diffuses, leave the temperature out or run longer"
        )
    relative = np.full(len(t), np.nan) if errors is None else np.asarray(errors, float) / y
    is_known = bool(np.isfinite(relative).all() and (relative > 0).all())
    weight = 1.0 / relative if is_known else np.ones(len(t))
    # ln y = [-1/kT, 1] . [E_a, ln y0]
    design = np.stack([-1.0 / (BOLTZMANN * t), np.ones(len(t))], 1)
    covariance = np.linalg.inv((design * weight[:, None] ** 2).T @ design)
    found = covariance @ (design.T @ (weight**2 * np.log(y)))
    rest = weight * (np.log(y) - design @ found)
    free = len(t) - 2
    scatter = float(rest @ rest) / free if free else float("nan")
    if not is_known:
        covariance = covariance * scatter
    elif free:
        covariance = covariance * max(1.0, scatter)
    return Arrhenius(
        activation_energy=float(found[0]),
        error=float(np.sqrt(covariance[0, 0])),
        log_prefactor=float(found[1]),
        covariance=covariance,
        chi_squared=scatter if is_known else float("nan"),
    )
