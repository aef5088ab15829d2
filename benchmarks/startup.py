"""CPU time and memory from a new process to an answer.

    python benchmarks/startup.py [--against OTHER_SOURCE_TREE] [--repeats 5]

Each line is a process of its own, on one thread, offline; with --against the same line runs in
alternation on another source tree (an older commit, say), so that both see the same machine.
`import torch` is the floor of everything that computes.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
PREDICT = """
import ase, lesff
water = ase.Atoms("OH2", [(0, 0, 0.12), (0, 0.76, -0.48), (0, -0.76, -0.48)])
print(lesff.load("off-small").predict(water).energy)
"""
COMMAND = """
import pathlib, tempfile
from lesff.cli import main
path = pathlib.Path(tempfile.mkdtemp()) / "water.xyz"
path.write_text("3\\n\\nO 0 0 0.12\\nH 0 0.76 -0.48\\nH 0 -0.76 -0.48\\n")
main(["predict", str(path), "-m", "off-small"])
"""
CASES = {
    "import torch": "import torch",
    "import lesff": "import lesff",
    "lesff --help": "from lesff.cli import main; main(['--help'])",
    "lesff --version": "from lesff.cli import main; main(['--version'])",
    "lesff list": "from lesff.cli import main; main(['list'])",
    "lesff predict --help": "from lesff.cli import main; main(['predict', '--help'])",
    "lesff train --help": "from lesff.cli import main; main(['train', '--help'])",
    "lesff info off-small": "from lesff.cli import main; main(['info', 'off-small'])",
    "lesff.load, imported": "import lesff; lesff.load",
    "load off-small, predict water": PREDICT,
    "lesff predict water.xyz": COMMAND,
}


def run(code: str, tree: Path) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a new process with a source tree's lesff."""
    environment = {
        **os.environ, "LESFF_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)
    }  # fmt: skip
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.execve(sys.executable, [sys.executable, "-P", "-c", code], environment)  # noqa: S606 - ours
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"failed: {code}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    trees = [HERE] if options.against is None else [HERE, options.against.resolve()]
    print(f"{'':32}" + "".join(f"{name:>18}" for name in ("here", "other")[: len(trees)]))
    for name, code in CASES.items():
        rows = [[run(code, tree) for tree in trees] for _ in range(options.repeats)]
        cells = []
        for column in zip(*rows, strict=True):
            seconds, megabytes = (statistics.median(part) for part in zip(*column, strict=True))
            cells.append(f"{seconds:8.2f} s {megabytes:5.0f} MB")
        print(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
