"""Building small molecules: bonds, methyl groups, protons."""

from __future__ import annotations

import ase
import numpy as np
from ase.data import covalent_radii

from lesff.atoms.molecules import BOND_STRETCH

_CN, _CH, _XH = 1.46, 1.09, 1.0


def bond_graph(atoms: ase.Atoms) -> list[list[int]]:
    """Bonded neighbours of each atom of a molecule, by covalent radii."""
    radii = covalent_radii[atoms.numbers]
    bonded = atoms.get_all_distances() < BOND_STRETCH * (radii[:, None] + radii[None, :])
    np.fill_diagonal(bonded, val=False)
    return [np.flatnonzero(row).tolist() for row in bonded]


def molecules_of(atoms: ase.Atoms) -> list[list[int]]:
    """Atoms of each connected molecule, in the order of their first atoms."""
    graph = bond_graph(atoms)
    left = set(range(len(atoms)))
    found = []
    while left:
        members, border = set(), {min(left)}
        while border:
            members |= border
            border = {j for i in border for j in graph[i]} - members
        found.append(sorted(members))
        left -= members
    return found


def side_of(atoms: ase.Atoms, fixed: int, moving: int) -> list[int]:
    """Atoms that turn with ``moving`` about its bond with ``fixed``."""
    graph = bond_graph(atoms)
    members, border = {moving}, {j for j in graph[moving] if j != fixed}
    while border:
        members |= border
        border = {j for i in border for j in graph[i]} - members
    if fixed in members:
        raise ValueError(f"the bond {fixed}-{moving} must not be in a ring")
    return sorted(members)


def add_methyl(atoms: ase.Atoms, hydrogen: int, neighbor: int) -> ase.Atoms:
    """Turn a hydrogen into a methyl group; its carbon keeps the hydrogen's index."""
    copy = atoms.copy()
    axis = _unit(copy.positions[hydrogen] - copy.positions[neighbor])
    across = _across(axis)
    copy.numbers[hydrogen] = 6
    copy.positions[hydrogen] = copy.positions[neighbor] + _CN * axis
    third = np.cross(axis, across)
    for turn in np.deg2rad([0.0, 120.0, 240.0]):
        radial = np.cos(turn) * across + np.sin(turn) * third
        direction = np.sqrt(8.0) / 3.0 * radial + axis / 3.0
        copy += ase.Atoms("H", [copy.positions[hydrogen] + _CH * direction])
    return copy


def add_proton(atoms: ase.Atoms, site: int) -> ase.Atoms:
    """Put a hydrogen opposite the bonds of an atom, slightly off to where symmetry may break.

    At a doubly bonded end (a carbonyl oxygen) it goes to the side, 120 degrees from the bond; at
    other places a little off the symmetric position.
    """
    graph = bond_graph(atoms)
    bonds = [_unit(atoms.positions[j] - atoms.positions[site]) for j in graph[site]]
    away = -np.sum(bonds, axis=0)
    end = graph[site][0]
    if len(bonds) == 1 and len(graph[end]) == 3:
        other = next(j for j in graph[end] if j != site)
        plane = atoms.positions[other] - atoms.positions[end]
        away = np.cos(np.pi / 3) * away + np.sin(np.pi / 3) * _unit(
            plane - (plane @ bonds[0]) * bonds[0]
        )
    elif len(bonds) == 2:
        away = _unit(away) + 0.5 * _unit(np.cross(bonds[0], bonds[1]))
    elif len(bonds) == 1:
        away = _unit(away) + 0.2 * _across(bonds[0])
    return atoms + ase.Atoms("H", [atoms.positions[site] + _XH * _unit(away)])


def _across(axis: np.ndarray) -> np.ndarray:
    """A unit vector perpendicular to a unit vector."""
    trial = np.eye(3)[np.argmin(np.abs(axis))]
    return _unit(np.cross(axis, trial))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
