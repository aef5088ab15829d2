"""Neighbour lists of water boxes: CPU ms of each way, in turn, medians.

    python benchmarks/neighbors.py --sides 4 8 14

"search" is a fresh list with both directions, sorted by receiver; "kept" cuts down a list with a
skin of 0.5 A, as the ASE calculator does; "graph" and "topology" are what follows in each step.
matscipy is timed where it is installed.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from ase.neighborlist import neighbor_list
from inference import water_box

from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import find_neighbors
from lesff.atoms.structure import to_structure
from lesff.atoms.verlet import VerletList
from lesff.nn.edge_tables import build_topology

try:
    from matscipy.neighbours import neighbour_list as matscipy_list
except ImportError:
    matscipy_list = None


def medians(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU milliseconds of each action, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats + 1):
        for name, action in actions.items():
            start = time.process_time()
            action()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 14])
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = element_rows((1, 8))
    for index, n_side in enumerate(options.sides):
        box = water_box(n_side)
        structure = to_structure(box)
        x, cell, pbc = structure.positions, structure.cell, structure.pbc
        kept = VerletList(options.cutoff, 0.5)
        found = kept.find(x, cell, pbc)
        graph = build_graph(structure, options.cutoff, found)
        actions = {
            "search": partial(find_neighbors, x, cell, pbc, options.cutoff),
            "kept": partial(kept.find, x, cell, pbc),
            "graph": lambda s=structure, f=found: build_graph(s, options.cutoff, f),
            "topology": lambda graph=graph: build_topology(graph, rows),
        }
        if len(box) <= 2000:
            actions["ase"] = lambda box=box: neighbor_list("ijS", box, options.cutoff)
        if matscipy_list is not None:
            actions["matscipy"] = lambda box=box: matscipy_list("ijS", box, options.cutoff)
        result = medians(actions, options.repeats)
        if index == 0:
            names = [*actions]
            print(f"{'atoms':>7}{'edges':>9}" + "".join(f"{name:>10}" for name in names))
        cells = "".join(f"{result[n]:10.2f}" if n in result else f"{'-':>10}" for n in names)
        print(f"{len(box):7d}{found.edge_index.shape[1]:9d}{cells}", flush=True)


if __name__ == "__main__":
    main()
