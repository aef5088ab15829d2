"""Isolated atoms in their ground state as frames: the zero of energies, exact by definition.

Energies of all labels are relative to isolated neutral atoms. Frames of them say so to a model that
knows radicals and triplets; atoms with a ground state beyond a triplet (N, P, As) are left out.

Needs ``pip install ase``.

    python tools/data/isolated_atoms.py -o DATA/isolated_atoms.extxyz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

MULTIPLICITIES = {
    "H": 2, "B": 2, "C": 3, "O": 3, "F": 2, "Si": 3, "S": 3, "Cl": 2, "Se": 3, "Br": 2, "I": 2,
}  # fmt: skip
"""Of ground states: NIST Atomic Spectra Database."""


def main() -> None:
    """Write the frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    frames = []
    for symbol, multiplicity in MULTIPLICITIES.items():
        atoms = ase.Atoms(symbol, positions=[(0.0, 0.0, 0.0)])
        atoms.info = {
            "charge": 0, "spin_multiplicity": multiplicity, "subset": "radicals",
            "molecule": f"[{symbol}]", "frame": f"isolated {symbol}",
        }  # fmt: skip
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)))
        frames.append(atoms)
    write(parser.parse_args().output, frames, format="extxyz")


if __name__ == "__main__":
    main()
