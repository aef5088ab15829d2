"""Molecular dynamics steps of water on a GPU: eager, fused, recorded.

    python benchmarks/gpu.py --sides 4 8 16 --hidden 128x0e
    python benchmarks/gpu.py --device cpu --sides 4      # the same code, to see that it runs

Milliseconds of energy and forces on the device, medians; "plain" is plain PyTorch, "fused" uses
Triton kernels, "repeated" is the calculator's step with everything decided before
(:mod:`lesff.potential.replay`), a CUDA graph on a GPU. Boxes have side^3 molecules.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from inference import water_box
from scaling import model

from lesff import kernels
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.potential.replay import RepeatedStep

WANTED = ("energy", "forces")


def milliseconds(action: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall time of one call, after three that do not count."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        action()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[3:]))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--hidden", default="128x0e")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu runs the same code")
    print(f"{options.hidden}, cutoff 4.5 A, float32, {options.device}")
    print(f"{'waters':>8}{'plain':>10}{'fused':>10}{'repeated':>10}")
    fused = kernels.backend
    for n_side in options.sides:
        potential = model(options.hidden, 4.5).to(options.device)
        potential.radial = "exact"
        structure = to_structure(water_box(n_side))
        graph = build_graph(structure, 4.5).to(dtype=torch.float32, device=options.device)
        row = []
        for backend in (lambda tensor: None, fused):
            kernels.backend = backend
            row.append(
                milliseconds(lambda: potential(graph, WANTED), options.device, options.repeats)  # noqa: B023
            )
        step = RepeatedStep(potential, 0.5)
        row.append(
            milliseconds(lambda: step(structure, WANTED), options.device, options.repeats)  # noqa: B023
        )
        print(f"{n_side**3:8d}" + "".join(f"{x:10.2f}" for x in row), flush=True)


if __name__ == "__main__":
    main()
