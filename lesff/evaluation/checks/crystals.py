"""More crystals: lattice constants, phonons, surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.build import surface
from ase.calculators.calculator import BaseCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.spacegroup import crystal as of_spacegroup

from lesff.errors import ConvergenceError
from lesff.evaluation.checks.solids import SOLIDS, Solid, crystal, fitted_solids, need_rows
from lesff.evaluation.coverage import require
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult
from lesff.methods import Method
from lesff.units import DALTON, EV_PER_A3_TO_GPA

MORE_SOURCES = (
    "lattice constants at room temperature: Wyckoff, Crystal Structures (1963); of semiconductors "
    "Madelung, Semiconductors: Data Handbook, 3rd ed. (2004)",
)
PHONON_SOURCES = ("none: frequencies by finite displacements; DFT has no imaginary ones there",)
SURFACE_SOURCES = (
    "energies of cleavage at 77 K: Gilman, J. Appl. Phys. 31, 2208 (1960)",
)  # fmt: skip


def _cubic(structure: str, a: float, *species: str) -> Solid:
    return Solid(structure=structure, species=species, a=a)


MORE_SOLIDS = {
    "C": _cubic("zincblende", 3.567, "C", "C"),
    "Si": _cubic("zincblende", 5.431, "Si", "Si"),
    "Ge": _cubic("zincblende", 5.658, "Ge", "Ge"),
    "SiC": _cubic("zincblende", 4.360, "Si", "C"),
    "AlP": _cubic("zincblende", 5.464, "Al", "P"),
    "AlAs": _cubic("zincblende", 5.661, "Al", "As"),
    "GaP": _cubic("zincblende", 5.451, "Ga", "P"),
    "GaAs": _cubic("zincblende", 5.653, "Ga", "As"),
    "InP": _cubic("zincblende", 5.869, "In", "P"),
    "InAs": _cubic("zincblende", 6.058, "In", "As"),
    "ZnSe": _cubic("zincblende", 5.669, "Zn", "Se"),
    "ZnTe": _cubic("zincblende", 6.104, "Zn", "Te"),
    "CdTe": _cubic("zincblende", 6.481, "Cd", "Te"),
    "KF": _cubic("rocksalt", 5.347, "K", "F"),
    "RbCl": _cubic("rocksalt", 6.581, "Rb", "Cl"),
    "CsBr": _cubic("CsCl", 4.286, "Cs", "Br"),
    "SrF2": _cubic("fluorite", 5.800, "Sr", "F"),
    "BaF2": _cubic("fluorite", 6.200, "Ba", "F"),
    "TiC": _cubic("rocksalt", 4.329, "Ti", "C"),
    "TiN": _cubic("rocksalt", 4.235, "Ti", "N"),
}
"""Twenty cubic crystals beside the 15 salts and oxides of the check ``solids``."""

PHONONS = ("NaCl", "MgO", "LiF", "Si", "GaAs", "CaF2", "Al2O3")
CELLS = {2: 3, 3: 3, 10: 2}
"""Primitive cells along each vector of the supercell, by atoms of the primitive cell."""
_STEP = 0.01
"""Displacement, A."""
_REAL = 0.1
"""THz: lower squares are those of rounding, above all of the three translations."""
SURFACES = {"LiF": 0.34, "NaCl": 0.30, "MgO": 1.20}
"""Energy of the face (001), J/m^2."""
PER_FS_TO_THZ = 1000.0
EV_PER_A2_TO_J_PER_M2 = 0.1 * EV_PER_A3_TO_GPA
"""1 GPa A is 0.1 J / m^2."""
_LAYERS, _VACUUM = 4, 6.0
"""Layers, and A on each side."""
_FMAX = 0.005
_STEPS = 300


def check_more_solids(subject: Method) -> CheckResult:
    """Lattice constants of 20 more cubic crystals."""
    result = fitted_solids(subject, MORE_SOLIDS)
    percent = np.array([row["error_percent"] for row in result.rows])
    n = len(result.rows)
    result.add(f"lattice constants, MAE ({n} more solids)", "%", np.abs(percent).mean())
    result.add("lattice constants, mean error", "%", percent.mean())
    for row in result.rows:
        result.add(f"{row['solid']}, lattice constant", "A", row["a"], row["a_reference"])
    return result


def phonon_crystal(name: str) -> ase.Atoms:
    """Primitive cell of a crystal of :data:`PHONONS`, at the lattice constant of experiment."""
    if name == "Al2O3":
        # Wyckoff (1963)
        return of_spacegroup(
            ["Al", "O"],
            [(0.0, 0.0, 0.352), (0.306, 0.0, 0.25)],
            spacegroup=167,
            cellpar=[4.758, 4.758, 12.991, 90, 90, 120],
            primitive_cell=True,
        )
    return crystal((SOLIDS | MORE_SOLIDS)[name])


def frequencies(atoms: ase.Atoms, calculator: BaseCalculator, cells: int) -> np.ndarray:
    """Frequencies at all wave vectors that fit into the supercell, (cells^3, 3 n) in THz.

    Central differences of forces of a supercell of ``cells`` primitive cells along each vector;
    imaginary ones are negative. Without the field of longitudinal waves: optical modes at the zone
    centre are transverse.

    Args:
        atoms: Relaxed primitive cell.
        calculator: Gives forces.
        cells: Primitive cells along each vector.
    """
    big = atoms.repeat(cells)
    big.calc = calculator
    n, start = len(atoms), big.positions.copy()
    # force constants between the atoms of the first cell and all others, (n, a, cell, m, b)
    constants = np.empty((n, 3, cells**3, n, 3))
    for i in range(n):
        for a in range(3):
            forces = []
            for sign in (1.0, -1.0):
                big.positions = start
                big.positions[i, a] += sign * _STEP
                forces.append(big.get_forces())
            constants[i, a] = ((forces[1] - forces[0]) / (2.0 * _STEP)).reshape(-1, n, 3)
    mass = np.repeat(atoms.get_masses(), 3) * DALTON
    # repeated cells in the order of ASE, and the same numbers as wave vectors
    steps = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    found = []
    for q in steps / cells:
        phase = np.exp(2j * np.pi * steps @ q)
        matrix = np.einsum("iacmb,c->iamb", constants, phase).reshape(3 * n, 3 * n)
        hermitian = 0.5 * (matrix + matrix.conj().T) / np.sqrt(np.outer(mass, mass))
        squares = np.linalg.eigvalsh(hermitian)
        found.append(np.sign(squares) * np.sqrt(np.abs(squares)) / (2.0 * np.pi) * PER_FS_TO_THZ)
    return np.array(found)


def check_phonons(subject: Method) -> CheckResult:
    """Frequencies of seven crystals; imaginary ones, which DFT has not."""
    result = CheckResult()
    for name in PHONONS:
        atoms = phonon_crystal(name)
        why = require(subject, atoms)
        if why:
            result.left_out[name] = why
            continue
        try:
            calculator = subject.calculator()
            found = frequencies(_with_cell(atoms, calculator), calculator, CELLS[len(atoms)])
        except FAILURES as error:
            result.left_out[name] = str(error)
            continue
        result.rows.append({"crystal": name, "thz": np.round(found, 4).tolist()})
    need_rows(result)
    lowest = {row["crystal"]: float(np.min(row["thz"])) for row in result.rows}
    soft = sum(value < -_REAL for value in lowest.values())
    result.add("crystals with imaginary modes", f"of {len(result.rows)}", soft)
    for row in result.rows:
        name = row["crystal"]
        result.add(f"{name}, lowest frequency", "THz", lowest[name])
        result.add(f"{name}, highest frequency", "THz", np.max(row["thz"]))
    return result


def compare_phonons(
    model: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Frequencies of a model against those of a baseline: slope through zero, and difference."""
    known = {row["crystal"]: np.array(row["thz"]) for row in ours}
    pairs = [(known[r["crystal"]], np.array(r["thz"])) for r in theirs if r["crystal"] in known]
    if not pairs:
        return []
    result = CheckResult()
    x, y = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    name = f"frequencies of {model} against these"
    result.add(f"{name}, slope", "", float(x @ y / (y @ y)))
    result.add(f"{name}, RMS difference", "THz", float(np.sqrt(np.mean((x - y) ** 2))))
    return result.to_dict()["quantities"]


def check_surfaces(subject: Method) -> CheckResult:
    """Energies of the face (001) of three rock salts, relaxed."""
    result = CheckResult()
    for name, reference in SURFACES.items():
        atoms = crystal(SOLIDS[name], conventional=True)
        why = require(subject, atoms)
        if why:
            result.left_out[name] = why
            continue
        try:
            calculator = subject.calculator()
            bulk = _with_cell(atoms, calculator)
            slab = surface(bulk, (0, 0, 1), _LAYERS // 2, vacuum=_VACUUM, periodic=True)
            energy = relaxed(slab, calculator, fmax=0.02).get_potential_energy()
        except FAILURES as error:
            result.left_out[name] = str(error)
            continue
        energy -= bulk.get_potential_energy() * len(slab) / len(bulk)
        area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
        value = 0.5 * energy / area * EV_PER_A2_TO_J_PER_M2
        result.rows.append({"solid": name, "j_per_m2": value})
        result.add(f"{name}, face (001)", "J/m^2", value, reference)
    need_rows(result)
    return result


def _with_cell(atoms: ase.Atoms, calculator: BaseCalculator) -> ase.Atoms:
    """Minimum of atoms and cell, calculator attached."""
    copy = atoms.copy()
    copy.calc = calculator
    moved: Any = FrechetCellFilter(copy)  # an optimiser takes filters, too
    if not BFGS(moved, logfile=None).run(fmax=_FMAX, steps=_STEPS):
        raise ConvergenceError(
            f"relaxation of the cell of {copy.get_chemical_formula()} must reach {_FMAX} eV/A "
            f"within {_STEPS} steps"
        )
    return copy
