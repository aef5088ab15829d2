"""Water at constant pressure in OpenMM: every atom by the model.

    python docs/examples/openmm_box.py off-small --side 4 --steps 1000

Writes ``water.xml``, the system by model name and digest, which any OpenMM script goes on with.
"""

import argparse
from pathlib import Path

import ase
import numpy as np
import openmm
from ase.build import molecule
from ase.optimize import FIRE
from openmm import app, unit

import lesff
from lesff.engines.openmm import create_system, from_ase


def water_box(side: int) -> ase.Atoms:
    """side^3 molecules of random orientation at 1 g/cm3."""
    rng, length = np.random.default_rng(0), 3.107  # A: a cube of one molecule
    box = ase.Atoms(cell=[side * length] * 3, pbc=True)
    for place in np.ndindex(side, side, side):
        one = molecule("H2O")
        one.rotate(360.0 * rng.random(), rng.normal(size=3))
        one.translate(length * (np.array(place) + 0.5) - one.get_center_of_mass())
        box += one
    return box


def relaxed(box: ase.Atoms, model: str, steps: int = 40) -> ase.Atoms:
    """A few steps downhill, none longer than 0.2 A: OpenMM's minimiser first tries long ones."""
    box = box.copy()
    box.calc = lesff.load(model).calculator()
    FIRE(box, logfile=None).run(fmax=0.5, steps=steps)
    return box


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=4, help="molecules along an edge")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--platform", default="CPU")
    options = parser.parse_args()
    topology, positions = from_ase(relaxed(water_box(options.side), options.model))
    system = create_system(options.model, topology)
    system.addForce(openmm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin, 25))
    Path("water.xml").write_text(openmm.XmlSerializer.serialize(system), encoding="utf-8")
    integrator = openmm.LangevinMiddleIntegrator(
        300.0 * unit.kelvin, 5.0 / unit.picosecond, 0.5 * unit.femtosecond
    )
    platform = openmm.Platform.getPlatformByName(options.platform)
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    every = max(1, options.steps // 20)
    simulation.reporters.append(
        app.StateDataReporter(
            "water.csv", every, step=True, potentialEnergy=True, temperature=True, density=True
        )
    )
    simulation.step(options.steps)
    simulation.reporters.clear()
    print(Path("water.csv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
