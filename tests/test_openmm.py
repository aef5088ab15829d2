"""OpenMM and openmm-ml: the model's energies, forces and pressure; files by name; embedding."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import left_handed, tiny_potential, triclinic_ice, two_waters, water
from test_domain import broken
from test_point_charges import DIFFERENCE, points_of
from test_uncertainty import frames_of

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.moments.point_charges import potential_of
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.engines.cells import lower_triangular
from lesff.engines.embedding import EmbeddedEvaluator
from lesff.engines.reference import ModelReference
from lesff.errors import (
    ChargeSpinError,
    ConfigError,
    IntegrityError,
    MissingDependencyError,
    PropertyError,
    StructureError,
    UnsupportedInputError,
)
from lesff.model_folder.folder import save_model
from lesff.uncertainty.calibration import calibrate

openmm = pytest.importorskip("openmm", reason="pip install 'lesff[openmm]'")
app = pytest.importorskip("openmm.app")
MLPotential = pytest.importorskip("openmmml", reason="pip install 'lesff[openmm]'").MLPotential

from lesff.engines import openmm as engine  # noqa: E402 - where OpenMM is installed
from lesff.engines.openmm_embedding import embedded_system  # noqa: E402
from lesff.engines.openmmml import Potential, PotentialFactory  # noqa: E402

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
EV = 96.48533212331
"""kJ/mol: 1 eV, CODATA 2018."""
RELATIVE = 1e-6
"""The contract of engines."""
ROUNDING = 1e-9
"""eV, eV/A: other order of float64 sums, and rotations."""
STEP = 1e-3
"""A of central differences in float64: h^2 f''' / 6 stays below 1e-5 eV/A for water."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
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


def ammonium_pair():
    return ase.Atoms("NH4", [[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [0.6, -0.6, -0.6],
                             [-0.6, 0.6, -0.6]])  # fmt: skip


def skewed():
    """A lattice that has to be reduced for OpenMM."""
    atoms = triclinic_ice()
    atoms.cell = np.array(atoms.cell) @ np.eye(3)
    atoms.cell[2] += 2 * atoms.cell[0] - atoms.cell[1]
    atoms.cell[1] += 3 * atoms.cell[0]
    return atoms


# the contract


@pytest.mark.parametrize(
    "make_atoms",
    [water, two_waters, triclinic_ice, lambda: left_handed(triclinic_ice()), skewed],
    ids=["molecule", "dimer", "triclinic", "left-handed", "skewed"],
)
@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_energy_and_forces_are_those_of_predict(make_atoms, platform, model):
    atoms = make_atoms()
    topology, positions = engine.from_ase(atoms)
    context = context_of(engine.create_system(model, topology), positions, platform=platform)
    expected = model.predict(atoms)
    turn = lower_triangular(np.array(atoms.cell))[1] if atoms.pbc.all() else np.eye(3)
    # the CPU platform keeps positions in float32
    tolerance = RELATIVE if platform == "CPU" else ROUNDING
    assert energy_of(context) == pytest.approx(expected["energy"], rel=tolerance)
    scale = np.abs(expected["forces"]).max()
    np.testing.assert_allclose(
        forces_of(context), expected["forces"] @ turn, atol=max(tolerance * scale, ROUNDING)
    )


@pytest.mark.parametrize(
    ("atoms", "options"),
    [
        (molecule("OH"), {"total_charge": -1}),
        (ammonium_pair(), {"total_charge": 1, "spin_multiplicity": 1}),
        (molecule("OH"), {"spin_multiplicity": 2}),
        (molecule("H2O"), {"external_field": (0.0, 0.02, 0.1)}),
    ],
    ids=["anion", "cation", "radical", "field"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_charge_spin_and_field_reach_the_model(atoms, options):
    model = lesff.load("off-small", dtype="float64")
    topology, positions = engine.from_ase(atoms)
    context = context_of(engine.create_system(model, topology, **options), positions)
    expected = model.predict(atoms, **options)
    assert energy_of(context) == pytest.approx(expected["energy"], rel=1e-10)
    np.testing.assert_allclose(forces_of(context), expected["forces"], atol=1e-8)
    if len(options) == 1 and "spin_multiplicity" not in options:
        assert abs(expected["energy"] - model.predict(atoms)["energy"]) > 1e-3


def test_pressure_is_the_slope_by_strain(model):
    atoms = triclinic_ice()
    topology, positions = engine.from_ase(atoms)
    system = engine.create_system(model, topology)
    context = context_of(system, positions)
    box = np.array(context.getState().getPeriodicBoxVectors(asNumpy=True)._value)
    stress, volume = model.predict(atoms, ["stress"])["stress"], atoms.get_volume()
    energies = []
    for factor in (1 + 1e-5, 1 - 1e-5):
        context.setPeriodicBoxVectors(*(factor * box))
        context.setPositions(factor * positions)
        energies.append(energy_of(context))
    slope = (energies[0] - energies[1]) / 2e-5
    assert slope == pytest.approx(volume * np.trace(stress), rel=1e-6)


def test_barostat_sees_the_box_that_it_made(model):
    atoms = triclinic_ice()
    topology, positions = engine.from_ase(atoms)
    system = engine.create_system(model, topology)
    barostat = openmm.MonteCarloFlexibleBarostat(1000.0, 300.0, 1)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0002)
    integrator.setRandomNumberSeed(5)
    context = context_of(system, positions, integrator=integrator)
    volume = context.getState().getPeriodicBoxVolume()
    integrator.step(20)
    state = context.getState(getPositions=True, getEnergy=True)
    assert state.getPeriodicBoxVolume() != volume
    atoms.cell = np.array(state.getPeriodicBoxVectors(asNumpy=True)._value) * 10.0
    atoms.positions = state.getPositions(asNumpy=True)._value * 10.0
    expected = model.predict(atoms)["energy"]
    assert state.getPotentialEnergy()._value / EV == pytest.approx(expected, rel=ROUNDING)


def test_order_of_atoms_and_a_part_of_them(model):
    atoms = two_waters()
    topology, positions = engine.from_ase(atoms)
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    chosen = [5, 3, 4]
    engine.add_force(system, model, topology, atoms=chosen, force_group=3)
    context = context_of(system, positions)
    expected = model.predict(atoms[chosen])
    assert energy_of(context, groups={3}) == pytest.approx(expected["energy"], rel=ROUNDING)
    assert energy_of(context, groups={0}) == 0.0
    forces = np.zeros((6, 3))
    forces[chosen] = expected["forces"]
    np.testing.assert_allclose(forces_of(context), forces, atol=ROUNDING)


def test_two_models_with_two_time_steps(model, tmp_path):
    # the cheap one every step, the difference to the other every second one
    atoms = water()
    topology, positions = engine.from_ase(atoms)
    system = engine.create_system(model, topology, remove_cm_motion=False)
    slow = saved(tiny_potential(seed=1), tmp_path)
    engine.add_force(system, slow, topology, force_group=1)
    integrator = openmm.MTSIntegrator(0.0002, [(0, 2), (1, 1)])
    context = context_of(system, positions, integrator=integrator)
    context.setVelocitiesToTemperature(300, 1)
    total = []
    for _ in range(10):
        state = context.getState(getEnergy=True)
        total.append((state.getKineticEnergy() + state.getPotentialEnergy())._value / EV)
        integrator.step(1)
    assert np.ptp(total) < 1e-3
    both = model.predict(atoms)["energy"] + slow.predict(atoms)["energy"]
    context.setPositions(positions)
    assert energy_of(context) == pytest.approx(both, rel=ROUNDING)


# files


def test_xml_names_the_model_and_runs_in_another_process(model, tmp_path):
    atoms = triclinic_ice()
    topology, positions = engine.from_ase(atoms)
    system = engine.create_system(model, topology, total_charge=0, skin=0.3)
    context = context_of(system, positions)
    text = openmm.XmlSerializer.serialize(system)
    assert len(text) < 3000  # no tensors
    (tmp_path / "system.xml").write_text(text, encoding="utf-8")
    np.save(tmp_path / "positions.npy", positions)
    code = (
        "import sys, numpy, openmm\n"
        "system = openmm.XmlSerializer.deserialize(open('system.xml').read())\n"
        "platform = openmm.Platform.getPlatformByName('Reference')\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)\n"
        "context.setPositions(numpy.load('positions.npy'))\n"
        "print(repr(context.getState(getEnergy=True).getPotentialEnergy()._value))\n"
    )
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert float(found.stdout) / EV == pytest.approx(energy_of(context), rel=1e-12)


def test_another_model_of_that_name_is_refused(tmp_path):
    model = saved(tiny_potential(), tmp_path)
    topology, positions = engine.from_ase(water())
    text = openmm.XmlSerializer.serialize(engine.create_system(model, topology))
    save_model(
        tiny_potential(seed=1), tmp_path / "model", card="# Card\n", license_text="Licence\n",
        overwrite=True,
    )  # fmt: skip
    context = context_of(openmm.XmlSerializer.deserialize(text), positions)
    with pytest.raises(openmm.OpenMMException, match="must have the digest .* got .* make the sys"):
        energy_of(context)


def test_reference_of_a_model(tmp_path):
    bundled = lesff.load("off-small", dtype="float64")
    reference = ModelReference.of(bundled)
    assert reference.name == bundled.name
    assert reference.dtype == "float64"
    assert reference.load().potential.dtype == torch.float64
    model = saved(tiny_potential(), tmp_path)
    assert ModelReference.of(model).name == str(tmp_path / "model")
    with torch.no_grad():
        next(model.potential.parameters()).mul_(1.1)
    with pytest.raises(ConfigError, match="one that a file holds"):
        ModelReference.of(model)
    gone = ModelReference(
        name=reference.name, digest="0" * 64, dtype="float32", radial="table", device="cuda:7"
    )
    with pytest.raises(IntegrityError, match="must have the digest 000000000000"):
        gone.load()


def test_a_run_goes_on_from_a_checkpoint_and_a_state(model):
    topology, positions = engine.from_ase(triclinic_ice())

    def simulation():
        system = engine.create_system(model, topology)
        platform = openmm.Platform.getPlatformByName("Reference")
        found = app.Simulation(topology, system, openmm.VerletIntegrator(0.0002), platform)
        found.context.setPositions(positions)
        return found

    first = simulation()
    first.context.setVelocitiesToTemperature(300, 2)
    first.step(3)
    checkpoint = first.context.createCheckpoint()
    state = first.context.getState(getPositions=True, getVelocities=True)
    first.step(3)
    expected = first.context.getState(getPositions=True).getPositions(asNumpy=True)._value
    for start in (
        lambda s: s.context.loadCheckpoint(checkpoint),
        lambda s: s.context.setState(state),
    ):
        second = simulation()
        start(second)
        second.step(3)
        found = second.context.getState(getPositions=True).getPositions(asNumpy=True)._value
        np.testing.assert_allclose(found, expected, atol=1e-12)


# bad input


@pytest.fixture(scope="module")
def solvated():
    """One sodium ion and water of TIP3P by a force field, open and periodic."""
    field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * openmm.unit.nanometer)
    size = openmm.Vec3(1.9, 1.9, 1.9) * openmm.unit.nanometer
    modeller.addSolvent(field, boxSize=size, model="tip3p")
    positions = np.array(modeller.positions.value_in_unit(openmm.unit.nanometer))
    return field, modeller.topology, positions


def test_bad_input(model, monkeypatch):
    topology, _ = engine.from_ase(ase.Atoms("NaOH", np.eye(3)))
    with pytest.raises(UnsupportedInputError, match=r"element\(s\) Na, but the model .* H O only"):
        engine.create_system(model, topology)
    residue = next(topology.residues())
    topology.addAtom("M", None, residue)
    with pytest.raises(UnsupportedInputError, match="atom 3 .M of ASE. must have an element"):
        engine.create_system(model, topology)
    topology, positions = engine.from_ase(water())
    with pytest.raises(ChargeSpinError):
        engine.create_system(model, topology, total_charge=0, spin_multiplicity=2)
    with pytest.raises(ConfigError, match="unknown option 'charge'; known: .*total_charge"):
        engine.create_system(model, topology, charge=1)
    with pytest.raises(ConfigError, match="`skin` must be a number"):
        engine.create_system(model, topology, skin=object())
    with pytest.raises(PropertyError, match="model without calibration"):
        engine.create_system(model, topology, on_out_of_domain="stop")
    boxed, _ = engine.from_ase(triclinic_ice())
    with pytest.raises(UnsupportedInputError, match="`external_field` must be None for a periodic"):
        engine.create_system(model, boxed, external_field=[0, 0, 0.1])
    slab = triclinic_ice()
    slab.pbc = [True, True, False]
    with pytest.raises(StructureError, match="three directions or none for OpenMM"):
        engine.from_ase(slab)
    context = context_of(engine.create_system(model, topology), 0.01 * positions)
    with pytest.raises(openmm.OpenMMException, match="atoms .* A apart"):
        energy_of(context)
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .lesff\[openmm\]."):
        engine.load_openmm()


def test_positions_in_another_unit(dimer, model):
    _, topology, positions = dimer
    mm = water_of(*dimer, nonbondedMethod=app.NoCutoff)
    for system in (
        engine.create_system(model, topology), embedded_system(topology, mm, [3, 4, 5], model)
    ):  # fmt: skip
        context = context_of(system, 10.0 * positions)
        with pytest.raises(
            openmm.OpenMMException, match="in nm, got atoms 0 and 1 of the model, .* 0.9"
        ):
            energy_of(context)
        context.setPositions(positions)
        energy_of(context)
        # once they were right, molecules may come apart
        context.setPositions(5.0 * positions)
        energy_of(context)


def test_a_run_stops_where_atoms_leave_the_domain(tmp_path):
    potential = tiny_potential(head="shifted")
    potential.uncertainty, _ = calibrate(
        potential, frames_of(potential, 60), frames_of(potential, 30, seed=1)
    )
    model = saved(potential, tmp_path)
    topology, positions = engine.from_ase(water())
    system = engine.create_system(model, topology, on_out_of_domain="stop", allow_close=True)
    context = context_of(system, positions)
    energy_of(context)
    context.setPositions(broken().positions / 10.0)
    with pytest.raises(openmm.OpenMMException, match="outside of what this model was calibrated"):
        energy_of(context)


# openmm-ml


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """As the entry points of the package that is tested say, whatever is installed."""
    for name, value in entry_points().items():
        assert value == "lesff.engines.openmmml:PotentialFactory"
        monkeypatch.setitem(MLPotential._implFactories, name, PotentialFactory())


def entry_points():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return data["project"]["entry-points"]["openmmml.potentials"]


def test_entry_points_are_found_without_pytorch(tmp_path):
    info = tmp_path / "lesff_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lesff-test\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in entry_points().items()]
    (info / "entry_points.txt").write_text("\n".join(["[openmmml.potentials]", *lines]))
    code = (
        "import sys, openmmml\n"
        "assert 'torch' not in sys.modules\n"
        "print(*sorted(n for n in openmmml.MLPotential._implFactories if 'lesff' in n))\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    bundled = ["lesff-mat-medium", "lesff-mat-small", "lesff-off-medium", "lesff-off-small"]
    assert found.stdout.split() == ["lesff", *bundled]
    assert sorted(entry_points()) == ["lesff", *bundled]


def test_pure_systems_of_openmm_ml(model):
    hydroxide = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    topology, positions = engine.from_ase(hydroxide)
    system = MLPotential("lesff", model=model).createSystem(topology, charge=-1, multiplicity=1)
    expected = model.predict(hydroxide, total_charge=-1)["energy"]
    assert energy_of(context_of(system, positions)) == pytest.approx(expected, rel=ROUNDING)
    potential = MLPotential("lesff-off-small", dtype="float64")
    assert potential._impl.getMLLongRange() is True
    topology, positions = engine.from_ase(water())
    system = potential.createSystem(topology)
    expected = lesff.load("off-small", dtype="float64").predict(water())["energy"]
    assert energy_of(context_of(system, positions)) == pytest.approx(expected, rel=ROUNDING)


def test_bad_potentials_of_openmm_ml(model, tmp_path):
    with pytest.raises(ConfigError, match='MLPotential."lesff", model="off-medium".'):
        MLPotential("lesff")
    with pytest.raises(ConfigError, match="`model` must be left out"):
        MLPotential("lesff-off-small", model="off-medium")
    topology, _ = engine.from_ase(water())
    with pytest.raises(ConfigError, match="`periodic` must be False"):
        MLPotential("lesff", model=model, periodic=True).createSystem(topology)
    assert Potential(model).getMLLongRange() is True
    assert Potential(model, periodic=False).getMLLongRange() is False
    short = saved(tiny_potential(head=None), tmp_path)
    assert Potential(short).getMLLongRange() is False


def water_of(field, topology, positions, **options):
    return field.createSystem(topology, constraints=None, rigidWater=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_mixed_systems_in_a_box(embedding, solvated):
    field, topology, positions = solvated
    mm = water_of(*solvated, nonbondedMethod=app.PME, nonbondedCutoff=0.9)
    potential = MLPotential("lesff-off-small")
    atoms = list(range(12))
    system = potential.createMixedSystem(topology, mm, atoms, embedding=embedding)
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    energy = energy_of(context_of(system, positions))
    assert energy_of(context_of(copy, positions)) == pytest.approx(energy, rel=RELATIVE)
    both = potential.createMixedSystem(
        topology, mm, atoms, embedding=embedding, interpolate=True, charge=0
    )
    context = context_of(both, positions)
    assert energy_of(context) == pytest.approx(energy, rel=RELATIVE)
    context.setParameter("lambda_interpolate", 0.0)
    # pairs of the model's atoms become exceptions, which have no cutoff
    assert energy_of(context) == pytest.approx(energy_of(context_of(mm, positions)), abs=1e-3)


@pytest.mark.slow
def test_a_molecule_in_open_space_in_a_box_of_charges(solvated):
    field, topology, positions = solvated
    mm = water_of(*solvated, nonbondedMethod=app.PME, nonbondedCutoff=0.9)
    potential = MLPotential("lesff-off-small", dtype="float64", periodic=False)
    system = potential.createMixedSystem(topology, mm, [0, 1, 2])
    context = context_of(system, positions)
    group = [f for f in system.getForces() if isinstance(f, openmm.PythonForce)]
    assert not group[0].usesPeriodicBoundaryConditions()
    assert np.isfinite(energy_of(context))
    with pytest.raises(ConfigError, match="`periodic` must be left out for electrostatic"):
        potential.createMixedSystem(topology, mm, [0, 1, 2], embedding="electrostatic")


# electrostatic embedding


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_potential_in_a_box_is_that_of_ewalds_sum(sigma):
    # against OpenMM's Ewald sum of point charges: farther away than some sigma a Gaussian is a
    # point, and its mean over the cell, -pi sigma^2 Q / V, is zero for neutral surroundings
    atoms = ase.Atoms("HH", [[0.5, 0.5, 0.5], [1.0, 1.5, 0.4]], cell=[18, 20, 22], pbc=True)
    points = np.array([[9.0, 8.0, 9.0], [7.0, 12.0, 11.0], [8.0, 10.0, 16.0]])
    values = np.array([0.7, -1.2, 0.5])
    graph = build_graph(to_structure(atoms), 1.0)
    found = potential_of(points_of(points, values), graph, EwaldSettings(sigma=sigma), 1)

    def ewald(q):
        system, force = openmm.System(), openmm.NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*np.diag([1.8, 2.0, 2.2]))
        for charge in [*q, *values]:
            system.addParticle(1.0)
            force.addParticle(charge, 0.1, 0.0)
        force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
        force.setCutoffDistance(0.85)
        force.setEwaldErrorTolerance(1e-8)
        system.addForce(force)
        return energy_of(context_of(system, np.concatenate([atoms.positions, points]) / 10.0))

    difference = (ewald([1e-3, 0.0]) - ewald([-1e-3, 0.0])) / 2e-3
    assert float(found.value[0]) == pytest.approx(difference, abs=1e-5)


@pytest.fixture(scope="module")
def dimer():
    """Two TIP3P waters in open space."""
    field = app.ForceField("amber14/tip3p.xml")
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        o = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(o, topology.addAtom(name, app.element.hydrogen, residue))
    atoms = molecule("H2O") + molecule("H2O")
    atoms.positions[3:] += [0.4, 0.3, 2.9]
    return field, topology, atoms.positions / 10.0


def test_system_of_openmm_among_charges(dimer, model):
    field, topology, positions = dimer
    mm = water_of(*dimer, nonbondedMethod=app.NoCutoff)
    system = embedded_system(topology, mm, [0, 1, 2], model)
    context = context_of(system, positions)
    # the parts: enthalpy of the model, bonds of the other molecule, Lennard-Jones between them
    charges = np.array([-0.834, 0.417, 0.417])
    evaluator = EmbeddedEvaluator(model, charges)
    inner = evaluator.among([8, 1, 1], 10.0 * positions[:3], 10.0 * positions[3:])
    pair = np.linalg.norm(positions[0] - positions[3])
    sigma, epsilon = 0.31507524065751241, 0.635968  # TIP3P of OpenMM, nm and kJ/mol
    lj = 4 * epsilon * ((sigma / pair) ** 12 - (sigma / pair) ** 6) / EV
    bonded = ase.Atoms("OHH", positions[3:])
    energies = [0.5 * 462750.4 * (bonded.get_distance(0, i) - 0.09572) ** 2 for i in (1, 2)]
    angle = np.radians(bonded.get_angle(1, 0, 2))
    energies.append(0.5 * 836.8 * (angle - 1.82421813418) ** 2)
    total = inner["energy"] + lj + sum(energies) / EV
    assert energy_of(context) == pytest.approx(total, abs=1e-6)
    forces = forces_of(context)
    for atom, axis in ((0, 2), (1, 0), (3, 2), (4, 1)):
        values = []
        for step in (STEP, -STEP):
            moved = positions.copy()
            moved[atom, axis] += step / 10.0
            context.setPositions(moved)
            values.append(energy_of(context))
        slope = (values[0] - values[1]) / (2 * STEP)
        assert forces[atom, axis] == pytest.approx(-slope, abs=DIFFERENCE)


# examples, and energy over time


def run_example(name, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_interaction_of_two_waters(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    arguments = ["off-small", "--picture", "curve.png"]
    run_example("openmm_interaction", arguments, monkeypatch, tmp_path)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    head, *lines = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["O-O", "/", "A", "model", "donor", "acceptor", "TIP3P"]
    distance, model, donor, acceptor, tip3p = np.array([line.split() for line in lines], float).T
    # a hydrogen bond near 2.9 A; literature of the water dimer: -21 kJ/mol, 2.91 A
    for curve in (model, donor, acceptor):
        assert distance[curve.argmin()] == pytest.approx(2.9, abs=0.15)
        assert -26.0 < curve.min() < -13.0
    # far away: between the curves of the model's dipoles and of TIP3P's
    for curve in (donor, acceptor):
        assert tip3p[-1] < curve[-1] < model[-1] < 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("openmm_box", ["off-small", "--side", "2", "--steps", "10"], "Density"),
        ("openmm_mixed", ["off-small", "--steps", "3", "--molecules", "2"], "651 atoms"),
    ],
)
def test_examples_run(name, arguments, word, monkeypatch, tmp_path, capsys):
    run_example(name, arguments, monkeypatch, tmp_path)
    assert word in capsys.readouterr().out


@pytest.mark.slow
def test_drift_at_constant_energy(monkeypatch, tmp_path, capsys):
    # 0.2 ps of 27 waters; the issue allows 1 meV/atom/ps over 10 ps of 64, of which a run this
    # short sees mostly the oscillation of Verlet's energy, some 0.1 meV/atom
    arguments = ["off-small", "--side", "3", "--picoseconds", "0.2", "--thermostat", "0.1"]
    run_example("openmm_nve", arguments, monkeypatch, tmp_path)
    text = capsys.readouterr().out
    drift = float(re.search(r"drift ([-+.0-9]+) meV/atom/ps", text).group(1))
    assert abs(drift) < 2.0, text


def test_embedded_dynamics_keep_the_energy(dimer):
    _, topology, positions = dimer
    mm = water_of(*dimer, nonbondedMethod=app.NoCutoff)
    system = embedded_system(topology, mm, [0, 1, 2], lesff.load("off-small", dtype="float64"))
    ranges = []
    for step in (0.0004, 0.0002):  # ps
        context = context_of(system, positions, integrator=openmm.VerletIntegrator(step))
        context.setVelocitiesToTemperature(300.0, 1)
        total = []
        for _ in range(round(0.012 / step)):
            context.getIntegrator().step(1)
            state = context.getState(getEnergy=True)
            total.append((state.getKineticEnergy() + state.getPotentialEnergy())._value / EV)
        ranges.append(np.ptp(total))
    # the error of the integrator, of the order of the square of the step, and nothing else
    assert ranges[1] < 3e-3
    assert ranges[1] / ranges[0] == pytest.approx(0.25, abs=0.1)


def test_systems_that_cannot_be_embedded(dimer, model):
    field, topology, positions = dimer
    options = {"nonbondedMethod": app.NoCutoff}
    mm = water_of(*dimer, **options)
    with pytest.raises(UnsupportedInputError, match="a bond between atom 0 .* and atom 2"):
        embedded_system(topology, mm, [0, 1], model)
    cut = water_of(*dimer, nonbondedMethod=app.CutoffNonPeriodic)
    with pytest.raises(UnsupportedInputError, match="NoCutoff, PME or Ewald .* got CutoffNonPer"):
        embedded_system(topology, cut, [0, 1, 2], model)
    bare = openmm.System()
    for _ in range(6):
        bare.addParticle(1.0)
    with pytest.raises(UnsupportedInputError, match="one NonbondedForce .* got 0"):
        embedded_system(topology, bare, [0, 1, 2], model)
    bare.addForce(openmm.GBSAOBCForce())
    with pytest.raises(UnsupportedInputError, match="got GBSAOBCForce"):
        embedded_system(topology, bare, [0, 1, 2], model)
    with pytest.raises(UnsupportedInputError, match="charges around the model .* on 0 particles"):
        embedded_system(topology, mm, range(6), model)
    force = next(f for f in mm.getForces() if isinstance(f, openmm.NonbondedForce))
    force.addException(0, 3, 0.0, 0.1, 0.0)
    with pytest.raises(UnsupportedInputError, match="no exception between atoms 0 and 3"):
        embedded_system(topology, mm, [0, 1, 2], model)
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 0.1, 0.0, 0.0)
    with pytest.raises(UnsupportedInputError, match="no parameter offsets"):
        embedded_system(topology, mm, [0, 1, 2], model)
