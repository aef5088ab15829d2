"""AIMNet2 by lesff and by its own TorchScript: CPU time of energy and forces, alternating runs.

    python benchmarks/aimnet2.py aimnet2_wb97m-d3_0.jpt

The archive is run by torch here, which executes its code; lesff reads the same file without. One
thread, float32, least CPU times of some runs, neighbour lists included. Systems: one molecule, by
itself and along a trajectory of the ASE calculator, whose steps are recorded; a batch; clusters of
water; and the same water in a periodic box, which the archive cannot do: it stands beside the
archive's time for the cluster. ``--cases 1536`` takes those whose name has the text.
"""

from __future__ import annotations

import argparse
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
_WARM = 6
"""First turns that are not counted: TorchScript optimises, steps of a trajectory are recorded."""


def water_box(side: int = 4) -> ase.Atoms:
    """Water molecules on a grid, turned at random, at the density of the liquid.

    Args:
        side: Molecules along each edge.
    """
    rng = np.random.default_rng(0)
    box = ase.Atoms(cell=[side * LENGTH / 4] * 3, pbc=True)
    for place in np.ndindex(side, side, side):
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


def steps(model: lesff.Model, atoms: ase.Atoms) -> Callable[[], object]:
    """A step of a trajectory of the ASE calculator at each call."""
    atoms, rng = atoms.copy(), np.random.default_rng(0)
    atoms.calc = model.calculator()
    start = atoms.positions.copy()

    def step() -> None:
        atoms.positions = start + rng.normal(scale=0.02, size=start.shape)
        atoms.get_forces()

    return step


def cpu_times(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each, run in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + _WARM):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn >= _WARM:
                found[name].append(time.process_time() - start)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", default="", metavar="TEXT")
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
    dimer = molecule("C6H6") + _lifted(molecule("C6H6"))
    large = water_box(8)
    drop = large.copy()
    drop.pbc = False
    cases: dict[str, tuple[list[ase.Atoms], Callable[[], object] | None, Sequence[ase.Atoms]]] = {
        "ethanol, 9 atoms": ([ethanol], None, [ethanol]),
        "ethanol, steps of a trajectory": ([ethanol], steps(model, ethanol), [ethanol]),
        "benzene dimer, 24 atoms": ([dimer], None, [dimer]),
        "benzene dimer, steps of a trajectory": ([dimer], steps(model, dimer), [dimer]),
        "200 ethanols, 1,800 atoms": (batch, None, batch),
        "64 waters, open, 192 atoms": ([cluster], None, [cluster]),
        "64 waters, open, steps of a trajectory": ([cluster], steps(model, cluster), [cluster]),
        "64 waters, periodic, 192 atoms": ([box], None, [cluster]),
        "512 waters, open, 1,536 atoms": ([drop], None, [drop]),
        "512 waters, periodic, 1,536 atoms": ([large], None, [drop]),
    }
    print("| system | archive, ms | lesff, ms | lesff / archive |\n|---|---|---|---|")
    for name, (images, step, theirs) in cases.items():
        if options.cases not in name.replace(",", ""):
            continue
        runs: dict[str, Callable[[], object]] = {
            "lesff": step or (lambda x=images: model.predict(x, ["energy", "forces"])),
            "archive": lambda x=theirs: original(script, x),
        }
        times = cpu_times(runs, options.repeats)
        ms = {key: f"{1e3 * value:.1f}" for key, value in times.items()}
        ratio = times["lesff"] / times["archive"]
        print(f"| {name} | {ms['archive']} | {ms['lesff']} | {ratio:.2f} |", flush=True)


def _lifted(atoms: ase.Atoms) -> ase.Atoms:
    atoms.positions += [0.0, 0.0, 3.6]
    return atoms


if __name__ == "__main__":
    main()
