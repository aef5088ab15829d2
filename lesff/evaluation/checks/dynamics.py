"""Molecular dynamics: conservation of energy, densities of liquids."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ase
import numpy as np
from ase.build import molecule
from ase.md.bussi import Bussi
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from ase.units import bar, fs
from tqdm.auto import tqdm

from lesff.evaluation.coverage import require
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method

DRIFT_SOURCES = ("conserved energy: the exact drift is zero",)
LIQUID_SOURCES = (
    "densities of liquids at 298 K: CRC Handbook of Chemistry and Physics",
    "preliminary: short runs of small boxes, first half left out",
)
TEMPERATURE = 298.15
"""Kelvin."""
_GRAM_PER_CM3 = 1.66053907
"""1 u / A^3 in g/cm^3."""


@dataclass(frozen=True, kw_only=True)
class Liquid:
    """A liquid to simulate.

    Attributes:
        molecule: Name in ASE's collection.
        n_side: Molecules along each edge of the box.
        density: Experiment at 298 K, g/cm^3.
    """

    molecule: str
    n_side: int
    density: float


LIQUIDS = {
    "water": Liquid(molecule="H2O", n_side=4, density=0.9970),
    "methanol": Liquid(molecule="CH3OH", n_side=3, density=0.7864),
    "acetone": Liquid(molecule="CH3COCH3", n_side=3, density=0.7845),
}


def liquid_box(
    solvent: ase.Atoms, shape: tuple[int, int, int], spacing: float, seed: int = 0
) -> ase.Atoms:
    """Randomly turned molecules on a periodic grid.

    Args:
        solvent: The molecule.
        shape: Molecules along each edge.
        spacing: Distance of grid points, A.
        seed: Seed of the turns.
    """
    rng = np.random.default_rng(seed)
    box = ase.Atoms(cell=np.array(shape) * spacing, pbc=True)
    for index in np.ndindex(*shape):
        copy = solvent.copy()
        copy.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        copy.positions += (np.array(index) + 0.5) * spacing - copy.get_center_of_mass()
        box += copy
    return box


def density_of(atoms: ase.Atoms) -> float:
    """Mass density, g/cm^3."""
    return float(atoms.get_masses().sum() / atoms.get_volume() * _GRAM_PER_CM3)


def check_drift(subject: Method, picoseconds: float = 1.0) -> CheckResult:
    """Total energy of 64 waters at constant energy, after relaxation and 0.25 ps at 300 K."""
    box = liquid_box(molecule("H2O"), (4, 4, 4), 3.104)
    why = require(subject, box)
    if why:
        raise NotCoveredError(why)
    box.calc = subject.fast_calculator()
    FIRE(box, logfile=os.devnull).run(fmax=0.5, steps=200)
    rng = np.random.default_rng(0)
    thermalize_momenta(box, temperature_K=300, rng=rng)
    Stationary(box)
    step = 0.5 * fs
    thermostat = Bussi(box, step, temperature_K=300, taut=25 * fs, rng=rng)
    for _ in tqdm(range(50), desc="thermostat", unit="5 fs", leave=False):
        thermostat.run(10)
    dynamics = VelocityVerlet(box, step)
    times, energies, temperatures = [], [], []
    for index in tqdm(range(int(200 * picoseconds)), desc="NVE", unit="5 fs", leave=False):
        dynamics.run(10)
        times.append((index + 1) * 5e-3)
        energies.append(1e3 * box.get_total_energy() / len(box))
        temperatures.append(box.get_temperature())
    result = CheckResult()
    slope = np.polyfit(times, energies, 1)[0]
    result.add(f"drift over {picoseconds:g} ps", "meV/atom/ps", slope, 0.0)
    result.add("scatter of the total energy", "meV/atom", float(np.std(energies)))
    result.add("mean temperature", "K", float(np.mean(temperatures)))
    result.rows.append({"ps": times[::10], "total_energy_mev_per_atom": energies[::10]})
    return result


def check_liquids(subject: Method, picoseconds: float = 5.0) -> CheckResult:
    """Densities at 298 K and 1 bar; preliminary: the box is small and the run short."""
    result = CheckResult()
    for name, liquid in LIQUIDS.items():
        solvent = molecule(liquid.molecule)
        why = require(subject, solvent)
        if why:
            result.left_out[name] = why
            continue
        volume = solvent.get_masses().sum() / liquid.density * _GRAM_PER_CM3
        n = liquid.n_side
        box = liquid_box(solvent, (n, n, n), volume ** (1 / 3))
        densities = _constant_pressure(box, subject, picoseconds, name)
        if densities is None:
            result.left_out[name] = "the box falls apart"
            continue
        settled = densities[len(densities) // 2 :]
        halves = [np.mean(part) for part in np.array_split(settled, 5)]
        error = np.std(halves, ddof=1) / np.sqrt(len(halves))
        result.add(
            f"density of {name} ({liquid.n_side**3} molecules, {picoseconds:g} ps)",
            "g/cm^3", float(np.mean(settled)), liquid.density,
        )  # fmt: skip
        result.rows.append(
            {
                "liquid": name,
                "density_g_per_cm3": float(np.mean(settled)),
                "standard_error": float(error),
                "reference": liquid.density,
                "series": densities[:: max(1, len(densities) // 50)],
            }
        )
    if not result.quantities:
        raise NotCoveredError("; ".join(f"{k}: {v}" for k, v in result.left_out.items()))
    return result


def _constant_pressure(
    box: ase.Atoms, subject: Method, picoseconds: float, name: str
) -> list[float] | None:
    """Densities every 10 fs; None if the volume leaves half to twice its start."""
    box.calc = subject.fast_calculator()
    FIRE(box, logfile=os.devnull).run(fmax=0.5, steps=300)
    rng = np.random.default_rng(0)
    thermalize_momenta(box, temperature_K=TEMPERATURE, rng=rng)
    Stationary(box)
    step = 0.5 * fs
    Bussi(box, step, temperature_K=TEMPERATURE, taut=25 * fs, rng=rng).run(1000)
    dynamics = IsotropicMTKNPT(
        box, step, temperature_K=TEMPERATURE, pressure_au=1.01325 * bar, tdamp=100 * fs,
        pdamp=1000 * fs,
    )  # fmt: skip
    start = box.get_volume()
    densities = []
    for _ in tqdm(range(int(100 * picoseconds)), desc=f"NPT of {name}", unit="10 fs", leave=False):
        dynamics.run(20)
        if not 0.5 < box.get_volume() / start < 2.0:
            return None
        densities.append(density_of(box))
    return densities
