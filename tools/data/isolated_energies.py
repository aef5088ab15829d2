"""Energies of isolated neutral atoms in their ground states, the zero of all labels.

At the level of ``dft_anchors.py``, wB97M-D3BJ/def2-TZVPPD (PySCF), which reads the file, as
``labels.py`` does. Hydrogen comes out 3.1 meV above, oxygen and fluorine 0.2 meV below the energies
that the frames of ``recipes/frames`` are relative to. Needs what ``dft_anchors.py`` needs
(``environments.sh`` makes that); minutes.

    python tools/data/isolated_energies.py -o DATA/isolated_atoms_eV.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ase
from ase.data import atomic_numbers
from dft_anchors import labelled
from pyscf import lib
from tqdm.auto import tqdm

from lesff.plain_data import read_json, write_json

MULTIPLICITIES = {
    "H": 2, "B": 2, "C": 3, "N": 4, "O": 3, "F": 2, "Si": 3, "P": 4, "S": 3, "Cl": 2, "As": 4,
    "Se": 3, "Br": 2, "I": 2, "Li": 2, "Na": 2, "Mg": 1, "K": 2, "Ca": 1,
}  # fmt: skip
"""2S + 1 of ground states: NIST Atomic Spectra Database."""


def main() -> None:
    """Compute what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--elements", nargs="+", default=list(MULTIPLICITIES), metavar="SYMBOL")
    options = parser.parse_args()
    lib.num_threads(1)
    energies = read_json(options.output) if options.output.is_file() else {}
    for symbol in tqdm(options.elements, unit="atom", file=sys.stderr):
        number = atomic_numbers[symbol]
        if str(number) in energies:
            continue
        atoms = ase.Atoms(symbol, positions=[(0.0, 0.0, 0.0)])
        labels = labelled(atoms, 0, MULTIPLICITIES[symbol], {number: 0.0})
        energies[str(number)] = float(labels["energy"])
        write_json(options.output, dict(sorted(energies.items(), key=lambda item: int(item[0]))))


if __name__ == "__main__":
    main()
