"""Energy + forces of a water box: CPU time and memory of lesff and of mace-torch, alternating.

    python benchmarks/inference.py --peer-python PEER/bin/python --sides 4 8 --hidden 128x0e

One thread, float32, random weights of the same architecture; ours includes latent electrostatics.
"""

import argparse
import tempfile
from pathlib import Path

import ase
import ase.io
from ase.build import molecule
from workers import compare

from lesff.evaluation.checks.dynamics import liquid_box


def water_box(n_side: int | tuple[int, int, int], seed: int = 0) -> ase.Atoms:
    """Randomly turned molecules at 1 g/cm3 on a grid with ``n_side`` of them along each edge."""
    shape = (n_side,) * 3 if isinstance(n_side, int) else n_side
    return liquid_box(molecule("H2O"), shape, 3.104, seed)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch")
    parser.add_argument("--hidden", default="64x0e")
    parser.add_argument("--cutoff", default="4.5")
    parser.add_argument("--sides", type=int, nargs="+", default=[4])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(f"{options.hidden}, cutoff {options.cutoff} A, float32, energy + forces, one thread")
    print(f"{'atoms':>7}{'lesff ms':>10}{'MB':>7}{'mace ms':>10}{'MB':>7}{'time':>8}{'memory':>8}")
    for n_side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "water.xyz")
            box = water_box(n_side)
            ase.io.write(path, box)
            arguments = [path, options.hidden, options.cutoff]
            scripts = ("own.py", "peer.py")
            found = compare(scripts, arguments, options.peer_python, options.repeats)
        print(f"{len(box):7d}" + found.text())


if __name__ == "__main__":
    main()
