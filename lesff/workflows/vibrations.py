"""Harmonic vibrations: batched Hessian, intensities from Born charges, thermochemistry of ASE."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import ase
import numpy as np
from ase import units
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from ase.vibrations import VibrationsData

from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError, ConvergenceError
from lesff.model import Model
from lesff.spectra.normal_modes import infrared_intensities
from lesff.workflows.folder import WorkFolder, staged
from lesff.workflows.relax import RelaxOptions, relax

_LINEAR = 1e-3
"""Smallest moment of inertia of a molecule that is not linear, u A^2."""
_ANIMATION_FRAMES = 20


@dataclass(frozen=True, kw_only=True)
class Thermochemistry:
    """Ideal gas (molecules), or harmonic oscillators (periodic or constrained), by ASE.

    Attributes:
        kind: ``"ideal gas"`` or ``"harmonic"``.
        temperature: K.
        pressure: Pa, of the ideal gas.
        zero_point: eV.
        internal_energy: With the potential energy and the zero point, eV.
        enthalpy: eV, or None for harmonic oscillators.
        entropy: eV/K.
        free_energy: Gibbs's (ideal gas) or Helmholtz's (harmonic), eV.
        n_imaginary: Imaginary modes that were left out.
    """

    kind: str
    temperature: float
    pressure: float
    zero_point: float
    internal_energy: float
    enthalpy: float | None
    entropy: float
    free_energy: float
    n_imaginary: int


@dataclass(frozen=True, kw_only=True)
class VibrationsResult:
    """Normal modes of a structure.

    Attributes:
        atoms: The minimum, or the structure as given.
        data: ASE's, with Hessian, modes and frequencies.
        energy: Potential energy, eV.
        fmax: Largest force left, eV/A.
        frequencies: (n_modes,) in 1/cm, imaginary ones negative, translations and rotations too.
        intensities: (n_modes,) in km/mol, or None for models and slabs without Born charges.
        thermochemistry: At the temperature that was asked for.
    """

    atoms: ase.Atoms
    data: VibrationsData
    energy: float
    fmax: float
    frequencies: np.ndarray
    intensities: np.ndarray | None
    thermochemistry: Thermochemistry

    @property
    def n_rigid(self) -> int:
        """Modes that are translations and rotations: of the smallest frequencies."""
        return rigid_modes(self.atoms)


def vibrations(
    model: Model,
    atoms: ase.Atoms,
    *,
    relaxes: bool = True,
    fmax: float = 1e-3,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry_number: int = 1,
    folder: WorkFolder | None = None,
) -> VibrationsResult:
    """Modes of a structure; those of a crystal are at the zone centre without a field.

    Args:
        model: The model.
        atoms: The structure; atoms fixed by a constraint do not vibrate.
        relaxes: Whether to look for the minimum first.
        fmax: Largest force of a minimum, eV/A.
        temperature: K.
        pressure: Pa.
        symmetry_number: Rotations that leave a molecule as it is.
        folder: Where minimum, Hessian and Born charges are kept.

    Raises:
        ConvergenceError: if no minimum was found.
        ConfigError: for a bad option.
    """
    if not (np.isfinite(temperature) and temperature > 0.0 and pressure > 0.0):
        raise ConfigError(
            f"`temperature` and `pressure` must be positive, got {temperature!r}, {pressure!r}"
        )
    if symmetry_number < 1:
        raise ConfigError(f"`symmetry_number` must be at least 1, got {symmetry_number!r}")

    minimum = atoms.copy()
    if relaxes:
        found = staged(folder, "minimum", lambda: {"positions": _minimum(model, atoms, fmax)})
        minimum.positions = found["positions"]
    arrays = staged(folder, "hessian", lambda: _second_derivatives(model, minimum))
    indices = VibrationsData.indices_from_constraints(minimum)
    hessian = arrays["hessian"][np.ix_(indices, range(3), indices, range(3))]
    data = VibrationsData(minimum, hessian, indices=indices)
    intensities = None
    if "born" in arrays:
        intensities = infrared_intensities(arrays["born"], data.get_modes(all_atoms=True))
    energy = float(arrays["energy"])
    return VibrationsResult(
        atoms=minimum,
        data=data,
        energy=energy,
        fmax=float(np.linalg.norm(arrays["forces"][indices], axis=1).max()),
        frequencies=signed(data.get_frequencies()),
        intensities=intensities,
        thermochemistry=_thermochemistry(data, energy, temperature, pressure, symmetry_number),
    )


def signed(values: np.ndarray) -> np.ndarray:
    """Frequencies or energies as ASE has them, imaginary ones as negative numbers."""
    real, imaginary = np.real(values), np.imag(values)
    return np.where(np.abs(imaginary) > np.abs(real), -np.abs(imaginary), real)


def rigid_modes(atoms: ase.Atoms) -> int:
    """How many of the modes are translations and rotations."""
    if any(constraint.get_removed_dof(atoms) for constraint in atoms.constraints):
        return 0
    if atoms.pbc.any():
        return 3
    if len(atoms) == 1:
        return 3
    return 5 if _is_linear(atoms) else 6


def _is_linear(atoms: ase.Atoms) -> bool:
    return float(np.min(atoms.get_moments_of_inertia())) < _LINEAR


def _minimum(model: Model, atoms: ase.Atoms, fmax: float) -> np.ndarray:
    options = RelaxOptions(method="lbfgs", fmax=fmax, steps=1000)
    (row,) = relax(model, [atoms], options).relaxed
    if not row.converged:
        why = row.error or f"the largest force is {row.fmax:.2g} eV/A"
        raise ConvergenceError(
            f"the structure must have a minimum with forces below {fmax} eV/A, but after "
            f"{row.steps} steps {why}; relax it first, raise `fmax`, or leave it as it is "
            "(`--no-relax`)"
        )
    return row.atoms.positions


def _second_derivatives(model: Model, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    names = ["energy", "forces", "hessian"]
    has_born = "born_effective_charges" in model.potential.available_properties()
    has_born &= bool(atoms.pbc.all() or not atoms.pbc.any())  # slabs have no such charges
    found = model.predict(atoms, [*names, *(["born_effective_charges"] if has_born else [])])
    arrays = {name: np.asarray(found[name]) for name in names}
    if has_born:
        arrays["born"] = found["born_effective_charges"]
    return arrays


def _thermochemistry(
    data: VibrationsData, energy: float, temperature: float, pressure: float, sigma: int
) -> Thermochemistry:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imag modes removed")  # they are counted
        return _by_ase(data, energy, temperature, pressure, sigma)


def _by_ase(
    data: VibrationsData, energy: float, temperature: float, pressure: float, sigma: int
) -> Thermochemistry:
    atoms, energies = data.get_atoms(), data.get_energies()
    common = {"temperature": temperature, "pressure": pressure}
    is_free = not any(constraint.get_removed_dof(atoms) for constraint in atoms.constraints)
    if not atoms.pbc.any() and is_free:
        geometry = "linear" if _is_linear(atoms) else "nonlinear"
        gas = IdealGasThermo(
            list(energies),
            "monatomic" if len(atoms) == 1 else geometry,
            potentialenergy=energy,
            atoms=atoms,
            symmetrynumber=sigma,
            spin=0.5 * (to_structure(atoms).spin_multiplicity - 1),
            ignore_imag_modes=True,
            vib_selection="abs_highest",  # of a saddle point, not a rotation for its imaginary one
        )
        return Thermochemistry(
            kind="ideal gas",
            **common,
            zero_point=float(gas.get_ZPE_correction()),
            internal_energy=float(gas.get_internal_energy(temperature, verbose=False)),
            enthalpy=float(gas.get_enthalpy(temperature, verbose=False)),
            entropy=float(gas.get_entropy(temperature, pressure, verbose=False)),
            free_energy=float(gas.get_gibbs_energy(temperature, pressure, verbose=False)),
            n_imaginary=int(gas.n_imag),
        )
    order = np.argsort(np.abs(energies))[rigid_modes(atoms) :]
    thermo = HarmonicThermo(list(energies[np.sort(order)]), energy, ignore_imag_modes=True)
    return Thermochemistry(
        kind="harmonic",
        **common,
        zero_point=float(thermo.get_ZPE_correction()),
        internal_energy=float(thermo.get_internal_energy(temperature, verbose=False)),
        enthalpy=None,
        entropy=float(thermo.get_entropy(temperature, verbose=False)),
        free_energy=float(thermo.get_helmholtz_energy(temperature, verbose=False)),
        n_imaginary=int(thermo.n_imag),
    )


def animated_modes(result: VibrationsResult) -> dict[str, list[ase.Atoms]]:
    """Frames of each mode but translations and rotations, by name of a file, for viewers."""
    order = np.argsort(np.abs(result.frequencies))[result.n_rigid :]
    return {
        f"mode_{index:04d}.traj": list(
            result.data.iter_animated_mode(
                int(index), temperature=300.0 * units.kB, frames=_ANIMATION_FRAMES
            )
        )
        for index in np.sort(order)
    }
