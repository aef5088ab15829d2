"""One training step on energies and forces: time and memory of lesff and of mace-torch, in turn.

    python benchmarks/training.py FRAMES --peer-python PEER/bin/python --hidden 64x0e

FRAMES is any labelled file. One thread, float32, same architecture with random weights, Adam; the
batch (neighbour lists too) is made anew in each step. Ours includes latent electrostatics.
"""

import argparse
import os

from workers import compare


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", help="labelled structures")
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch")
    parser.add_argument("--hidden", nargs="+", default=["64x0e"])
    parser.add_argument("--cutoff", default="4.5")
    parser.add_argument("--count", default="16", help="frames per step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gradients", default="central_difference")
    options = parser.parse_args()
    os.environ["GRADIENTS"] = options.gradients
    print(f"{options.count} frames, cutoff {options.cutoff} A, gradients {options.gradients}")
    print(f"{'':16}{'lesff ms':>10}{'MB':>7}{'mace ms':>10}{'MB':>7}{'time':>8}{'memory':>8}")
    for hidden in options.hidden:
        arguments = [options.frames, hidden, options.cutoff, options.count]
        scripts = ("own_training.py", "peer_training.py")
        found = compare(scripts, arguments, options.peer_python, options.repeats)
        print(f"{hidden:16}" + found.text(), flush=True)


if __name__ == "__main__":
    main()
