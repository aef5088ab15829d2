"""Long-range energy with its gradients: time and memory against atoms.

Random charges at the density of water (0.1 atoms / A^3) in a cube, sigma 1 A, dl 2 A, energy and
derivatives in charges and positions, one thread. Evaluators are timed in alternation in one
process; memory is the growth of the peak resident size in a fresh process for each. ``dense`` is
the textbook sum with a table of atoms x waves and autograd.

    python benchmarks/ewald.py [--atoms 192 1536 ...] [--dense-max 5184] [--evaluators ...]
"""

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.settings import EwaldSettings

DENSITY = 0.1
SETTINGS = EwaldSettings()
EVALUATORS = ("direct", "nufft", "mesh")
DIRECT_MAX = 50_000
"""Atoms up to which the direct sum, quadratic in time, is run."""


def box(n_atoms: int, dtype: torch.dtype) -> tuple[Tensor, AtomGraph]:
    """Random charges and a cube."""
    generator = torch.Generator().manual_seed(n_atoms)
    length = (n_atoms / DENSITY) ** (1 / 3)
    none = torch.zeros(0, dtype=torch.int64)
    graph = AtomGraph(
        positions=(length * torch.rand(n_atoms, 3, generator=generator)).to(dtype),
        atomic_numbers=torch.ones(n_atoms, dtype=torch.int64),
        batch=torch.zeros(n_atoms, dtype=torch.int64),
        cell=length * torch.eye(3, dtype=dtype)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
        total_charge=torch.zeros(1, dtype=dtype),
        spin_multiplicity=torch.ones(1, dtype=torch.int64),
        edge_index=none.view(1, 0).expand(2, 0),
        cell_shifts=none.view(0, 1).expand(0, 3),
        reverse_edge=none,
    )
    return torch.randn(n_atoms, generator=generator).to(dtype), graph


def dense_energy(q: Tensor, graph: AtomGraph) -> Tensor:
    """The formula with cosines and sines of every atom and wave vector."""
    cell = graph.cell[0]
    n_max = int(float(cell[0, 0]) / SETTINGS.dl)
    n = torch.arange(-n_max, n_max + 1, dtype=q.dtype)
    n = torch.stack(torch.meshgrid(n[n_max:], n, n, indexing="ij"), -1).view(-1, 3)
    k = 2.0 * math.pi * n @ torch.linalg.inv(cell).T
    k2 = (k * k).sum(1)
    keep = (k2 <= SETTINGS.k_max**2) & (k2 > 0)
    k, k2, factor = k[keep], k2[keep], 1.0 + (n[keep, 0] > 0)
    phase = graph.positions @ k.T
    real, imaginary = q @ torch.cos(phase), q @ torch.sin(phase)
    weight = factor * torch.exp(-0.5 * SETTINGS.sigma**2 * k2) / k2
    power = (weight * (real**2 + imaginary**2)).sum()
    energy = SETTINGS.prefactor / torch.linalg.det(cell) * power
    return energy - SETTINGS.self_energy * (q * q).sum()


def evaluate(name: str, charges: Tensor, graph: AtomGraph) -> Tensor:
    """Energy and both gradients; returns dE/dr."""
    q, r = charges.clone().requires_grad_(), graph.positions.clone().requires_grad_()
    graph = graph.replace(positions=r)
    if name == "dense":
        energy = dense_energy(q, graph)
    else:
        energy = latent_energy(q, graph, SETTINGS, name).sum()  # type: ignore[arg-type]
    return torch.autograd.grad(energy, [r, q])[0]


def peak() -> float:
    """Peak resident size of this process in MB; getrusage would include the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def extra_memory(name: str, n_atoms: int, dtype: str) -> float:
    """Growth of the peak in a process of its own, after a small call of the same kind, in MB."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        name,
        "--atoms",
        str(n_atoms),
        "--dtype",
        dtype,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 own file
    return float(done.stdout)


def report_memory(name: str, n_atoms: int, dtype: torch.dtype) -> None:
    """Print the growth of the peak for :func:`extra_memory`."""
    evaluate(name, *box(192, dtype))
    inputs = box(n_atoms, dtype)
    before = peak()
    evaluate(name, *inputs)
    print(peak() - before)


def alternate(names: list[str], n_atoms: int, dtype: torch.dtype) -> dict[str, float]:
    """Median CPU milliseconds of each evaluator, in turn."""
    inputs = box(n_atoms, dtype)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(6 if n_atoms < 20_000 else 3):
        for name in names:
            if name == "dense" and n_atoms > 2000 and turn > 1:
                continue
            start = time.process_time()
            evaluate(name, *inputs)
            if turn:  # the first one warms up
                times[name].append(1e3 * (time.process_time() - start))
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--atoms", type=int, nargs="+", default=[192, 1536, 5184, 12288, 41472, 98304]
    )
    parser.add_argument("--dense-max", type=int, default=5184)
    parser.add_argument("--evaluators", nargs="+", default=list(EVALUATORS))
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--memory", help="print the extra memory of one evaluator and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype: torch.dtype = getattr(torch, options.dtype)
    if options.memory:
        report_memory(options.memory, options.atoms[0], dtype)
        return
    names = [*options.evaluators, "dense"]
    print("| atoms | " + " | ".join(f"{n} ms (slope), MB" for n in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    last: dict[str, tuple[int, float]] = {}
    for n_atoms in options.atoms:
        limit = {"dense": options.dense_max, "direct": DIRECT_MAX}
        run = [n for n in names if n_atoms <= limit.get(n, n_atoms)]
        times = alternate(run, n_atoms, dtype)
        cells = []
        for name in names:
            if name not in run:
                cells.append("-")
                continue
            slope = ""
            if name in last:
                before, ms = last[name]
                slope = f" ({math.log(times[name] / ms) / math.log(n_atoms / before):.1f})"
            last[name] = (n_atoms, times[name])
            memory = extra_memory(name, n_atoms, options.dtype)
            cells.append(f"{times[name]:.1f}{slope}, {memory:.0f}")
        print(f"| {n_atoms} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
