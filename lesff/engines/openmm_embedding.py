"""Electrostatic embedding in OpenMM: a model among the charges of a force field.

The force field keeps its own charges' interactions, all Lennard-Jones terms between model and
surroundings, and what is bonded outside of the model. Its charges on the model's atoms are zero:
charges of the model take their place, see :mod:`lesff.engines.embedding`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lesff.engines.embedding import EmbeddedEvaluator
from lesff.engines.openmm import ModelForce, bonds_of, load_openmm, numbers_of
from lesff.engines.units import UNITS
from lesff.errors import MissingDependencyError, UnsupportedInputError
from lesff.model import Model

if TYPE_CHECKING:
    import openmm
    from openmm import app

_UNITS = UNITS["openmm"]
_WITH_CHARGES = ("GB", "Amoeba", "Drude", "Gayberne", "Hippo")
"""Parts of names of forces that have charges of their own, or depend on them."""


class EmbeddedForce(ModelForce):
    """What a ``PythonForce`` calls with the model's atoms and then the charges around them.

    Args:
        model: The model, with charges.
        numbers: (n_atoms,) atomic numbers of its atoms, the first particles that it gets.
        charges: (n_points,) in e of the particles that follow.
        periodic: Whether there is a box.
        **options: ``bonds`` of :class:`ModelForce`, and those of
            :class:`lesff.potential.evaluator.Evaluator`.
    """

    def __init__(
        self,
        model: Model,
        numbers: Sequence[int],
        charges: Sequence[float],
        *,
        periodic: bool,
        **options: Any,
    ) -> None:
        self._charges = np.array(charges, dtype=np.float64)
        super().__init__(model, numbers, periodic=periodic, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Plain data: the model by name."""
        return {**super().__getstate__(), "charges": self._charges.tolist()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._charges = np.array(state["charges"], dtype=np.float64)

    def _make_evaluator(self, model: Model) -> EmbeddedEvaluator:
        return EmbeddedEvaluator(model, self._charges, **self._options)

    def compute(self, positions: np.ndarray, cell: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Enthalpy in eV and forces on all particles in eV/A, see :class:`ModelForce`."""
        evaluator = cast("EmbeddedEvaluator", self.evaluator)
        n = len(self._numbers)
        atoms, points = positions[:n], positions[n:]
        out = evaluator.among(self._numbers, atoms, points, cell, periodic=self._periodic)
        return out["energy"], np.concatenate([out["forces"], out["point_forces"]])


def embedded_system(
    topology: app.Topology,
    system: openmm.System,
    atoms: Sequence[int],
    model: Model,
    *,
    force_group: int = 0,
    interpolate: bool = False,
    **options: Any,
) -> openmm.System:
    """A copy of a force field's system with some atoms given to a model among its charges.

    Open systems need ``NoCutoff``, boxes ``PME`` or ``Ewald``: the charges of the model act over
    any distance.

    Args:
        topology: Of the whole system.
        system: All of it by the force field; left as it is.
        atoms: The model's, whole molecules; with or without virtual sites of the force field on
            them, which are switched off.
        model: A model with charges.
        force_group: Group of the model's force.
        interpolate: Keep both, with the parameter ``lambda_interpolate``: 0 is the force field
            alone, 1 the embedded model.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`.

    Raises:
        UnsupportedInputError: for bonds between model and surroundings, forces that embedding
            cannot do right, and what :func:`lesff.engines.openmm.create_system` refuses.
    """
    mm = load_openmm()
    utilities = _utilities()
    # sites of the force field on the model's atoms have no part in it
    sites = _sites_on(system, {int(index) for index in atoms})
    atoms = [int(index) for index in atoms if int(index) not in sites]
    numbers = numbers_of(topology, atoms, model)
    chosen = {*atoms, *sites}
    _check_bonds(utilities.findLinkBonds(topology, sorted(chosen)))
    index = _check_forces(mm, system, chosen)
    mixed = utilities.removeBonds(system, topology, atoms, True)
    nonbonded = mixed.getForces()[index]
    charges = [_charge(nonbonded, i) for i in range(mixed.getNumParticles())]
    _take_out(nonbonded, sorted(chosen))
    for force in mixed.getForces():
        if isinstance(force, mm.CustomNonbondedForce):
            utilities.addCustomNonbondedExclusions(force, sorted(chosen))
    around = [i for i, q in enumerate(charges) if i not in chosen and q != 0.0]
    if not around:
        raise UnsupportedInputError(
            "the force field must have charges around the model for electrostatic embedding, got "
            f"none on {len(charges) - len(chosen)} particles: give it charges, or the whole system "
            "to the model"
        )
    periodic = nonbonded.usesPeriodicBoundaryConditions()
    function = EmbeddedForce(
        model, numbers, [charges[i] for i in around], periodic=periodic,
        bonds=bonds_of(topology, atoms), **options,
    )  # fmt: skip
    force = mm.PythonForce(function)
    force.setName("lesff")
    force.setForceGroup(force_group)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setParticles([*atoms, *around])
    if not interpolate:
        mixed.addForce(force)
        return mixed
    # both ends get the same exceptions, which are those of the nearest image in a box
    system = copy.deepcopy(system)
    for one in (mixed, system):
        one.getForces()[index].setExceptionsUsePeriodicBoundaryConditions(periodic)
    interpolator = utilities.InterpolationHelper()
    interpolator.addMLTerm(force)
    interpolator.addMMBondedTerms(system, topology, atoms)
    interpolator.setupNonbonded(mixed, system)
    interpolator.setupInterpolation(mixed)
    return mixed


def _utilities() -> Any:
    try:
        return import_module("openmmml.embeddings.utilities")
    except ImportError as error:
        raise MissingDependencyError(
            f'openmm-ml cannot be loaded ({error}); install it with `pip install "lesff[openmm]"`'
        ) from error


def _sites_on(system: openmm.System, atoms: set[int]) -> set[int]:
    """Virtual sites, such as M of TIP4P, that are defined by the model's atoms alone."""
    found = set()
    for index in range(system.getNumParticles()):
        if system.isVirtualSite(index):
            site = system.getVirtualSite(index)
            parents = {site.getParticle(k) for k in range(site.getNumParticles())}
            found |= {index} if parents <= atoms else set()
    return found


def _charge(nonbonded: openmm.NonbondedForce, index: int) -> float:
    return nonbonded.getParticleParameters(index)[0]._value


def _check_bonds(bonds: Sequence[tuple[int, int]]) -> None:
    if bonds:
        raise UnsupportedInputError(
            f"`atoms` must be whole molecules for electrostatic embedding, got a bond between atom "
            f"{bonds[0][0]} of the model and atom {bonds[0][1]} of the force field, whose charge "
            "would stand inside of the model's: add the rest of the molecule, or use "
            "embedding='mechanical', which puts a link atom there"
        )


def _check_forces(mm: Any, system: openmm.System, atoms: set[int]) -> int:
    """Index of the only NonbondedForce; UnsupportedInputError for what cannot be done right."""
    found = []
    for index, force in enumerate(system.getForces()):
        if isinstance(force, mm.NonbondedForce):
            found.append(index)
        name = type(force).__name__
        if any(part in name for part in _WITH_CHARGES):
            raise UnsupportedInputError(
                f"the force field must have fixed charges in a NonbondedForce, got {name}, which "
                "has charges of its own"
            )
    if len(found) != 1:
        raise UnsupportedInputError(
            "the system must have one NonbondedForce for electrostatic embedding, which has the "
            f"charges around the model, got {len(found)}"
        )
    force: Any = system.getForces()[found[0]]
    method = force.getNonbondedMethod()
    if method not in (mm.NonbondedForce.NoCutoff, mm.NonbondedForce.PME, mm.NonbondedForce.Ewald):
        raise UnsupportedInputError(
            "`nonbondedMethod` must be NoCutoff, PME or Ewald for electrostatic embedding, got "
            f"{_method_name(mm, method)}: the model's charges act over any distance, and those of "
            "the force field have to do the same"
        )
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise UnsupportedInputError(
            "the NonbondedForce must have no parameter offsets for electrostatic embedding: the "
            "model reads its charges once"
        )
    for index in range(force.getNumExceptions()):
        i, j, *_ = force.getExceptionParameters(index)
        if (i in atoms) != (j in atoms):
            raise UnsupportedInputError(
                f"the force field must have no exception between atoms {i} and {j}, of which one "
                "is the model's: give whole molecules to the model"
            )
    return found[0]


def _method_name(mm: Any, method: int) -> str:
    names = ("CutoffNonPeriodic", "CutoffPeriodic", "LJPME")
    return next(name for name in names if getattr(mm.NonbondedForce, name) == method)


def _take_out(nonbonded: openmm.NonbondedForce, atoms: Sequence[int]) -> None:
    """Remove charges of the model's atoms, and all that is between two of them."""
    for i, first in enumerate(atoms):
        _, sigma, epsilon = nonbonded.getParticleParameters(first)
        nonbonded.setParticleParameters(first, 0.0, sigma, epsilon)
        for second in atoms[:i]:
            nonbonded.addException(first, second, 0.0, 1.0, 0.0, True)
