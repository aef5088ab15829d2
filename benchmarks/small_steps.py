"""A step of molecular dynamics of a small system, beside an older tree and other methods.

    python benchmarks/small_steps.py --old ../lesff-before --sizes 3 21 60 192
    python benchmarks/small_steps.py --sizes 21 --xtb --so3lr SO3LR/bin/python
    python benchmarks/small_steps.py --sizes 21 192 --models off-small --md
    python benchmarks/small_steps.py --sizes 64 --models mat-small --chgnet CHGNET/bin/python

Each case is a process of its own that answers with the CPU ms of one step (ASE, velocity Verlet,
0.25 fs, one thread, five steps at a time); the processes take turns. "steps" is the median over the
run, searches of neighbours and new plans included, "fastest" the least of five steps. 3 and 21
atoms are molecules, 60 and 192 water without periodicity, or in a cell with ``--periodic``, 64 a
crystal of NaCl.
``--old`` is a tree of lesff whose compiled library is in place, ``--xtb`` GFN2-xTB by tblite.
``--so3lr`` names the Python of an environment with ``pip install so3krates-torch==0.2.1``, SO3LR in
PyTorch with its weights (MIT), ``--chgnet`` that of one with ``pip install chgnet==0.4.2`` (weights
BSD-3-Clause); their own calculators are measured, in float32. ``--md`` adds the steps
of ``lesff md``, with recorded steps and without.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

WATERS = {60: (5, 2, 2), 192: (4, 4, 4), 375: (5, 5, 5)}
SPACING = 3.1
SO3LR, CHGNET = "SO3LR (torch)", "CHGNet"
MODULES = {SO3LR: "so3krates_torch.calculator.so3", CHGNET: "chgnet.model.dynamics"}
"""Peers in environments of their own, and what those must have."""
MD = " md"
PLAIN = " md, not recorded"
"""Ends of the names of models whose steps are those of ``lesff md``."""


def system(n_atoms: int, *, periodic: bool):
    """The atoms of a size."""
    import numpy as np
    from ase import Atoms
    from ase.build import bulk, molecule

    if n_atoms == 64:
        return bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (2, 2, 2)
    if n_atoms == 3:
        return molecule("H2O")
    if n_atoms == 21:
        other = molecule("CH3CHO")
        other.positions += (5.0, 0.0, 0.0)
        return molecule("isobutane") + other
    sides, box = WATERS[n_atoms], Atoms()
    for place in np.ndindex(*sides):
        water = molecule("H2O")
        water.rattle(0.02, seed=int(np.ravel_multi_index(place, sides)))
        water.rotate(37 * place[0] + 91 * place[1] + 13 * place[2], (1, 2, 3))
        water.positions += SPACING * np.array(place)
        box += water
    if periodic:
        box.set_cell([SPACING * side for side in sides])
        box.pbc = True
    return box


def work(name: str, n_atoms: int, *, periodic: bool, steps: int) -> None:
    """In a process of its own: five steps for each line that comes in, their CPU ms per step."""
    import numpy as np
    import torch
    from ase.md.velocitydistribution import thermalize_momenta
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs

    torch.set_num_threads(1)
    atoms = system(n_atoms, periodic=periodic)
    if name.endswith((MD, PLAIN)):
        work_as_command(name, atoms, steps)
        return
    if name == "GFN2-xTB":
        from tblite.ase import TBLite

        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    elif name == SO3LR:
        from so3krates_torch.calculator.so3 import SO3LRCalculator

        # the range of its dispersion and electrostatics; these systems are smaller
        atoms.calc = SO3LRCalculator(r_max_lr=100.0, default_dtype="float32")
    elif name == CHGNET:
        from chgnet.model.dynamics import CHGNetCalculator

        # what it says while it loads is no answer
        with redirect_stdout(sys.stderr):
            atoms.calc = CHGNetCalculator(use_device="cpu")
    else:
        import lesff

        atoms.calc = lesff.load(name).calculator()
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.25 * fs)
    dynamics.run(10)
    for _ in sys.stdin:
        start = time.process_time()
        dynamics.run(steps)
        print(1e3 * (time.process_time() - start) / steps, flush=True)


def work_as_command(name: str, atoms, steps: int) -> None:
    """As :func:`work`, for what ``lesff md`` does: constant energy, a frame every tenth step."""
    import lesff
    from lesff.workflows.dynamics import DynamicsOptions, run_dynamics

    if name.endswith(PLAIN):
        from lesff.potential.evaluator import Evaluator

        Evaluator._following = lambda self, structure, slot: None
    model, count = lesff.load(name.removesuffix(PLAIN).removesuffix(MD)), 20 * steps
    for _ in sys.stdin:
        start = time.process_time()
        run_dynamics(model, atoms, DynamicsOptions(ensemble="nve", dt=0.25, steps=count))
        print(1e3 * (time.process_time() - start) / count, flush=True)


def start(
    name: str, n_atoms: int, tree: Path, options: argparse.Namespace, python: str = sys.executable
) -> subprocess.Popen:
    """A process that does :func:`work` with the lesff of a tree."""
    path = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
    command = [python, __file__, "--work", name, "--sizes", str(n_atoms)]
    command += ["--periodic"] if options.periodic else []
    return subprocess.Popen(  # noqa: S603 - this file, with names from the command line
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def start_all(
    model: str, n_atoms: int, tree: Path, options: argparse.Namespace
) -> dict[str, subprocess.Popen]:
    """A process for each row of a model and a size."""
    cases = {}
    if options.old:
        cases[f"{model}, before"] = start(model, n_atoms, options.old.resolve(), options)
    cases[model] = start(model, n_atoms, tree, options)
    if options.xtb:
        cases["GFN2-xTB"] = start("GFN2-xTB", n_atoms, tree, options)
    for peer, python in peers(options).items():
        cases[peer] = start(peer, n_atoms, tree, options, python)
    for end in (MD, PLAIN) if options.md else ():
        cases[model + end] = start(model + end, n_atoms, tree, options)
    return cases


def compare(workers: dict[str, subprocess.Popen], repeats: int) -> dict[str, list[float]]:
    """CPU ms of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            if worker.stdin is None or worker.stdout is None:
                continue
            worker.stdin.write("\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if line:
                found[name].append(float(line))
    for worker in workers.values():
        worker.communicate()
    return found


def peers(options: argparse.Namespace) -> dict[str, str]:
    """Peers that were asked for, and their Pythons."""
    asked = {SO3LR: options.so3lr, CHGNET: options.chgnet}
    return {peer: python for peer, python in asked.items() if python}


def reason_against(peer: str, python: str) -> str | None:
    """Why a Python cannot run a peer, None if it can."""
    command = [python, "-c", f"import ase, {MODULES[peer]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        return str(error)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["off-small", "off-medium"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 21, 60, 192])
    parser.add_argument("--periodic", action="store_true")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--xtb", action="store_true")
    parser.add_argument("--so3lr", metavar="PYTHON", help="of an environment with so3krates-torch")
    parser.add_argument("--chgnet", metavar="PYTHON", help="of an environment with chgnet")
    parser.add_argument("--md", action="store_true")
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.sizes[0], periodic=options.periodic, steps=5)
        return
    tree = Path(__file__).parents[1]
    for peer, python in peers(options).items():
        if reason := reason_against(peer, python):
            print(f"without {peer}: {reason}")
            setattr(options, peer.split()[0].lower(), None)
    print("| atoms | case | steps, ms | fastest, ms | of the first |\n|---|---|---|---|---|")
    for n_atoms in options.sizes:
        for model in options.models:
            cases = start_all(model, n_atoms, tree, options)
            found = compare(cases, options.repeats)
            first = None
            for name, times in found.items():
                if not times:
                    print(f"| {n_atoms} | {name} | failed, see above | | |")
                    continue
                middle, least = sorted(times)[len(times) // 2], min(times)
                first = first or (middle, least)
                ratios = f"{middle / first[0]:.2f}, {least / first[1]:.2f}"
                print(f"| {n_atoms} | {name} | {middle:.2f} | {least:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
