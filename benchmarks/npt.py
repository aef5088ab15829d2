"""A step at constant pressure beside one at constant energy: ASE, water, one thread.

    python benchmarks/npt.py off-medium --side 4

CPU ms a step, medians of short stretches taken in turn, and the median of their ratios. Steps at
constant energy are measured as they are by default, and without recording (``replay=False``).
"""

import argparse
import time

import numpy as np
import torch
from ase import units
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from inference import water_box

import lesff

STEP, STRETCH = 0.5 * units.fs, 4


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for is_npt, replay in ((False, False), (True, None), (False, None)):
        atoms = water_box(options.side)
        atoms.calc = lesff.load(options.model).calculator(replay=replay)
        thermalize_momenta(atoms, temperature_K=300.0, rng=np.random.default_rng(0))
        if is_npt:
            run = IsotropicMTKNPT(
                atoms, STEP, temperature_K=300.0, pressure_au=0.0,
                tdamp=100 * STEP, pdamp=1000 * STEP,
            )  # fmt: skip
        else:
            run = VelocityVerlet(atoms, STEP)
        run.run(5)
        runs.append(run)
    times = np.zeros((options.repeats, len(runs)))
    for row in times:
        for column, run in enumerate(runs):
            start = time.process_time()
            run.run(STRETCH)
            row[column] = 1e3 * (time.process_time() - start) / STRETCH
    nve, npt, default = np.median(times, axis=0)
    ratio = np.median(times[:, 1] / times[:, 0])
    print(f"{len(atoms)} atoms: NVE {nve:.1f} ms, NPT {npt:.1f} ms a step, x {ratio:.2f}")
    over = np.median(times[:, 1] / times[:, 2])
    print(f"NVE as it is by default {default:.1f} ms, NPT is x {over:.2f} of that")


if __name__ == "__main__":
    main()
