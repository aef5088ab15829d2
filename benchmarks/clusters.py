"""One energy + forces step: water without periodicity beside the same atoms in their cell.

    python benchmarks/clusters.py off-medium --sides 4 8 12 16

CPU ms of one thread, medians of steps taken in turn; "pairs" is what the sums over all pairs of
charges and of dispersion take of the open step, alone. The exponent is that of the step in the
number of atoms between two rows.
"""

import argparse
import math
import time
from functools import partial
from statistics import median

import torch
from inference import water_box

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.sums.open_boundary import open_energy


def milliseconds(action) -> float:
    """CPU time."""
    start = time.process_time()
    action()
    return 1e3 * (time.process_time() - start)


def pairs(graph, potential) -> None:
    """Sums over all pairs with their gradients."""
    for settings in (potential.ewald, potential.config.dispersion):
        if settings is not None:
            charges = torch.ones_like(graph.positions[:, 0]).requires_grad_()
            positions = graph.positions.detach().requires_grad_()
            energy = open_energy(charges, positions, graph.batch, 1, settings).sum()
            torch.autograd.grad(energy, [charges, positions])


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    potential = lesff.load(options.model).potential
    print("  atoms   periodic       open   ratio      pairs   exponent")
    last = None
    for side in options.sides:
        periodic = water_box(side)
        cluster = periodic.copy()
        cluster.pbc = False
        graphs = [
            build_graph(to_structure(atoms), potential.architecture.cutoff).to(
                dtype=potential.dtype
            )
            for atoms in (periodic, cluster)
        ]
        rows = []
        for repeat in range(options.repeats + 1):
            row = [milliseconds(partial(potential, g, ["energy", "forces"])) for g in graphs]
            row.append(milliseconds(partial(pairs, graphs[1], potential)))
            if repeat:
                rows.append(row)
        bulk, free, alone = (median(column) for column in zip(*rows, strict=True))
        n = len(periodic)
        slope = math.nan if last is None else math.log(free / last[1]) / math.log(n / last[0])
        row = f"{n:7d} {bulk:10.0f} {free:10.0f} {free / bulk:7.2f} {alone:10.1f} {slope:10.2f}"
        print(row, flush=True)
        last = n, free


if __name__ == "__main__":
    main()
