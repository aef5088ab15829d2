"""Steps of a trajectory with freed memory kept between them, and given back: water, one thread.

    python benchmarks/kept_memory.py off-small --sides 8 10 16

CPU ms a step of the ASE calculator, in all and of the operating system alone, medians of processes
in turns. See ``lesff/memory.py``.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

import numpy as np
import torch
from inference import water_box

import lesff

WARM, STEPS = 3, 4
SHIFT = 0.002
"""A a step."""


def measure(name: str, side: int) -> tuple[int, float, float]:
    """Atoms, CPU ms a step, and those of the operating system."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    atoms = water_box(side)
    atoms.calc = lesff.load(name).calculator(on_out_of_domain="ignore")

    def step() -> None:
        atoms.positions += rng.normal(scale=SHIFT, size=atoms.positions.shape)
        atoms.get_forces()

    for _ in range(WARM):
        step()
    start = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    end = resource.getrusage(resource.RUSAGE_SELF)
    user, system = end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime
    return len(atoms), 1e3 * (user + system) / STEPS, 1e3 * system / STEPS


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help="measure one side and print JSON")
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(given.model, given.sides[0])))
        return
    print("| atoms | kept | of it system | not kept | of it system | not kept / kept |")
    print("|---|---|---|---|---|---|")
    for side in given.sides:
        rows: dict[str, list[list[float]]] = {"1": [], "0": []}
        for _ in range(given.repeats):
            for keep, found in rows.items():
                command = [sys.executable, __file__, given.model, "--sides", str(side), "--worker"]
                environment = {**os.environ, "LESFF_KEEP_MEMORY": keep}
                out = subprocess.run(  # noqa: S603
                    command, env=environment, check=True, capture_output=True, text=True
                ).stdout
                found.append(json.loads(out))
        kept, lost = (np.median(np.array(rows[key]), axis=0) for key in ("1", "0"))
        cells = (f"{x[1]:.0f} ms | {x[2]:.0f}" for x in (kept, lost))
        print(f"| {kept[0]:.0f} | {' | '.join(cells)} | {lost[1] / kept[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
