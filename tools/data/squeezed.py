"""Crystals squeezed and stretched, to be labelled: what a model needs in order to have no holes.

    python tools/data/squeezed.py listed.extxyz drawn_21.extxyz --count 6000 -o squeezed.extxyz

Lengths of each cell are scaled by a random factor from ``LEAST`` to
``MOST``; down to ``CLOSEST`` of the sum of covalent radii between the closest atoms. Slabs and
crystals of more than ``MOST_ATOMS`` atoms are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import click
import numpy as np
from apart import is_apart

from lesff.disk import written_atomically

LEAST, MOST = 0.66, 1.15
CLOSEST = 0.6
MOST_ATOMS = 24


def squeezed(atoms: ase.Atoms, rng: np.random.Generator) -> ase.Atoms | None:
    """A scaled crystal, or None where its atoms would be too close."""
    found = atoms.copy()
    factor = rng.uniform(LEAST, MOST)
    found.set_cell(factor * np.array(found.cell), scale_atoms=True)
    if not is_apart(found.numbers, found.positions, np.array(found.cell), CLOSEST):
        return None
    return found


def main() -> None:
    """Write the structures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    read = [atoms for path in given.files for atoms in ase.io.read(path, ":")]
    pool = [a for a in read if len(a) <= MOST_ATOMS and a.info.get("kind") != "slab"]
    if not pool:
        raise click.ClickException(f"no crystal of up to {MOST_ATOMS} atoms in {given.files}")
    rng = np.random.default_rng(given.seed)
    found: list[ase.Atoms] = []
    while len(found) < given.count:
        scaled = squeezed(pool[int(rng.integers(len(pool)))], rng)
        if scaled is not None:
            found.append(scaled)
    with written_atomically(given.output) as new:
        ase.io.write(new, found, format="extxyz")


if __name__ == "__main__":
    main()
