"""Labels of two teachers on the same structures as one shard, and where the two disagree.

    python tools/data/mixed.py dimers_aimnet2.npz dimers_so3lr.npz --share 0.5 \
        --charged-share 0.85 -o mixed.npz

Forces and dipoles are ``share`` of the first and the rest of the second; charged structures have a
share of their own. Energies of the second, whose zero may differ from molecule to molecule, are
first shifted by the mean difference of each group to those of the first, then mixed alike, so that
energies and forces stay those of one potential for each group. ``spread`` is the RMS over force
components of the difference of the two in eV/A, which ``merged.py`` turns into weights.

Structures are found by elements, positions to 1e-4 A, charge and spin; those that one of the shards
lacks are left out and counted. Everything else is taken from the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from chunks import Arrays

from lesff.atoms.files import read_npz
from lesff.files import sha256_of
from lesff.train.data import read_frames, structure_hash
from lesff.train.shards import write_npz

_PER_ATOM = ("numbers", "positions", "forces", "charges")


def chosen(data: Arrays, rows: np.ndarray) -> Arrays:
    """A shard of some structures of another."""
    ends = np.cumsum(data["n"].astype(np.int64))
    atoms = np.concatenate(
        [np.arange(int(ends[i]) - int(data["n"][i]), int(ends[i])) for i in rows]
    )
    return {key: value[atoms if key in _PER_ATOM else rows] for key, value in data.items()}


def mixed(first: Arrays, second: Arrays, share: float, charged_share: float) -> Arrays:
    """One shard of two with the same structures in the same order."""
    n = first["n"].astype(np.int64)
    charge = first["charge"] if "charge" in first else np.zeros(len(n))
    # w[s], and w[a] of its atoms
    w = np.where(charge != 0, charged_share, share)
    of_atoms = np.repeat(w, n)[:, None]
    group = np.unique(first["group"], return_inverse=True)[1]
    off = first["energy"] - second["energy"]
    off = (np.bincount(group, off) / np.bincount(group))[group]
    difference = first["forces"].astype(float) - second["forces"]
    squares = np.add.reduceat((difference**2).mean(1), np.cumsum(n) - n)
    found = dict(first)
    found["energy"] = w * first["energy"] + (1.0 - w) * (second["energy"] + off)
    found["forces"] = (second["forces"] + of_atoms * difference).astype(np.float32)
    found["spread"] = np.sqrt(squares / n).astype(np.float32)
    if "dipole" in first and "dipole" in second:
        d = w[:, None] * first["dipole"] + (1.0 - w[:, None]) * second["dipole"]
        found["dipole"] = d.astype(np.float32)
    return found


def main() -> None:
    """Mix and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the first, 0 to 1")
    parser.add_argument("--charged-share", type=float, help="the same of charged structures")
    options = parser.parse_args()
    of_charged = options.share if options.charged_share is None else options.charged_share
    if not (0.0 <= options.share <= 1.0 and 0.0 <= of_charged <= 1.0):
        sys.exit(f"shares must be from 0 to 1, got {options.share} and {of_charged}")
    first, second = read_npz(options.first), read_npz(options.second)
    if "group" not in first:
        sys.exit(f"{options.first} must have `group`, by which energies are shifted")
    place = {name: i for i, name in enumerate(map(structure_hash, read_frames(options.second)))}
    rows = [
        (i, place[name])
        for i, name in enumerate(map(structure_hash, read_frames(options.first)))
        if name in place
    ]
    if not rows:
        sys.exit(f"{options.first} and {options.second} have no structure in common")
    sys.stderr.write(f"{len(first['n']) - len(rows)} structures of the first are left out\n")
    ours, theirs = np.array(rows).T
    found = mixed(
        chosen(dict(first), ours), chosen(dict(second), theirs), options.share, of_charged
    )
    write_npz(options.output, found, np.savez_compressed)
    sys.stdout.write(f"{sha256_of(options.output)}  {options.output}\n")


if __name__ == "__main__":
    main()
