"""Minima and zero-point energies of molecules."""

from __future__ import annotations

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator, CalculationFailed
from ase.optimize import BFGS

from lesff.errors import ConvergenceError
from lesff.units import DALTON, HBAR

FORCE_LIMIT = 0.005
"""Largest force of a relaxed structure, eV/A."""
_STEPS = 500
_IMAGINARY = 0.0248
"""200 1/cm in eV."""
FAILURES = (ConvergenceError, CalculationFailed)
"""What a structure may raise without the others being wrong."""


def relaxed(
    atoms: ase.Atoms, calculator: BaseCalculator, *, fmax: float = FORCE_LIMIT, steps: int = _STEPS
) -> ase.Atoms:
    """A local minimum near a structure, calculator attached; the structure is not changed.

    Args:
        atoms: Start; constraints are kept.
        calculator: Gives the energy.
        fmax: Largest force allowed at the end, eV/A.
        steps: Most steps.

    Raises:
        ConvergenceError: if forces are still larger after these steps.
    """
    copy = atoms.copy()
    copy.set_initial_magnetic_moments(None)  # the calculator knows charge and spin
    copy.set_initial_charges(None)
    copy.calc = calculator
    if not BFGS(copy, logfile=None).run(fmax=fmax, steps=steps):
        largest = np.linalg.norm(copy.get_forces(), axis=1).max()
        raise ConvergenceError(
            f"relaxation of {copy.get_chemical_formula()} must reach {fmax} eV/A within {steps} "
            f"steps, got {largest:.3f} eV/A"
        )
    return copy


def zero_point_energy(atoms: ase.Atoms, step: float = 0.005) -> float:
    """Half the sum of the harmonic frequencies of a relaxed molecule, eV.

    Central differences of forces; the five or six smallest modes are left out as translations and
    rotations.

    Args:
        atoms: A minimum, calculator attached.
        step: Displacement, A.

    Raises:
        ConvergenceError: if a mode is imaginary (above 200 1/cm; soft rotors are let pass).
    """
    copy = atoms.copy()
    copy.calc = atoms.calc
    n = 3 * len(copy)
    hessian = np.empty((n, n))
    start = copy.positions.copy()
    for index in range(n):
        forces = []
        for sign in (1.0, -1.0):
            copy.positions = start
            copy.positions[index // 3, index % 3] += sign * step
            forces.append(copy.get_forces().ravel())
        hessian[index] = (forces[1] - forces[0]) / (2.0 * step)
    mass = np.repeat(copy.get_masses(), 3) * DALTON
    weighted = 0.5 * (hessian + hessian.T) / np.sqrt(np.outer(mass, mass))
    squares = np.linalg.eigvalsh(weighted)
    linear = np.min(atoms.get_moments_of_inertia()) < 1e-3
    modes = np.sort(squares)[5 if linear else 6 :]
    if HBAR**2 * squares.min() < -(_IMAGINARY**2):
        raise ConvergenceError(
            f"relaxed {copy.get_chemical_formula()} must be a minimum, got an imaginary mode of "
            f"{HBAR * np.sqrt(-squares.min()) * 1e3:.1f} meV"
        )
    return 0.5 * HBAR * float(np.sqrt(np.clip(modes, 0.0, None)).sum())
