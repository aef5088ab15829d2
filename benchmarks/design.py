"""What local state, wall, bounded charges and the edge head cost: a step against the model without.

Energy and forces of planned steps through the ASE calculator, process CPU time, one thread, both
models in alternation; the second is the first one with the changes of a ``[redesign]``::

    python benchmarks/design.py off-medium

Prints milliseconds of the first and the median of the ratios, for neutral systems and for charged
ones, where the state enters the features.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import ase
import numpy as np
import torch
from ase.build import molecule

import lesff
from lesff.model import Model

CHANGES = {
    "local_state": True, "shared_protons": True, "wall": "zbl", "fresh_head": "edge",
    "bounded_charges": True,
}  # fmt: skip


def water(n_side: int) -> ase.Atoms:
    """A periodic box of turned water molecules on a grid of 3.1 A."""
    rng = np.random.default_rng(0)
    box = ase.Atoms(cell=[3.1 * n_side] * 3, pbc=True)
    for place in np.ndindex(n_side, n_side, n_side):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += 3.1 * np.array(place)
        box += one
    return box


def ratios(models: list[Model], atoms: ase.Atoms, charge: int, steps: int) -> tuple[float, float]:
    """Milliseconds of a step of the first model, and the median ratio of the second."""
    rng = np.random.default_rng(1)
    copies = []
    for model in models:
        copy = atoms.copy()
        copy.calc = model.calculator(total_charge=charge)
        copies.append(copy)
    times = []
    for _ in range(steps + 3):
        positions = atoms.positions + 1e-3 * rng.normal(size=atoms.positions.shape)
        row = []
        for copy in copies:
            copy.positions = positions
            start = time.process_time()
            copy.get_forces()
            row.append(time.process_time() - start)
        times.append(row)
    kept = np.array(times[3:])
    return 1e3 * float(np.median(kept[:, 0])), float(np.median(kept[:, 1] / kept[:, 0]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="off-medium")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    old = lesff.load(options.model)
    models = [old, old.redesigned(**CHANGES)]
    acid, far = molecule("CH3COOH"), molecule("isobutane")
    far.positions += [0.0, 0.0, 6.0]
    cases = {"benzene": molecule("C6H6"), "acetic acid, isobutane": acid + far, "water": water(4)}
    for name, atoms in cases.items():
        for charge in (0, -1):
            if charge and atoms.pbc.any():
                continue
            steps = options.steps if len(atoms) < 100 else max(options.steps // 5, 5)
            ms, ratio = ratios(models, atoms, charge, steps)
            case = f"{name:24} {len(atoms):4d} atoms  charge {charge:+d}"
            sys.stdout.write(f"{case}  {ms:7.1f} ms  x {ratio:.3f}\n")


if __name__ == "__main__":
    main()
