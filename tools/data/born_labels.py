"""Frames with Born effective charges beside energies, forces and stress, for `mat-*`.

    python tools/data/born_labels.py --dft born_charges.npz -o born_dft.npz
    python tools/data/born_labels.py --structures listed.extxyz drawn_21.extxyz -o born_teacher.npz

With ``--dft`` frames are the relaxed crystals of that file whose compositions
``tools/born_head.py`` trains on and whose sign is sure, with charges of DFPT; with ``--structures``
each structure once, displaced at random, with those of the teacher, which gives ``Z* /
sqrt(eps_inf)`` itself. All else is the teacher's. Labels of DFPT are divided by ``sqrt(eps_inf)``,
eps_inf the mean of the diagonal: charges of a model are screened.

Interrupted runs go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import ase
import ase.io
import click
import numpy as np
from chunks import Arrays, written_in_chunks
from tqdm.auto import tqdm

import lesff
from lesff.errors import LesffError
from lesff.model import Model

sys.path.insert(0, str(Path(__file__).parents[1]))
from born_features import read_crystals
from born_head import part_of, sqrt_epsilon

CHUNK = 50
LABELS = ("energy", "forces", "stress")
BORN = "born_effective_charges"


def from_dft(path: Path) -> list[ase.Atoms]:
    """Crystals to train on, their labels in ``arrays``."""
    found = []
    for atoms in read_crystals(path):
        if part_of(atoms.info["formula"]) != "train" or not atoms.info["sign_ok"]:
            continue
        frame = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        frame.arrays[BORN] = atoms.arrays["born"] / sqrt_epsilon(atoms)
        found.append(frame)
    return found


def displaced(frames: Sequence[ase.Atoms], most: float, seed: int) -> list[ase.Atoms]:
    """Each structure with its atoms moved by a random size up to the given one, A."""
    moved = []
    for number, atoms in enumerate(frames):
        rng = np.random.default_rng([seed, number])
        frame = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions += rng.normal(scale=rng.uniform(0.0, most), size=frame.positions.shape)
        moved.append(frame)
    return moved


def labelled(model: Model, frames: Sequence[ase.Atoms], max_force: float) -> Arrays | None:
    """Labels of some frames; those with large forces are left out."""
    rows = []
    for atoms in frames:
        wanted = LABELS if BORN in atoms.arrays else (*LABELS, BORN)
        try:
            found = model.predict(atoms, list(wanted))
        except LesffError as error:
            tqdm.write(f"{atoms.symbols}: left out ({error})")
            continue
        if np.abs(found.forces).max() <= max_force:
            born = atoms.arrays.get(BORN)
            rows.append((atoms, found, found.born_effective_charges if born is None else born))
    if not rows:
        return None
    return {
        "n": np.array([len(atoms) for atoms, _, _ in rows]),
        "numbers": np.concatenate([atoms.numbers for atoms, _, _ in rows]),
        "positions": np.concatenate([atoms.positions for atoms, _, _ in rows]),
        "cell": np.stack([np.array(atoms.cell) for atoms, _, _ in rows]),
        "pbc": np.ones((len(rows), 3), dtype=bool),
        "energy": np.array([found.energy for _, found, _ in rows]),
        "forces": np.concatenate([found.forces for _, found, _ in rows]),
        "stress": np.stack([found.stress for _, found, _ in rows]),
        BORN: np.concatenate([born for _, _, born in rows]).astype(np.float32),
    }


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dft", type=Path, help="such as born_charges.npz")
    source.add_argument("--structures", type=Path, nargs="+", help="such as of crystals.py")
    parser.add_argument("--teacher", default="mat-large")
    parser.add_argument("--displacement", type=float, default=0.1, help="largest, A")
    parser.add_argument("--max-force", type=float, default=20.0, help="of a component, eV/A")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.dft is not None:
        frames = from_dft(given.dft)
    else:
        read = [atoms for path in given.structures for atoms in ase.io.read(path, ":")]
        frames = displaced(read, given.displacement, given.seed)
    model = lesff.load(given.teacher)
    asked = {k: str(v) for k, v in vars(given).items() if k != "output"} | {"frames": len(frames)}
    digest = written_in_chunks(
        given.output,
        asked,
        -(-len(frames) // CHUNK),
        lambda i: labelled(model, frames[CHUNK * i : CHUNK * (i + 1)], given.max_force),
    )
    click.echo(f"{given.output}: sha256 {digest}")


if __name__ == "__main__":
    main()
