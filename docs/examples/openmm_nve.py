"""Drift of the energy of water at constant energy in OpenMM, after a short thermostat.

    python docs/examples/openmm_nve.py off-small --picoseconds 10

Prints the slope of the total energy in meV/atom/ps, its scatter, the mean temperature and ms/step.
"""

import argparse
import time

import numpy as np
import openmm
from openmm import app, unit
from openmm_box import relaxed, water_box

from lesff.engines.openmm import create_system, from_ase

EV = 96.48533212331
"""kJ/mol."""


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=4, help="molecules along an edge")
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--thermostat", type=float, default=1.0, help="ps before")
    parser.add_argument("--step", type=float, default=0.5, help="fs")
    options = parser.parse_args()
    atoms = relaxed(water_box(options.side), options.model)
    topology, positions = from_ase(atoms)
    system = create_system(options.model, topology)
    step = options.step * unit.femtosecond
    platform = openmm.Platform.getPlatformByName("CPU")

    def simulation(integrator: openmm.Integrator) -> app.Simulation:
        return app.Simulation(topology, system, integrator, platform)

    first = simulation(openmm.LangevinMiddleIntegrator(300.0, 20.0, step))
    first.context.setPositions(positions)
    first.context.setVelocitiesToTemperature(300.0, 1)
    first.step(int(1e3 * options.thermostat / options.step))
    state = first.context.getState(getPositions=True, getVelocities=True)
    second = simulation(openmm.VerletIntegrator(step))
    second.context.setPositions(state.getPositions())
    second.context.setVelocities(state.getVelocities())
    rows, steps = [], int(1e3 * options.picoseconds / options.step)
    every = max(1, steps // 200)
    start = time.perf_counter()
    for index in range(0, steps, every):
        second.step(every)
        state = second.context.getState(getEnergy=True)
        kinetic, potential = (
            energy.value_in_unit(unit.kilojoule_per_mole)
            for energy in (state.getKineticEnergy(), state.getPotentialEnergy())
        )
        rows.append((1e-3 * (index + every) * options.step, kinetic + potential, kinetic))
    spent = 1e3 * (time.perf_counter() - start) / (every * len(rows))
    ps, total, kinetic = np.array(rows).T
    total *= 1e3 / EV / len(atoms)  # meV/atom
    slope, _ = np.polyfit(ps, total, 1)
    temperature = 2.0 * kinetic.mean() / (3 * len(atoms) - 3) / 8.31446261815324e-3
    print(
        f"{len(atoms)} atoms, {ps[-1]:g} ps: drift {slope:+.4f} meV/atom/ps, scatter "
        f"{total.std():.4f} meV/atom, {temperature:.0f} K, {spent:.0f} ms/step"
    )


if __name__ == "__main__":
    main()
