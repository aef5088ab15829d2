"""Derivatives of a potential against finite differences, on structures made of its elements.

Forces, stress, Born effective charges, dipole, polarizability of a molecule, a slab, a triclinic
and a left-handed crystal, and where charge is shared along bonds of a crystal of molecules. Central
differences of fourth order in float64, so that a failure is an error of the model or the code, not
of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.moments.totals import moment_origin, neutralised
from lesff.errors import PropertyError
from lesff.nn.contacts import BOND_NONE
from lesff.potential.potential import Potential

STEP = 2e-3
"""Step of positions (A), strain and, times 10, of fields (V/A); the error is h^4 f5 / 30."""
TOLERANCE = 1e-5
"""Largest error allowed, relative to the largest component or 1."""
_FIELD = (0.11, -0.07, 0.05)
_SPHERE_MARGIN = 0.012
"""Relative distance of wave vectors from the sharp k sphere, so that no strain moves one across."""


@dataclass(frozen=True, kw_only=True)
class DerivativeCheck:
    """One quantity of one structure.

    Attributes:
        structure: Name of the structure.
        quantity: What is checked.
        unit: Of the error.
        error: Largest absolute difference.
        tolerance: Largest that is allowed.
        note: Why there is no number, or empty.
    """

    structure: str
    quantity: str
    unit: str
    error: float = math.nan
    tolerance: float = math.nan
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance, or there is nothing to check."""
        return bool(self.note) or self.error <= self.tolerance


def check_physics(potential: Potential) -> Iterator[DerivativeCheck]:
    """All checks, one by one; the potential must be in float64.

    Args:
        potential: The model.
    """
    for name, atoms in check_structures(potential).items():
        yield from _check_structure(potential, name, atoms)


def check_structures(potential: Potential) -> dict[str, ase.Atoms]:
    """Eight rattled atoms of up to four elements of the model: molecule, slab, two crystals.

    For models that share charge along bonds also a crystal of molecules.
    """
    known = np.array(potential.config.elements)
    chosen = known[np.linspace(0, len(known) - 1, min(4, len(known))).round().astype(int)]
    numbers = np.resize(chosen, 8)
    spacing = 2.6 * float(covalent_radii[chosen].max())  # no bond is compressed
    spacing = min(max(spacing, 1.5), 0.75 * potential.architecture.cutoff)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    shear = np.array([[1.0, 0.05, -0.04], [0.14, 1.03, 0.06], [-0.10, 0.12, 0.97]])
    cell = 2.0 * spacing * shear
    positions = 0.5 * (grid + 0.15 * (rng.random((8, 3)) - 0.5)) @ cell
    crystal = ase.Atoms(numbers, positions=positions, cell=cell, pbc=True)
    crystal = _away_from_the_sphere(crystal, potential)
    left = crystal.copy()
    left.set_cell(np.array(crystal.cell)[[1, 0, 2]])
    molecule = ase.Atoms(numbers, positions=positions)
    # a slab: c along the normal, with vacuum, atoms in its middle
    flat = np.array(crystal.cell)
    normal = np.cross(flat[0], flat[1])
    flat[2] = normal / np.linalg.norm(normal) * (4.0 * spacing + 12.0)
    slab = ase.Atoms(numbers, positions=crystal.positions, cell=flat, pbc=[True, True, False])
    found = {"molecule": molecule, "slab": slab, "triclinic": crystal, "left-handed": left}
    # in a cell of this size some wave vector is always at the edge of a sharp sphere
    is_smooth = potential.ewald is None or potential.ewald.cutoff == "smooth"
    if potential.architecture.n_shared and is_smooth:
        # molecules that end: further from their images than bonds reach
        apart = molecule.copy()
        reach = potential.architecture.join_until or BOND_NONE
        apart.set_cell(cell * (1.0 + reach * 2.0 * float(covalent_radii[chosen].max()) / spacing))
        apart.pbc = True
        found["molecules"] = apart
    return found


def _away_from_the_sphere(crystal: ase.Atoms, potential: Potential) -> ase.Atoms:
    """Scale a crystal slightly so that no wave vector is at the edge of the sharp k sphere."""
    settings = potential.ewald
    chosen = potential.config.long_range
    if settings is None or settings.cutoff == "smooth" or (chosen and not chosen.in_energy):
        return crystal
    for factor in np.linspace(1.0, 1.15, 151):
        scaled = crystal.copy()
        scaled.set_cell(np.array(crystal.cell) * factor, scale_atoms=True)
        reciprocal = 2.0 * np.pi * np.linalg.inv(np.array(scaled.cell)).T
        n = int(np.ceil(settings.k_max * np.linalg.norm(scaled.cell, axis=1).max() / 6.0)) + 2
        grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), -1)
        k = np.linalg.norm(grid.reshape(-1, 3) @ reciprocal, axis=1)
        if np.abs(k / settings.k_max - 1.0).min() > _SPHERE_MARGIN:
            return scaled
    return crystal


def _difference(function: Callable[[float], np.ndarray], step: float) -> np.ndarray:
    """Derivative at zero, ``(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h``."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8.0 * near - far) / (12.0 * step)


def _check_structure(
    potential: Potential, name: str, atoms: ase.Atoms
) -> Iterator[DerivativeCheck]:
    available = potential.available_properties()
    molecule, crystal = not atoms.pbc.any(), bool(atoms.pbc.all())
    has_charges = "charges" in available
    yield _compare(name, "forces", "eV/A", _forces(potential, atoms, None))
    if crystal:
        yield _compare(name, "stress", "eV/A^3", _stress(potential, atoms))
    if not has_charges:
        yield DerivativeCheck(
            structure=name, quantity="response to fields", unit="", note="model without charges"
        )
        return
    field = np.array(_FIELD)
    if crystal and not potential.traits.has_local_charges:
        yield DerivativeCheck(
            structure=name, quantity="response to fields", unit="", note="charges are not local"
        )
        return
    if crystal:
        yield from _check_crystal(potential, name, atoms, field)
        return
    if not molecule:
        rows = np.array(atoms.cell)
        normal = np.cross(rows[0], rows[1])
        field = 0.1 * normal / np.linalg.norm(normal)
    yield _compare(name, "forces in a field", "eV/A", _forces(potential, atoms, field))
    if molecule:
        yield _compare(name, "dipole from field", "e*A", _dipole(potential, atoms, field))
        yield _compare(name, "Born charges", "e", _molecular_born(potential, atoms))
        if potential.traits.responds_to_field:
            pair = _polarizability(potential, atoms, field, _dipole_of)
            yield _compare(name, "polarizability", "e*A^2/V", pair)
        else:
            yield DerivativeCheck(
                structure=name, quantity="polarizability", unit="e*A^2/V",
                note="charges do not respond to fields",
            )  # fmt: skip


def _check_crystal(
    potential: Potential, name: str, atoms: ase.Atoms, field: np.ndarray
) -> Iterator[DerivativeCheck]:
    """Responses of a crystal to fields, where charges are local."""
    try:
        yield _compare(name, "Born charges", "e", _crystal_born(potential, atoms))
    except PropertyError:
        if not potential.architecture.n_shared:
            raise
        # charge is shared along bonds: the crystal of molecules has the numbers
        yield DerivativeCheck(
            structure=name, quantity="Born charges", unit="e",
            note="bonds go on through the cell",
        )  # fmt: skip
        return
    yield _compare(name, "sum of Born charges", "e", _sum_rule(potential, atoms))
    if potential.traits.only_dipoles_respond:
        pair = _polarizability(potential, atoms, field, _total_atomic_dipole)
        yield _compare(name, "polarizability", "e*A^2/V", pair)


def _compare(
    name: str, quantity: str, unit: str, pair: tuple[np.ndarray, np.ndarray]
) -> DerivativeCheck:
    computed, reference = pair
    scale = max(1.0, float(np.abs(reference).max()))
    error = float(np.abs(computed - reference).max())
    return DerivativeCheck(
        structure=name, quantity=quantity, unit=unit, error=error, tolerance=TOLERANCE * scale
    )


def _graph(potential: Potential, atoms: ase.Atoms, field: np.ndarray | None = None) -> AtomGraph:
    structure = to_structure(atoms, external_field=field)
    graph = build_graph(structure, potential.architecture.cutoff)
    return graph.to(dtype=potential.dtype, device=potential.device)


def _value(potential: Potential, graph: AtomGraph, name: str) -> np.ndarray:
    return potential(graph, [name])[name].cpu().numpy()


def _displaced(atoms: ase.Atoms, atom: int, axis: int, h: float) -> ase.Atoms:
    moved = atoms.copy()
    moved.positions[atom, axis] += h
    return moved


_COORDINATES = ((0, 0), (1, 2), (3, 1), (6, 0))
"""Atom and axis of the displacements."""


def _forces(
    potential: Potential, atoms: ase.Atoms, field: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    forces = _value(potential, _graph(potential, atoms, field), "forces")
    computed, reference = [], []
    for atom, axis in _COORDINATES:

        def energy(h: float, atom: int = atom, axis: int = axis) -> np.ndarray:
            moved = _displaced(atoms, atom, axis, h)
            return _value(potential, _graph(potential, moved, field), "energy")

        computed.append(forces[atom, axis])
        reference.append(-_difference(energy, STEP)[0])
    return np.array(computed), np.array(reference)


def _strained(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    moved = atoms.copy()
    moved.set_cell(np.array(atoms.cell) @ (np.eye(3) + strain), scale_atoms=True)
    return moved


def _stress(potential: Potential, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    stress = _value(potential, _graph(potential, atoms), "stress")[0]
    reference = np.zeros((3, 3))
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        unit = np.zeros((3, 3))
        unit[a, b] += 0.5
        unit[b, a] += 0.5

        def energy(h: float, unit: np.ndarray = unit) -> np.ndarray:
            graph = _graph(potential, _strained(atoms, h * unit))
            return _value(potential, graph, "energy")

        reference[a, b] = reference[b, a] = _difference(energy, STEP)[0] / atoms.get_volume()
    return stress, reference


def _dipole(
    potential: Potential, atoms: ase.Atoms, field: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``mu = -dF/dE``; about the coordinate origin for charged systems."""
    graph = _graph(potential, atoms, field)
    origin = (graph.total_charge[:, None] * moment_origin(graph))[0].cpu().numpy()
    computed = _value(potential, graph, "dipole")[0] + origin
    reference = []
    for unit in np.eye(3):

        def energy(h: float, unit: np.ndarray = unit) -> np.ndarray:
            return _value(potential, _graph(potential, atoms, field + h * unit), "energy")

        reference.append(-_difference(energy, 10 * STEP)[0])
    return computed, np.array(reference)


def _dipole_of(potential: Potential, atoms: ase.Atoms, field: np.ndarray) -> np.ndarray:
    return _value(potential, _graph(potential, atoms, field), "dipole")[0]


def _polarizability(
    potential: Potential,
    atoms: ase.Atoms,
    field: np.ndarray,
    dipole_of: Callable[[Potential, ase.Atoms, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    computed = _value(potential, _graph(potential, atoms, field), "polarizability")[0]
    columns = []
    for unit in np.eye(3):

        def dipole(h: float, unit: np.ndarray = unit) -> np.ndarray:
            return dipole_of(potential, atoms, field + h * unit)

        columns.append(_difference(dipole, 10 * STEP))
    return computed, np.array(columns).T


def _molecular_born(potential: Potential, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """``[a, i, j] = d mu_i / d r_aj`` about a fixed origin, from atomic moments alone."""
    born = _value(potential, _graph(potential, atoms), "born_effective_charges")
    origin = atoms.positions.mean(0)
    computed, reference = [], []
    for atom, axis in _COORDINATES:

        def dipole(h: float, atom: int = atom, axis: int = axis) -> np.ndarray:
            moved = _displaced(atoms, atom, axis, h)
            charges = _physical_charges(potential, moved) @ (moved.positions - origin)
            return charges + _total_atomic_dipole(potential, moved)

        computed.append(born[atom, :, axis])
        reference.append(_difference(dipole, STEP))
    return np.array(computed), np.array(reference)


def _physical_charges(potential: Potential, atoms: ase.Atoms) -> np.ndarray:
    graph = _graph(potential, atoms)
    charges: Tensor = potential(graph, ["charges"])["charges"]
    return neutralised(charges, graph).cpu().numpy()


def _total_atomic_dipole(
    potential: Potential, atoms: ase.Atoms, field: np.ndarray | None = None
) -> np.ndarray:
    if "atomic_dipoles" not in potential.available_properties():
        return np.zeros(3)
    return _value(potential, _graph(potential, atoms, field), "atomic_dipoles").sum(0)


def _head_potentials(potential: Potential, atoms: ase.Atoms) -> Tensor | None:
    with torch.no_grad():
        return potential.energy_terms(_graph(potential, atoms)).potentials


def _crystal_born(potential: Potential, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """``q_i 1 + sum_j (r_j - r_i) dq_j / dr_i + d sum_j u_j / dr_i`` from differences.

    In a supercell that holds the receptive field, one atom moves and its images stay; pairs are
    joined by the shortest vector. Independent of the unfolded cluster that the potential uses.
    Potentials of the charge head stay those of the structure at rest.
    """
    atom, axis = 1, 2
    born = _value(potential, _graph(potential, atoms), "born_effective_charges")[atom, :, axis]
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell), axis=0)
    reach = potential.charge_reach + potential.architecture.extra_reach(_graph(potential, atoms))
    large = atoms.repeat(tuple(np.ceil(2.0 * (reach + 0.1) / heights).astype(int)))
    potentials = _head_potentials(potential, atoms)

    def local(h: float) -> np.ndarray:
        graph = _graph(potential, _displaced(large, atom, axis, h))
        with torch.no_grad():
            charges = potential.local_charges(graph, potential.node_state(graph), potentials)
        return charges.cpu().numpy()

    slope = _difference(local, STEP)
    touched = np.flatnonzero(np.abs(slope) > 0)
    vectors = large.get_distances(atom, touched, mic=True, vector=True)
    reference = slope[touched] @ vectors
    reference[axis] += _physical_charges(potential, atoms)[atom]
    # the sum of atomic dipoles has one value in a cell: no unfolding
    reference += _difference(
        lambda h: _total_atomic_dipole(potential, _displaced(atoms, atom, axis, h)), STEP
    )
    return born, reference


def _sum_rule(potential: Potential, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """``sum_i Z*_i = Q 1 - d Q_local / d strain`` at fixed potentials of the charge head."""
    graph = _graph(potential, atoms)
    potentials = _head_potentials(potential, atoms)
    total = _value(potential, graph, "born_effective_charges").sum(0)
    charge = float(graph.total_charge[0])
    slope = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            unit = np.zeros((3, 3))
            unit[a, b] = 1.0

            def local(h: float, unit: np.ndarray = unit) -> np.ndarray:
                moved = _graph(potential, _strained(atoms, h * unit))
                with torch.no_grad():
                    state = potential.node_state(moved)
                    charges = potential.local_charges(moved, state, potentials)
                    return charges.sum().cpu().numpy()

            slope[a, b] = _difference(local, STEP)
    return total, charge * np.eye(3) - slope
