"""Cost of dispersion: energy and forces of a model with it and without, in alternation.

    python benchmarks/dispersion.py [--model off-small@0.1.0] [--repeats 5]

Boxes of water, periodic and as clusters in open space, one thread, CPU time of the process.
"""

import argparse
import time

import ase
import numpy as np
import torch
from ase.build import molecule

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.evaluation.checks.dynamics import liquid_box
from lesff.potential.edit import with_dispersion
from lesff.potential.potential import Potential


def fastest(potentials: list[Potential], atoms: ase.Atoms, repeats: int) -> list[float]:
    """Least CPU time of a call of each, ms."""
    graph = build_graph(to_structure(atoms), potentials[0].architecture.cutoff)
    graph = graph.to(dtype=potentials[0].dtype)
    times: list[list[float]] = [[] for _ in potentials]
    for _ in range(repeats + 1):
        for potential, row in zip(potentials, times, strict=True):
            start = time.process_time()
            potential(graph, ["energy", "forces"])
            row.append(1e3 * (time.process_time() - start))
    return [min(row[1:]) for row in times]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="off-small@0.1.0", help="a model without dispersion")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    without = lesff.load(options.model).potential
    added = with_dispersion(without, DispersionConfig())
    added.radial = without.radial
    print("| atoms | boundaries | without, ms | with, ms | ratio |\n|---|---|---|---|---|")
    for n in (2, 4, 8):
        box = liquid_box(molecule("H2O"), (n, n, n), 3.104)
        cluster = ase.Atoms(box.numbers, box.positions, cell=np.zeros((3, 3)))
        for kind, atoms in (("periodic", box), ("open", cluster)):
            a, b = fastest([without, added], atoms, options.repeats)
            print(f"| {len(atoms)} | {kind} | {a:.1f} | {b:.1f} | {b / a:.2f} |")


if __name__ == "__main__":
    main()
