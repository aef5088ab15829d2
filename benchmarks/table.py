"""What is asked of lesff, each row beside its peer in one run: the table of `docs/performance.md`.

    python benchmarks/table.py --mace PYTHON --so3lr PYTHON --chgnet PYTHON

PYTHON is that of an environment with the peer. Runs other scripts one after the other, each beside
its peer in the same run, and prints a row as soon as it is known: the figure, what is asked, the
command. GFN2-xTB needs ``pip install tblite`` in this environment; a peer that is not there leaves
its rows out, with the reason. ``--only`` takes the rows whose text has one of the words given. One
thread, process CPU time.
"""

import argparse
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
Figures = Iterator[tuple[str, float, str]]
"""What was measured, the figure, and what is asked of it."""


@dataclass(frozen=True)
class Case:
    """A command and the figures in what it prints.

    Attributes:
        what: The group of rows.
        command: Script and arguments.
        read: From the text that it prints.
        needs: Option that names a peer's Python, or a package that is asked for here.
    """

    what: str
    command: tuple[str, ...]
    read: Callable[[str], Figures]
    needs: str = ""


def beside(peer: str, *asked: tuple[str, str]) -> Callable[[str], Figures]:
    """Ratios of models to a peer, whose row follows that of the model."""

    def read(text: str) -> Figures:
        lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
        rows = [
            (row[1], float(row[2])) for row in lines
            if len(row) > 2 and re.fullmatch(r"[\d.]+", row[2])
        ]  # fmt: skip
        ours = {model: i for i, (model, _) in enumerate(rows)}
        for model, limit in asked:
            ms = rows[ours[model]][1]
            of_peer = dict(reversed(rows[ours[model] :]))[peer]
            yield f"{model} / {peer} ({ms:.1f} / {of_peer:.1f} ms)", ms / of_peer, limit

    return read


def clusters(text: str) -> Figures:
    """Open against periodic, and how its time grows from the first size to the last."""
    rows = [line.split() for line in text.splitlines()[1:]]
    for atoms, _, _, ratio, *_ in rows:
        yield f"open / periodic, {atoms} atoms", float(ratio), "1.3" if atoms == "12288" else ""
    (n, _, first, *_), (m, _, last, *_) = rows[0], rows[-1]
    slope = math.log(float(last) / float(first)) / math.log(int(m) / int(n))
    yield f"exponent of open, {n} to {m} atoms", slope, "1.15"


def pressure(text: str) -> Figures:
    """Both ratios of `npt.py`."""
    both = re.findall(r"x ([\d.]+)", text)
    yield "NPT / NVE without recorded steps", float(both[0]), ""
    yield "NPT / NVE as it is by default", float(both[1]), "1.15"


def starts(text: str) -> Figures:
    """Seconds over `import torch`, and in all."""
    found = re.findall(r"^(.*?)\s{2,}([\d.]+) s", text, re.MULTILINE)
    seconds = {name.strip(): float(value) for name, value in found}
    yield "import lesff, s over import torch", seconds["import lesff"], "0.3"
    yield "lesff predict of one molecule, s", seconds["lesff predict water.xyz"], "3"
    yield "lesff --help, s", seconds["lesff --help"], "0.6"
    yield "lesff list, s", seconds["lesff list"], "0.6"


def derivatives(text: str) -> Figures:
    """Evaluations of energy and forces."""
    where = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            where = line.split(":")[0]
        elif found := re.search(r"^\s+(.+?)\s{2,}[\d.]+ s\s+([\d.]+) evaluations", line):
            limit = "8" if "Born" in found[1] else ""
            yield f"{found[1]}, {where}, evaluations", float(found[2]), limit


def changes(text: str) -> Figures:
    """Ratios of `variants.py`."""
    for line in text.splitlines()[1:]:
        name, atoms, *_, ratio = re.split(r"\s{2,}", line.strip())
        yield f"{name}, {atoms} atoms", float(ratio), ""


def mace(text: str) -> Figures:
    """How many times as long mace-torch takes."""
    atoms = ""
    for line in text.splitlines():
        if found := re.match(r"water, (\d+) atoms", line):
            atoms = found[1]
        elif line.strip().startswith("mace-torch"):
            plain, trajectory = map(float, line.split()[-2:])
            asked = {"192": ">= 28", "3072": ">= 60"}[atoms]
            yield f"mace-torch / steps of a trajectory, {atoms} atoms", trajectory, asked
            yield f"mace-torch / single steps, {atoms} atoms", plain, ""


def cases() -> Iterator[Case]:
    """All of them."""
    small = ("small_steps.py", "--sizes", "21", "--models")
    yield Case(
        "step of 21 atoms", (*small, "off-small", "off-medium", "--xtb"),
        beside("GFN2-xTB", ("off-small", "0.5"), ("off-medium", "1")), "tblite",
    )  # fmt: skip
    yield Case(
        "step of 21 atoms", (*small, "off-small", "--so3lr"),
        beside("SO3LR (torch)", ("off-small", "0.6")), "so3lr",
    )  # fmt: skip
    yield Case(
        "step of a crystal, 64 atoms",
        ("small_steps.py", "--sizes", "64", "--models", "mat-small", "mat-medium", "--chgnet"),
        beside("CHGNet", ("mat-small", ""), ("mat-medium", "")), "chgnet",
    )  # fmt: skip
    yield Case(
        "cluster",
        ("clusters.py", "off-small", "--sides", "8", "12", "16", "--repeats", "1"),
        clusters,
    )
    yield Case("constant pressure, 192 atoms", ("npt.py", "off-small", "--repeats", "16"), pressure)
    yield Case("cold start", ("startup.py",), starts)
    yield Case("second derivatives", ("second_derivatives.py", "off-small"), derivatives)
    yield Case("order, threads, equilibration", ("variants.py",), changes)
    yield Case(
        "water, 128x0e",
        ("kernels.py", "--no-parts", "--cases", "192", "3072", "--repeats", "3", "--peer-python"),
        mace, "mace",
    )  # fmt: skip


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for peer in ("mace", "so3lr", "chgnet"):
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"of an environment with {peer}")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    options = parser.parse_args()
    chosen = [
        case for case in cases()
        if any(word in f"{case.what} {' '.join(case.command)}" for word in options.only)
    ]  # fmt: skip
    if not chosen:
        parser.error(f"no row has one of the words of --only: {' '.join(options.only)}")
    print("| what | figure | asked | command |\n|---|---|---|---|")
    for case in chosen:
        for line in rows(case, vars(options)):
            print(line, flush=True)


def rows(case: Case, pythons: dict[str, str]) -> Iterator[str]:
    """Lines of the table: the figures of a case, or why there are none."""
    command, written = list(case.command), " ".join(case.command)
    if case.needs in pythons:
        written += f" {case.needs.upper()}/bin/python"
        if not pythons[case.needs]:
            yield f"| {case.what} | left out: no --{case.needs} | | `{written}` |"
            return
        command.append(pythons[case.needs])
    elif case.needs and importlib.util.find_spec(case.needs) is None:
        yield f"| {case.what} | left out: `pip install {case.needs}` | | `{written}` |"
        return
    done = subprocess.run(  # noqa: S603 - our own scripts
        [sys.executable, str(HERE / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LESFF_OFFLINE": "1"},
    )
    try:
        if done.returncode:
            raise ValueError(f"exit status {done.returncode}")
        for what, figure, asked in case.read(done.stdout):
            yield f"| {case.what}: {what} | {figure:.3g} | {asked} | `{written}` |"
    except (ValueError, KeyError, IndexError) as error:
        lines = (done.stdout + done.stderr).strip().splitlines()
        # a script that does without its peer says why
        told = (
            [line for line in lines if line.startswith("without ")] or lines[-1:] or [repr(error)]
        )
        yield f"| {case.what} | failed: {told[0] if told else error} | | `{written}` |"


if __name__ == "__main__":
    main()
