"""Structures to label: conformers along their normal modes, pairs of molecules, molecules in water.

    cd tools/data
    python structures.py thermal --molecules molecules.tsv -o DATA/thermal.npz
    python structures.py dimers --molecules molecules.tsv --count 20000 -o DATA/dimers.npz
    python structures.py solvated --molecules ions.tsv --count 4000 -o DATA/solvated.npz
    python structures.py transfers --molecules ions.tsv --count 6000 -o DATA/transfers.npz

A line of the list is ``class <tab> SMILES``, or the SMILES alone. ``molecules.tsv`` beside this
file has the molecules with B, Si, P, S, halogens, many nitrogens or a charge that are in
``organic2_extended.npz`` (SMILES of RDKit's regression lists, BSD-3-Clause; molecules of the SPICE
test set left out), ``ions.tsv`` ions and polar molecules for water, ``halides.tsv`` anions and
what gives them a proton.

- ``thermal``: RDKit's ETKDG conformer of each, relaxed with MMFF94 or UFF and then by ``--relax``
  for a few steps of steepest descent; a quarter as it is, and ``--frames`` displacements along the
  normal modes of the force field at 100 to 700 K, a fifth of them with the amplitudes of the
  quantum harmonic oscillator: mean square of a mode ``hbar / (2 m w) coth(hbar w / 2 kT)`` (Wigner;
  e.g. Brown, Heller, J. Chem. Phys. 75, 186 (1981), eq. for thermal states), classical otherwise.
- ``dimers``: two of them at a random orientation, their closest contact 0.6 to 2.6 times the sum of
  van der Waals radii (Alvarez, Dalton Trans. 42, 8617 (2013)).
- ``solvated``: one in 2 to 20 waters, packed at random and relaxed like conformers for a random
  number of steps, so that contacts of all kinds are there.
- ``transfers``: a hydrogen of one on its way to an atom with a lone pair of another, at all
  distances between the two atoms from a shared proton to a weak hydrogen bond.

Bonds turned: ``turned_bonds.py``. Contacts inside covalent radii: ``compressed.py``,
``pair_contacts.py``. Hot runs: ``lesff distill --sample md --labels-only``. Labels: ``labels.py``.

The arrays are those of a shard without energies and forces; ``group`` is the SMILES, of pairs
both. An interrupted run goes on where it stopped; see ``chunks.py``. Needs ``pip install rdkit
scipy tqdm`` in an environment that finds lesff.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, covalent_radii, vdw_alvarez
from chunks import Arrays, written_in_chunks
from composed import is_held_out
from held_out import is_held_out_formula
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

import lesff

CHUNK = 100
"""Molecules, pairs or clusters of a chunk."""
TEMPERATURES, SHARES = (100.0, 300.0, 500.0, 700.0), (0.2, 0.5, 0.22, 0.08)
"""K, and how often each."""
RELAXED, QUANTUM = 0.25, 0.2
"""Share of conformers kept as relaxed, of displacements with quantum amplitudes."""
SOFTEST, FARTHEST = 0.02, 0.45
"""Least energy of a mode in eV, so that soft ones move no further; longest displacement, A."""
DESCENT, RATE, LONGEST = 14, 0.02, 0.06
"""Steps, A per eV/A, and A of one atom in one step."""
CLOSEST = 0.62
"""A; displaced structures with less between two atoms are left out."""
APART = (0.6, 2.6)
"""Closest contact of two molecules in sums of van der Waals radii."""
MOST_IN_DIMER, MOST_IN_WATER, WATERS = 16, 12, (2, 20)
"""Atoms of a molecule of a dimer, of one in water, and numbers of waters."""
PACKED = 0.8
"""Least contact of a packed cluster in sums of van der Waals radii."""
WATER = "O"
ENDS = (7, 8, 9, 15, 16, 17, 34, 35, 53)
"""Elements that hydrogens go from and to."""
SHORTER, LONGER = 0.15, 1.3
"""A less, and more, than two bonds to hydrogen from the one atom to the other."""
PAST = 0.1
"""A by which a hydrogen is nearer to either than its bond."""
TILT, JITTER = 0.15, 0.03
"""Of the hydrogen bond, as a share of its length; of all atoms in A."""
BESIDE, TRIES = 0.55, 40
"""Least contact of all other atoms in sums of van der Waals radii, and turns to reach it."""


@dataclass(frozen=True)
class Conformer:
    """One structure.

    Attributes:
        name: SMILES; of several molecules with a dot between.
        kind: Class in the list.
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        charge: In e.
    """

    name: str
    kind: str
    numbers: np.ndarray
    positions: np.ndarray
    charge: int


def read_list(path: Path) -> list[tuple[str, str]]:
    """Class and SMILES of each line; ends the program, naming them, for lines that are none."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.strip()]
    bad = [row[-1] for row in rows if Chem.MolFromSmiles(row[-1]) is None]
    if bad:
        sys.exit(
            f"{path} must hold SMILES, got {', '.join(map(repr, bad))}: correct or remove them"
        )
    return [(row[0] if len(row) > 1 else path.stem, row[-1]) for row in rows]


def embedded(smiles: str, kind: str, seed: int) -> tuple[Conformer, np.ndarray] | None:
    """A conformer relaxed with a force field, and its Hessian (3 n, 3 n) in eV/A^2.

    None for molecules without a conformer or a force field.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if AllChem.EmbedMolecule(molecule, randomSeed=seed, maxAttempts=5) != 0:
        return None
    parameters = AllChem.MMFFGetMoleculeProperties(molecule)
    field = (
        AllChem.UFFGetMoleculeForceField(molecule)
        if parameters is None and AllChem.UFFHasAllMoleculeParams(molecule)
        else AllChem.MMFFGetMoleculeForceField(molecule, parameters)
        if parameters is not None
        else None
    )
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    if field is None:
        return None
    field.Initialize()
    field.Minimize(maxIts=300)
    positions = np.array(field.Positions()).reshape(-1, 3)
    found = Conformer(smiles, kind, numbers, positions, Chem.GetFormalCharge(molecule))
    hessian = _hessian(field, positions.ravel())
    return (found, hessian) if np.isfinite(hessian).all() else None


def _hessian(field: object, flat: np.ndarray, step: float = 2e-4) -> np.ndarray:
    """Differences of gradients of a force field, eV/A^2."""
    places, rows = flat.tolist(), []
    for i, place in enumerate(flat.tolist()):
        sides = []
        for sign in (1.0, -1.0):
            places[i] = place + sign * step
            field.CalcEnergy(places)  # without, RDKit takes distances of the call before
            sides.append(np.array(field.CalcGrad(places)))
        places[i] = place
        rows.append((sides[0] - sides[1]) / (2.0 * step))
    hessian = np.array(rows) * units.kcal / units.mol
    return 0.5 * (hessian + hessian.T)


def displaced(
    numbers: np.ndarray,
    hessian: np.ndarray,
    temperature: float,
    rng: np.random.Generator,
    *,
    is_quantum: bool,
) -> np.ndarray:
    """Displacements (n_atoms, 3) in A drawn from the harmonic oscillators of a Hessian.

    The mean energy of a mode of frequency w is ``kT``, or with quantum amplitudes
    ``hbar w / 2 coth(hbar w / 2 kT)``; its mean square displacement is that over ``w^2``.

    Args:
        numbers: Atomic numbers (n_atoms,).
        hessian: (3 n_atoms, 3 n_atoms) in eV/A^2.
        temperature: In K.
        rng: Random numbers.
        is_quantum: Whether amplitudes are quantum ones.
    """
    root = np.sqrt(np.repeat(atomic_masses[numbers], 3))
    values, modes = np.linalg.eigh(hessian / np.outer(root, root))
    # translations and rotations are the six softest
    values, modes = values[6:], modes[:, 6:]
    per_root = units._hbar * units.m / np.sqrt(units._e * units._amu)  # noqa: SLF001 - hbar in eV
    quantum = np.maximum(per_root * np.sqrt(np.maximum(values, 0.0)), SOFTEST)
    thermal = units.kB * temperature
    energy = (
        0.5 * quantum / np.tanh(0.5 * quantum / thermal)
        if is_quantum
        else np.full(len(quantum), thermal)
    )
    amplitudes = np.sqrt(energy) * per_root / quantum * rng.normal(size=len(quantum))
    moved = ((modes @ amplitudes) / root).reshape(-1, 3)
    return moved * min(1.0, FARTHEST / max(np.linalg.norm(moved, axis=1).max(), 1e-9))


def relaxed(
    model: lesff.Model | None, conformers: Sequence[Conformer], steps: int = DESCENT
) -> list[Conformer]:
    """After some steps of steepest descent, none of which is long."""
    if model is None or not conformers:
        return list(conformers)
    atoms = [Atoms(c.numbers, c.positions, info={"charge": c.charge}) for c in conformers]
    for _ in range(steps):
        with warnings.catch_warnings():  # of contacts and surroundings, made on purpose
            warnings.simplefilter("ignore")
            found = model.predict(atoms, "forces", allow_close=True, progress=False)
        for one, forces in zip(atoms, found.forces, strict=True):
            move = RATE * np.asarray(forces)
            long = np.linalg.norm(move, axis=1, keepdims=True)
            one.positions += move * np.minimum(1.0, LONGEST / np.maximum(long, 1e-9))
    return [replace(c, positions=a.positions) for c, a in zip(conformers, atoms, strict=True)]


def shard_of(conformers: Sequence[Conformer]) -> Arrays | None:
    """Arrays of structures."""
    if not conformers:
        return None
    return {
        "n": np.array([len(c.numbers) for c in conformers], dtype=np.uint16),
        "numbers": np.concatenate([c.numbers for c in conformers]).astype(np.uint8),
        "positions": np.concatenate([c.positions for c in conformers]).astype(np.float32),
        "charge": np.array([c.charge for c in conformers], dtype=np.int8),
        "group": np.array([c.name.encode() for c in conformers]),
        "kind": np.array([c.kind.encode() for c in conformers]),
        "valid": np.array([is_held_out(c.name) for c in conformers]),
    }


def closest(first: np.ndarray, second: np.ndarray, radii: np.ndarray) -> float:
    """Closest contact of two sets of positions in the sums ``radii``."""
    return float((cdist(first, second) / radii).min())


def turned(conformer: Conformer, rng: np.random.Generator) -> Conformer:
    """At the origin, in a random orientation."""
    centred = conformer.positions - conformer.positions.mean(axis=0)
    return replace(conformer, positions=Rotation.random(rng=rng).apply(centred))


def placed(parts: Sequence[Conformer], contact: float, rng: np.random.Generator) -> Conformer:
    """Molecules beside each other: each comes from a random side, up to a contact with the rest."""
    numbers, positions = parts[0].numbers, parts[0].positions
    for part in parts[1:]:
        sums = vdw_alvarez.vdw_radii[numbers][:, None] + vdw_alvarez.vdw_radii[part.numbers][None]
        side = rng.normal(size=3)
        side /= np.linalg.norm(side)
        near, far = 0.0, 60.0
        # the outermost place with this contact: in steps from outside, then halved
        for at in np.arange(far, 0.0, -0.25):
            if closest(positions, part.positions + at * side, sums) < contact:
                near = at
                break
            far = at
        for _ in range(12):
            middle = 0.5 * (near + far)
            is_near = closest(positions, part.positions + middle * side, sums) < contact
            near, far = (middle, far) if is_near else (near, middle)
        numbers = np.concatenate([numbers, part.numbers])
        positions = np.concatenate([positions, part.positions + far * side])
    names = sorted(part.name for part in parts if part.name != WATER) or [WATER]
    return Conformer(
        name=".".join(names),
        kind=parts[0].kind,
        numbers=numbers,
        positions=positions,
        charge=sum(part.charge for part in parts),
    )


def shared_proton(
    donor: Conformer, acceptor: Conformer, rng: np.random.Generator
) -> Conformer | None:
    """A hydrogen of one molecule on its way to another; None where neither fits the other."""
    apart = cdist(donor.positions, donor.positions) + 9.0 * np.eye(len(donor.numbers))
    ways = [
        (h, d)
        for h in np.flatnonzero(donor.numbers == 1)
        if donor.numbers[d := int(apart[h].argmin())] in ENDS
    ]
    ends = np.flatnonzero(np.isin(acceptor.numbers, ENDS))
    if not ways or not len(ends):
        return None
    (h, d), end = ways[rng.integers(len(ways))], ends[rng.integers(len(ends))]
    first, last = (
        covalent_radii[1] + covalent_radii[z] for z in (donor.numbers[d], acceptor.numbers[end])
    )
    length = first + last + rng.uniform(-SHORTER, LONGER)
    axis = donor.positions[h] - donor.positions[d]
    axis = axis / np.linalg.norm(axis) + TILT * rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    positions = donor.positions.copy()
    positions[h] = positions[d] + rng.uniform(first - PAST, length - last + PAST) * axis
    sums = vdw_alvarez.vdw_radii[donor.numbers][:, None] + vdw_alvarez.vdw_radii[acceptor.numbers]
    for _ in range(TRIES):
        other = turned(acceptor, rng).positions
        other = other - other[end] + donor.positions[d] + length * axis
        contacts = cdist(positions, other) / sums
        contacts[[h, d], end] = 9.0
        if contacts.min() > BESIDE:
            both = np.concatenate([positions, other])
            return Conformer(
                name=".".join(sorted((donor.name, acceptor.name))),
                kind="transfer",
                numbers=np.concatenate([donor.numbers, acceptor.numbers]),
                positions=both + JITTER * rng.normal(size=both.shape),
                charge=donor.charge + acceptor.charge,
            )
    return None


@dataclass(eq=False)
class Maker:
    """Makes the structures of a chunk, from the list, the options and the number of the chunk.

    Attributes:
        rows: Class and SMILES of each molecule.
        relax: Model that relaxes, or None.
        frames: Displacements of a conformer.
        seed: Of everything.
        charge: Total charge of transfers; None for -1 to 1.
    """

    rows: list[tuple[str, str]]
    relax: lesff.Model | None
    frames: int
    seed: int
    charge: int | None = None

    def rng(self, chunk: int) -> np.random.Generator:
        """Of a chunk."""
        return np.random.default_rng([self.seed, chunk])

    def thermal(self, chunk: int) -> Arrays | None:
        """Conformers and displacements of the next molecules."""
        rng = self.rng(chunk)
        found = [
            made
            for kind, smiles in self.rows[chunk * CHUNK : (chunk + 1) * CHUNK]
            if (made := embedded(smiles, kind, int(rng.integers(2**31 - 1)))) is not None
        ]
        kept: list[Conformer] = []
        for one, (_, hessian) in zip(
            relaxed(self.relax, [c for c, _ in found]), found, strict=True
        ):
            if rng.random() < RELAXED:
                kept.append(one)
            for _ in range(self.frames):
                moved = one.positions + displaced(
                    one.numbers,
                    hessian,
                    rng.choice(TEMPERATURES, p=SHARES),
                    rng,
                    is_quantum=rng.random() < QUANTUM,
                )
                apart = cdist(moved, moved) + 9.0 * np.eye(len(moved))
                if len(moved) == 1 or apart.min() > CLOSEST:
                    kept.append(replace(one, positions=moved))
        return shard_of(kept)

    @cache  # noqa: B019 - one maker a run
    def small(self, most: int) -> list[Conformer]:
        """Relaxed conformers of the molecules of up to ``most`` atoms."""
        found = [
            made[0]
            for i, (kind, smiles) in enumerate(self.rows)
            if Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms() <= most
            and (made := embedded(smiles, kind, self.seed + i + 1)) is not None
        ]
        if not found:
            sys.exit(f"the list has no molecule of up to {most} atoms with a conformer")
        return relaxed(self.relax, found)

    def dimers(self, chunk: int, count: int) -> Arrays | None:
        """Pairs."""
        rng, pool = self.rng(chunk), self.small(MOST_IN_DIMER)
        made = []
        for _ in range(min(CHUNK, count - chunk * CHUNK)):
            parts = [turned(pool[rng.integers(len(pool))], rng) for _ in range(2)]
            made.append(placed(parts, rng.uniform(*APART), rng))
        return shard_of(made)

    def transfers(self, chunk: int, count: int) -> Arrays | None:
        """Hydrogens between two molecules of a total charge of -1 to 1, or of the one asked."""
        rng, pool = self.rng(chunk), self.small(MOST_IN_DIMER)
        if not any(self.transfer(a, b, rng) for a in pool for b in pool):
            sys.exit("the list has no hydrogen that could go from one molecule to another")
        rng = self.rng(chunk)
        made: list[Conformer] = []
        while len(made) < min(CHUNK, count - chunk * CHUNK):
            first, second = (pool[rng.integers(len(pool))] for _ in range(2))
            made += filter(None, [self.transfer(first, second, rng)])
        return shard_of(made)

    def transfer(
        self, first: Conformer, second: Conformer, rng: np.random.Generator
    ) -> Conformer | None:
        """A hydrogen between the two, unless their charge is not asked for or they are held out."""
        charge = first.charge + second.charge
        if abs(charge) > 1 if self.charge is None else charge != self.charge:
            return None
        names = (first.name, second.name, f"{first.name}.{second.name}")
        if any(map(is_held_out_formula, names)):
            return None
        return shared_proton(first, second, rng)

    def solvated(self, chunk: int, count: int) -> Arrays | None:
        """One molecule in waters."""
        rng, pool = self.rng(chunk), self.small(MOST_IN_WATER)
        water = embedded(WATER, "water", 1)
        assert water is not None  # noqa: S101 - RDKit knows water
        made = []
        for _ in range(min(CHUNK, count - chunk * CHUNK)):
            waters = rng.integers(WATERS[0], WATERS[1] + 1)
            parts = [turned(pool[rng.integers(len(pool))], rng)]
            parts += [turned(water[0], rng) for _ in range(waters)]
            made.append(placed(parts, PACKED, rng))
        # three groups, relaxed for a while, for longer and for long
        for group, steps in enumerate((DESCENT // 2, DESCENT, 3 * DESCENT)):
            made[group::3] = relaxed(self.relax, made[group::3], steps)
        return shard_of(made)


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("thermal", "dimers", "solvated", "transfers"))
    parser.add_argument("--molecules", type=Path, required=True, help="list of SMILES")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, help="of structures; molecules of thermal")
    parser.add_argument("--frames", type=int, default=3, help="displacements of a conformer")
    parser.add_argument("--charge", type=int, help="only of transfers of this total charge")
    parser.add_argument("--relax", default="aimnet2-wb97m-d3", help="lesff model, or `none`")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    rows = read_list(options.molecules)
    order = np.random.default_rng(options.seed).permutation(len(rows))
    rows = [rows[i] for i in order]
    if options.kind == "thermal":
        rows = rows[: options.count]
    elif options.count is None:
        parser.error(f"`{options.kind}` needs --count")
    count = len(rows) if options.kind == "thermal" else options.count
    maker = Maker(
        rows=rows,
        relax=None if options.relax == "none" else lesff.load(options.relax),
        frames=options.frames,
        seed=options.seed,
        charge=options.charge,
    )
    makers = {
        "thermal": maker.thermal,
        "dimers": lambda chunk: maker.dimers(chunk, count),
        "solvated": lambda chunk: maker.solvated(chunk, count),
        "transfers": lambda chunk: maker.transfers(chunk, count),
    }
    asked = {
        "kind": options.kind,
        "molecules": [list(row) for row in rows],
        "count": count,
        "frames": options.frames,
        "relax": options.relax,
        "seed": options.seed,
    }
    if options.charge is not None:
        asked["charge"] = options.charge
    digest = written_in_chunks(options.output, asked, -(-count // CHUNK), makers[options.kind])
    sys.stdout.write(f"{digest}  {options.output}\n")


if __name__ == "__main__":
    main()
