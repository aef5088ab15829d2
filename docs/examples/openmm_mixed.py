"""A few molecules of water by the model among water of TIP3P, in a box.

python docs/examples/openmm_mixed.py off-small --embedding electrostatic --steps 1000
"""

import argparse
import time

import openmm
from openmm import app, unit
from openmmml import MLPotential


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument(
        "--embedding", default="electrostatic", choices=["electrostatic", "mechanical"]
    )
    parser.add_argument("--molecules", type=int, default=10, help="by the model")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer, model="tip3p")
    topology = modeller.topology
    mm = field.createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer,
        constraints=None, rigidWater=False,
    )  # fmt: skip
    potential = MLPotential(f"lesff-{options.model}")
    system = potential.createMixedSystem(
        topology, mm, range(3 * options.molecules), embedding=options.embedding
    )
    integrator = openmm.LangevinMiddleIntegrator(
        300.0 * unit.kelvin, 5.0 / unit.picosecond, 0.5 * unit.femtosecond
    )
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=20)
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    start = time.perf_counter()
    simulation.step(options.steps)
    spent = (time.perf_counter() - start) / options.steps
    state = simulation.context.getState(getEnergy=True)
    print(
        f"{topology.getNumAtoms()} atoms, {1e3 * spent:.0f} ms/step, {state.getPotentialEnergy()}"
    )


if __name__ == "__main__":
    main()
