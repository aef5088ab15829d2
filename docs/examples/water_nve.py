"""Liquid water at constant energy, for spectra: 1 ps of Langevin dynamics, then frames every 2 fs.

    python docs/examples/water_nve.py MODEL STRUCTURE nve.traj --picoseconds 5

STRUCTURE is any file ASE reads, with a periodic cell; its first frame is the start.
"""

import argparse

import ase.io
import numpy as np
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from tqdm import tqdm

import lesff


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("trajectory")
    parser.add_argument("--picoseconds", type=float, default=5.0)
    options = parser.parse_args()
    box = ase.io.read(options.structure, index=0)
    box.calc = lesff.load(options.model).calculator()
    rng = np.random.default_rng(0)
    thermalize_momenta(box, temperature_K=300, rng=rng)
    Stationary(box)
    thermostat = Langevin(box, 0.5 * fs, temperature_K=300, friction=0.01 / fs, rng=rng)
    for _ in tqdm(range(20), desc="thermostat", unit="0.05 ps"):
        thermostat.run(100)
    Stationary(box)
    dynamics = VelocityVerlet(box, 0.5 * fs)
    with Trajectory(options.trajectory, "w", box, properties=["energy"]) as file:
        file.write()
        for _ in tqdm(range(int(500 * options.picoseconds)), desc="NVE", unit="frame"):
            dynamics.run(4)
            file.write()


if __name__ == "__main__":
    main()
