"""Double and triple bonds pulled apart, with unrestricted PBE0/def2-TZVP (PySCF).

GFN2-xTB is of no use for them: slopes of its own curves jump (31 of 49 in the chapter of
robustness). Small molecules of :data:`BONDS`, as RDKit's MMFF has them, one bond from its length to
4 A more, both sides rigid. The densities start far apart, where each side is a radical whose
unpaired electrons are those of the bond, with opposite spins on the two sides, or (a side that is
stable by itself: CO, N2) a singlet whose two electrons sit in two orbitals; they are followed
inwards, and from where spins begin to part outwards again. The lowest of these counts at each
distance. The total spin is a singlet, which is closed near the minimum alone.

    energy = E(model, minimum) + U(x) - U(minimum), forces alike

with a model of lesff at the shortest distance, so that frames agree with those of molecules.

The curves are kept in a JSON file beside the output; an interrupted run goes on where it stopped.
The shard is written at the end.

Needs ``pip install pyscf rdkit ase tqdm`` in an environment that finds lesff.

    python tools/data/multiple_bonds.py --model off-large@1.0.0 -o DATA/multiple_bonds.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.units import Bohr, Hartree
from composed import Row, write_shard
from pyscf import dft, gto, lib
from rdkit import Chem
from rdkit.Chem import AllChem
from tqdm.auto import tqdm

import lesff
from lesff.evaluation.robustness.structures import side_of, stretched
from lesff.plain_data import read_json, write_json

BONDS = (
    ("N#N", 0, 1), ("C=N", 0, 1), ("C#P", 0, 1), ("N=O", 0, 1), ("P#N", 0, 1), ("FC#N", 1, 2),
    ("C=S", 0, 1), ("N=N", 0, 1), ("O=CF", 0, 1), ("FC#C", 1, 2), ("NC#N", 1, 2), ("CC=O", 1, 2),
    ("CC#C", 1, 2), ("O=C=S", 1, 2), ("OC=O", 1, 2), ("FC=C", 1, 2),
    ("O=C=O", 1, 2),
)  # fmt: skip
"""SMILES and the atoms of a bond. Of the bonds of the chapter of robustness those of N2 and CO2,
which no other molecule stands for."""
LENGTHS = {"N#N": 1.098}
"""Of a diatomic that MMFF has too long, A: Huber, Herzberg, Constants of Diatomic Molecules."""
PULLS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.8, 2.2, 2.8, 4.0)
"""A, added to the bond."""
FUNCTIONAL, BASIS = "pbe0", "def2-tzvp"
GRID_LEVEL, TOLERANCE = 2, 1e-6
"""Of PySCF: quadrature grid, convergence of the energy in Hartree."""
STABLE = 1.0
"""eV by which a closed shell is lower than the radical of a side that is a molecule by itself."""
MOST_FORCE = 60.0
"""Largest component of a frame, eV/A."""
PARTED = 0.3
"""S^2 of a singlet whose spins have begun to part."""
JUMP = 0.2
"""eV, in steps of 0.1 A: a curve with larger second differences beyond 0.6 A goes from one state to
another, and is left out."""


@dataclass(frozen=True)
class Side:
    """One side of a bond: orbitals of both spins, and how many electrons each spin has."""

    orbitals: np.ndarray
    alpha: list[int]
    beta: list[int]

    def flipped(self) -> Side:
        """Spins exchanged."""
        return Side(self.orbitals, self.beta, self.alpha)

    def density(self) -> np.ndarray:
        """(2, n, n) of both spins."""
        return np.array(
            [self.orbitals[:, kept] @ self.orbitals[:, kept].T for kept in (self.alpha, self.beta)]
        )


def field_of(atoms: ase.Atoms, unpaired: int) -> Any:
    """Unrestricted Kohn-Sham of PySCF."""
    molecule = gto.M(
        atom=list(zip(atoms.symbols, atoms.positions, strict=True)), basis=BASIS, spin=unpaired,
        verbose=0,
    )  # fmt: skip
    field = dft.UKS(molecule, xc=FUNCTIONAL).density_fit()
    field.grids.level, field.conv_tol, field.max_cycle = GRID_LEVEL, TOLERANCE, 100
    return field


@dataclass(frozen=True)
class Sides:
    """What one side of a bond may be when it is alone.

    Attributes:
        radical: With as many unpaired electrons as the bond has pairs.
        singlet: Two of those in two orbitals, with opposite spins.
        closed: The closed shell, if it is lower than the radical.
    """

    radical: Side
    singlet: Side
    closed: Side | None


def sides_of(atoms: ase.Atoms, order: int) -> Sides:
    """States of one side."""
    field = field_of(atoms, order)
    energy = field.kernel()
    orbitals, both = field.mo_coeff[0], list(range(field.nelec[1]))
    n = len(both)
    radical = Side(orbitals, list(range(field.nelec[0])), both)
    singlet = Side(orbitals, [*both, n], [*both, n + 1])
    closed = None
    if order == 2:
        shell = field_of(atoms, 0)
        if (energy - shell.kernel()) * Hartree > STABLE:
            pairs = list(range(shell.nelec[0]))
            closed = Side(shell.mo_coeff[0], pairs, pairs)
    return Sides(radical, singlet, closed)


def starts(atoms: ase.Atoms, bond: tuple[int, int], order: int) -> list[np.ndarray]:
    """Densities of two sides far apart, (2, n, n) each, in the order of the atoms."""
    moved = np.isin(np.arange(len(atoms)), side_of(atoms, *bond))
    parts = [atoms[~moved], atoms[moved]]
    one, other = (sides_of(part, order) for part in parts)
    pairs = [(one.radical, other.radical.flipped())]
    if one.closed is not None:
        pairs.append((one.closed, other.singlet))
    if other.closed is not None:
        pairs.append((one.singlet, other.closed))
    shell = field_of(atoms, 0).mol.aoslice_by_atom()[:, 2:]
    rows = [
        np.concatenate([np.arange(*shell[i]) for i in np.flatnonzero(is_side)])
        for is_side in (~moved, moved)
    ]
    found = []
    for pair in pairs:
        density = np.zeros((2, shell[-1, 1], shell[-1, 1]))
        for side, kept in zip(pair, rows, strict=True):
            density[np.ix_(np.arange(2), np.array(kept), np.array(kept))] = side.density()
        found.append(density)
    return found


Points = dict[str, dict[str, Any]]
"""Of a state, by pull: energy in eV, forces in eV/A, S^2."""


def followed(
    atoms: ase.Atoms, bond: tuple[int, int], density: np.ndarray, pulls: Sequence[float]
) -> tuple[Points, dict[str, np.ndarray]]:
    """A state from pull to pull, and its densities; points that do not converge are left out."""
    found: Points = {}
    densities: dict[str, np.ndarray] = {}
    length = atoms.get_distance(*bond)
    for pull in pulls:
        field = field_of(stretched(atoms, bond, length + pull), 0)
        field.kernel(dm0=density)
        if not field.converged:
            field.level_shift = 0.2
            field.kernel(dm0=density)
        if not field.converged:
            continue
        density = densities[str(pull)] = np.asarray(field.make_rdm1())
        gradient = field.nuc_grad_method().kernel()
        found[str(pull)] = {
            "energy": float(field.e_tot * Hartree),
            "forces": (-gradient * Hartree / Bohr).tolist(),
            "spin_square": float(field.spin_square()[0]),
        }
    return found, densities


def curves_of(atoms: ase.Atoms, bond: tuple[int, int], order: int) -> list[Points]:
    """States followed inwards, and each outwards again from where its spins begin to part."""
    found = []
    for start in starts(atoms, bond, order):
        points, densities = followed(atoms, bond, start, PULLS[::-1])
        found.append(points)
        parted = [p for p in PULLS if points.get(str(p), {}).get("spin_square", 0.0) > PARTED]
        if parted:
            outwards = PULLS[PULLS.index(parted[0]) + 1 :]
            found.append(followed(atoms, bond, densities[str(parted[0])], outwards)[0])
    return found


def molecule_of(smiles: str) -> ase.Atoms:
    """The molecule as MMFF has it; UFF where MMFF lacks an atom."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=7)
    if AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    else:
        AllChem.UFFOptimizeMolecule(molecule, maxIters=2000)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    atoms = ase.Atoms(symbols, molecule.GetConformer().GetPositions())
    if smiles in LENGTHS:
        atoms.set_distance(0, 1, LENGTHS[smiles])
    return atoms


def order_of(smiles: str, bond: tuple[int, int]) -> int:
    """Two or three."""
    return int(Chem.MolFromSmiles(smiles).GetBondBetweenAtoms(*bond).GetBondTypeAsDouble())


def lowest(curves: list[Points]) -> dict[float, dict[str, Any]]:
    """The lower of the curves at each distance."""
    found: dict[float, dict[str, Any]] = {}
    for points in curves:
        for pull, point in points.items():
            now = found.get(float(pull))
            if now is None or point["energy"] < now["energy"]:
                found[float(pull)] = point
    return dict(sorted(found.items()))


def roughest(points: dict[float, dict[str, Any]]) -> float:
    """Largest second difference of neighbours beyond 0.6 A in eV, as of steps of 0.1 A."""
    x = np.array(list(points))
    e = np.array([point["energy"] for point in points.values()])
    slopes = np.diff(e) / np.diff(x)
    second = np.abs(np.diff(slopes) / (0.5 * (x[2:] - x[:-2]))) * 0.01
    return float(second[x[1:-1] > 0.6].max())


def rows_of(smiles: str, bond: tuple[int, int], record: dict[str, Any], model: Any) -> list[Row]:
    """Frames of one bond."""
    atoms = ase.Atoms(record["symbols"], record["positions"])
    points = lowest(record["curves"])
    if 0.0 not in points:
        return []
    length = atoms.get_distance(*bond)
    zero, at_zero = points[0.0], model.predict(atoms, ["energy", "forces"])
    rows = []
    for pull, point in points.items():
        moved = stretched(atoms, bond, length + pull)
        energy = float(at_zero["energy"]) + point["energy"] - zero["energy"]
        forces = at_zero["forces"] + np.array(point["forces"]) - np.array(zero["forces"])
        if np.abs(forces).max() <= MOST_FORCE:
            rows.append(Row(f"{smiles} {bond}", moved.numbers, moved.positions, energy, forces))
    return rows


def bond_from(text: str) -> tuple[str, int, int]:
    """A bond of the command line."""
    smiles, i, j = text.rsplit(":", 2)
    return smiles, int(i), int(j)


def main() -> None:
    """Compute the curves and write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", required=True, help="whose energies the minima have")
    parser.add_argument(
        "--bonds",
        nargs="+",
        default=BONDS,
        type=bond_from,
        metavar="SMILES:I:J",
        help="instead of the table of this file: molecules and the two atoms of a bond",
    )
    options = parser.parse_args()
    lib.num_threads(1)
    kept = options.output.with_suffix(".json")
    records = read_json(kept) if kept.is_file() else {}
    for smiles, i, j in tqdm(options.bonds, unit="bond", file=sys.stderr):
        name = f"{smiles} {i} {j}"
        if name not in records:
            atoms = molecule_of(smiles)
            order = order_of(smiles, (i, j))
            records[name] = {
                "symbols": list(atoms.symbols),
                "positions": atoms.positions.tolist(),
                "curves": curves_of(atoms, (i, j), order),
            }
            write_json(kept, records)
    model, rows = lesff.load(options.model), []
    for smiles, i, j in options.bonds:
        record = records[f"{smiles} {i} {j}"]
        rough = roughest(lowest(record["curves"]))
        if rough > JUMP:
            sys.stdout.write(f"{smiles} {i}-{j}: left out, second difference {rough:.2f} eV\n")
            continue
        rows += rows_of(smiles, (i, j), record, model)
    write_shard(options.output, rows, hold_out=False)
    sys.stdout.write(f"{len(rows)} frames\n")


if __name__ == "__main__":
    main()
