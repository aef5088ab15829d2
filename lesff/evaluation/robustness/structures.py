"""What the checks of robustness are made of: molecules, ions, contacts, clusters."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.build import molecule
from ase.data import covalent_radii
from ase.data.s22 import create_s22_system

from lesff.atoms.neighbors import find_neighbors
from lesff.evaluation.molecules import add_proton, bond_graph, molecules_of, side_of
from lesff.evaluation.robustness.probe import System

ORGANIC = (
    "H2O", "NH3", "CH4", "CH3OH", "H2CO", "HCN", "CO2", "C2H4", "C2H2", "C2H6", "CH3CN", "HCOOH",
    "SH2", "HF", "HCl", "CH3Cl", "CH3SH", "PH3", "CH3COCH3", "C6H6",
)  # fmt: skip
"""Closed-shell molecules of ASE's G2 collection, none of which oxidises another."""
INORGANIC = ("H2O", "NH3", "HF", "HCl", "SiH4", "NaCl", "LiF", "SH2", "PH3")
"""The same without carbon, for models of solids."""

_REACH = 1.1
"""Shares up to this are seen."""


def neutral(name: str) -> System:
    """A closed-shell molecule of ASE's collection, without the moments that it carries."""
    return System(name=name, atoms=bare(molecule(name)), spin=1)


BASES = {
    "adenine": ("Adenine-thymine_complex_stack", 0),
    "thymine": ("Adenine-thymine_complex_stack", 1),
    "uracil": ("Uracil_dimer_stack", 0),
}
"""Where ``ase.data.s22`` has nucleobases: a complex, and which of its molecules."""


def base(name: str) -> System:
    """A nucleobase: rings and amide groups whose atoms all lack bonds if they are counted."""
    complex_name, index = BASES[name]
    both = create_s22_system(complex_name)
    return System(name=name, atoms=bare(both[molecules_of(both)[index]]), spin=1)


def bare(atoms: ase.Atoms) -> ase.Atoms:
    """A copy without initial charges and moments: the state is told otherwise."""
    return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def ammonium() -> System:
    """NH4+."""
    return System(name="NH4+", atoms=bare(add_proton(molecule("NH3"), 0)), charge=1, spin=1)


def hydronium() -> System:
    """H3O+."""
    return System(name="H3O+", atoms=bare(add_proton(molecule("H2O"), 0)), charge=1, spin=1)


def methylammonium() -> System:
    """CH3NH3+."""
    atoms = molecule("H3CNH2")
    nitrogen = int(np.flatnonzero(atoms.numbers == 7)[0])
    return System(name="CH3NH3+", atoms=bare(add_proton(atoms, nitrogen)), charge=1, spin=1)


def acetate() -> System:
    """CH3COO-, acetic acid without the hydrogen of its O-H."""
    atoms = molecule("CH3COOH")
    graph = bond_graph(atoms)
    acid = [i for i in range(len(atoms))
            if atoms.numbers[i] == 1 and atoms.numbers[graph[i][0]] == 8]  # fmt: skip
    del atoms[acid]
    return System(name="CH3COO-", atoms=bare(atoms), charge=-1, spin=1)


def hydroxide() -> System:
    """OH-."""
    return System(name="OH-", atoms=bare(molecule("OH")), charge=-1, spin=1)


def ion(symbol: str, charge: int) -> System:
    """An atomic ion with a closed shell."""
    name = f"{symbol}{'+' if charge > 0 else '-'}"
    return System(name=name, atoms=ase.Atoms(symbol), charge=charge, spin=1)


def closest_share(atoms: ase.Atoms) -> float:
    """Smallest distance of two atoms in units of the sum of their covalent radii; inf if all far.

    NaN where positions are not finite.
    """
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell).all()):
        return np.nan
    radii = covalent_radii[atoms.numbers]
    pbc, cell = np.array(atoms.pbc), np.array(atoms.cell)
    found = find_neighbors(atoms.positions, cell, pbc, _REACH * 2.0 * float(radii.max()))
    if not len(found.lengths):
        return np.inf
    sender, receiver = found.edge_index
    return float((found.lengths / (radii[sender] + radii[receiver])).min())


def random_turn(atoms: ase.Atoms, rng: np.random.Generator) -> ase.Atoms:
    """A randomly turned copy, centre of mass at the origin."""
    copy = atoms.copy()
    copy.positions -= copy.get_center_of_mass()
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    copy.positions @= np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return copy


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def pressed(
    fixed: ase.Atoms, moving: ase.Atoms, direction: np.ndarray, shares: Sequence[float]
) -> list[ase.Atoms]:
    """Two molecules pressed together along a line through their centres.

    Args:
        fixed: One, about the origin.
        moving: The other, about the origin.
        direction: Unit vector from the first to the other.
        shares: Closest contacts between them in units of the sum of covalent radii, falling.

    Returns:
        Both together at the largest distance with each contact; fewer than asked for where they
        pass each other before.
    """
    reach = np.linalg.norm(fixed.positions, axis=1).max()
    reach += np.linalg.norm(moving.positions, axis=1).max() + 6.0
    distances = np.arange(reach, 0.0, -0.005)
    radii = covalent_radii[fixed.numbers][:, None] + covalent_radii[moving.numbers]
    # [i, j, xyz] -> [distance, i, j]
    apart = moving.positions[None] - fixed.positions[:, None]
    along = apart @ direction
    square = (apart**2).sum(-1)
    d = distances[:, None, None]
    lengths = np.sqrt(np.maximum(square + 2.0 * d * along + d * d, 0.0))
    closest = (lengths / radii).min(axis=(1, 2))
    found = []
    for share in shares:
        inside = np.flatnonzero(closest <= share)
        if not len(inside):
            break
        other = moving.copy()
        other.positions += distances[inside[0]] * direction
        found.append(fixed + other)
    return found


def cluster(
    names: Sequence[str], count: int, contact: float, rng: np.random.Generator
) -> tuple[list[System], System]:
    """Random molecules pressed together one after the other.

    Args:
        names: Molecules to choose from.
        count: Number of molecules.
        contact: Closest contact of each with those before it, a share of the sum of covalent radii.
        rng: Of molecules, turns and directions.

    Returns:
        The molecules, and all of them in one system.
    """
    parts = [neutral(name) for name in rng.choice(names, count)]
    atoms = random_turn(parts[0].atoms, rng)
    for part in parts[1:]:
        moving = random_turn(part.atoms, rng)
        found: list[ase.Atoms] = []
        while not found:  # those that pass each other are tried again along another line
            found = pressed(atoms, moving, random_direction(rng), [contact])
        atoms = found[0]
        atoms.positions -= atoms.get_center_of_mass()
    name = " + ".join(part.name for part in parts)
    return parts, System(name=name, atoms=atoms, spin=1)


def distinct_bonds(atoms: ase.Atoms) -> list[tuple[int, int]]:
    """Bonds that are not in a ring, one of each kind (elements and neighbours of both ends)."""
    graph = bond_graph(atoms)
    symbols = atoms.get_chemical_symbols()
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for i, neighbors in enumerate(graph):
        for j in (j for j in neighbors if j > i):
            try:
                side_of(atoms, i, j)
            except ValueError:  # in a ring
                continue
            ends = sorted(
                f"{symbols[k]}({''.join(sorted(symbols[m] for m in graph[k]))})" for k in (i, j)
            )
            found.setdefault(tuple(ends), (i, j))
    return list(found.values())


def stretched(atoms: ase.Atoms, bond: tuple[int, int], length: float) -> ase.Atoms:
    """A copy with a bond of this length; the two sides stay as they are."""
    i, j = bond
    copy = atoms.copy()
    axis = copy.positions[j] - copy.positions[i]
    now = np.linalg.norm(axis)
    copy.positions[side_of(atoms, i, j)] += (length / now - 1.0) * axis
    return copy


def scaled(atoms: ase.Atoms, factor: float) -> ase.Atoms:
    """A copy with all distances multiplied, those of the cell too."""
    copy = atoms.copy()
    copy.set_cell(np.array(copy.cell) * factor)
    copy.positions *= factor
    return copy
