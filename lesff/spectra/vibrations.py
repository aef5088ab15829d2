"""Infrared absorption, vibrational density of states and Raman spectra."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lesff.errors import DataError
from lesff.spectra.correlation import WAVENUMBER_PER_ANGULAR, Spectrum, cosine_spectrum
from lesff.units import BOLTZMANN, COULOMB_CONSTANT, DALTON, HBAR, SPEED_OF_LIGHT

_PER_CM = 1e8
"""1 / A in 1 / cm."""


def polarisation_current(
    born: np.ndarray, velocities: np.ndarray, *, every: int = 1, total_charge: float = 0.0
) -> np.ndarray:
    """``J_a(t) = sum_i Z*_i,ab v_ib``, (n_frames, 3) in e A / fs.

    Born effective charges between the frames where they are known are interpolated linearly, and
    the acoustic sum rule is imposed: ``sum_i Z*_i = Q`` (a uniform motion carries no current in a
    neutral cell).

    Args:
        born: (n_known, n_atoms, 3, 3) in e, [i, a, b] = dP_a / dr_ib, at frames 0, every, ...
        velocities: (n_frames, n_atoms, 3) in A/fs.
        every: Frames from one known Z* to the next.
        total_charge: Q in e.

    Raises:
        DataError: if the arrays do not belong together.
    """
    n_frames, n_atoms, _ = velocities.shape
    if born.shape[1:] != (n_atoms, 3, 3) or len(born) != -(-n_frames // every):
        raise DataError(
            f"`born` must be ({-(-n_frames // every)}, {n_atoms}, 3, 3) for {n_frames} frames and "
            f"every={every}, got {born.shape}"
        )
    excess = born.sum(1) - total_charge * np.eye(3)
    born = born - excess[:, None] / n_atoms
    left = np.arange(n_frames) // every
    right = np.minimum(left + 1, len(born) - 1)
    weight = (np.arange(n_frames) % every) / every
    current = np.empty((n_frames, 3))
    for t in range(n_frames):  # one frame at a time: no copy of all interpolated Z*
        z = (1.0 - weight[t]) * born[left[t]] + weight[t] * born[right[t]]
        current[t] = np.einsum("nab,nb->a", z, velocities[t])
    return current


def infrared(
    current: np.ndarray,
    time_step: float,
    *,
    temperature: float,
    volume: float | None,
    max_lag: float = 1000.0,
    n_blocks: int = 5,
) -> Spectrum:
    """Absorption from the autocorrelation of the current, classical nuclei.

    Crystals and liquids: ``n alpha = Re sigma / (eps0 c)``,
    ``Re sigma = 1/(3 V kT) int_0^inf cos(omega t) <J(0).J(t)> dt``, in 1/cm: the refractive index
    times the absorption coefficient (Beer-Lambert, natural logarithm). This is linear response
    with the harmonic quantum correction (McQuarrie, Statistical Mechanics, ch. 21):
    ``omega (1 - exp(-hbar omega / kT))`` has become ``hbar omega^2 / kT``. Isolated systems
    (``volume`` None): the cross-section ``n alpha V`` in A^2.

    Args:
        current: (n_frames, 3) in e A / fs.
        time_step: fs.
        temperature: K.
        volume: A^3, or None for an isolated system.
        max_lag: Longest correlation time, fs.
        n_blocks: Blocks for the standard errors.
    """
    _check_positive(temperature=temperature, volume=1.0 if volume is None else volume)
    spectrum = cosine_spectrum(current, time_step, max_lag=max_lag, n_blocks=n_blocks)
    # 1 / eps0 = 4 pi ke; J^2 t in e^2 A^2 / fs, so sigma V / (eps0 c) in A^2
    factor = 4.0 * np.pi * COULOMB_CONSTANT / (3.0 * BOLTZMANN * temperature * SPEED_OF_LIGHT)
    if volume is None:
        return spectrum.scaled(factor, "A^2")
    return spectrum.scaled(factor / volume * _PER_CM, "1/cm")


def density_of_states(
    velocities: np.ndarray,
    masses: np.ndarray,
    time_step: float,
    *,
    temperature: float,
    max_lag: float = 1000.0,
    n_blocks: int = 5,
) -> Spectrum:
    """Vibrational density of states, states per 1/cm; its integral is the number of modes 3 N.

    ``g(omega) = 2 / (pi kT) int_0^inf cos(omega t) sum_i m_i <v_i(0).v_i(t)> dt``; the integral is
    3 N times the ratio of the kinetic temperature to ``temperature``.

    Args:
        velocities: (n_frames, n_atoms, 3) in A/fs.
        masses: (n_atoms,) in u.
        time_step: fs.
        temperature: K.
        max_lag: Longest correlation time, fs.
        n_blocks: Blocks for the standard errors.
    """
    _check_positive(temperature=temperature)
    weighted = velocities * np.sqrt(masses * DALTON)[:, None]
    spectrum = cosine_spectrum(weighted, time_step, max_lag=max_lag, n_blocks=n_blocks)
    factor = 2.0 / (np.pi * BOLTZMANN * temperature * WAVENUMBER_PER_ANGULAR)
    return spectrum.scaled(factor, "states cm")


@dataclass(frozen=True, kw_only=True)
class RamanSpectra:
    """Raman spectra of an isotropic sample, arbitrary common unit.

    Attributes:
        isotropic: From the trace, ``alpha_bar = Tr alpha / 3``.
        anisotropic: From the traceless part, ``Tr beta beta``.
        parallel: Polarised (VV), isotropic + 2/15 anisotropic.
        perpendicular: Depolarised (VH), 1/10 anisotropic.
    """

    isotropic: Spectrum
    anisotropic: Spectrum
    parallel: Spectrum
    perpendicular: Spectrum


def raman(
    polarizability: np.ndarray,
    time_step: float,
    *,
    temperature: float,
    laser: float = 18797.0,
    max_lag: float = 1000.0,
    n_blocks: int = 5,
) -> RamanSpectra:
    """Stokes intensities from a series of polarizabilities, classical nuclei.

    ``I(omega) ~ (nu_L - nu)^4 / (omega (1 - exp(-hbar omega / kT))) S(omega)`` with S the cosine
    transform of the autocorrelation of ``d alpha / dt``, which is the line shape times omega^2.
    ``VV = alpha_bar^2 + 4/45 gamma^2``, ``VH = gamma^2 / 15`` with ``gamma^2 = 3/2 Tr beta beta``.

    Args:
        polarizability: (n_frames, 3, 3) in e A^2 / V.
        time_step: fs.
        temperature: K.
        laser: Wavenumber of the light in 1/cm; 18797 is 532 nm.
        max_lag: Longest correlation time, fs.
        n_blocks: Blocks for the standard errors.
    """
    _check_positive(temperature=temperature, laser=laser)
    trace = np.einsum("taa->t", polarizability) / 3.0
    symmetric = 0.5 * (polarizability + polarizability.transpose(0, 2, 1))
    traceless = symmetric - trace[:, None, None] * np.eye(3)
    parts = []
    for series in (trace, traceless):
        rate = np.diff(series, axis=0) / time_step
        spectrum = cosine_spectrum(rate, time_step, max_lag=max_lag, n_blocks=n_blocks)
        omega = spectrum.wavenumber / WAVENUMBER_PER_ANGULAR
        # the difference over one step damps a line by sin(x)/x, x = omega dt / 2, squared
        damping = np.sinc(omega * time_step / (2.0 * np.pi)) ** 2
        x = HBAR * omega / (BOLTZMANN * temperature)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = (1.0 - spectrum.wavenumber / laser) ** 4 / (omega * -np.expm1(-x)) / damping
        factor[0] = 0.0  # elastic line
        parts.append(spectrum.scaled(factor, "arbitrary"))
    isotropic, anisotropic = parts
    # errors of the two parts as if they were independent
    errors = np.hypot(isotropic.errors, 2.0 / 15.0 * anisotropic.errors)
    parallel = replace(
        isotropic, values=isotropic.values + 2.0 / 15.0 * anisotropic.values, errors=errors
    )
    return RamanSpectra(
        isotropic=isotropic,
        anisotropic=anisotropic,
        parallel=parallel,
        perpendicular=anisotropic.scaled(0.1, "arbitrary"),
    )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise DataError(f"`{name}` must be positive, got {value!r}")
