"""Features of crystals and their derivatives, for charge heads trained on Born effective charges.

A head on a frozen trunk needs nothing of the trunk but the features that it reads and how they
change with the atoms: Z* of the head is then a cheap and exact function of its weights. Features
are differenced centrally in float64; symmetry leaves out atoms and directions that others give
(``spglib``). One file a crystal, so that a run that was stopped goes on where it was:

    python tools/born_features.py TRUNK born_charges.npz CACHE [--minutes 6] [--max-atoms 12]

TRUNK is a model folder without charges, such as ``lesff convert nequix-oam-1-pft.nqx`` writes.
Files: "features" (n_atoms, n) and "slopes" (n_columns, n_atoms, n) in 1/A, float32; "columns"
(n_columns, 2) atom and Cartesian direction of each; "weights" (n_columns,) columns of all atoms
that each stands for. Features are the invariants of all layers, then those of order 1 of all layers
but the last, each channel by component.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import warnings
from pathlib import Path

import click
import numpy as np
import spglib
import torch
from ase import Atoms
from torch import Tensor

import lesff
from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.atoms.structure import to_structure
from lesff.potential.potential import Potential

STEP = 1e-3
"""A, displacement of the central differences."""
SYMMETRY = 1e-3
"""A, tolerance of symmetry operations."""
BATCH_ATOMS = 256
"""Atoms of displaced copies evaluated together."""


def main() -> None:
    """Fill the cache until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trunk", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--max-atoms", type=int, default=12)
    chosen = parser.parse_args()
    potential = lesff.load(chosen.trunk, dtype="float64").potential
    crystals = read_crystals(chosen.data)
    small = [i for i, c in enumerate(crystals) if len(c) <= chosen.max_atoms and c.info["sign_ok"]]
    chosen.cache.mkdir(parents=True, exist_ok=True)
    start, done = time.process_time(), 0
    # in the order of a digest: a part of the data is a sample of all of it
    for index in sorted(small, key=lambda i: digest(f"{crystals[i].info['formula']} {i}")):
        path = chosen.cache / f"{index:04d}.npz"
        if path.exists():
            continue
        if time.process_time() - start > 60.0 * chosen.minutes:
            break
        found = features_of(potential, crystals[index])
        part = path.with_suffix(".part.npz")
        np.savez(part, **found)
        part.rename(path)
        done += 1
    click.echo(f"{done} crystals in {time.process_time() - start:.0f} s of CPU")


def digest(text: str) -> str:
    """A fixed random name of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_crystals(path: Path) -> list[Atoms]:
    """Crystals with ``arrays["born"]``, ``info["epsilon"]``, ``["formula"]``, ``["sign_ok"]``.

    ``info["row"]`` is the place of a crystal in the file.
    """
    data = np.load(path)
    ends = np.cumsum(data["n"])
    crystals = []
    for i, (end, n) in enumerate(zip(ends, data["n"], strict=True)):
        rows = slice(end - n, end)
        atoms = Atoms(
            numbers=data["numbers"][rows],
            positions=data["positions"][rows],
            cell=data["cell"][i],
            pbc=True,
        )
        atoms.set_array("born", data["born"][rows])
        atoms.info.update(
            epsilon=data["epsilon"][i],
            formula=str(data["group"][i]),
            sign_ok=bool(data["sign_ok"][i]),
            row=i,
        )
        crystals.append(atoms)
    return crystals


def columns_of(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Displacements that symmetry does not give from others.

    Returns:
        (n, 2) atom and direction, and (n,) the number of the 3 n_atoms columns each stands for.
    """
    cell = np.asarray(atoms.cell)
    scaled = atoms.get_scaled_positions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how spglib reports errors
        found = spglib.get_symmetry((cell, scaled, atoms.numbers), symprec=SYMMETRY)
    if found is None:
        n = len(atoms)
        return np.stack(np.divmod(np.arange(3 * n), 3), axis=1), np.ones(3 * n)
    rotations, shifts = found["rotations"], found["translations"]
    kinds = found["equivalent_atoms"]
    columns, weights = [], []
    for atom in np.unique(kinds):
        # operations that leave the atom in its place, as Cartesian matrices
        offset = scaled[atom] @ rotations.transpose(0, 2, 1) + shifts - scaled[atom]
        stays = np.linalg.norm((offset - np.round(offset)) @ cell, axis=1) < 10 * SYMMETRY
        turns = [cell.T @ w @ np.linalg.inv(cell.T) for w in rotations[stays]]
        known = np.zeros((0, 3))
        for direction in range(3):
            # the directions that this one is turned into, as far as they are new
            rank = np.linalg.matrix_rank(known, tol=0.01) if len(known) else 0
            known = np.concatenate([known, [turn[:, direction] for turn in turns]])
            gain = np.linalg.matrix_rank(known, tol=0.01) - rank
            if gain:
                columns.append((atom, direction))
                weights.append(gain * np.sum(kinds == atom))
    return np.array(columns), np.array(weights, dtype=np.float64)


def features_of(potential: Potential, atoms: Atoms) -> dict[str, np.ndarray]:
    """Features of a crystal and their central differences, see the module's text."""
    cutoff = potential.architecture.cutoff
    graph = build_graph(to_structure(atoms), cutoff=cutoff)
    columns, weights = columns_of(atoms)
    per_batch = max(1, BATCH_ATOMS // (2 * len(atoms)))
    slopes = [
        _slopes(potential, graph, columns[i : i + per_batch])
        for i in range(0, len(columns), per_batch)
    ]
    return {
        "features": read_features(potential, graph).float().numpy(),
        "slopes": torch.cat(slopes).float().numpy(),
        "columns": columns,
        "weights": weights,
    }


def _slopes(potential: Potential, graph: AtomGraph, columns: np.ndarray) -> Tensor:
    """(n_columns, n_atoms, n) in 1/A, of both signs of all displacements in one batch."""
    # copies with the edges of the crystal at rest: what comes nearer than the cutoff by a
    # thousandth of an A counts nothing there
    copies = collate([graph] * (2 * len(columns)))
    moved = graph.positions.repeat(2 * len(columns), 1, 1)
    for row, (atom, direction) in enumerate(columns):
        moved[2 * row, atom, direction] += STEP
        moved[2 * row + 1, atom, direction] -= STEP
    found = read_features(potential, copies.replace(positions=moved.reshape(-1, 3)))
    plus, minus = found.reshape(len(columns), 2, graph.n_atoms, -1).unbind(1)
    return (plus - minus) / (2.0 * STEP)


@torch.no_grad()
def read_features(potential: Potential, graph: AtomGraph) -> Tensor:
    """Invariants of all layers, then features of order 1, (n_atoms, n)."""
    found = potential.architecture(graph, None, max_order=1)
    # v[n, m, c] -> [n, (c, m)]
    vectors = [v.transpose(1, 2).flatten(1) for v in found.equivariants[0]]
    return torch.cat([*found.invariants, *vectors], dim=1)


if __name__ == "__main__":
    main()
