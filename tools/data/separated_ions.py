"""Ions beyond the cutoff of any model from another molecule, to teach a model which one is charged.

Two molecules of ``organic_des_mono.npz``, one or both of them ions, at a gap between molecules with
no edge across it. Labels are those there plus the interaction from GFN2-xTB (Bannwarth, Ehlert,
Grimme, J. Chem. Theory Comput. 15, 1652 (2019)): ``F(A) + F(B) + [G(AB) - G(A) - G(B)]``, and so
for dipoles and energies. The teacher's energies of ions have a zero of their own: recipes leave
these out.

    pip install "lesff[evaluate]"
    python tools/data/separated_ions.py --data organic_des_mono.npz -o separated_ions.npz
"""

from __future__ import annotations

import argparse
import sys
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

BESIDE_MOLECULES, BESIDE_IONS = 1500, 400
"""Numbers of pairs of an ion and a neutral molecule, and of a cation and an anion."""
GAP = (4.5, 12.0)
"""Range of the least distance, A."""
CHARGE_TRANSFER = 0.1
"""Pairs for which GFN2-xTB moves more charge between the molecules are left out, e."""
MOST_ATOMS = 40


@dataclass(frozen=True)
class Labelled:
    """A molecule with labels, its centre at the origin.

    Attributes:
        smiles: Name.
        charge: Total charge in e.
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        energy: In eV.
        forces: (n_atoms, 3) in eV/A.
        dipole: (3,) in e A about the coordinate origin.
    """

    smiles: str
    charge: int
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    dipole: np.ndarray

    def moved(self, rotation: Rotation, shift: np.ndarray) -> Labelled:
        """The same, turned and shifted."""
        return Labelled(
            self.smiles,
            self.charge,
            self.numbers,
            rotation.apply(self.positions) + shift,
            self.energy,
            rotation.apply(self.forces),
            rotation.apply(self.dipole) + self.charge * shift,
        )


def read_molecules(path: Path) -> list[Labelled]:
    """Molecules of a shard that are not for validation."""
    data = read_shard(path)
    ends = np.cumsum(data["n"].astype(np.int64))
    found = []
    for i, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if data["valid"][i]:
            continue
        positions = data["positions"][start:stop].astype(float)
        charge = int(data["charge"][i])
        molecule = Labelled(
            data["group"][i].decode(),
            charge,
            data["numbers"][start:stop].astype(int),
            positions,
            float(data["energy"][i]),
            data["forces"][start:stop].astype(float),
            data["dipole"][i].astype(float),
        )
        found.append(molecule.moved(Rotation.identity(), -positions.mean(0)))
    return found


def placed(pair: Sequence[Labelled], rng: np.random.Generator) -> list[Labelled]:
    """Two molecules in any orientation at a gap."""
    a, b = (m.moved(Rotation.random(rng=rng), np.zeros(3)) for m in pair)
    gap, direction = rng.uniform(*GAP), np.array([0.0, 0.0, 1.0])
    for distance in np.arange(gap, 40.0, 0.1):
        moved = b.moved(Rotation.identity(), distance * direction)
        apart = np.linalg.norm(a.positions[:, None] - moved.positions[None], axis=-1).min()
        if apart >= gap:
            return [a, moved]
    raise ValueError("molecules must be shorter than 25 A")


@dataclass(frozen=True)
class Labels:
    """Energy in eV, forces in eV/A, dipole in e A about the origin."""

    energy: float
    forces: np.ndarray
    dipole: np.ndarray


def gfn2(molecules: Sequence[Labelled]) -> tuple[Labels, np.ndarray]:
    """Labels and charges in e of molecules together."""
    atoms = ase.Atoms(
        np.concatenate([m.numbers for m in molecules]),
        np.concatenate([m.positions for m in molecules]),
    )
    charge = sum(m.charge for m in molecules)
    atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
    labels = Labels(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_dipole_moment())
    return labels, atoms.get_charges()


def label(pair: Sequence[Labelled]) -> Labels | None:
    """Labels; None where charge moves between the molecules or the SCF fails."""
    try:
        (whole, charges), *alone = gfn2(pair), *(gfn2([m]) for m in pair)
    except RuntimeError:
        return None
    if abs(charges[: len(pair[0].numbers)].sum() - pair[0].charge) > CHARGE_TRANSFER:
        return None
    parts = list(zip(pair, (labels for labels, _ in alone), strict=True))
    return Labels(
        whole.energy + sum(m.energy - g.energy for m, g in parts),
        whole.forces + np.concatenate([m.forces - g.forces for m, g in parts]),
        whole.dipole + sum(m.dipole - g.dipole for m, g in parts),
    )


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    by_charge: dict[int, dict[str, list[Labelled]]] = {}
    for m in read_molecules(options.data):
        by_charge.setdefault(m.charge, {}).setdefault(m.smiles, []).append(m)
    rows = []
    left_out = 0
    plan = [(1, 0), (-1, 0)] * (BESIDE_MOLECULES // 2) + [(1, -1)] * BESIDE_IONS
    for charges in tqdm(plan, unit="pair"):
        while True:
            pair = []
            for charge in charges:
                names = sorted(by_charge[charge])
                frames = by_charge[charge][names[rng.integers(len(names))]]
                pair.append(frames[rng.integers(len(frames))])
            if sum(len(m.numbers) for m in pair) > MOST_ATOMS:
                continue
            pair = placed(pair, rng)
            labels = label(pair)
            if labels is not None:
                break
            left_out += 1
        rows.append(
            Row(
                ".".join(sorted(m.smiles for m in pair)),
                np.concatenate([m.numbers for m in pair]),
                np.concatenate([m.positions for m in pair]),
                labels.energy,
                labels.forces,
                sum(m.charge for m in pair),
                labels.dipole,
            )
        )
    write_shard(options.output, rows)
    sys.stdout.write(f"{len(rows)} pairs; {left_out} left out\n")


if __name__ == "__main__":
    main()
