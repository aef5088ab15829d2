"""Training with one process or several: atoms a second, on cores of their own and on one core.

    python benchmarks/training_processes.py FRAMES --cores 0 1

FRAMES is a labelled file that ``lesff train`` reads. Each row is ``lesff train`` of 96x0e+96x1o
with latent charges, from fresh weights, for ``--minutes``, alone on the cores that it names: one
process with one thread or one for each core, a process for each core, and two processes on one
core. "Atoms a step" are those of all processes; validation and start do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """
name = "processes"
seed = 1
[model.architecture]
type = "mace"
cutoff = 5.0
hidden_irreps = "96x0e+96x1o"
n_layers = 2
max_ell = 3
correlation = 3
radial_mlp = [64, 32]
[model.long_range]
head = "shifted"
[optimizer]
lr = 0.005
max_steps = 1000000
time_limit_minutes = {minutes}
validate_every = 1000000
[data]
max_atoms = {atoms}
validation_frames = 10
sources."{name}" = {{}}
"""


def steps_of(
    recipe: Path, frames: Path, processes: int, threads: int, cores: list[str]
) -> tuple[int, float]:
    """Steps and minutes of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["taskset", "-c", ",".join(cores), sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        script = Path(folder) / "train.py"
        script.write_text("from lesff.cli.main import main\nmain()\n", encoding="utf-8")
        command += [str(script), "train", str(recipe), "--data", str(frames.parent)]
        command += ["-o", str(run), "--threads", str(threads)]
        done = subprocess.run(  # noqa: S603 - this Python
            command, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        last = json.loads((run / "log.jsonl").read_text("utf-8").splitlines()[-1])
        return last["step"], last["minutes"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path)
    parser.add_argument("--cores", nargs="+", default=["0", "1"])
    parser.add_argument("--atoms", type=int, default=320, help="of a batch")
    parser.add_argument("--minutes", type=float, default=0.5)
    options = parser.parse_args()
    if shutil.which("taskset") is None:
        sys.exit("taskset (util-linux) is needed to keep processes on their cores")
    cores, n = options.cores, len(options.cores)
    cases = [
        ("one process, one thread", 1, 1, cores[:1]),
        (f"one process, {n} threads", 1, n, cores),
        (f"{n} processes, {n} cores", n, 1, cores),
        ("two processes, one core", 2, 1, cores[:1]),
    ]
    print(f"{'':28}{'atoms a step':>14}{'steps/min':>11}{'atoms/s':>9}{'ratio':>7}")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        text = RECIPE.format(minutes=options.minutes, atoms=options.atoms, name=options.frames.name)
        recipe.write_text(text, encoding="utf-8")
        for label, processes, threads, where in cases:
            steps, minutes = steps_of(recipe, options.frames, processes, threads, where)
            rate = steps / minutes * processes * options.atoms / 60.0
            first = first or rate
            print(
                f"{label:28}{processes * options.atoms:14d}{steps / minutes:11.0f}{rate:9.0f}"
                f"{rate / first:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
