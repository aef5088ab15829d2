"""Which atoms of a batch belong to one molecule, and net forces on molecules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from lesff.atoms.graph import AtomGraph, edge_vectors

BOND_STRETCH = 1.25
"""Atoms closer than this times the sum of their covalent radii are bonded."""
_SAME_PLACE = 1e-3
"""A, between an atom and itself; its images are further away."""


@dataclass(frozen=True)
class Molecules:
    """Molecules of a batch.

    Attributes:
        of_atom: (n_atoms,) molecule of each atom.
        system: (n_molecules,) system of each molecule.
        has_others: (n_molecules,) whether its system has further molecules.
    """

    of_atom: Tensor
    system: Tensor
    has_others: Tensor

    def net(self, values: Tensor) -> Tensor:
        """Sum over each molecule, (n_molecules, ...), of values of atoms, (n_atoms, ...)."""
        total = values.new_zeros(len(self.system), *values.shape[1:])
        return total.index_add(0, self.of_atom, values)


def find_molecules(graph: AtomGraph) -> Molecules:
    """Connected molecules by covalent radii, across cell boundaries; edges must hold the bonds."""
    from scipy.sparse import coo_array  # start-up: 0.3 s of CPU
    from scipy.sparse.csgraph import connected_components

    # edges shorter than a stretched bond; the table of radii is indexed by atomic number
    sender, receiver = graph.edge_index
    length = edge_vectors(graph).detach().norm(dim=1)
    radii = torch.from_numpy(covalent_radii).to(length)[graph.atomic_numbers]
    bonds = torch.nonzero(length < BOND_STRETCH * (radii[sender] + radii[receiver])).flatten()
    i, j = sender[bonds].cpu().numpy(), receiver[bonds].cpu().numpy()
    # atoms that bonds connect are one molecule, whichever images the bonds lead to
    n = graph.n_atoms
    links = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n))
    count, labels = connected_components(links, directed=False)
    of_atom = torch.from_numpy(labels.astype(np.int64)).to(graph.batch.device)
    # all atoms of a molecule are in one system: any of them says which
    system = graph.batch.new_zeros(count).index_copy(0, of_atom, graph.batch)
    return Molecules(of_atom, system, torch.bincount(system)[system] > 1)


def largest_extent(graph: AtomGraph, is_bond: Tensor) -> float:
    """Largest distance in A between two atoms that bonds connect; inf where they go on for ever.

    Args:
        graph: A batch.
        is_bond: (n_edges,) which edges are bonds.
    """
    sender, receiver = graph.edge_index[:, is_bond].cpu().numpy()
    vectors = edge_vectors(graph).detach()[is_bond].cpu().double().numpy()
    bonded: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(graph.n_atoms)]
    for i, j, v in zip(sender.tolist(), receiver.tolist(), vectors, strict=True):
        bonded[i].append((j, v))
    # every molecule as one piece, walked from an atom of it along its bonds
    place: dict[int, np.ndarray] = {}
    largest = 0.0
    for first in range(graph.n_atoms):
        if first in place:
            continue
        place[first] = np.zeros(3)
        members = [first]
        for i in members:
            for j, v in bonded[i]:
                if j not in place:
                    place[j] = place[i] + v
                    members.append(j)
                elif np.abs(place[i] + v - place[j]).max() > _SAME_PLACE:
                    return math.inf
        points = np.stack([place[i] for i in members])
        for point in points:
            largest = max(largest, float(np.linalg.norm(points - point, axis=1).max()))
    return largest
