"""Autocorrelation and its cosine transform, by blocks of a trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lesff.errors import DataError
from lesff.units import SPEED_OF_LIGHT

WAVENUMBER_PER_ANGULAR = 1e8 / (2.0 * np.pi * SPEED_OF_LIGHT)
"""Wavenumber in 1/cm of an angular frequency of 1 / fs: omega / (2 pi c)."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """A spectrum with standard errors.

    Attributes:
        wavenumber: (n,) in 1/cm, ascending from 0 in equal steps.
        values: (n,) or (n, m), unit as ``unit``.
        errors: Standard error of the mean over blocks, shape of ``values``; NaN for one block.
        unit: Of the values.
        n_blocks: Blocks of the trajectory.
        max_lag: Longest time of the correlation function, fs.
    """

    wavenumber: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    unit: str
    n_blocks: int
    max_lag: float

    def scaled(self, factor: np.ndarray | float, unit: str) -> Spectrum:
        """Values and errors times ``factor``, in another unit."""
        return Spectrum(
            wavenumber=self.wavenumber,
            values=self.values * factor,
            errors=self.errors * factor,
            unit=unit,
            n_blocks=self.n_blocks,
            max_lag=self.max_lag,
        )

    def integral(self, low: float = 0.0, high: float = np.inf) -> float:
        """Integral over wavenumber (unit times 1/cm), trapezoidal."""
        inside = (self.wavenumber >= low) & (self.wavenumber <= high)
        return float(np.trapezoid(self.values[inside], self.wavenumber[inside]))


def autocorrelation(series: np.ndarray, n_lags: int) -> np.ndarray:
    """``C(k) = sum over components of <x(t) x(t + k)>_t``, k = 0 .. n_lags - 1.

    Every lag is averaged over all its starting times (no bias). Nothing is subtracted.

    Args:
        series: (n_times, ...), components in any shape.
        n_lags: At most n_times.
    """
    n_times = len(series)
    flat = series.reshape(n_times, -1)
    transform = np.fft.rfft(flat, n=2 * n_times, axis=0)
    power = (transform * transform.conj()).real.sum(1)
    sums = np.fft.irfft(power)[:n_lags]
    return sums / (n_times - np.arange(n_lags))


def split(series: np.ndarray, n_blocks: int) -> list[np.ndarray]:
    """Blocks of equal length along the first axis; a remainder at the end is left out.

    Raises:
        DataError: if a block would have fewer than four frames.
    """
    length = len(series) // n_blocks if n_blocks > 0 else 0
    if length < 4:
        raise DataError(
            f"`n_blocks` must be 1 to {len(series) // 4} for {len(series)} frames, got {n_blocks}"
        )
    return [series[i * length : (i + 1) * length] for i in range(n_blocks)]


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error; NaN for a single row."""
    n = len(values)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full_like(mean, np.nan)
    return mean, error


def cosine_spectrum(
    series: np.ndarray, time_step: float, *, max_lag: float, n_blocks: int = 5
) -> Spectrum:
    """``S(omega) = int_0^max_lag cos(omega t) w(t) C(t) dt``, unit of ``series``^2 times fs.

    ``C`` is the autocorrelation, ``w`` the Hann window ``cos^2(pi t / 2 max_lag)``. Whatever the
    window, ``int_0^inf S domega = pi C(0) / 2``. Lines are at least 1 / (c max_lag) wide at half
    height: 33 / cm at 1000 fs.

    Args:
        series: (n_times, ...), components in any shape.
        time_step: fs.
        max_lag: fs; at most the length of a block.
        n_blocks: Blocks for the standard errors.

    Raises:
        DataError: if a block is shorter than ``max_lag``.
    """
    blocks = split(series, n_blocks)
    n_lags = round(max_lag / time_step)
    if not 2 <= n_lags <= len(blocks[0]):
        raise DataError(
            f"`max_lag` must be {2 * time_step:g} to {len(blocks[0]) * time_step:g} fs, the length "
            f"of one of {n_blocks} blocks, got {max_lag:g}"
        )
    lags = np.arange(n_lags)
    window = np.cos(0.5 * np.pi * lags / n_lags) ** 2
    # trapezoid: the half weight of lag 0 makes the sum over frequencies exact
    correlation = np.array([autocorrelation(block, n_lags) for block in blocks]) * window
    even = np.concatenate([correlation, np.zeros_like(correlation)], axis=1)
    n = 2 * n_lags * 4  # four times finer than the resolution
    transform = np.fft.rfft(even, n=n, axis=1).real - 0.5 * correlation[:, :1]
    mean, error = mean_and_error(transform * time_step)
    omega = 2.0 * np.pi * np.fft.rfftfreq(n, d=time_step)
    return Spectrum(
        wavenumber=omega * WAVENUMBER_PER_ANGULAR,
        values=mean,
        errors=error,
        unit="fs",
        n_blocks=n_blocks,
        max_lag=n_lags * time_step,
    )


def peaks(spectrum: Spectrum, low: float, high: float) -> float:
    """Wavenumber in 1/cm of the highest value of a range."""
    inside = (spectrum.wavenumber >= low) & (spectrum.wavenumber <= high)
    if not inside.any():
        raise DataError(f"the spectrum has no point from {low:g} to {high:g} 1/cm")
    return float(spectrum.wavenumber[inside][np.argmax(spectrum.values[inside])])
