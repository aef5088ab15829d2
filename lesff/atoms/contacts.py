"""Atoms too close to each other, or all too far: mistakes of units, of cells and of files.

Distances are judged in units of the sum of covalent radii (Cordero et al., Dalton Trans. 2008,
2832, as ASE has them): bonds lie between 0.75 (H2 1.2, triple bonds 0.78) and 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from lesff.atoms.neighbors import Neighbors, find_neighbors
from lesff.atoms.structure import Structure
from lesff.errors import CloseContactWarning, StructureError, warn

WARN_BELOW, REFUSE_BELOW = 0.7, 0.45
"""Shares of the sum of covalent radii."""
MIN_PERIOD = 2.1
"""A: no crystal at ordinary pressure has a shorter lattice vector (beryllium 2.29)."""
SMALLEST = 0.01
"""A: closer atoms are refused always, as the direction from one to the other is lost."""
_BOHR_RANGE = (1.5, 2.3)
"""Share at which the closest pair of atoms is a bond if positions are in bohr: 0.8 to 1.2."""
_NOBLE = frozenset({2, 10, 18, 36, 54, 86})


@dataclass(frozen=True)
class Contact:
    """Two atoms that are close.

    Attributes:
        atoms: Their indices.
        symbols: Their elements.
        distance: In A.
        share: The same in units of the sum of their covalent radii.
        shift: Cell of the second atom relative to the first.
    """

    atoms: tuple[int, int]
    symbols: tuple[str, str]
    distance: float
    share: float
    shift: tuple[int, int, int]

    def __str__(self) -> str:
        (i, j), (first, second) = self.atoms, self.symbols
        image = f", its image in cell {self.shift}" if any(self.shift) else ""
        return (
            f"atoms {i} ({first}) and {j} ({second}{image}) are {self.distance:.3f} A apart, "
            f"{self.share:.2f} of the sum of their covalent radii"
        )


@dataclass
class ContactRule:
    """What is done about close contacts; one for many steps, which warns of a pair once.

    Attributes:
        allow_close: Compute whatever the distances.
        warned: Pairs that were warned of.
    """

    allow_close: bool = False
    warned: set[tuple[int, int]] = field(default_factory=set)

    def check(self, structure: Structure, found: Neighbors, where: str) -> None:
        """Refuse or warn of distances that are no chemistry.

        Costs one look at the edge lengths.

        Args:
            structure: The structure.
            found: Its neighbours.
            where: Its name, for messages.

        Raises:
            StructureError: naming the pair, its distance and the structure; never with
                ``allow_close``, but for atoms closer than ``SMALLEST``.
        """
        if self.allow_close:
            if found.min_distance < SMALLEST:
                pair = closest(structure, found)
                raise StructureError(f"{where}: {pair}; they must be {SMALLEST} A apart at least")
            return
        pair = closest(structure, found)
        if pair is None:
            _warn_of_bohr(structure, found, where)
            return
        if pair.share < REFUSE_BELOW or pair.atoms[0] == pair.atoms[1]:
            raise StructureError(f"{where}: {pair}: {_reason(pair)}")
        if pair.atoms not in self.warned:
            self.warned.add(pair.atoms)
            warn(f"{where}: {pair}; bonds are longer than {WARN_BELOW}", CloseContactWarning)


def least_lengths(structure: Structure, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Lengths in A of pairs of atoms, below which :class:`ContactRule` looks at them."""
    radii = WARN_BELOW * covalent_radii[structure.numbers]
    return radii[first] + radii[second]


def warn_of_close_frames(structures: Sequence[Structure], name: str) -> str | None:
    """Warn of frames of a data set whose atoms are too close; they are kept.

    Args:
        structures: The frames.
        name: Of the data set.

    Returns:
        The text of the warning, None without such frames.
    """
    found = [(i, pair) for i, s in enumerate(structures) if (pair := _closest_alone(s)) is not None]
    if not found:
        return None
    place, worst = min(found, key=lambda row: row[1].share)
    text = (
        f"{len(found)} of {len(structures)} frames of {name} have atoms closer than {WARN_BELOW} "
        f"of the sum of their covalent radii, or than {MIN_PERIOD} A to their own image; they are "
        f"used. The closest, in frame {place}: {worst}"
    )
    warn(text, CloseContactWarning)
    return text


def _closest_alone(structure: Structure) -> Contact | None:
    """The closest pair of a structure whose neighbours are not known."""
    reach = 2.0 * WARN_BELOW * float(covalent_radii[structure.numbers].max())
    if structure.pbc.any():
        reach = max(reach, MIN_PERIOD)
    found = find_neighbors(structure.positions, structure.cell, structure.pbc, reach)
    return closest(structure, found)


def closest(structure: Structure, found: Neighbors) -> Contact | None:
    """The pair of atoms with the smallest share below ``WARN_BELOW``, an image of an atom first.

    None where all atoms keep their distance.
    """
    radii = covalent_radii[structure.numbers]
    reach = 2.0 * WARN_BELOW * float(radii.max())
    if found.min_period < MIN_PERIOD:
        reach = max(reach, MIN_PERIOD)
    if found.min_distance >= reach:
        return None
    near = np.flatnonzero(found.lengths < reach)
    if not len(near):  # the closest pair is beyond the cutoff
        return None
    sender, receiver = found.edge_index[:, near]
    lengths = found.lengths[near]
    shares = lengths / (radii[sender] + radii[receiver])
    # an atom and its own image: the period of the cell, whatever the radii
    images = np.flatnonzero((sender == receiver) & (lengths < MIN_PERIOD))
    place = int(images[lengths[images].argmin()]) if len(images) else int(shares.argmin())
    if not len(images) and shares[place] >= WARN_BELOW:
        return None
    return _contact(structure, found, int(near[place]))


def _contact(structure: Structure, found: Neighbors, edge: int) -> Contact:
    """An edge as a contact, the atom of lower index first."""
    if found.edge_index[0, edge] > found.edge_index[1, edge]:
        edge = int(found.reverse_edge[edge])
    i, j = (int(index) for index in found.edge_index[:, edge])
    numbers = structure.numbers[i], structure.numbers[j]
    a, b, c = (int(x) for x in found.cell_shifts[edge])
    length = float(found.lengths[edge])
    return Contact(
        atoms=(i, j),
        symbols=(chemical_symbols[numbers[0]], chemical_symbols[numbers[1]]),
        distance=length,
        share=length / float(covalent_radii[list(numbers)].sum()),
        shift=(a, b, c),
    )


def _reason(pair: Contact) -> str:
    advice = "pass allow_close=True (--allow-close) if it is meant"
    if pair.atoms[0] == pair.atoms[1]:
        return (
            f"lattice vectors are at least {MIN_PERIOD} A long in crystals; is the cell too small, "
            f"or in nm? {advice}"
        )
    return f"they overlap, below {REFUSE_BELOW}; are positions in nm? {advice}"


def _warn_of_bohr(structure: Structure, found: Neighbors, where: str) -> None:
    """Warn of molecules without any bond, whose closest atoms would be bonded in bohr."""
    if len(structure) < 3 or not len(found.lengths):
        return
    radii = covalent_radii[structure.numbers]
    # the shortest edge of a molecule is a bond: nothing more to do
    shortest = found.edge_index[:, int(found.lengths.argmin())]
    if found.min_distance < _BOHR_RANGE[0] * radii[shortest].sum():
        return
    sender, receiver = found.edge_index
    shares = found.lengths / (radii[sender] + radii[receiver])
    place = int(shares.argmin())
    if not _BOHR_RANGE[0] <= shares[place] <= _BOHR_RANGE[1]:
        return
    if not _NOBLE.isdisjoint(structure.numbers.tolist()):
        return
    warn(
        f"{where}: no two atoms are bonded: the closest {_contact(structure, found, place)}; are "
        "positions in bohr? lesff takes A (1 bohr = 0.529177 A)",
        CloseContactWarning,
    )
