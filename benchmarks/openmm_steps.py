"""What a step in OpenMM costs on top of the model itself: a box of water, and water among TIP3P.

    python benchmarks/openmm_steps.py --model off-small --steps 30

CPU ms, medians and minima of interleaved rounds on one thread: "model" is energy and forces of a
graph that is there, "ASE" a step of ASE's dynamics, "OpenMM" one of OpenMM's Verlet integrator. The
second table has ten molecules of the model among 207 of TIP3P in a box of 1.9 nm.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import ase
import numpy as np
import openmm
import torch
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from ase.units import fs
from inference import water_box
from openmm import app, unit
from openmmml import MLPotential

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.engines.openmm import create_system, from_ase
from lesff.engines.openmmml import PotentialFactory
from lesff.model import Model

MEMBERS = 10
"""Molecules of the model in the mixed box."""


def milliseconds(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    action()
    return 1e3 * (time.process_time() - start)


def bare(model: Model, atoms: ase.Atoms) -> Callable[[], object]:
    """Energy and forces of a graph."""
    potential = model.potential
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    graph = graph.to(dtype=potential.dtype)
    return partial(potential, graph, ("energy", "forces"))


def stepper(
    system: openmm.System, positions: np.ndarray, name: str, seed: int = 1
) -> Callable[[], object]:
    """One step on a platform; equal seeds would be equal steps, which are computed once."""
    platform = openmm.Platform.getPlatformByName(name)
    integrator = openmm.VerletIntegrator(0.0005)
    properties = {"Threads": "1"} if name == "CPU" else {}
    context = openmm.Context(system, integrator, platform, properties)
    context.setPositions(positions)
    context.setVelocitiesToTemperature(300.0, seed)

    # the context keeps its integrator
    return lambda: context.getIntegrator().step(1)


def table(actions: dict[str, Callable[[], object]], first: str, rounds: int) -> None:
    """Measure in turn, and print."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(milliseconds(action))
    base = np.array(times[first][5:])
    print(f"{'':>30}{'median':>9}{'least':>9}{'over ' + first:>14}")
    for name, row in times.items():
        own = np.array(row[5:])
        over = f"{np.median(own / base) - 1:14.1%}"
        print(f"{name:>30}{np.median(own):9.1f}{own.min():9.1f}{over}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="off-small")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = lesff.load(options.model)
    atoms = water_box(4)
    atoms.calc = model.calculator()
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=40)
    topology, positions = from_ase(atoms)
    # one system a context: contexts of one system share a list of neighbours
    systems = [create_system(model, topology, remove_cm_motion=False) for _ in range(2)]
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * fs)
    print(f"{len(atoms)} atoms of {model.name}")
    actions = {
        "model": bare(model, atoms.copy()),
        "ASE": partial(dynamics.run, 1),
        "OpenMM, Reference": stepper(systems[0], positions, "Reference"),
        "OpenMM, CPU": stepper(systems[1], positions, "CPU", 2),
    }
    table(actions, "model", options.steps)

    field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer, model="tip3p")
    mm = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer,
        constraints=None, rigidWater=False,
    )  # fmt: skip
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    chosen = list(range(3 * MEMBERS))
    part = ase.Atoms("OHH" * MEMBERS, 10.0 * positions[chosen], cell=[19.0] * 3, pbc=True)
    print(f"\n{len(part)} atoms of {model.name} among {len(positions) - len(part)} of TIP3P")
    MLPotential.registerImplFactory("lesff", PotentialFactory())
    potential = MLPotential("lesff", model=model)
    mixed = partial(potential.createMixedSystem, modeller.topology, mm, chosen)
    actions = {
        "model": bare(model, part),
        "force field": stepper(mm, positions, "CPU"),
        "mechanical": stepper(mixed(), positions, "CPU"),
        "electrostatic": stepper(mixed(embedding="electrostatic"), positions, "CPU"),
    }
    table(actions, "model", options.steps)


if __name__ == "__main__":
    main()
