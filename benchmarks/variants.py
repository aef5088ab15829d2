"""What the order of atoms, a second thread and charge equilibration do to one step.

    python benchmarks/variants.py --sides 8 --clusters 4 8

Water, 128x0e, cutoff 4.5 A, float32, random weights, tables; energy and forces of a graph that is
there. Pairs of steps are taken in turn: the atoms in a random order against molecule by molecule,
two threads against one (wall-clock time, all others CPU time), and clusters in open space with
charges that equilibrate (head "qeq") against charges that are read out ("latent").
"""

import argparse
import time
from collections.abc import Callable

import ase
import numpy as np
import torch
from inference import water_box
from scaling import model

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.potential.potential import Potential

HIDDEN, CUTOFF = "128x0e", 4.5
Step = Callable[[], object]


def step_of(potential: Potential, atoms: ase.Atoms, threads: int = 1) -> Step:
    """Energy and forces of a graph."""
    graph = build_graph(to_structure(atoms), CUTOFF).to(dtype=torch.float32)

    def step() -> None:
        torch.set_num_threads(threads)
        potential(graph, ["energy", "forces"])

    return step


def ratio(name: str, n_atoms: int, first: Step, second: Step, repeats: int, clock: Step) -> None:
    """Print a row: milliseconds of both, and the second in units of the first."""
    rows = np.empty((repeats + 1, 2))
    for row in rows:
        for column, step in enumerate((first, second)):
            start = clock()
            step()
            row[column] = 1e3 * (clock() - start)
    rows = rows[1:]
    plain, other = np.median(rows, axis=0)
    share = np.median(rows[:, 1] / rows[:, 0])
    print(f"{name:>24}{n_atoms:8d}{plain:10.0f}{other:10.0f}{share:8.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[8])
    parser.add_argument("--clusters", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    latent, rng = model(HIDDEN, CUTOFF), np.random.default_rng(0)
    print(f"{'':>24}{'atoms':>8}{'ms':>10}{'ms':>10}{'ratio':>8}")
    for side in options.sides:
        atoms = water_box(side)
        first, n = step_of(latent, atoms), len(atoms)
        shuffled = step_of(latent, atoms[rng.permutation(n)])
        ratio("random order", n, first, shuffled, options.repeats, time.process_time)
        both = step_of(latent, atoms, threads=2)
        ratio("two threads, wall clock", n, first, both, options.repeats, time.perf_counter)
    qeq = model(HIDDEN, CUTOFF, "qeq")
    for side in options.clusters:
        atoms = water_box(side)
        atoms.pbc = False
        pair = step_of(latent, atoms), step_of(qeq, atoms)
        ratio("equilibration, open", len(atoms), *pair, options.repeats, time.process_time)


if __name__ == "__main__":
    main()
