"""OpenMM: a model as ``PythonForce``, for molecules and boxes.

::

    from lesff.engines.openmm import create_system

    system = create_system("off-medium", topology)
    system.addForce(openmm.MonteCarloBarostat(1 * bar, 300 * kelvin))

OpenMM integrates, keeps the box and calls back for energy and forces. Boundaries are those of the
topology: a box is periodic in three directions, a topology without one is in open space. A system
that is written as XML names the model and its digest; what reads it needs the same model. Reading
such a file executes code (``PythonForce`` keeps a pickle): read files that you trust only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np

from lesff.atoms.elements import symbols
from lesff.engines.cells import lower_triangular, reduced
from lesff.engines.reference import ModelReference
from lesff.engines.units import UNITS
from lesff.errors import (
    ConfigError,
    MissingDependencyError,
    StructureError,
    UnsupportedInputError,
)
from lesff.model import Model, load
from lesff.potential.evaluator import Evaluator

if TYPE_CHECKING:
    import openmm
    from openmm import app

_UNITS = UNITS["openmm"]
_NM = 1.0 / _UNITS.length
_BONDS = 64
"""Bonds of a topology that are looked at: in a box, some may lead to an image."""
_LONGEST_BOND = 4.0
"""A: longer than any bond, shorter than a bond to hydrogen that was read in another unit."""


def load_openmm() -> Any:
    """The ``openmm`` package.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return import_module("openmm")
    except ImportError as error:
        raise MissingDependencyError(
            f'OpenMM cannot be loaded ({error}); install it with `pip install "lesff[openmm]"`'
        ) from error


class ModelForce:
    """What a ``PythonForce`` calls: a state in, energy in kJ/mol and forces in kJ/mol/nm out.

    Pickles to the name of the model, its digest and plain options.

    Args:
        model: The model.
        numbers: (n_atoms,) atomic numbers of the particles that it gets.
        periodic: Whether the box of the state is periodic for the model.
        bonds: Pairs of these particles that are bonded, by which the first positions show whether
            they are in nm.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`.
    """

    def __init__(
        self,
        model: Model,
        numbers: Sequence[int],
        *,
        periodic: bool,
        bonds: Sequence[tuple[int, int]] = (),
        **options: Any,
    ) -> None:
        self._reference = ModelReference.of(model)
        self._bonds = np.array(bonds, dtype=np.int64).reshape(-1, 2)[:_BONDS]
        self._numbers = np.array(numbers, dtype=np.int64)
        self._periodic = periodic
        self._options = _checked(options)
        self._evaluator: Evaluator | None = self._make_evaluator(model)
        # charge, spin and elements are settled here and not at the first step
        apart = 10.0 * np.arange(3.0 * len(numbers)).reshape(-1, 3)
        self._evaluator.structure(self._numbers, apart)

    def __getstate__(self) -> dict[str, Any]:
        """Plain data: the model by name."""
        return {
            "reference": asdict(self._reference),
            "numbers": self._numbers.tolist(),
            "periodic": self._periodic,
            "bonds": self._bonds.tolist(),
            "options": self._options,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reference = ModelReference(**state["reference"])
        self._numbers = np.array(state["numbers"], dtype=np.int64)
        self._periodic = state["periodic"]
        self._bonds = np.array(state["bonds"], dtype=np.int64).reshape(-1, 2)
        self._options = state["options"]
        self._evaluator = None

    def _make_evaluator(self, model: Model) -> Evaluator:
        return model.evaluator(**self._options)

    @property
    def evaluator(self) -> Evaluator:
        """What computes; loads the model where the force comes from a file."""
        if self._evaluator is None:
            self._evaluator = self._make_evaluator(self._reference.load())
        return self._evaluator

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces (n_atoms, 3) in kJ/mol/nm of the particles of the force."""
        positions, cell = _arrays(state, periodic=self._periodic)
        if len(self._bonds):
            _check_unit(positions, self._bonds)
            self._bonds = self._bonds[:0]
        energy, forces = self.compute(positions, cell)
        return energy / _UNITS.energy, forces / _UNITS.force

    def compute(self, positions: np.ndarray, cell: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Energy in eV and forces (n, 3) in eV/A.

        Args:
            positions: (n, 3) in A of the particles.
            cell: (3, 3) in A, or None in open space.
        """
        out = self.evaluator(self._numbers, positions, cell, self._periodic, ("energy", "forces"))
        return out["energy"], out["forces"]


def _check_unit(positions: np.ndarray, bonds: np.ndarray) -> None:
    """Refuse positions in A, where all bonds are ten times as long as bonds are.

    Raises:
        StructureError: naming the shortest.
    """
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    shortest = int(lengths.argmin())
    if lengths[shortest] > _LONGEST_BOND:
        i, j = bonds[shortest]
        raise StructureError(
            f"positions must be in nm, got atoms {i} and {j} of the model, which are bonded, "
            f"{lengths[shortest] / 10:.3g} nm apart, and no bond shorter: are they in A?"
        )


def _arrays(state: Any, *, periodic: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions (n, 3) and box (3, 3) of a state in A; no box where nothing is periodic."""
    # `_value`: nm, without a conversion that costs as much as everything else here
    positions = np.array(state.getPositions(asNumpy=True)._value) * _UNITS.length
    if not periodic:
        return positions, None
    return positions, np.array(state.getPeriodicBoxVectors(asNumpy=True)._value) * _UNITS.length


def create_system(
    model: Model | str | Path,
    topology: app.Topology,
    *,
    remove_cm_motion: bool = True,
    **options: Any,
) -> openmm.System:
    """A system whose forces are all the model's.

    Args:
        model: A model or its name.
        topology: Elements, and the box if there is one.
        remove_cm_motion: Add a ``CMMotionRemover``.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`: ``total_charge``,
            ``spin_multiplicity``, ``external_field`` (V/A, open space only),
            ``on_out_of_domain="stop"``, ...

    Raises:
        UnsupportedInputError: for atoms without element or of one that the model does not cover,
            and for a field in a box.
        ChargeSpinError: for a charge and spin that the electrons do not allow.
    """
    mm = load_openmm()
    system = mm.System()
    box = topology.getPeriodicBoxVectors()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    for atom in topology.atoms():
        system.addParticle(0.0 if atom.element is None else atom.element.mass)
    add_force(system, model, topology, **options)
    if remove_cm_motion:
        system.addForce(mm.CMMotionRemover())
    return system


def add_force(
    system: openmm.System,
    model: Model | str | Path,
    topology: app.Topology,
    *,
    atoms: Iterable[int] | None = None,
    periodic: bool | None = None,
    force_group: int = 0,
    **options: Any,
) -> openmm.PythonForce:
    """Add the energy of some or all atoms to a system, as one ``PythonForce``.

    Args:
        system: The system.
        model: A model or its name.
        topology: Elements of the atoms.
        atoms: Their indices; all if not given.
        periodic: Whether the model sees the box; as the topology has one if not given.
        force_group: Group of the force, for integrators with several time steps.
        **options: As for :func:`create_system`.

    Raises:
        UnsupportedInputError, ChargeSpinError: as :func:`create_system`.
    """
    mm = load_openmm()
    if isinstance(model, (str, Path)):
        model = load(model)
    if periodic is None:
        periodic = topology.getPeriodicBoxVectors() is not None
    chosen = None if atoms is None else [int(index) for index in atoms]
    numbers = numbers_of(topology, chosen, model)
    _check_field(options, periodic=periodic)
    bonds = bonds_of(topology, chosen)
    force = mm.PythonForce(ModelForce(model, numbers, periodic=periodic, bonds=bonds, **options))
    force.setName("lesff")
    force.setForceGroup(force_group)
    force.setUsesPeriodicBoundaryConditions(periodic)
    if chosen is not None:
        force.setParticles(chosen)
    system.addForce(force)
    return force


def numbers_of(topology: app.Topology, atoms: Sequence[int] | None, model: Model) -> list[int]:
    """Atomic numbers of chosen atoms of a topology.

    Raises:
        UnsupportedInputError: naming the first atom without element, or the elements that the
            model does not cover.
    """
    found = list(topology.atoms())
    numbers = []
    for atom in found if atoms is None else [found[index] for index in atoms]:
        if atom.element is None:
            raise UnsupportedInputError(
                f"atom {atom.index} ({atom.name} of {atom.residue.name}) must have an element for "
                "a model, got none: use a water model without extra particles, or leave it out of "
                "the atoms of the model"
            )
        numbers.append(atom.element.atomic_number)
    unknown = sorted(set(numbers) - set(model.config.elements))
    if unknown:
        raise UnsupportedInputError(
            f"the topology has element(s) {symbols(unknown)}, but the model {model.name} covers "
            f"{symbols(model.config.elements)} only"
        )
    return numbers


def bonds_of(topology: app.Topology, atoms: Sequence[int] | None) -> list[tuple[int, int]]:
    """Bonds among chosen atoms, by their places among these."""
    pairs = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
    if atoms is None:
        return pairs
    place = {atom: index for index, atom in enumerate(atoms)}
    return [(place[i], place[j]) for i, j in pairs if i in place and j in place]


def from_ase(atoms: ase.Atoms) -> tuple[app.Topology, np.ndarray]:
    """Topology and positions in nm of an ASE object, its cell in OpenMM's reduced form.

    The first lattice vector goes along x, the second into the xy plane, tilts are at most half a
    vector: energies stay, vectors turn, and left-handed cells are mirrored.

    Args:
        atoms: A molecule, or a crystal with three periodic directions.

    Raises:
        StructureError: for one or two periodic directions, and a cell without volume.
    """
    mm = load_openmm()
    app = import_module("openmm.app")
    if atoms.pbc.any() and not atoms.pbc.all():
        raise StructureError(
            f"`pbc` must be True in three directions or none for OpenMM, got {atoms.pbc.tolist()}: "
            "give a slab a cell with vacuum and three periodic directions"
        )
    topology, positions = app.Topology(), np.array(atoms.positions)
    residue = topology.addResidue("ASE", topology.addChain())
    for index, (symbol, number) in enumerate(zip(atoms.symbols, atoms.numbers, strict=True)):
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(f"{symbol}{index}", element, residue)
    if atoms.pbc.all():
        box, rotation = lower_triangular(np.array(atoms.cell))
        positions = positions @ rotation
        topology.setPeriodicBoxVectors([mm.Vec3(*row) for row in reduced(box) * _NM])
    return topology, positions * _NM


def _check_field(options: dict[str, Any], *, periodic: bool) -> None:
    field = options.get("external_field")
    if periodic and field is not None and np.any(field):
        raise UnsupportedInputError(
            "`external_field` must be None for a periodic box, whose energy in a field is not "
            f"defined, got {np.asarray(field).tolist()}: OpenMM needs the energy; use a topology "
            "without box, or LAMMPS, which needs forces only"
        )


_OPTIONS = frozenset(signature(Evaluator).parameters) - {"potential", "caveats"}
_PLAIN = (bool, int, float, str, type(None))


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options of an evaluator that a file can keep; ConfigError for others."""
    plain: dict[str, Any] = {}
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ConfigError(
            f"unknown option {', '.join(map(repr, unknown))}; known: {', '.join(sorted(_OPTIONS))}"
        )
    for name, value in options.items():
        if isinstance(value, (np.ndarray, np.generic, tuple, list)):
            value = np.asarray(value).tolist()
        elif not isinstance(value, _PLAIN):
            raise ConfigError(f"`{name}` must be a number, text or a list, got {value!r}")
        plain[name] = value
    return plain
