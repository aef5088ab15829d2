"""Stacked aromatic rings and pairs of hydrocarbons, which students of the teacher of `off-*` miss.

Two molecules of ``organic_des_mono.npz`` with their labels there, put together, plus the
interaction energy and its forces from GFN2-xTB (Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput.
15, 1652 (2019)): energy = E(A) + E(B) + [G(AB) - G(A) - G(B)]. Aromatic rings are stacked face to
face, with an offset and a tilt; hydrocarbons touch in any orientation. The pairs of S22 are left
out.

    pip install "lesff[evaluate]"
    python tools/data/contact_dimers.py --data organic_des_mono.npz -o contact_dimers.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from composed import Row, write_shard
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite
from tqdm.auto import tqdm

from lesff.train.shards import read_shard

STACKED, TOUCHING = 1600, 700
"""Numbers of pairs."""
HEIGHT, OFFSET, TILT = (3.0, 5.0), 3.5, 8.0
"""Of stacked rings: distance of the planes, largest offset in A, width of the tilt in degrees."""
GAP = (2.1, 4.0)
"""Least distance of two hydrocarbons in A."""
LEAST = 2.1
"""Pairs with closer atoms are left out, A."""
IN_S22 = {
    frozenset(pair)
    for pair in (
        ("C",), ("C=C",), ("C=C", "C#C"), ("c1ccccc1",), ("c1ccccc1", "C"), ("n1ccncc1",),
        ("c1ccccc1", "c1ccc2c(c1)[nH]cc2"), ("O=c1cc[nH]c(=O)[nH]1",), ("Oc1ccccc1",),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """A molecule with labels, its centre at the origin."""

    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray

    def moved(self, rotation: Rotation, shift: np.ndarray) -> Labelled:
        """The same, turned and shifted."""
        positions = rotation.apply(self.positions) + shift
        return Labelled(
            self.smiles, self.numbers, positions, self.energy, rotation.apply(self.forces)
        )


def read_molecules(path: Path) -> list[Labelled]:
    """Neutral molecules of a shard."""
    data = read_shard(path)
    ends = np.cumsum(data["n"].astype(np.int64))
    found = []
    for i, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if data["charge"][i]:
            continue
        positions = data["positions"][start:stop].astype(float)
        found.append(
            Labelled(
                data["group"][i].decode(),
                data["numbers"][start:stop].astype(int),
                positions - positions.mean(0),
                float(data["energy"][i]),
                data["forces"][start:stop].astype(float),
            )
        )
    return found


def flat(molecule: Labelled) -> Rotation:
    """Rotation that puts the plane of the heavy atoms into z = 0."""
    heavy = molecule.positions[molecule.numbers > 1]
    normal = np.linalg.svd(heavy - heavy.mean(0))[2][2]
    return Rotation.align_vectors([[0, 0, 1]], [normal])[0]


def stacked(pair: Sequence[Labelled], rng: np.random.Generator) -> list[Labelled]:
    """Two rings face to face."""
    turns = [Rotation.from_euler("z", rng.uniform(0, 360), degrees=True) for _ in pair]
    if rng.random() < 0.5:
        turns[1] = turns[1] * Rotation.from_euler("x", 180, degrees=True)
    tilt = Rotation.from_euler("x", rng.normal(0, TILT), degrees=True)
    angle, radius = rng.uniform(0, 2 * np.pi), OFFSET * np.sqrt(rng.random())
    shift = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(*HEIGHT)])
    a, b = pair
    return [
        a.moved(turns[0] * flat(a), np.zeros(3)),
        b.moved(tilt * turns[1] * flat(b), shift),
    ]


def touching(pair: Sequence[Labelled], rng: np.random.Generator) -> list[Labelled]:
    """Two molecules in any orientation at a gap."""
    a, b = (m.moved(Rotation.random(rng=rng), np.zeros(3)) for m in pair)
    gap, direction = rng.uniform(*GAP), np.array([0.0, 0.0, 1.0])
    for distance in np.arange(1.0, 20.0, 0.1):
        placed = b.moved(Rotation.identity(), distance * direction)
        if nearest(a, placed) >= gap:
            return [a, placed]
    raise ValueError("molecules must be shorter than 20 A")


def nearest(a: Labelled, b: Labelled) -> float:
    """Least distance of two atoms, A."""
    return float(np.linalg.norm(a.positions[:, None] - b.positions[None], axis=-1).min())


def gfn2(molecules: Sequence[Labelled]) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A of molecules together."""
    atoms = ase.Atoms(
        np.concatenate([m.numbers for m in molecules]),
        np.concatenate([m.positions for m in molecules]),
        calculator=TBLite(method="GFN2-xTB", verbosity=0),
    )
    return atoms.get_potential_energy(), atoms.get_forces()


def label(pair: Sequence[Labelled]) -> tuple[float, np.ndarray]:
    """Labels of the molecules and the interaction of GFN2-xTB."""
    (whole, forces), *alone = gfn2(pair), *(gfn2([m]) for m in pair)
    interaction = whole - sum(energy for energy, _ in alone)
    forces = forces - np.concatenate([f for _, f in alone])
    energy = sum(m.energy for m in pair) + interaction
    return energy, forces + np.concatenate([m.forces for m in pair])


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    everything = read_molecules(options.data)
    names = sorted({m.smiles for m in everything})
    by_name = {name: [m for m in everything if m.smiles == name] for name in names}
    rings = [name for name in names if "c1" in name]
    carbons = [name for name in names if set(by_name[name][0].numbers.tolist()) == {1, 6}]
    rows = []
    plan = [(rings, stacked)] * STACKED + [(carbons, touching)] * TOUCHING
    for choice, place in tqdm(plan, unit="pair"):
        while True:
            chosen = [choice[i] for i in rng.integers(len(choice), size=2)]
            if frozenset(chosen) in IN_S22:
                continue
            pair = place([by_name[c][rng.integers(len(by_name[c]))] for c in chosen], rng)
            if nearest(*pair) >= LEAST:
                break
        energy, forces = label(pair)
        numbers = np.concatenate([m.numbers for m in pair])
        positions = np.concatenate([m.positions for m in pair])
        rows.append(Row(".".join(sorted(chosen)), numbers, positions, energy, forces))
    write_shard(options.output, rows)


if __name__ == "__main__":
    main()
