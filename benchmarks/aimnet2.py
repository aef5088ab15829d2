"""AIMNet2 by lesff and by its own TorchScript: CPU time of energy and forces, alternating runs.

    python benchmarks/aimnet2.py aimnet2_wb97m-d3_0.jpt

The archive is run by torch here, which executes its code; lesff reads the same file without. One
thread, float32, medians of CPU time, neighbour lists included. Systems: one molecule, a cluster of
64 water molecules, a batch, and the same water in a periodic box, which the archive cannot do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import molecule

import lesff
from lesff.convert.checkpoint import convert_checkpoint

LENGTH = 12.42
"""A, box of 64 water molecules."""


def water_box() -> ase.Atoms:
    """64 water molecules on a grid, turned at random, at the density of the liquid."""
    rng = np.random.default_rng(0)
    box = ase.Atoms(cell=[LENGTH] * 3, pbc=True)
    for place in np.ndindex(4, 4, 4):
        one = molecule("H2O")
        one.rotate(float(rng.uniform(0, 360)), rng.normal(size=3), center="COM")
        one.translate((np.array(place) + 0.5) * LENGTH / 4 - one.get_center_of_mass())
        box += one
    return box


def original(model: torch.jit.ScriptModule, images: Sequence[ase.Atoms]) -> None:
    """Energy and forces of structures of one size by the archive's own code."""
    positions = torch.tensor(np.stack([a.positions for a in images]), dtype=torch.float32)
    positions.requires_grad_()
    data = {
        "coord": positions,
        "numbers": torch.tensor(np.stack([a.numbers for a in images])),
        "charge": torch.zeros(len(images)),
    }
    torch.autograd.grad(model(data)["energy"].sum(), positions)


def cpu_times(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, run in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:  # the first turn warms up
                found[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    script = torch.jit.load(options.archive)
    with tempfile.TemporaryDirectory() as folder:
        convert_checkpoint(options.archive, Path(folder) / "model")
        model = lesff.load(Path(folder) / "model")
    ethanol, box = molecule("CH3CH2OH"), water_box()
    cluster = box.copy()
    cluster.pbc = False
    batch = [ethanol.copy() for _ in range(200)]
    for seed, atoms in enumerate(batch):
        atoms.rattle(0.02, seed=seed)
    cases = {
        "ethanol, 9 atoms": ([ethanol], True),
        "benzene dimer, 24 atoms": ([molecule("C6H6") + _lifted(molecule("C6H6"))], True),
        "200 ethanols, 1,800 atoms": (batch, True),
        "64 waters, open, 192 atoms": ([cluster], True),
        "64 waters, periodic, 192 atoms": ([box], False),
    }
    print("| system | archive, ms | lesff, ms |\n|---|---|---|")
    for name, (images, is_open) in cases.items():
        runs: dict[str, Callable[[], object]] = {
            "lesff": lambda x=images: model.predict(x, ["energy", "forces"])
        }
        if is_open:
            runs["archive"] = lambda x=images: original(script, x)
        times = {
            key: f"{1e3 * value:.0f}" for key, value in cpu_times(runs, options.repeats).items()
        }
        print(f"| {name} | {times.get('archive', '-')} | {times['lesff']} |", flush=True)


def _lifted(atoms: ase.Atoms) -> ase.Atoms:
    atoms.positions += [0.0, 0.0, 3.6]
    return atoms


if __name__ == "__main__":
    main()
