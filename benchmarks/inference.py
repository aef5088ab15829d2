"""Energy + forces of a water box, one thread: CPU time of lesff and of mace-torch, alternating."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.build import molecule

HERE = Path(__file__).parent


def water_box(n_side: int | tuple[int, int, int], seed: int = 0) -> ase.Atoms:
    """Randomly turned molecules at 1 g/cm3 on a grid with ``n_side`` of them along each edge."""
    rng = np.random.default_rng(seed)
    spacing = 3.104
    shape = (n_side,) * 3 if isinstance(n_side, int) else n_side
    box = ase.Atoms(cell=np.array(shape) * spacing, pbc=True)
    for index in np.ndindex(*shape):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        water.positions += (np.array(index) + 0.5) * spacing - water.get_center_of_mass()
        box += water
    return box


class Worker:
    """A benchmark process that answers "go" with the CPU time of one evaluation."""

    def __init__(self, python: str, script: str, arguments: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own scripts
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment_of(script), **environment},
        )
        while (line := self.process.stdout.readline().strip()) != "ready":
            if not line and self.process.poll() is not None:
                raise SystemExit(f"{script} did not start with {python}")

    def run(self) -> float:
        """CPU milliseconds of one evaluation."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        milliseconds, self.extra_mb = map(float, self.process.stdout.readline().split())
        return milliseconds

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def environment_of(script: str) -> dict[str, str]:
    """One thread; the peer has an environment of its own, without our import path."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if script.startswith("peer"):
        environment.pop("PYTHONPATH", None)
    return environment


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch")
    parser.add_argument("--hidden", default="64x0e")
    parser.add_argument("--cutoff", default="4.5")
    parser.add_argument("--sides", type=int, nargs="+", default=[4])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(f"{options.hidden}, cutoff {options.cutoff} A, float32, energy + forces, one thread")
    print(f"{'atoms':>7}{'lesff ms':>12}{'mace ms':>12}{'ratio':>8}")
    for n_side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "water.xyz")
            box = water_box(n_side)
            ase.io.write(path, box)
            arguments = [path, options.hidden, options.cutoff]
            workers = [Worker(sys.executable, "own.py", arguments)]
            if options.peer_python:
                workers.append(Worker(options.peer_python, "peer_mace.py", arguments))
            times = np.array([[w.run() for w in workers] for _ in range(options.repeats + 2)])
        medians = np.median(times[2:], axis=0)
        peer = f"{medians[1]:12.1f}{medians[1] / medians[0]:8.2f}" if len(medians) > 1 else ""
        print(f"{len(box):7d}{medians[0]:12.1f}{peer}")


if __name__ == "__main__":
    main()
