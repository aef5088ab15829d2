"""Infrared, Raman and power spectra of a structure: dynamics and responses, beside harmonic lines.

The dynamics are classical: a line is where the anharmonic surface at this temperature puts it, and
overtones and zero-point motion are missing. The harmonic lines are those of the minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ase
import numpy as np
from scipy.signal import find_peaks

from lesff.electrostatics.moments.born import BornMode
from lesff.errors import ConfigError, PropertyError
from lesff.model import Model
from lesff.potential.response import BornOptions
from lesff.spectra.correlation import WAVENUMBER_PER_ANGULAR, Spectrum
from lesff.spectra.series import property_series
from lesff.spectra.trajectory import Trajectory, as_trajectory
from lesff.spectra.vibrations import (
    density_of_states,
    infrared,
    polarisation_current,
    raman,
)
from lesff.workflows.dynamics import DynamicsOptions, run_dynamics
from lesff.workflows.folder import WorkFolder
from lesff.workflows.vibrations import VibrationsResult, vibrations

SpectrumKind = Literal["ir", "vdos", "raman"]
KINDS: tuple[SpectrumKind, ...] = ("ir", "raman", "vdos")
_NEEDS = {"ir": "born_effective_charges", "raman": "polarizability"}
A2_PER_CM_OF_KM_PER_MOL = 1e21 / 6.02214076e23
"""Integral of a cross-section over wavenumber, A^2/cm, of 1 km/mol: 1 km = 1e5 cm, 1e16 A^2."""
_SHARE = 0.01
"""Bands that stand out by less than this part of the highest are not listed."""


@dataclass(frozen=True, kw_only=True)
class SpectrumOptions:
    """How a spectrum is made.

    Attributes:
        temperature: K.
        dt: Time step, fs.
        steps: Time steps that are looked at.
        equilibration: Steps before them.
        keep: Steps between frames.
        tau: Time of the thermostat, fs; lines are wider by 5300 / tau 1/cm for molecules.
        every: Born charges every so many frames, interpolated between them.
        born: How those of crystals and liquids are computed, :class:`BornOptions`.
        max_lag: Longest correlation time, fs.
        blocks: Blocks for the error bars.
        seed: Of velocities and noise.

    Raises:
        ConfigError: for a bad value.
    """

    temperature: float = 300.0
    dt: float = 0.5
    steps: int = 20_000
    equilibration: int = 2000
    keep: int = 4
    tau: float = 500.0
    every: int = 1
    born: BornMode = "exact"
    max_lag: float = 1000.0
    blocks: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values that nothing else does."""
        for name in ("steps", "keep", "every", "blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")
        if self.steps % self.keep:
            raise ConfigError(
                f"`steps` must be a multiple of `keep` ({self.keep}), got {self.steps}"
            )
        if self.equilibration < 0 or self.equilibration % self.keep:
            raise ConfigError(
                f"`equilibration` must be a multiple of `keep` ({self.keep}), got "
                f"{self.equilibration}"
            )
        length = self.block_length(self.steps, self.keep, self.blocks, self.dt)
        if not 0.0 < self.max_lag <= length:
            raise ConfigError(
                f"`max_lag` must be at most the {length:g} fs of one of {self.blocks} blocks, got "
                f"{self.max_lag:g}; give more steps or fewer blocks"
            )

    @staticmethod
    def block_length(steps: int, keep: int, blocks: int, dt: float) -> float:
        """Time of a block in fs, the longest correlation time; 0 for numbers that are refused."""
        return steps // keep // blocks * keep * dt if keep > 0 and blocks > 0 else 0.0

    def dynamics(self, *, is_periodic: bool) -> DynamicsOptions:
        """The run that is needed.

        Modes of a molecule hardly exchange energy: Langevin's thermostat gives each its share.
        """
        return DynamicsOptions(
            ensemble="nvt",
            thermostat="bussi" if is_periodic else "langevin",
            temperature=self.temperature,
            dt=self.dt,
            steps=self.equilibration + self.steps,
            every=self.keep,
            checkpoint=self.keep * max(1, 1000 // self.keep),
            tau=self.tau,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Band:
    """A maximum of a spectrum.

    Attributes:
        wavenumber: 1/cm.
        height: In the unit of the spectrum.
        error: Standard error of the height, over blocks.
    """

    wavenumber: float
    height: float
    error: float


@dataclass(frozen=True, kw_only=True)
class SpectrumResult:
    """Spectra of one run.

    Attributes:
        spectra: By kind; ``"raman"`` is VV.
        temperature: Mean of the run, K.
        resolution: Width at half height of the narrowest line, 1/cm.
        volume: A^3, or None for molecules.
        harmonic: Modes of the minimum, or None.
        missing: Kinds that the model has no quantity for.
    """

    spectra: dict[str, Spectrum]
    temperature: float
    resolution: float
    volume: float | None
    harmonic: VibrationsResult | None
    missing: tuple[str, ...] = ()

    def harmonic_infrared(self, wavenumber: np.ndarray) -> np.ndarray | None:
        """Infrared spectrum of the harmonic modes, in the unit of ``spectra["ir"]``.

        Each mode is a Lorentzian of the width that the other spectrum cannot go below.

        Args:
            wavenumber: (n,) in 1/cm.
        """
        if self.harmonic is None or self.harmonic.intensities is None:
            return None
        chosen = inner_modes(self.harmonic)
        centre = self.harmonic.frequencies[chosen]
        area = A2_PER_CM_OF_KM_PER_MOL * self.harmonic.intensities[chosen]
        half = 0.5 * self.resolution
        # [wavenumber, mode], each of unit area
        lines = half / np.pi / ((wavenumber[:, None] - centre) ** 2 + half**2)
        curve = lines @ area
        # n alpha = cross-section / volume, from 1/A to 1/cm
        return curve if self.volume is None else curve / self.volume * 1e8


def inner_modes(result: VibrationsResult) -> np.ndarray:
    """Indices of the modes that are neither translations nor rotations."""
    return np.sort(np.argsort(np.abs(result.frequencies))[result.n_rigid :])


def structure_spectrum(
    model: Model,
    atoms: ase.Atoms,
    options: SpectrumOptions | None = None,
    *,
    folder: WorkFolder,
    kinds: tuple[SpectrumKind, ...] | None = None,
    harmonic: bool = True,
    say: Callable[[int, dict[str, float]], None] | None = None,
) -> SpectrumResult:
    """Spectra of a structure; all steps are kept in the folder, from where they go on.

    Args:
        model: The model.
        atoms: A molecule, or a crystal or liquid periodic in three directions.
        options: How.
        folder: Where dynamics, Born charges, polarizabilities and the Hessian are kept.
        kinds: What is wanted; all that the model has if None.
        harmonic: Whether modes of the minimum are computed, too.
        say: Called after each block of the dynamics.

    Raises:
        PropertyError: for a kind that the model has no quantity for.
        ConfigError: for a slab.
        ConvergenceError: if there is no minimum for the harmonic modes.
    """
    options = options or SpectrumOptions()
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ConfigError("a spectrum needs a molecule or a structure periodic in 3D, got a slab")
    available = model.potential.available_properties()
    missing: tuple[SpectrumKind, ...] = tuple(
        k for k in KINDS if k in _NEEDS and _NEEDS[k] not in available
    )
    refused = [kind for kind in kinds or () if kind in missing]
    if refused:
        raise PropertyError(
            f"{model.name} has no {_NEEDS[refused[0]]}, which {refused[0]} needs; take a model "
            "that has it"
        )
    modes = vibrations(model, atoms, folder=folder) if harmonic else None
    start = atoms if modes is None else modes.atoms
    run = _production(model, start, options, folder, say)
    spectra: dict[str, Spectrum] = {
        kind: _one(kind, model, run, options, folder)
        for kind in kinds or KINDS
        if kind not in missing
    }
    return SpectrumResult(
        spectra=spectra,
        temperature=run.temperature,
        resolution=2.0 * np.pi * WAVENUMBER_PER_ANGULAR / options.max_lag,
        volume=run.volume,
        harmonic=modes,
        missing=missing if kinds is None else (),
    )


def _production(
    model: Model,
    atoms: ase.Atoms,
    options: SpectrumOptions,
    folder: WorkFolder,
    say: Callable[[int, dict[str, float]], None] | None,
) -> Trajectory:
    """The frames after equilibration."""
    path = folder.path / "dynamics"
    path.mkdir(exist_ok=True)
    plan = options.dynamics(is_periodic=bool(atoms.pbc.all()))
    result = run_dynamics(model, atoms, plan, folder=path, say=say)
    frames = list(result.frames())[options.equilibration // options.keep :]
    return as_trajectory(frames, options.keep * options.dt)


def _one(
    kind: SpectrumKind,
    model: Model,
    run: Trajectory,
    options: SpectrumOptions,
    folder: WorkFolder,
) -> Spectrum:
    """Spectrum of a kind."""
    step = run.time_step
    common: dict[str, Any] = {
        "temperature": run.temperature, "max_lag": options.max_lag, "n_blocks": options.blocks
    }  # fmt: skip
    if kind == "vdos":
        return density_of_states(run.velocities, run.masses, step, **common)
    if kind == "raman":
        values = property_series(model, run.frames, _NEEDS[kind], folder.path / _NEEDS[kind])
        return raman(values, step, **common).parallel
    name = _NEEDS[kind]
    born = property_series(
        model,
        run.frames[:: options.every],
        name,
        folder.path / name,
        born=BornOptions(mode=options.born),
    )
    charge = run.frames[0].info.get("charge", 0)
    current = polarisation_current(
        born, run.velocities, every=options.every, total_charge=float(charge)
    )
    return infrared(current, step, volume=run.volume, **common)


def bands(spectrum: Spectrum, limit: float) -> list[Band]:
    """Maxima up to a wavenumber that stand out of their errors, in rising order.

    Args:
        spectrum: The spectrum.
        limit: 1/cm.
    """
    inside = spectrum.wavenumber <= limit
    values, errors = spectrum.values[inside], np.nan_to_num(spectrum.errors[inside])
    places, found = find_peaks(values, prominence=_SHARE * values.max(initial=0.0))
    return [
        Band(
            wavenumber=float(spectrum.wavenumber[i]),
            height=float(values[i]),
            error=float(spectrum.errors[i]),
        )
        for i, prominence in zip(places, found["prominences"], strict=True)
        if prominence > 2.0 * errors[i]
    ]
