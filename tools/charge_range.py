"""Largest latent charges of a model by element, on frames that it was trained on.

The figures behind ``charge_limits_of`` in lesff/heads/config.py::

    python tools/charge_range.py off-medium --data DATA organic2_des_mono.npz organic2_extended.npz

prints for each element the number of atoms, the 99 % quantile and the largest charge in e, and the
largest share of the limit. Charges up to 0.6 of the limit are not changed by it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

import lesff
from lesff.heads.config import charge_limits_of
from lesff.train.data import read_frames


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--most", type=int, default=250, help="frames drawn from each file")
    options = parser.parse_args()
    model = lesff.load(options.model)
    known = set(model.config.elements)
    rng = np.random.default_rng(0)
    charges = defaultdict(list)
    for name in options.files:
        frames = [f.structure for f in read_frames(options.data / name)]
        frames = [x for x in frames if set(x.numbers.tolist()) <= known]
        chosen = rng.permutation(len(frames))[: options.most]
        atoms = [
            Atoms(frames[i].numbers, frames[i].positions, cell=frames[i].cell, pbc=frames[i].pbc)
            for i in chosen
        ]
        states = {
            "total_charge": [frames[i].total_charge for i in chosen],
            "spin_multiplicity": [frames[i].spin_multiplicity for i in chosen],
        }
        found = model.predict(atoms, ["latent_charges"], **states)
        for i, row in zip(chosen, found["latent_charges"], strict=True):
            for z, q in zip(frames[i].numbers, row, strict=True):
                charges[int(z)].append(abs(float(q)))
    for z, values in sorted(charges.items()):
        (limit,) = charge_limits_of((z,))
        largest = max(values)
        usual = np.quantile(values, 0.99)
        sys.stdout.write(
            f"{chemical_symbols[z]:2} {len(values):7d} atoms  99 % {usual:.2f}  "
            f"largest {largest:.2f} e  {largest / limit:.2f} of the limit\n"
        )


if __name__ == "__main__":
    main()
