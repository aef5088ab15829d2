"""What the tools that compose labels of two methods share: held-out names, and the shard."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesff.train.shards import write_npz

HELD_OUT = 0.04
"""Share of names that are for validation."""


@dataclass(frozen=True)
class Row:
    """A labelled frame.

    Attributes:
        name: What it shows; frames of one name are for training or for validation together.
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        energy: In eV.
        forces: (n_atoms, 3) in eV/A.
        charge: Total charge in e.
        dipole: (3,) in e A about the coordinate origin; None in all frames or in none.
        spin_multiplicity: 2S + 1.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    charge: int = 0
    dipole: np.ndarray | None = None
    spin_multiplicity: int = 1


def is_held_out(name: str) -> bool:
    """Whether a name is for validation."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32


def write_shard(path: Path, rows: Sequence[Row], *, hold_out: bool = True) -> None:
    """Write frames as a shard that ``lesff train`` reads.

    Args:
        path: Where.
        rows: Frames.
        hold_out: Whether a share of the names is for validation.
    """
    if not rows:
        sys.exit(f"no frames are left for {path}: nothing was written")
    spins = np.array([row.spin_multiplicity for row in rows], dtype=np.uint8)
    dipoles = [row.dipole for row in rows if row.dipole is not None]
    write_npz(
        path,
        {
            "n": np.array([len(row.numbers) for row in rows], dtype=np.uint16),
            "numbers": np.concatenate([row.numbers for row in rows]).astype(np.uint8),
            "positions": np.concatenate([row.positions for row in rows]).astype(np.float32),
            "forces": np.concatenate([row.forces for row in rows]).astype(np.float32),
            "energy": np.array([row.energy for row in rows]),
            **({"dipole": np.array(dipoles).astype(np.float32)} if dipoles else {}),
            "charge": np.array([row.charge for row in rows], dtype=np.int8),
            **({"spin_multiplicity": spins} if (spins > 1).any() else {}),
            "group": np.array([row.name.encode() for row in rows]),
            "valid": np.array([hold_out and is_held_out(row.name) for row in rows]),
        },
        np.savez_compressed,
    )
