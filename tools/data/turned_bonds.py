"""Molecules turned about their bonds, up to the barriers that thermal conformations never show.

Neutral molecules of ``organic_des_mono.npz`` with their labels there, one or two of whose bonds are
turned rigidly by any angle. Energy = E + [G(turned) - G], with G from GFN2-xTB (Bannwarth, Ehlert,
Grimme, J. Chem. Theory Comput. 15, 1652 (2019)); the differences ``F - F_G`` of the forces turn
with their atoms. The molecules of the torsion scans of `lesff evaluate` are left out.

    pip install "lesff[evaluate]"
    python tools/data/turned_bonds.py --data organic_des_mono.npz -o turned_bonds.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.data import covalent_radii
from composed import Row, write_shard
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite
from tqdm.auto import tqdm

from lesff.evaluation.molecules import bond_graph, side_of
from lesff.train.shards import read_shard

FRAMES = 3000
TWO_TURNS = 0.4
"""Share of frames with two turned bonds."""
DOUBLE = 0.93
"""Bonds shorter than this share of the sum of covalent radii are not turned: double bonds are
shorter, those of amides are not."""
HIGHEST = 1.5
"""Frames are left out in which atoms clash: GFN2-xTB energies above the start, eV."""
IN_SCANS = ("CCCC", "CNC(=O)C", "c1ccc(cc1)c1ccccc1")
"""Butane, N-methylacetamide, biphenyl."""


@dataclass(frozen=True)
class Labelled:
    """A molecule with energy in eV and forces in eV/A."""

    smiles: str
    atoms: ase.Atoms
    energy: float
    forces: np.ndarray


def read_molecules(path: Path) -> list[Labelled]:
    """Neutral molecules of a shard that are not for validation."""
    data = read_shard(path)
    ends = np.cumsum(data["n"].astype(np.int64))
    found = []
    for i, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        smiles = data["group"][i].decode()
        if data["charge"][i] or data["valid"][i] or smiles in IN_SCANS:
            continue
        numbers = data["numbers"][start:stop].astype(int)
        atoms = ase.Atoms(numbers, data["positions"][start:stop].astype(float))
        forces = data["forces"][start:stop].astype(float)
        found.append(Labelled(smiles, atoms, float(data["energy"][i]), forces))
    return found


def turnable(atoms: ase.Atoms) -> Iterator[tuple[int, int]]:
    """Bonds that are neither in rings nor at the end of a molecule nor double."""
    graph = bond_graph(atoms)
    radii = covalent_radii[atoms.numbers]
    for i, neighbors in enumerate(graph):
        for j in neighbors:
            if i > j or min(len(graph[i]), len(graph[j])) < 2:
                continue
            if atoms.get_distance(i, j) < DOUBLE * (radii[i] + radii[j]):
                continue
            try:
                side_of(atoms, i, j)
            except ValueError:  # in a ring
                continue
            yield i, j


def turned(
    molecule: Labelled, bonds: list[tuple[int, int]], rng: np.random.Generator
) -> tuple[ase.Atoms, list[Rotation]]:
    """The molecule with bonds turned by any angle, and the rotation of each atom."""
    atoms = molecule.atoms.copy()
    rotations = [Rotation.identity()] * len(atoms)
    sides = [side_of(atoms, *bond) for bond in bonds]
    for (fixed, moving), side in zip(bonds, sides, strict=True):
        axis = atoms.positions[moving] - atoms.positions[fixed]
        turn = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi) * axis / np.linalg.norm(axis))
        origin = atoms.positions[fixed].copy()
        atoms.positions[side] = turn.apply(atoms.positions[side] - origin) + origin
        for atom in side:
            rotations[atom] = turn * rotations[atom]
    return atoms, rotations


def gfn2(atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A."""
    copy = ase.Atoms(atoms.numbers, atoms.positions)
    copy.calc = TBLite(method="GFN2-xTB", verbosity=0)
    return copy.get_potential_energy(), copy.get_forces()


def label(
    molecule: Labelled, atoms: ase.Atoms, rotations: list[Rotation]
) -> tuple[float, np.ndarray] | None:
    """Energy and forces of the turned molecule; None where atoms clash."""
    start, start_forces = gfn2(molecule.atoms)
    try:
        energy, forces = gfn2(atoms)
    except RuntimeError:  # the SCF failed
        return None
    if energy - start > HIGHEST:
        return None
    rest = molecule.forces - start_forces
    moved = np.array([turn.apply(row) for turn, row in zip(rotations, rest, strict=True)])
    return molecule.energy + energy - start, forces + moved


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    by_name: dict[str, list[Labelled]] = {}
    for molecule in read_molecules(options.data):
        by_name.setdefault(molecule.smiles, []).append(molecule)
    names = sorted(name for name in by_name if any(turnable(by_name[name][0].atoms)))
    rows: list[Row] = []
    with tqdm(total=FRAMES, unit="frame") as bar:
        while len(rows) < FRAMES:
            frames = by_name[names[rng.integers(len(names))]]
            molecule = frames[rng.integers(len(frames))]
            bonds = list(turnable(molecule.atoms))
            if not bonds:
                continue
            count = 2 if len(bonds) > 1 and rng.random() < TWO_TURNS else 1
            chosen = [bonds[i] for i in rng.permutation(len(bonds))[:count]]
            atoms, rotations = turned(molecule, chosen, rng)
            labels = label(molecule, atoms, rotations)
            if labels is not None:
                rows.append(Row(molecule.smiles, atoms.numbers, atoms.positions, *labels))
                bar.update()
    write_shard(options.output, rows)


if __name__ == "__main__":
    main()
