"""Systems of OpenMM that several test files share."""

import numpy as np
import pytest
from ase.build import molecule
from helpers import tiny_potential

import lesff
from lesff.model_folder.folder import save_model

openmm = pytest.importorskip("openmm", reason="pip install 'lesff[openmm]'")
app = pytest.importorskip("openmm.app")
MLPotential = pytest.importorskip("openmmml", reason="pip install 'lesff[openmm]'").MLPotential

EV = 96.48533212331
"""kJ/mol: 1 eV, CODATA 2018."""
RELATIVE = 1e-6
"""The contract of engines."""
ROUNDING = 1e-9
"""eV, eV/A: other order of float64 sums, and rotations."""


def tiny_model(tmp_path_factory):
    """A saved float64 model."""
    return saved(tiny_potential(state_embedding=True), tmp_path_factory.mktemp("tiny"))


def saved(potential, root):
    save_model(potential, root / "model", card="# Card\n", license_text="Licence\n")
    return lesff.load(root / "model")


def context_of(system, positions, box=None, platform="Reference", integrator=None):
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    return context


def energy_of(context, **options):
    """eV."""
    return context.getState(getEnergy=True, **options).getPotentialEnergy()._value / EV


def forces_of(context, **options):
    """eV/A."""
    forces = context.getState(getForces=True, **options).getForces(asNumpy=True)
    return forces._value / EV / 10.0


def box_of_water():
    """A force field, and topology and positions in nm of a box of 217 waters."""
    field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * openmm.unit.nanometer)
    size = openmm.Vec3(1.9, 1.9, 1.9) * openmm.unit.nanometer
    modeller.addSolvent(field, boxSize=size, model="tip3p")
    positions = np.array(modeller.positions.value_in_unit(openmm.unit.nanometer))
    return field, modeller.topology, positions


def two_of_water(name="amber14/tip3p.xml"):
    """The same of two waters in open space."""
    field = app.ForceField(name)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        o = topology.addAtom("O", app.element.oxygen, residue)
        for hydrogen in ("H1", "H2"):
            topology.addBond(o, topology.addAtom(hydrogen, app.element.hydrogen, residue))
    atoms = molecule("H2O") + molecule("H2O")
    atoms.positions[3:] += [0.4, 0.3, 2.9]
    modeller = app.Modeller(topology, atoms.positions / 10.0 * openmm.unit.nanometer)
    modeller.addExtraParticles(field)
    positions = modeller.positions.value_in_unit(openmm.unit.nanometer)
    return field, modeller.topology, np.array(positions)


def water_of(field, topology, positions, **options):
    return field.createSystem(topology, constraints=None, rigidWater=False, **options)
