"""Molecules out of shape: pressed together, bonds shortened or pulled apart, shrunk.

Molecules with labels of the teacher (``organic2_*.npz``), changed so that atoms come closer or
bonds longer than in any dynamics, plus the change of energy and forces by GFN2-xTB (Bannwarth,
Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)): label(changed) = label + G(changed) - G.
Six kinds, as subsets of the group names:

- ``pressed``: two molecules, closest contact 0.45 to 0.85 of the sum of covalent radii
- ``short``: one bond that divides the molecule, 0.55 to 0.85 of that sum
- ``shrunk``: all coordinates times 0.75 to 0.95
- ``crowded``: three to eight molecules packed at random, then all of them, or their centres only,
  drawn together; ``liquid``: the same with one small molecule, often water
- ``stretched``: a bond that divides a neutral molecule, 0.2 to 4 A longer. GFN2-xTB at 1000 K pulls
  it apart into two radicals in a singlet, but has no exchange between spins, so that the radicals
  are too high, the hydrogen atom by 1 eV. Their spin-polarised energies (Neugebauer, Grimme,
  J. Comput. Chem. 44, 2120 (2023)) correct the end of the curve, growing with the square of the
  share of the way to it.

Frames with a force component above 60 eV/A (``--largest-force``) or without a converged SCF are
left out. Energies are there, but errors of GFN2-xTB grow with the compression: train with
``energies = false``, or with a small weight; those of ``stretched`` are as good as the method.

Needs ``pip install ase scipy tblite tqdm`` in an environment that finds lesff.

    python tools/data/compressed.py --data DATA -o DATA/compressed.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import CalculationFailed
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from composed import Row, write_shard
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite
from tblite.interface import Calculator
from tqdm.auto import tqdm

from lesff.train.shards import read_shard

FILES = ("organic2_des_mono.npz", "organic2_druglike_thermal.npz", "organic2_extended.npz")
MOST_ATOMS = 30
MOST_IN_CROWD = 32
COUNTS = {
    "pressed": 1400,
    "short": 900,
    "shrunk": 700,
    "crowded": 1200,
    "liquid": 600,
    "stretched": 2400,
}
CONTACT, SHORT, SHRUNK = (0.45, 0.85), (0.55, 0.85), (0.75, 0.95)
"""Ranges: closest contact and bond in units of the sum of covalent radii, factor of lengths."""
STRETCHED = (0.2, 4.0)
"""Range of what is added to a bond, A."""
FAR = 8.0
"""Lengths of a bond by which its parts are moved to be far from each other."""
CROWD, PACKED, DRAWN = (3, 8), (0.9, 1.9), (0.62, 1.0)
"""Molecules of a crowd, their closest contacts as packed, factor of lengths after it."""
SMALL = 5
"""Atoms of a small molecule."""
BONDED = 1.25
"""Pairs below this share of the sum of covalent radii are bonds."""
MOST_FORCE = 60.0
"""Largest force component unless ``--largest-force`` says otherwise, eV/A."""


@dataclass(frozen=True)
class Molecule:
    """A molecule with labels of the teacher, its centre at the origin.

    Attributes:
        name: SMILES or another name.
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        energy: In eV.
        forces: (n_atoms, 3) in eV/A.
        charge: Total charge, e.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    charge: int

    def turned(self, rotation: Rotation) -> Molecule:
        """The same, turned."""
        return Molecule(
            self.name, self.numbers, rotation.apply(self.positions), self.energy,
            rotation.apply(self.forces), self.charge,
        )  # fmt: skip


def read_molecules(path: Path) -> list[Molecule]:
    """Small molecules of a shard that are for training."""
    data = read_shard(path)
    counts = data["n"].astype(np.int64)
    found = []
    for i, stop in enumerate(np.cumsum(counts)):
        rows = slice(stop - counts[i], stop)
        if data["valid"][i] or not 2 <= counts[i] <= MOST_ATOMS:
            continue
        positions = data["positions"][rows].astype(float)
        found.append(
            Molecule(
                data["group"][i].decode(),
                data["numbers"][rows].astype(int),
                positions - positions.mean(0),
                float(data["energy"][i]),
                data["forces"][rows].astype(float),
                int(data["charge"][i]),
            )  # fmt: skip
        )
    return found


def spin_polarised(numbers: np.ndarray, positions: np.ndarray) -> float:
    """Energy in eV of a neutral radical: the lowest of its spin states up to a quartet."""
    found = []
    for unpaired in range(int(numbers.sum()) % 2, 4, 2):
        calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, uhf=unpaired)
        calculator.set("verbosity", 0)
        calculator.add("spin-polarization", 1.0)
        found.append(float(calculator.singlepoint().get("energy")) * Hartree)
    return min(found)


def apart(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A of a molecule that falls into radicals."""
    atoms = ase.Atoms(numbers, positions)
    atoms.calc = TBLite(
        method="GFN2-xTB", electronic_temperature=1000.0, max_iterations=500, verbosity=0
    )
    return atoms.get_potential_energy(), atoms.get_forces()


def gfn2(numbers: np.ndarray, positions: np.ndarray, charge: int) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A."""
    atoms = ase.Atoms(numbers, positions)
    atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
    return atoms.get_potential_energy(), atoms.get_forces()


def shares(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(n_atoms, n_atoms) distances in units of the sum of covalent radii, infinite to itself."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return distances / (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])


def changed(molecule: Molecule, positions: np.ndarray, kind: str) -> Row:
    """The molecule at other positions, labelled."""
    before, old = gfn2(molecule.numbers, molecule.positions, molecule.charge)
    after, new = gfn2(molecule.numbers, positions, molecule.charge)
    return Row(
        f"{kind} {molecule.name}", molecule.numbers, positions, molecule.energy + after - before,
        molecule.forces + new - old, molecule.charge,
    )  # fmt: skip


def pressed(molecules: list[Molecule], rng: np.random.Generator) -> Row | None:
    """Two molecules in any orientation, moved together up to a contact."""
    pair = [molecules[i] for i in rng.integers(len(molecules), size=2)]
    if sum(len(m.numbers) for m in pair) > MOST_ATOMS:
        return None
    a, b = (m.turned(Rotation.random(rng=rng)) for m in pair)
    numbers = np.concatenate([a.numbers, b.numbers])
    wanted, n = rng.uniform(*CONTACT), len(a.numbers)
    distance = 20.0
    while distance > 0.0:
        shift = np.array([0.0, 0.0, distance])
        positions = np.concatenate([a.positions, b.positions + shift])
        nearest = float(shares(numbers, positions)[:n, n:].min())
        if nearest <= wanted:
            break
        # the contact is at least this far away
        distance -= max(0.01, 0.3 * (nearest - wanted))
    else:
        return None
    whole, forces = gfn2(numbers, positions, a.charge + b.charge)
    alone = [gfn2(m.numbers, m.positions, m.charge) for m in (a, b)]
    energy = a.energy + b.energy + whole - sum(e for e, _ in alone)
    forces = forces + np.concatenate([a.forces, b.forces]) - np.concatenate([f for _, f in alone])
    name = "pressed " + ".".join(sorted((a.name, b.name)))
    return Row(name, numbers, positions, energy, forces, a.charge + b.charge)


def drawn_bond(molecule: Molecule, rng: np.random.Generator) -> tuple[int, int, np.ndarray] | None:
    """The atoms of a bond that divides the molecule and what lies on the second one's side.

    Each kind of bond is as likely.
    """
    bonds = shares(molecule.numbers, molecule.positions) < BONDED
    kinds: dict[tuple[int, ...], list[tuple[int, int, np.ndarray]]] = {}
    for i, j in np.argwhere(np.triu(bonds)):
        cut = bonds.copy()
        cut[i, j] = cut[j, i] = False
        parts = connected_components(cut, directed=False)[1]
        if parts[i] != parts[j]:
            kind = tuple(sorted(molecule.numbers[[i, j]].tolist()))
            kinds.setdefault(kind, []).append((i, j, parts == parts[j]))
    if not kinds:
        return None
    choice = kinds[sorted(kinds)[rng.integers(len(kinds))]]
    return choice[rng.integers(len(choice))]


def short(molecules: list[Molecule], rng: np.random.Generator) -> Row | None:
    """One bond shortened."""
    molecule = molecules[rng.integers(len(molecules))]
    bond = drawn_bond(molecule, rng)
    if bond is None:
        return None
    i, j, side = bond
    vector = molecule.positions[j] - molecule.positions[i]
    length = np.linalg.norm(vector)
    new = rng.uniform(*SHORT) * covalent_radii[molecule.numbers[[i, j]]].sum()
    if new >= length:
        return None
    positions = molecule.positions + side[:, None] * vector * (new / length - 1.0)
    if shares(molecule.numbers, positions).min() < CONTACT[0]:
        return None
    return changed(molecule, positions, "short")


def stretched(molecules: list[Molecule], rng: np.random.Generator) -> Row | None:
    """One bond pulled apart; both parts stay as they are."""
    molecule = molecules[rng.integers(len(molecules))]
    bond = drawn_bond(molecule, rng)
    if bond is None or molecule.charge:
        return None
    i, j, side = bond
    vector = molecule.positions[j] - molecule.positions[i]
    longer = rng.uniform(*STRETCHED) / np.linalg.norm(vector)
    positions = molecule.positions + side[:, None] * vector * longer
    if shares(molecule.numbers, positions).min() < CONTACT[1]:
        return None
    before, old = apart(molecule.numbers, molecule.positions)
    after, new = apart(molecule.numbers, positions)
    # where the curve ends: the same parts at a distance, and their radicals with spin
    end = apart(molecule.numbers, molecule.positions + side[:, None] * vector * FAR)[0]
    parts = [(molecule.numbers[s], molecule.positions[s]) for s in (side, ~side)]
    error = end - sum(spin_polarised(*part) for part in parts)
    if not end - before > max(1.0, 2.0 * error):
        return None
    way = (after - before) / (end - before)
    # what the teacher adds within each part; between them it would not belong to the energy
    added = molecule.forces - old
    for part in (side, ~side):
        added[part] -= added[part].mean(0)
    forces = new + added
    # along the bond: d/dx of -error way^2 is -2 error way / (end - before) times that of the energy
    direction = vector / np.linalg.norm(vector)
    pull = direction @ new[side].sum(0) * -2.0 * error * way / (end - before)
    forces[side] += pull * direction / side.sum()
    forces[~side] -= pull * direction / (~side).sum()
    energy = molecule.energy + after - before - error * way**2
    name = f"stretched {molecule.name}"
    return Row(name, molecule.numbers, positions, energy, forces, molecule.charge)


def shrunk(molecules: list[Molecule], rng: np.random.Generator) -> Row | None:
    """All coordinates scaled."""
    molecule = molecules[rng.integers(len(molecules))]
    return changed(molecule, molecule.positions * rng.uniform(*SHRUNK), "shrunk")


def crowded(
    molecules: list[Molecule],
    rng: np.random.Generator,
    drawn_to: tuple[float, float] = DRAWN,
    most_atoms: int = MOST_IN_CROWD,
) -> Row | None:
    """Molecules of one to three kinds, every second kind small; see :func:`drawn_together`."""
    small = [m for m in molecules if len(m.numbers) <= SMALL] or molecules
    pools = [small if rng.random() < 0.5 else molecules for _ in range(rng.integers(1, 4))]
    kinds = [pool[rng.integers(len(pool))] for pool in pools]
    number = rng.integers(CROWD[0], CROWD[1] + 1)
    return drawn_together(kinds, number, rng, drawn_to, most_atoms)


def liquid(
    molecules: list[Molecule],
    rng: np.random.Generator,
    drawn_to: tuple[float, float] = DRAWN,
    most_atoms: int = MOST_IN_CROWD,
) -> Row | None:
    """As many of one small molecule as there may be, water every second time."""
    small = [m for m in molecules if 3 <= len(m.numbers) <= SMALL and m.charge == 0]
    water = [m for m in small if sorted(m.numbers.tolist()) == [1, 1, 8]]
    pool = water if water and rng.random() < 0.5 else small
    if not pool:
        return None
    kind = pool[rng.integers(len(pool))]
    number = most_atoms // len(kind.numbers)
    return drawn_together([kind], number, rng, drawn_to, most_atoms)


def drawn_together(
    kinds: list[Molecule],
    number: int,
    rng: np.random.Generator,
    drawn_to: tuple[float, float],
    most_atoms: int,
) -> Row | None:
    """Some molecules packed about a point, then drawn together: rigid ones, or all coordinates."""
    parts: list[Molecule] = []
    for _ in range(number):
        part = kinds[rng.integers(len(kinds))]
        if sum(len(m.numbers) for m in parts) + len(part.numbers) <= most_atoms:
            parts.append(part.turned(Rotation.random(rng=rng)))
    if len(parts) < CROWD[0]:
        return None
    centres = np.zeros((0, 3))
    numbers, positions = np.zeros(0, dtype=int), np.zeros((0, 3))
    for part in parts:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        wanted = rng.uniform(*PACKED)
        # outwards until the part no longer touches those that are there
        for distance in np.arange(0.0, 30.0, 0.1):
            new = part.positions + distance * direction
            apart = np.linalg.norm(new[:, None] - positions[None], axis=-1)
            reach = covalent_radii[part.numbers][:, None] + covalent_radii[numbers][None]
            if not apart.size or (apart / reach).min() >= wanted:
                break
        centres = np.vstack([centres, distance * direction])
        numbers, positions = np.concatenate([numbers, part.numbers]), np.vstack([positions, new])
    factor = rng.uniform(*drawn_to)
    sizes = [len(part.numbers) for part in parts]
    if rng.random() < 0.5:
        drawn = positions * factor
    else:
        drawn = positions + np.repeat((factor - 1.0) * centres, sizes, axis=0)
    if shares(numbers, drawn).min() < CONTACT[0]:
        return None
    charge = sum(part.charge for part in parts)
    if abs(charge) > 2:
        return None
    whole, forces = gfn2(numbers, drawn, charge)
    alone = [gfn2(part.numbers, part.positions, part.charge) for part in parts]
    energy = sum(part.energy for part in parts) + whole - sum(e for e, _ in alone)
    # forces of a molecule as it was, and their change
    before = np.concatenate([part.forces for part in parts])
    forces = before + forces - np.concatenate([f for _, f in alone])
    name = "crowded " + ".".join(sorted(part.name for part in parts))
    return Row(name, numbers, drawn, energy, forces, charge)


KINDS: dict[str, Callable[[list[Molecule], np.random.Generator], Row | None]] = {
    "pressed": pressed, "short": short, "shrunk": shrunk, "crowded": crowded,
    "liquid": liquid, "stretched": stretched,
}  # fmt: skip


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {', '.join(FILES)}")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=float, default=1.0, help="factor of all counts")
    parser.add_argument("--kinds", nargs="+", choices=sorted(COUNTS), default=list(COUNTS))
    parser.add_argument("--largest-force", type=float, default=MOST_FORCE, help="eV/A")
    parser.add_argument(
        "--drawn", type=float, nargs=2, default=DRAWN, metavar=("LOW", "HIGH"),
        help="factor of lengths of crowded and liquid",
    )  # fmt: skip
    parser.add_argument("--most-atoms", type=int, default=MOST_IN_CROWD, help="of those")
    options = parser.parse_args()
    crowd = {"drawn_to": tuple(options.drawn), "most_atoms": options.most_atoms}
    makers = KINDS | {kind: partial(KINDS[kind], **crowd) for kind in ("crowded", "liquid")}
    sources = [read_molecules(options.data / name) for name in FILES]
    rng = np.random.default_rng(options.seed)
    rows: list[Row] = []
    failed = strong = 0
    for kind in options.kinds:
        count = round(options.times * COUNTS[kind])
        for _ in tqdm(range(count), desc=kind, file=sys.stderr):
            row = None
            while row is None:
                try:
                    row = makers[kind](sources[rng.integers(len(sources))], rng)
                except (CalculationFailed, RuntimeError):
                    failed += 1
                    continue
                if row is not None and not np.abs(row.forces).max() <= options.largest_force:
                    strong += 1
                    row = None
            rows.append(row)
    write_shard(options.output, rows)
    sys.stdout.write(
        f"{len(rows)} frames; left out: {failed} without SCF, "
        f"{strong} above {options.largest_force} eV/A\n"
    )


if __name__ == "__main__":
    main()
