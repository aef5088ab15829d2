"""Starting geometries of water clusters, built from their networks of hydrogen bonds.

The hexamers are built, not copied: oxygens 2.8 A apart on the known skeletons (ring: six-ring;
book: two four-rings that share an edge; cage: a four-ring with a molecule over each diagonal;
prism: two three-rings), a hydrogen on each bond at its donor. Of the directions of the bonds in
which no molecule donates or accepts more than two, those of lowest energy with GFN2-xTB are listed
here (of the cage, 160 were tried).
"""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
from ase.build import molecule

_OH, _HOH, _OO = 0.96, np.deg2rad(104.5), 2.8
_HYDROGEN_BOND = 2.35
"""Longest distance of hydrogen and acceptor in a hydrogen bond, A."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A cluster of water as a directed graph.

    Attributes:
        oxygens: Positions in units of the O-O distance.
        bonds: Donor and acceptor of each hydrogen bond.
        up: For each molecule, where a free hydrogen tends to, along z.
    """

    oxygens: tuple[tuple[float, float, float], ...]
    bonds: tuple[tuple[int, int], ...]
    up: tuple[int, ...] = (0, 0, 0, 0, 0, 0)


_A = 0.5 * np.sqrt(3.0)
_T = 1.0 / np.sqrt(3.0)
_S = np.sqrt(0.5)
HEXAMERS = {
    "prism": Network(
        oxygens=tuple(
            (_T * np.cos(2 * np.pi * k / 3), _T * np.sin(2 * np.pi * k / 3), z)
            for z in (0.0, 1.0)
            for k in range(3)
        ),
        bonds=((1, 0), (1, 2), (2, 0), (3, 4), (5, 4), (3, 5), (0, 3), (4, 1), (2, 5)),
    ),
    "cage": Network(
        oxygens=(
            (_S, 0.0, 0.1), (0.0, _S, -0.1), (-_S, 0.0, 0.1), (0.0, -_S, -0.1),
            (0.0, 0.0, 0.79), (0.0, 0.0, -0.79),
        ),
        bonds=((0, 1), (2, 1), (2, 3), (3, 0), (0, 4), (4, 2), (1, 5), (5, 3)),
        up=(0, 1, 0, -1, -1, 1),
    ),
    "book": Network(
        oxygens=(
            (0.0, -1.0, 0.0), (0.0, 0.0, 0.0), (_A, -1.0, 0.5), (_A, 0.0, 0.5),
            (-_A, -1.0, 0.5), (-_A, 0.0, 0.5),
        ),
        bonds=((0, 1), (0, 2), (3, 1), (2, 3), (4, 0), (1, 5), (5, 4)),
        up=(0, -1, -1, 1, -1, 1),
    ),
    "ring": Network(
        oxygens=tuple(
            (np.cos(np.pi * k / 3), np.sin(np.pi * k / 3), 0.07 * (-1) ** k) for k in range(6)
        ),
        bonds=tuple((k, (k + 1) % 6) for k in range(6)),
        up=(1, -1, 1, -1, 1, -1),
    ),
}  # fmt: skip
"""The four families of the water hexamer."""


def build(network: Network) -> ase.Atoms:
    """Water molecules (O, H, H each) with these hydrogen bonds; a start for relaxation."""
    oxygens = _OO * np.array(network.oxygens)
    atoms = ase.Atoms()
    for i, position in enumerate(oxygens):
        partners = [_unit(oxygens[b if a == i else a] - position) for a, b in network.bonds
                    if i in (a, b)]  # fmt: skip
        along = [_unit(oxygens[b] - position) for a, b in network.bonds if a == i]
        if len(along) == 1:
            outward = 0.8 * np.array([0.0, 0.0, network.up[i]]) - np.sum(partners, axis=0)
            across = _unit(outward - (outward @ along[0]) * along[0])
            along.append(np.cos(_HOH) * along[0] + np.sin(_HOH) * across)
        atoms += ase.Atoms("OHH", [position, *(position + _OH * axis for axis in along)])
    return atoms


def hydrogen_bonds(atoms: ase.Atoms) -> set[frozenset[int]]:
    """Pairs of bonded molecules, for molecules of three atoms with the oxygen first."""
    n = len(atoms) // 3
    distances = atoms.get_all_distances()
    return {
        frozenset((i, j))
        for i in range(n)
        for j in range(n)
        if i != j and distances[3 * i + 1 : 3 * i + 3, 3 * j].min() < _HYDROGEN_BOND
    }


def dimer() -> ase.Atoms:
    """Two molecules with a linear hydrogen bond, O-O 2.9 A."""
    donor, acceptor = molecule("H2O"), molecule("H2O")
    donor.positions -= donor.positions[0]
    donor.rotate(_unit(donor.positions[1]), (1, 0, 0), center=(0, 0, 0))
    acceptor.positions -= acceptor.positions[0]
    acceptor.rotate(acceptor.positions[1:].sum(0), (1, 0, 0.6), center=(0, 0, 0))
    acceptor.positions += (2.9, 0.0, 0.0)
    return donor + acceptor


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
