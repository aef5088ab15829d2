"""Ionic conductivity (Green-Kubo and Helfand) and the static dielectric constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lesff.errors import DataError
from lesff.spectra.correlation import autocorrelation, mean_and_error, split
from lesff.units import BOLTZMANN, CONDUCTIVITY_TO_S_PER_M, COULOMB_CONSTANT


@dataclass(frozen=True, kw_only=True)
class Transport:
    """A running or fitted conductivity with standard errors.

    Attributes:
        time: (n,) fs.
        curve: (n,): Green-Kubo: the integral up to each time, S/m; Helfand: ``<|dP|^2>`` in
            (e A)^2.
        curve_error: (n,) standard error of the mean over blocks.
        conductivity: S/m.
        error: Standard error over blocks, S/m; NaN for one block.
    """

    time: np.ndarray
    curve: np.ndarray
    curve_error: np.ndarray
    conductivity: float
    error: float


def green_kubo(
    current: np.ndarray,
    time_step: float,
    *,
    temperature: float,
    volume: float,
    upper: float,
    n_blocks: int = 5,
) -> Transport:
    """``sigma = 1/(3 V kT) int_0^upper <J(0).J(t)> dt`` in S/m.

    Args:
        current: (n_frames, 3) in e A / fs.
        time_step: fs.
        temperature: K.
        volume: A^3.
        upper: End of the integral in fs: past the decay of the correlation, on the plateau.
        n_blocks: Blocks for the standard errors.
    """
    factor = _factor(temperature, volume) / 3.0
    blocks = split(current, n_blocks)
    n_lags = _lags(upper, time_step, len(blocks[0])) + 1
    running = []
    for block in blocks:
        c = autocorrelation(block, n_lags)
        steps = 0.5 * (c[1:] + c[:-1]) * time_step
        running.append(factor * np.concatenate([[0.0], np.cumsum(steps)]))
    mean, error = mean_and_error(np.array(running))
    return Transport(
        time=np.arange(n_lags) * time_step,
        curve=mean,
        curve_error=error,
        conductivity=float(mean[-1]),
        error=float(error[-1]),
    )


def helfand(
    displacement: np.ndarray,
    time_step: float,
    *,
    temperature: float,
    volume: float,
    lower: float,
    upper: float,
    n_blocks: int = 5,
) -> Transport:
    """``sigma = 1/(6 V kT) d<|P(t) - P(0)|^2>/dt`` in S/m, slope from ``lower`` to ``upper``.

    Args:
        displacement: (n_frames, 3) P along unwrapped positions in e A, up to a constant: the time
            integral of the current, or ``sum Z r`` of constant charges.
        time_step: fs.
        temperature: K.
        volume: A^3.
        lower: Start of the straight part, fs.
        upper: End of it, fs.
        n_blocks: Blocks for the standard errors.
    """
    factor = _factor(temperature, volume) / 6.0
    blocks = split(displacement, n_blocks)
    first, last = fit_range(lower, upper, time_step, len(blocks[0]))
    lags = np.arange(last + 1)
    squared = np.array([mean_squared_displacement(block, last + 1) for block in blocks])
    slopes = np.polyfit(lags[first:] * time_step, squared[:, first:].T, 1)[0]
    mean, error = mean_and_error(squared)
    value, value_error = mean_and_error(factor * slopes)
    return Transport(
        time=lags * time_step,
        curve=mean,
        curve_error=error,
        conductivity=float(value),
        error=float(value_error),
    )


def fit_range(lower: float, upper: float, time_step: float, length: int) -> tuple[int, int]:
    """First and last lag of a straight part.

    Args:
        lower: Its start, fs.
        upper: Its end, fs.
        time_step: fs.
        length: Frames of a block.

    Raises:
        DataError: if a block is too short for it, or it has fewer than three points.
    """
    last = _lags(upper, time_step, length)
    first = round(lower / time_step)
    if not 0 <= first < last - 1:
        raise DataError(f"`lower` must be 0 to less than {upper:g} fs, got {lower:g}")
    return first, last


def mean_squared_displacement(series: np.ndarray, n_lags: int) -> np.ndarray:
    """``<|x(t + k) - x(t)|^2>_t`` for k = 0 .. n_lags - 1, all starting times, by FFT.

    Args:
        series: (n_times, m).
        n_lags: At most n_times.
    """
    x = series - series[0]
    n_times = len(x)
    square = (x**2).sum(1)
    head = np.cumsum(square)
    total = head[-1]
    k = np.arange(n_lags)
    # sum over t of x(t + k)^2 + x(t)^2
    before = np.concatenate([[0.0], head])[k]
    after = total - head[n_times - 1 - k]
    sums = 2.0 * total - before - after
    return sums / (n_times - k) - 2.0 * autocorrelation(x, n_lags)


def integrated(current: np.ndarray, time_step: float) -> np.ndarray:
    """``P(t) - P(0)`` from the current by the trapezoidal rule, (n_frames, 3) in e A."""
    steps = 0.5 * (current[1:] + current[:-1]) * time_step
    return np.concatenate([np.zeros((1, current.shape[1])), np.cumsum(steps, axis=0)])


def dielectric_constant(
    dipole: np.ndarray,
    *,
    temperature: float,
    volume: float,
    eps_inf: float = 1.0,
    n_blocks: int = 5,
) -> tuple[float, float]:
    """Static dielectric constant of an isotropic sample under tin-foil boundaries, and its error.

    ``eps = eps_inf + 4 pi ke / (3 V kT) (<M^2> - <M>^2)``; the error is the jackknife over blocks,
    each left out in turn. Ions that move on must not contribute to M: it would grow for ever.

    Args:
        dipole: (n_frames, 3) total dipole of the cell in e A along unwrapped positions.
        temperature: K.
        volume: A^3.
        eps_inf: Electronic part, 1 if ``dipole`` holds the electronic response.
        n_blocks: Blocks for the standard error.
    """
    _factor(temperature, volume)
    factor = 4.0 * np.pi * COULOMB_CONSTANT / (3.0 * volume * BOLTZMANN * temperature)
    blocks = split(dipole, n_blocks)

    def value(rows: np.ndarray) -> float:
        return eps_inf + factor * float((rows**2).sum(1).mean() - (rows.mean(0) ** 2).sum())

    whole = value(np.concatenate(blocks))
    if n_blocks == 1:
        return whole, float("nan")
    left_out = [
        value(np.concatenate([b for j, b in enumerate(blocks) if j != i])) for i in range(n_blocks)
    ]
    spread = np.sum((np.array(left_out) - np.mean(left_out)) ** 2)
    return whole, float(np.sqrt((n_blocks - 1) / n_blocks * spread))


def _factor(temperature: float, volume: float) -> float:
    """``1 / (V kT)``, from e^2 A^2 / fs to S/m."""
    for name, value in (("temperature", temperature), ("volume", volume)):
        if not (np.isfinite(value) and value > 0):
            raise DataError(f"`{name}` must be positive, got {value!r}")
    return CONDUCTIVITY_TO_S_PER_M / (volume * BOLTZMANN * temperature)


def _lags(upper: float, time_step: float, length: int) -> int:
    count = round(upper / time_step)
    if not 2 <= count < length:
        raise DataError(
            f"`upper` must be {2 * time_step:g} to {(length - 1) * time_step:g} fs, the length of "
            f"a block, got {upper:g}"
        )
    return count
