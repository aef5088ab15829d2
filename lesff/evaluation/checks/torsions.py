"""Relaxed torsion scans: barriers and smoothness."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.build import minimize_rotation_and_translation, molecule
from ase.calculators.calculator import BaseCalculator
from ase.constraints import FixInternals
from ase.mep import NEB
from ase.optimize import FIRE

from lesff.errors import ConvergenceError
from lesff.evaluation.coverage import require
from lesff.evaluation.molecules import add_methyl, bond_graph, side_of
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.units import EV_TO_KCAL_PER_MOL

TORSION_SOURCES = (
    "butane, ab initio limit: Allinger et al., J. Chem. Phys. 106, 5143 (1997)",
    "biphenyl, CCSD(T) limit with core correlation: Johansson, Olsen, "
    "J. Chem. Theory Comput. 4, 1460 (2008)",
    "N-methylacetamide: cis above trans, enthalpy: Ataka et al., J. Mol. Struct. 113, 147 (1984); "
    "barrier, free energy in 1,2-dichloroethane: Drakenberg, Forsen, Chem. Commun. 1404 (1971)",
)
STEP = 5.0
"""Distance of the points of a scan, degrees."""
N_IMAGES = 7
"""Points of a minimum-energy path, its ends included."""
_KJ = 1.0 / 4.184
_FORCE_LIMIT = 0.01


@dataclass(frozen=True, kw_only=True)
class Torsion:
    """A bond to turn.

    Attributes:
        build: The molecule.
        atoms: The four atoms of the dihedral angle.
        first: Angle to start from, degrees.
        last: Angle to end at, degrees.
        energies: Reference energies above the lowest, kcal/mol: the highest or lowest point
            (``"max"``, ``"min"``) between two angles, or the ``"last"`` point.
        band: Whether the barrier is sought by a nudged elastic band instead of a scan.
    """

    build: Callable[[], ase.Atoms]
    atoms: tuple[int, int, int, int]
    first: float
    last: float
    energies: dict[str, tuple[str, float, float, float]]
    band: bool = False


def butane() -> ase.Atoms:
    """Anti butane, the four carbons first."""
    atoms = molecule("trans-butane")
    carbons = [i for i in range(len(atoms)) if atoms.symbols[i] == "C"]
    graph = bond_graph(atoms)
    end = next(i for i in carbons if sum(j in carbons for j in graph[i]) == 1)
    chain = [end]
    while len(chain) < 4:
        chain.append(next(j for j in graph[chain[-1]] if j in carbons and j not in chain))
    return atoms[[*chain, *(i for i in range(len(atoms)) if i not in chain)]]


def biphenyl() -> ase.Atoms:
    """Two perpendicular benzene rings, 1.49 A apart; atoms 0 and 1 are joined, 2 and 3 ortho."""
    ring = molecule("C6H6")
    hydrogen = next(j for j in bond_graph(ring)[0] if ring.symbols[j] == "H")
    axis = ring.positions[hydrogen] - ring.positions[0]
    ring.positions -= ring.positions[0]
    ring.rotate(axis, (1.0, 0.0, 0.0), center=(0, 0, 0))
    ortho = next(j for j in bond_graph(ring)[0] if ring.symbols[j] == "C")
    order = [0, ortho, *(i for i in range(len(ring)) if i not in (0, ortho, hydrogen))]
    ring = ring[order]
    other = ring.copy()
    other.rotate(180.0, "z", center=(0, 0, 0))
    other.rotate(90.0, "x", center=(0, 0, 0))
    other.positions += (1.49, 0.0, 0.0)
    both = ring + other
    n = len(ring)
    first = [0, n, 1, n + 1]
    return both[[*first, *(i for i in range(2 * n) if i not in first)]]


def methylacetamide() -> ase.Atoms:
    """Trans N-methylacetamide; the first four atoms are C-C-N-C."""
    atoms = molecule("CH3CONH2")
    graph = bond_graph(atoms)
    nitrogen = atoms.symbols.indices()["N"][0]
    carbonyl = next(j for j in graph[nitrogen] if atoms.symbols[j] == "C")
    methyl = next(j for j in graph[carbonyl] if atoms.symbols[j] == "C")
    hydrogens = [j for j in graph[nitrogen] if atoms.symbols[j] == "H"]

    def twist(hydrogen: int) -> float:
        return abs(atoms.get_dihedral(methyl, carbonyl, nitrogen, hydrogen) - 180.0)

    carbon = min(hydrogens, key=twist)
    atoms = add_methyl(atoms, carbon, nitrogen)
    first = [methyl, carbonyl, nitrogen, carbon]
    return atoms[[*first, *(i for i in range(len(atoms)) if i not in first)]]


TORSIONS = {
    "butane": Torsion(
        build=butane,
        atoms=(0, 1, 2, 3),
        first=180.0,
        last=0.0,
        energies={
            "gauche": ("min", 50.0, 80.0, 0.62),
            "anti-gauche barrier": ("max", 100.0, 140.0, 3.31),
            "syn barrier": ("max", 0.0, 20.0, 5.40),
        },
    ),
    "biphenyl": Torsion(
        build=biphenyl,
        atoms=(2, 0, 1, 3),
        first=90.0,
        last=0.0,
        energies={
            "barrier at 0": ("max", 0.0, 0.0, 7.88 * _KJ),
            "barrier at 90": ("max", 90.0, 90.0, 8.94 * _KJ),
        },
    ),
    "N-methylacetamide": Torsion(
        build=methylacetamide,
        atoms=(0, 1, 2, 3),
        first=180.0,
        last=0.0,
        energies={
            "cis above trans": ("last", 0.0, 0.0, 2.3),
            "barrier": ("max", 40.0, 140.0, 21.3),
        },
        band=True,
    ),
}


def scan(torsion: Torsion, calculator: BaseCalculator) -> tuple[np.ndarray, np.ndarray]:
    """Angles (degrees) and relaxed energies (kcal/mol above the lowest) along a torsion.

    Each point starts from the one before; everything but the angle is relaxed.

    Raises:
        ConvergenceError: if a point cannot be relaxed.
    """
    angles = _angles(torsion)
    atoms = torsion.build()
    moving = side_of(atoms, torsion.atoms[1], torsion.atoms[2])
    energies = []
    for angle in angles:
        atoms.set_dihedral(*torsion.atoms, angle, indices=moving)
        atoms.set_constraint(FixInternals(dihedrals_deg=[[angle, list(torsion.atoms)]]))
        atoms = relaxed(atoms, calculator, fmax=_FORCE_LIMIT)
        energies.append(atoms.get_potential_energy() * EV_TO_KCAL_PER_MOL)
        atoms.set_constraint()
    return angles, np.array(energies) - min(energies)


def path(torsion: Torsion, calculator: BaseCalculator) -> tuple[np.ndarray, np.ndarray]:
    """Angles (degrees) and energies (kcal/mol above the lowest) of a minimum-energy path.

    A climbing-image nudged elastic band from the minimum at the first angle to that at the last,
    starting from a rigid turn. Where an atom turns over on the way, as the nitrogen of an amide
    does, a scan of one dihedral angle jumps from one side to the other; the band passes the saddle.

    Raises:
        ConvergenceError: if the band does not converge.
    """
    start = relaxed(torsion.build(), calculator, fmax=_FORCE_LIMIT)
    moving = side_of(start, torsion.atoms[1], torsion.atoms[2])
    images = []
    for angle in np.linspace(torsion.first, torsion.last, N_IMAGES):
        image = start.copy()
        image.set_dihedral(*torsion.atoms, angle, indices=moving)
        images.append(image)
    images[0] = start
    images[-1] = relaxed(images[-1], calculator, fmax=_FORCE_LIMIT)
    for image in images:
        image.calc = calculator
        minimize_rotation_and_translation(images[0], image)
    band: Any = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    if not FIRE(band, logfile=os.devnull).run(fmax=0.1, steps=500):
        raise ConvergenceError(
            f"the path of {start.get_chemical_formula()} must reach 0.1 eV/A within 500 steps"
        )
    energies = [image.get_potential_energy() * EV_TO_KCAL_PER_MOL for image in images]
    angles = [image.get_dihedral(*torsion.atoms) for image in images]
    return np.array(angles), np.array(energies) - min(energies)


def rigid_scan(torsion: Torsion, calculator: BaseCalculator) -> np.ndarray:
    """Energies (kcal/mol) along a torsion of the relaxed molecule, nothing else changing."""
    atoms = relaxed(torsion.build(), calculator)
    moving = side_of(atoms, torsion.atoms[1], torsion.atoms[2])
    energies = []
    for angle in _angles(torsion):
        atoms.set_dihedral(*torsion.atoms, angle, indices=moving)
        energies.append(atoms.get_potential_energy() * EV_TO_KCAL_PER_MOL)
    return np.array(energies)


def _angles(torsion: Torsion) -> np.ndarray:
    n_points = round(abs(torsion.last - torsion.first) / STEP) + 1
    return np.linspace(torsion.first, torsion.last, n_points)


def roughness(energies: np.ndarray) -> float:
    """Largest jump between neighbouring second differences of equally spaced energies.

    Near ``(n h)^3 V / 2`` for a barrier V of period n at a step of h rad: 0.03 kcal/mol for a
    threefold barrier of 3 kcal/mol at 5 degrees. A step of size s in the energy gives up to 3 s.
    """
    return float(np.abs(np.diff(energies, 3)).max())


def _pick(angles: np.ndarray, energies: np.ndarray, kind: str, low: float, high: float) -> float:
    if kind == "last":
        return float(energies[-1])
    part = energies[(angles >= low - 1e-6) & (angles <= high + 1e-6)]
    return float(part.max() if kind == "max" else part.min())


def check_torsions(subject: Method) -> CheckResult:
    """Relaxed scans of butane, biphenyl and N-methylacetamide."""
    result = CheckResult()
    for name, torsion in TORSIONS.items():
        why = require(subject, torsion.build())
        if why:
            result.left_out[name] = why
            continue
        try:
            follow = path if torsion.band else scan
            angles, energies = follow(torsion, subject.calculator())
            jump = roughness(rigid_scan(torsion, subject.calculator()))
        except FAILURES as error:
            result.left_out[name] = str(error)
            continue
        for label, (kind, low, high, reference) in torsion.energies.items():
            value = _pick(angles, energies, kind, low, high)
            result.add(f"{name}, {label}", "kcal/mol", value, round(reference, 3))
        result.add(f"{name}, roughness of the rigid scan", "kcal/mol", jump)
        result.rows.append(
            {"molecule": name, "degrees": angles.tolist(), "kcal_per_mol": energies.tolist()}
        )
    if not result.rows:
        raise NotCoveredError("; ".join(f"{k}: {v}" for k, v in result.left_out.items()))
    return result
