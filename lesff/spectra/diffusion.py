"""Diffusion of species, Nernst-Einstein beside collective conductivity, Haven ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lesff.errors import ConfigError, DataError
from lesff.spectra.correlation import mean_and_error, split
from lesff.spectra.transport import fit_range, helfand, mean_squared_displacement
from lesff.units import BOLTZMANN, CONDUCTIVITY_TO_S_PER_M

A2_PER_FS_TO_CM2_PER_S = 0.1
"""1 A^2/fs = 1e-16 cm^2 / 1e-15 s."""
Reference = Literal["all", "others", "cell"]
"""What rests: the centre of mass of all atoms, that of the atoms of no species, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Mean squared displacement of a species and its slope.

    Attributes:
        time: (n,) fs.
        squared: (n,) ``<|dr|^2>`` in A^2, averaged over atoms and starting times.
        squared_error: (n,) standard error of the mean over blocks.
        coefficient: D = slope / 6 in cm^2/s.
        error: Standard error over blocks, cm^2/s; NaN for one block.
        axes: (3,) slope / 2 along x, y, z, cm^2/s.
        axes_error: (3,) its standard error.
    """

    time: np.ndarray
    squared: np.ndarray
    squared_error: np.ndarray
    coefficient: float
    error: float
    axes: np.ndarray
    axes_error: np.ndarray


@dataclass(frozen=True, kw_only=True)
class IonConductivity:
    """Conductivity of ions with constant charges.

    Attributes:
        nernst_einstein: ``e^2 / (V kT) sum_i z_i^2 D_i``, S/m: as if ions moved independently.
        nernst_einstein_error: Standard error over blocks; all errors are NaN for one block.
        collective: ``e^2 / (6 V kT) d<|sum_i z_i dr_i|^2>/dt``, S/m.
        collective_error: Likewise.
        haven: Haven ratio, the first over the second; infinite where the second is zero.
        haven_error: Jackknife over blocks.
    """

    nernst_einstein: float
    nernst_einstein_error: float
    collective: float
    collective_error: float
    haven: float
    haven_error: float


def self_diffusion(
    positions: np.ndarray, time_step: float, *, lower: float, upper: float, n_blocks: int = 5
) -> Diffusion:
    """Diffusion coefficient of atoms by Einstein's relation, all starting times, by FFT.

    Args:
        positions: (n_frames, n_atoms, 3) of one species in A, unwrapped.
        time_step: fs.
        lower: Start of the straight part, fs: past the rattling in a cage.
        upper: End of it, fs; a block should be several times as long.
        n_blocks: Blocks for the standard errors.

    Raises:
        DataError: for no atoms, or blocks that are too short.
    """
    if positions.ndim != 3 or positions.shape[1:2] == (0,):
        raise DataError(f"`positions` must be (n_frames, n_atoms, 3), got {positions.shape}")
    blocks = split(positions, n_blocks)
    first, last = fit_range(lower, upper, time_step, len(blocks[0]))
    n_atoms = positions.shape[1]
    lags = np.arange(last + 1)
    # [block, xyz, lag]
    squared = np.array([
        [mean_squared_displacement(block[:, :, k], last + 1) / n_atoms for k in range(3)]
        for block in blocks
    ])  # fmt: skip
    time = lags[first:] * time_step
    slopes = np.array([np.polyfit(time, of_block[:, first:].T, 1)[0] for of_block in squared])
    total, total_error = mean_and_error(squared.sum(1))
    axes, axes_error = mean_and_error(A2_PER_FS_TO_CM2_PER_S * slopes / 2.0)
    value, error = mean_and_error(A2_PER_FS_TO_CM2_PER_S * slopes.sum(1) / 6.0)
    return Diffusion(
        time=lags * time_step,
        squared=total,
        squared_error=total_error,
        coefficient=float(value),
        error=float(error),
        axes=axes,
        axes_error=axes_error,
    )


def ion_conductivity(
    positions: Mapping[str, np.ndarray],
    charges: Mapping[str, float],
    time_step: float,
    *,
    temperature: float,
    volume: float,
    lower: float,
    upper: float,
    n_blocks: int = 5,
) -> IonConductivity:
    """Nernst-Einstein and collective conductivity of species with constant charges.

    Args:
        positions: (n_frames, n_atoms, 3) of each species in A, unwrapped.
        charges: Of each species in e.
        time_step: fs.
        temperature: K.
        volume: A^3.
        lower: Start of the straight part, fs.
        upper: End of it, fs.
        n_blocks: Blocks for the standard errors.

    Raises:
        DataError: for bad values, see :func:`lesff.spectra.transport.helfand`.
    """
    # sum z r, (n_frames, 3) in e A
    displaced = sum(charges[s] * r.sum(1) for s, r in positions.items())
    together = np.array([
        helfand(
            block, time_step, temperature=temperature, volume=volume, lower=lower, upper=upper,
            n_blocks=1,
        ).conductivity
        for block in split(np.asarray(displaced), n_blocks)
    ])  # fmt: skip
    factor = CONDUCTIVITY_TO_S_PER_M / (volume * BOLTZMANN * temperature * A2_PER_FS_TO_CM2_PER_S)
    alone = np.zeros(n_blocks)
    for species, r in positions.items():
        weight = factor * charges[species] ** 2 * r.shape[1]
        for index, block in enumerate(split(r, n_blocks)):
            found = self_diffusion(block, time_step, lower=lower, upper=upper, n_blocks=1)
            alone[index] += weight * found.coefficient
    first, first_error = mean_and_error(alone)
    second, second_error = mean_and_error(together)
    ratio_error = float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):  # ions that together carry nothing
        ratio = float(np.divide(first, second))
        if n_blocks > 1:
            left_out = (alone.sum() - alone) / (together.sum() - together)
            spread = np.sum((left_out - left_out.mean()) ** 2)
            ratio_error = float(np.sqrt((n_blocks - 1) / n_blocks * spread))
    return IonConductivity(
        nernst_einstein=float(first),
        nernst_einstein_error=float(first_error),
        collective=float(second),
        collective_error=float(second_error),
        haven=ratio,
        haven_error=ratio_error,
    )


def relative_positions(
    positions: np.ndarray, masses: np.ndarray, is_species: np.ndarray, reference: Reference
) -> np.ndarray:
    """Positions relative to what rests, (n_frames, n_atoms, 3) in A.

    Args:
        positions: (n_frames, n_atoms, 3) of all atoms, unwrapped.
        masses: (n_atoms,).
        is_species: (n_atoms,) bool, atoms of the species that are looked at.
        reference: See :data:`Reference`.

    Raises:
        ConfigError: for another reference, or ``"others"`` where there are none.
    """
    if reference not in get_args(Reference):
        known = ", ".join(get_args(Reference))
        raise ConfigError(f"`reference` must be of {known}, got {reference!r}")
    if reference == "cell":
        return positions
    weights = masses if reference == "all" else np.where(is_species, 0.0, masses)
    if not weights.any():
        raise ConfigError("`reference` must be all or cell where every atom is of the species")
    centre = np.einsum("n,tnk->tk", weights / weights.sum(), positions)
    return positions - (centre - centre[0])[:, None]
