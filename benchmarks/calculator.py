"""What the ASE calculator costs on top of the model itself, in molecular dynamics of water.

    python benchmarks/calculator.py --sides 4 8 --hidden 128x0e

CPU ms, medians: "model" is energy and forces of a graph that is there; "calculator" is
``atoms.get_forces()`` after the atoms have moved (checks, neighbours, conversion, model, results).
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from ase.md.velocitydistribution import thermalize_momenta
from ase.units import fs
from inference import water_box
from scaling import model

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.calculator import LesffCalculator


def milliseconds(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    action()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--hidden", default="128x0e")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.hidden}, cutoff 4.5 A, float32, one thread")
    print(f"{'atoms':>7}{'model':>9}{'calculator':>12}{'overhead':>10}{'searches':>10}")
    for n_side in options.sides:
        potential = model(options.hidden, 4.5)
        atoms = water_box(n_side)
        calculator = atoms.calc = LesffCalculator(potential)
        thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
        step = 0.5 * fs * atoms.get_velocities()
        start, rows = atoms.positions.copy(), []
        for index in range(options.steps):
            atoms.positions = start + 10.0 * np.sin(0.1 * index) * step  # back and forth
            forces = milliseconds(atoms.get_forces)
            graph = build_graph(to_structure(atoms), 4.5).to(dtype=torch.float32)
            bare = milliseconds(partial(potential, graph, ["energy", "forces"]))
            rows.append((bare, forces, forces / bare))
        bare, forces, ratio = np.median(rows[2:], axis=0)
        overhead = f"{ratio - 1:10.1%}{calculator.neighbors.n_searches:10d}"
        print(f"{len(atoms):7d}{bare:9.1f}{forces:12.1f}{overhead}", flush=True)


if __name__ == "__main__":
    main()
