"""Frames of shards without atoms that nothing is to be learned of: closer than a share of radii.

Teachers have holes at distances that no crystal has, and what lies there is no label. Copies are
written of the shards, without frames in which two atoms are closer than ``--share`` of the sum of
their covalent radii, where the walls of models begin.

    python tools/data/apart.py DATA/split-mat-2/mat_drawn_21.npz -o DATA/apart-mat-2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import numpy as np
from ase.data import covalent_radii

from lesff.atoms.neighbors import find_neighbors
from lesff.train.shards import read_shard, write_npz

SHARE = 0.75


def is_apart(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, share: float) -> bool:
    """Whether no two atoms of a crystal are closer than a share of the sum of their radii."""
    radii = covalent_radii[numbers]
    found = find_neighbors(positions, cell, np.ones(3, dtype=bool), 2.0 * share * radii.max())
    first, second = found.edge_index
    vectors = positions[second] - positions[first] + found.cell_shifts @ cell
    least = share * (radii[first] + radii[second])
    return bool((np.linalg.norm(vectors, axis=1) >= least).all())


def main() -> None:
    """Write the shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--share", type=float, default=SHARE)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for path in given.files:
        data = read_shard(path)
        if "cell" not in data:
            raise click.ClickException(f"{path} has no cells: this is for crystals")
        ends = np.cumsum(data["n"].astype(np.int64))
        spans = [slice(e - n, e) for e, n in zip(ends, data["n"], strict=True)]
        kept = np.array(
            [
                is_apart(data["numbers"][s], data["positions"][s], data["cell"][i], given.share)
                for i, s in enumerate(spans)
            ]
        )
        atoms = np.repeat(kept, data["n"].astype(np.int64))
        chosen = {
            key: value[atoms] if len(value) == ends[-1] else value[kept]
            for key, value in data.items()
            if key != "dropped"  # one number for all frames
        }
        write_npz(given.output / path.name, chosen, np.savez_compressed)
        click.echo(f"{path.name}: {int(kept.sum())} of {len(kept)} frames")


if __name__ == "__main__":
    main()
