"""OpenMM: the model's energies, forces and pressure; files by name; bad input."""

import os
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import left_handed, tiny_potential, triclinic_ice, two_waters, water
from openmm_systems import (
    EV,
    RELATIVE,
    ROUNDING,
    app,
    context_of,
    energy_of,
    forces_of,
    openmm,
    saved,
    tiny_model,
    two_of_water,
    water_of,
)
from test_domain import broken
from test_uncertainty import frames_of

import lesff
from lesff.engines import openmm as engine
from lesff.engines.cells import lower_triangular
from lesff.engines.openmm_embedding import embedded_system
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

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def dimer():
    return two_of_water()


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


@pytest.mark.slow
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
