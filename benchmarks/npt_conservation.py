"""Conserved energy of NPT dynamics: a sum over wave vectors that is smooth in the cell keeps it.

Water at 300 K and 1 bar with the Martyna-Tobias-Klein barostat of ASE; slope and scatter of its
conserved quantity, and how far the volume moved. Versions whose sum ends sharply step whenever a
wave vector enters or leaves.

    python benchmarks/npt_conservation.py off-small@1.1.0 off-small@1.2.0
"""

import argparse

import numpy as np
from ase.io import read
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.units import GPa, fs

import lesff


def main() -> None:
    """Print a row a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--structure", default="docs/examples/water_64.xyz")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    print(f"{'model':24} {'slope':>18} {'scatter':>14} {'volume':>16}")
    print(f"{'':24} {'meV/atom/ps':>18} {'meV/atom':>14} {'A^3':>16}")
    for name in options.models:
        atoms = read(options.structure)
        atoms.calc = lesff.load(name).calculator()
        thermalize_momenta(atoms, temperature_K=300.0, rng=np.random.default_rng(0))
        run = IsotropicMTKNPT(
            atoms, timestep=0.5 * fs, temperature_K=300.0, pressure_au=1e-4 * GPa,
            tdamp=50 * fs, pdamp=500 * fs,
        )  # fmt: skip
        times, energies, volumes = [], [], []
        for step in range(options.steps):
            run.run(1)
            if step >= options.steps // 10:
                times.append(run.get_time() / (1000 * fs))
                energies.append(1000.0 * run.get_conserved_energy() / len(atoms))
                volumes.append(atoms.get_volume())
        slope, start = np.polyfit(times, energies, 1)
        scatter = np.std(np.array(energies) - slope * np.array(times) - start)
        print(
            f"{name:24} {slope:18.4f} {scatter:14.4f} {min(volumes):7.0f} to {max(volumes):5.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
