"""One energy + forces step of lesff against the number of atoms, and the shares of its parts.

    python benchmarks/scaling.py --sides 4 8 12 16 24 --hidden 128x0e

Water at 1 g/cm3, float32, random weights, tabulated radial functions. CPU ms, medians; "step" is
everything from positions to forces; "list" the search for neighbours and "long range" the latent
Coulomb energy with its gradient in charges and positions, each alone; MB is what the process grew
by since before the first step.
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from inference import water_box
from workers import memory

from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import find_neighbors
from lesff.atoms.structure import to_structure
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.heads import LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential


def model(hidden: str, cutoff: float, head: str = "latent") -> Potential:
    """Random weights for hydrogen and oxygen, with a charge head."""
    torch.manual_seed(0)
    config = ModelConfig(
        architecture={
            "type": "mace",
            "cutoff": cutoff,
            "hidden_irreps": hidden,
            "avg_num_neighbors": 40.0,
        },
        elements=(1, 8),
        reference_energies=(0.0, 0.0),
        long_range=LongRangeConfig(head=head),
    )
    potential = Potential(config).requires_grad_(requires_grad=False)
    potential.radial = "table"
    return potential


def milliseconds(action, repeats: int) -> float:
    """Median CPU time after one run to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        action()
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times[1:]))


def long_range(graph, settings: EwaldSettings) -> None:
    """Energy of alternating charges with gradients."""
    charges = torch.where(graph.atomic_numbers == 8, -0.8, 0.4).requires_grad_()
    positions = graph.positions.clone().requires_grad_()
    energy = latent_energy(charges, graph.replace(positions=positions), settings)
    torch.autograd.grad(energy.sum(), [charges, positions])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--hidden", default="128x0e")
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    potential = model(options.hidden, options.cutoff)
    print(f"{options.hidden}, cutoff {options.cutoff} A, float32, {options.threads} thread(s)")
    print(f"{'atoms':>7}{'step ms':>10}{'us/atom':>9}{'MB':>7}{'list':>7}{'long range':>12}")
    for n_side in options.sides:
        structure = to_structure(water_box(n_side))
        graph = build_graph(structure, options.cutoff).to(dtype=torch.float32)
        x, cell, pbc = structure.positions, structure.cell, structure.pbc

        def step(structure=structure) -> None:
            fresh = build_graph(structure, options.cutoff).to(dtype=torch.float32)
            potential(fresh, ["energy", "forces"])

        repeats = options.repeats if len(structure) < 20_000 else 1
        idle = memory.mark()
        whole = milliseconds(step, repeats)
        extra = memory.peak() - idle
        listing = milliseconds(partial(find_neighbors, x, cell, pbc, options.cutoff), repeats)
        far = milliseconds(lambda g=graph: long_range(g, LongRangeConfig().settings()), repeats)
        n = len(structure)
        print(
            f"{n:7d}{whole:10.1f}{1e3 * whole / n:9.1f}{extra:7.0f}{listing / whole:7.1%}"
            f"{far / whole:12.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
