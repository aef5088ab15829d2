"""Label small ions, radicals and turned molecules with wB97M-D3BJ/def2-TZVPPD (PySCF).

The organic teacher's energies of charged molecules have a zero of their own; no data set has a lone
atomic ion, a radical, or a molecule on the barrier of a torsion. This makes a few hundred frames of
the level of theory of the DFT frames: molecules from SMILES (RDKit), moved by short dynamics with
GFN2-xTB (tblite), labelled with energies relative to isolated neutral atoms and with forces.

Files: ``anchors.extxyz`` (closed shells) and ``anchors_open.extxyz`` (radicals, triplets) for
``ions``; ``anchors_spins.extxyz`` for ``spins`` (more of them, and both spins of the same
molecules); ``anchors_halides.extxyz`` (bromide, iodide); ``anchors_separated.extxyz``;
``torsions.extxyz``; ``anchors_validation.extxyz`` (systems not to be trained on) for ``held_out``.

The results are in ``recipes/frames``: ``ions --most 208``, ``separated --most 22``,
``spins``, ``halides --most 15``, ``torsions --most 39``, ``held_out --most 20``, some two hours on
one core.

Needs ``pip install pyscf dftd3 rdkit tblite``. Interrupted runs go on where they stopped.

    python tools/data/dft_anchors.py ions --atoms DATA/isolated_atoms_eV.json -o DATA
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import LBFGS
from ase.units import Bohr, Hartree, fs
from dftd3.pyscf import DFTD3Dispersion
from held_out import HELD_OUT
from pyscf import dft, gto, lib
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite
from tqdm import tqdm

# SMILES, molecules of a complex divided by dots; number of frames
ANIONS = {
    "[Cl-]": 1, "[F-]": 1, "[OH-]": 6, "[SH-]": 5, "[C-]#N": 4, "C[O-]": 6, "C[S-]": 5,
    "CC[O-]": 3, "O=N[O-]": 4, "O=[N+]([O-])[O-]": 4, "[O-]C=O": 6, "CC(=O)[O-]": 5,
    "OC(=O)[O-]": 4, "OP(=O)(O)[O-]": 2, "OS(=O)(=O)[O-]": 2, "[NH2-]": 3,
    "[N-]=[N+]=[N-]": 3, "O[O-]": 3, "Cl[O-]": 2, "[C-]#C": 2, "CCC(=O)[O-]": 2,
    "FC(F)(F)C(=O)[O-]": 1, "[O-]c1ccccc1": 1,
}  # fmt: skip
CATIONS = {
    "[NH4+]": 6, "[OH3+]": 5, "C[NH3+]": 4, "C[NH2+]C": 2, "CC[NH3+]": 2, "NC(N)=[NH2+]": 2,
    "c1c[nH]c[nH+]1": 2, "CC[OH2+]": 3, "CC=[OH+]": 4, "C#[NH+]": 4, "OC=[OH+]": 3,
    "NC=[OH+]": 3, "[PH4+]": 3, "[SH3+]": 3, "C[SH2+]": 3, "N[NH3+]": 3, "O[NH3+]": 3,
    "C[NH+](C)C": 1, "CC(O)=[OH+]": 2,
}  # fmt: skip
COMPLEXES = {
    "[F-].O": 6, "[OH-].O": 6, "[SH-].O": 5, "[C-]#N.O": 5, "C[O-].O": 5, "O=N[O-].O": 4,
    "CC(=O)[O-].O": 3, "[Cl-].O.O": 8, "[OH-].O.O": 3, "[O-]C=O.O.O": 3, "[F-].O.O": 3,
    "[Cl-].CO": 6, "[Cl-].N": 4, "[Cl-].C#N": 3, "[Cl-].C": 3, "[Cl-].NC=O": 3, "[Cl-].C=O": 3,
    "[Cl-].S": 3, "[F-].CO": 3, "[O-]C=O.CO": 3, "[F-].C": 2, "C[S-].O": 3,
    "[NH4+].O": 6, "[NH4+].N": 4, "[OH3+].O": 6, "[OH3+].O.O": 3, "C[NH3+].O": 4,
    "[NH4+].C#N": 3, "[NH4+].C": 2, "[NH4+].C=C": 2, "[NH4+].C=O": 3, "NC(N)=[NH2+].O": 2,
    "[OH3+].N": 3, "[SH3+].O": 2,
    "[NH4+].[F-]": 3, "[NH4+].[O-]C=O": 4, "C[NH3+].[Cl-]": 4,
}  # fmt: skip
SEPARATED = {
    "[NH4+].[O-]C=O": 5, "C[NH3+].[Cl-]": 5, "[NH4+].[F-]": 4, "[NH4+].[SH-]": 3, "[OH3+].[Cl-]": 3,
    "[NH4+].[C-]#N": 2, "[Cl-].CO": 4, "[Cl-].C=O": 2, "[NH4+].O": 4, "[F-].O": 2, "[OH-].O": 2,
    "[NH4+].N": 2, "[OH3+].O": 2, "[NH4+].C=O": 2,
}  # fmt: skip
"""Beyond the cutoffs of models: what only charges can describe."""
RADICALS = {
    "[H]": 1, "[CH3]": 4, "[NH2]": 3, "[OH]": 3, "[SH]": 3, "C[O]": 3, "C[S]": 3,
    "[C]#N": 2, "O[O]": 3, "[CH]=O": 3, "C[CH2]": 2, "[F]": 1, "[Cl]": 1, "[O]N=O": 3,
    "[CH2]O": 2, "[CH2]F": 2, "C=[CH]": 2, "[PH2]": 2,
}  # fmt: skip
TRIPLETS = {"[C]": 1, "[O]": 1, "[S]": 1, "[CH2]": 2, "O=O": 2, "[NH]": 2}
MORE_RADICALS = {
    "[CH]": 3, "[N]=O": 2, "[C]#C": 1, "O=C[O]": 1, "[CH2]Cl": 1, "[SiH3]": 2, "S[S]": 1,
    "C[NH]": 1, "C[PH]": 1,
}  # fmt: skip
MORE_TRIPLETS = {"O=O": 2, "[CH2]": 2, "[NH]": 3, "S=S": 2, "S=O": 2, "[PH]": 2}
SINGLETS = {"O=O": 4, "[CH2]": 4, "[NH]": 3, "S=S": 3, "S=O": 3, "[PH]": 2, "[CH]F": 1}
"""Closed shells, most of them above the triplets."""
QUARTETS = {"[N]": 1, "[P]": 1}
MOLECULES = {"F": 2, "Cl": 2, "OO": 2, "N=N": 1, "N#N": 1, "P": 2, "NN": 2, "NO": 2, "N=O": 2}
"""Neutral molecules that the organic sets lack."""

HALIDES = {
    "[Br-]": 1, "[I-]": 1, "[Br-].O": 3, "[I-].O": 3, "[Br-].O.O": 2, "[I-].O.O": 2, "[Br-].CO": 1,
    "[I-].CO": 1, "[NH4+].[Br-]": 1, "[NH4+].[I-]": 1, "Br": 1, "I": 1,
}  # fmt: skip
"""Ions of which no set has a lone one."""

TORSIONS = {
    "CC": 2, "CO": 2, "CN": 2, "OO": 2, "CCO": 6, "CCC": 5, "NC=O": 5, "CNC=O": 8, "CC(N)=O": 6,
    "CC(=O)O": 4, "COC=O": 5, "COC": 3, "C=CC": 3, "C=CC=C": 6, "C=CC=O": 4, "O=CC=O": 3,
    "OCCO": 5, "NCCO": 4, "CCC=O": 4, "CSC": 2, "CSSC": 3, "CCS": 3, "FCCF": 4, "CCCl": 2,
    "CNC": 2, "NC(N)=O": 3, "CN(C)C=O": 4, "OCC=O": 3, "CCCO": 3, "CC(C)=O": 2, "CNC(N)=O": 2,
    "C=Cc1ccccc1": 2,
}  # fmt: skip
"""Molecules turned about a bond; those whose barriers the evaluation suite has are not here."""

GAP = (1.5, 3.5)
"""Range of the least distance between molecules of a complex before dynamics, A."""
GAP_OF_SEPARATED = (4.0, 10.0)
"""The same for separated molecules, without dynamics. At 10 A ions are still the ground state: the
ionisation energy of NH4 is less than the electron affinities here and 14.4 eV A / 10 A."""
DYNAMICS = (0, 60, 200)
"""Steps of 0.5 fs, one of these per frame of a complex; the last one for single molecules."""
DYNAMICS_OF_TORSIONS = 30
"""Steps after a rigid turn."""
TEMPERATURES = (300.0, 900.0)
"""Range of temperatures, K."""


@dataclass(frozen=True)
class System:
    """What to label.

    Attributes:
        smiles: Molecules, divided by dots.
        part: Subset.
        multiplicity: 2S + 1.
        index: Number of the frame of this system; with the SMILES it seeds the geometry.
    """

    smiles: str
    part: str
    multiplicity: int
    index: int

    @property
    def name(self) -> str:
        """Key of the frame."""
        return f"{self.part} {self.smiles} {self.index}"


TABLES = {
    "ions": (
        (ANIONS, "anions", 1), (CATIONS, "cations", 1), (COMPLEXES, "complexes", 1),
        (RADICALS, "radicals", 2), (TRIPLETS, "triplets", 3), (MOLECULES, "molecules", 1),
    ),
    "spins": (
        (SINGLETS, "singlets", 1), (MORE_RADICALS, "radicals", 2), (MORE_TRIPLETS, "triplets", 3),
        (QUARTETS, "quartets", 4),
    ),
    "halides": ((HALIDES, "halides", 1),),
    "separated": ((SEPARATED, "separated", 1),),
    "torsions": ((TORSIONS, "torsions", 1),),
    "held_out": ((HELD_OUT, "held_out", 1),),
}  # fmt: skip
"""Systems, subset and multiplicity, by what the command line asks for."""
FILES = {
    "anions": "anchors.extxyz",
    "cations": "anchors.extxyz",
    "complexes": "anchors.extxyz",
    "molecules": "anchors.extxyz",
    "halides": "anchors_halides.extxyz",
    "separated": "anchors_separated.extxyz",
    "radicals": "anchors_open.extxyz",
    "triplets": "anchors_open.extxyz",
    "torsions": "torsions.extxyz",
    "held_out": "anchors_validation.extxyz",
}
"""File of a subset."""
FILES_OF = {"spins": "anchors_spins.extxyz"}
"""File of all that is asked for, where it does not depend on the subset."""


def systems(asked: str) -> Iterator[System]:
    """All frames, the first of each system before the second of any."""
    for index in range(max(n for table, _, _ in TABLES[asked] for n in table.values())):
        for table, part, multiplicity in TABLES[asked]:
            for smiles, count in table.items():
                if index < count:
                    yield System(smiles, part, multiplicity, index)


def embedded(smiles: str, seed: int) -> tuple[ase.Atoms, int]:
    """A molecule at its centre, and its charge."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    charge = Chem.GetFormalCharge(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    if len(symbols) == 1:
        return ase.Atoms(symbols), charge
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) != 0:
        raise RuntimeError(f"{smiles} cannot be embedded")
    positions = np.array(molecule.GetConformer().GetPositions())
    return ase.Atoms(symbols, positions - positions.mean(0)), charge


def built(system: System) -> tuple[ase.Atoms, int]:
    """Geometry and charge of a frame; a function of the system only."""
    seed = zlib.crc32(system.name.encode()) % 2**31
    rng = np.random.default_rng(seed)
    turns = system.part == "torsions"
    gaps = GAP_OF_SEPARATED if system.part == "separated" else GAP
    whole, total = ase.Atoms(), 0
    for smiles in system.smiles.split("."):
        atoms, charge = embedded(smiles, seed)
        if len(atoms) > 1:
            atoms.calc = TBLite(
                method="GFN2-xTB", charge=charge, multiplicity=system.multiplicity, verbosity=0
            )
            LBFGS(atoms, logfile=None).run(fmax=0.05, steps=100)
        atoms = ase.Atoms(atoms.numbers, atoms.positions)
        if turns:
            turn(atoms, smiles, rng)
        whole += placed(atoms, whole, gaps, rng)
        total += charge
    steps = DYNAMICS[system.index % 3 if "." in system.smiles else 2]
    steps = {"torsions": DYNAMICS_OF_TORSIONS, "separated": 0}.get(system.part, steps)
    if len(whole) > 1 and steps:
        whole.calc = TBLite(
            method="GFN2-xTB", charge=total, multiplicity=system.multiplicity, verbosity=0
        )
        temperature = rng.uniform(*TEMPERATURES)
        MaxwellBoltzmannDistribution(whole, temperature_K=temperature, rng=rng)
        motion = Langevin(
            whole, 0.5 * fs, temperature_K=temperature, friction=0.02 / fs, rng=rng, fixcm=False
        )
        motion.run(steps)
    return ase.Atoms(whole.numbers, whole.positions), total


def turn(atoms: ase.Atoms, smiles: str, rng: np.random.Generator) -> None:
    """Turn a molecule about one of its open single bonds by a random angle."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    bonds = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        for bond in molecule.GetBonds()
        if bond.GetBondType() == Chem.BondType.SINGLE
        and not bond.IsInRing()
        and min(bond.GetBeginAtom().GetDegree(), bond.GetEndAtom().GetDegree()) > 1
    ]
    start, end = bonds[rng.integers(len(bonds))]
    cut = Chem.RWMol(molecule)
    cut.RemoveBond(start, end)
    side = next(part for part in Chem.GetMolFrags(cut) if end in part)
    axis = atoms.positions[end] - atoms.positions[start]
    part = atoms[list(side)]
    part.rotate(rng.uniform(0.0, 360.0), axis, center=atoms.positions[end])
    atoms.positions[list(side)] = part.positions


def placed(
    atoms: ase.Atoms, others: ase.Atoms, gaps: tuple[float, float], rng: np.random.Generator
) -> ase.Atoms:
    """A molecule turned at random, at a gap from those that are there."""
    if not len(others):
        return atoms
    turned = Rotation.random(rng=rng).apply(atoms.positions)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    gap = rng.uniform(*gaps)
    for distance in np.arange(1.0, 15.0, 0.05):
        positions = others.positions.mean(0) + turned + distance * direction
        nearest = np.linalg.norm(positions[:, None] - others.positions[None], axis=-1).min()
        if nearest >= gap:
            return ase.Atoms(atoms.numbers, positions)
    raise RuntimeError("molecules must be shorter than 15 A")


def labelled(
    atoms: ase.Atoms, charge: int, multiplicity: int, isolated: dict[int, float]
) -> dict[str, float | np.ndarray]:
    """Energy relative to isolated neutral atoms (eV), forces (eV/A), dipole (e A), wB97M-D3BJ."""
    molecule = gto.M(
        atom=[(s, p) for s, p in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)],
        charge=charge, spin=multiplicity - 1, basis="def2-tzvppd",
        ecp={"I": "def2-tzvppd"} if 53 in atoms.numbers else {}, verbose=0,
    )  # fmt: skip
    method = dft.RKS if multiplicity == 1 else dft.UKS
    field = method(molecule, xc="wb97m-v").density_fit()
    field.nlc = 0
    field.grids.level = 3
    field.conv_tol = 1e-8
    energy = field.kernel()
    if not field.converged:
        raise RuntimeError("the SCF did not converge")
    dispersion, gradient, *_ = DFTD3Dispersion(molecule, xc="wb97m", version="d3bj").kernel()
    if len(atoms) > 1:
        gradient = gradient + field.nuc_grad_method().kernel()
    zero = sum(isolated[int(z)] for z in atoms.numbers)
    return {
        "energy": (energy + dispersion) * Hartree - zero,
        "forces": -np.asarray(gradient) * Hartree / Bohr,
        "dipole": field.dip_moment(unit="AU", origin=np.zeros(3), verbose=0) * Bohr,
    }


def compared(frames: list[ase.Atoms], isolated: dict[int, float], most: int = 4) -> str:
    """Differences to the labels of the smallest neutral frames, of one frame per composition."""
    smallest = {atoms.get_chemical_formula(): atoms for atoms in sorted(frames, key=len)[::-1]}
    lines = []
    for name, atoms in sorted(smallest.items(), key=lambda item: len(item[1]))[:most]:
        labels = labelled(atoms, 0, 1, isolated)
        energy_error = 1e3 * abs(labels["energy"] - atoms.get_potential_energy())
        force_error = 1e3 * np.abs(labels["forces"] - atoms.get_forces()).max()
        lines.append(
            f"{name}: energy {energy_error:.3f} meV, forces {force_error:.2f} meV/A at most"
        )
    return "\n".join(lines)


def main() -> None:
    """Label what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=sorted(TABLES))
    parser.add_argument("--atoms", type=Path, required=True, help="energies of isolated atoms, eV")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--most", type=int, help="label these first frames of the list only")
    parser.add_argument(
        "--compare", type=Path, metavar="FRAMES", help="label small frames of this file again, too"
    )
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    lib.num_threads(1)
    isolated = {int(z): e for z, e in json.loads(options.atoms.read_text()).items()}
    if options.compare is not None:
        sys.stdout.write(compared(read(options.compare, ":"), isolated) + "\n")
    failed = []
    paths = {
        part: options.output / FILES_OF.get(options.what, FILES.get(part, ""))
        for _, part, _ in TABLES[options.what]
    }
    files = {path: read(path, ":") if path.exists() else [] for path in paths.values()}
    done = {atoms.info["frame"] for frames in files.values() for atoms in frames}
    for system in tqdm(list(systems(options.what))[: options.most], unit="frame"):
        if system.name in done:
            continue
        try:
            atoms, charge = built(system)
            labels = labelled(atoms, charge, system.multiplicity, isolated)
        except RuntimeError as error:  # also of xTB
            failed.append(f"{system.name}: {error}")
            continue
        atoms.info |= {
            "charge": charge, "spin_multiplicity": system.multiplicity, "subset": system.part,
            "molecule": system.smiles, "frame": system.name,
        }  # fmt: skip
        atoms.calc = SinglePointCalculator(atoms, **labels)
        path = paths[system.part]
        files[path].append(atoms)
        write(path.with_suffix(".partial"), files[path], format="extxyz")
        os.replace(path.with_suffix(".partial"), path)
    lines = (f"{len(failed)} frames without labels", *failed)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
