"""Atoms may come in any order: results are theirs, and tables are sorted in space."""

import numpy as np
import torch
from ase.build import molecule
from helpers import make_graph, tiny_potential

from lesff.atoms.graph import collate
from lesff.nn import edge_tables
from lesff.nn.edge_tables import build_topology, spatial_order


def waters() -> object:
    box = molecule("H2O")
    box.set_cell([3.1, 3.1, 3.1])
    box.pbc = True
    box = box.repeat((3, 3, 2))
    box.rattle(0.05, seed=0)
    return box


def test_results_do_not_depend_on_the_sorting(monkeypatch):
    """As without sorting, and as of the same atoms in another order."""
    atoms = waters()
    order = np.random.default_rng(0).permutation(len(atoms))
    potential = tiny_potential(head="edge")
    names = ["energy", "forces", "charges", "stress"]

    def found(given):
        return potential(make_graph(given, potential.architecture.cutoff), names)

    plain = found(atoms)
    monkeypatch.setattr(edge_tables, "_SORTED_ATOMS", 1)
    for given, back in ((atoms, np.arange(len(atoms))), (atoms[order], np.argsort(order))):
        out = found(given)
        for name in names:
            value = out[name][back] if name in ("forces", "charges") else out[name]
            torch.testing.assert_close(value, plain[name], rtol=1e-10, atol=1e-11)


def test_neighbours_are_near_each_other_in_memory(monkeypatch):
    """Of shuffled atoms, rows of neighbours lie nearer than chance has them, within an element."""
    atoms = waters().repeat((3, 3, 4))
    atoms = atoms[np.random.default_rng(1).permutation(len(atoms))]
    graph = make_graph(atoms, 4.0)
    rows = torch.full((119,), 0)
    rows[8] = 1

    def distance() -> float:
        topology = build_topology(graph, rows)
        rank = topology.node_rank[graph.edge_index]
        same = graph.atomic_numbers[graph.edge_index].diff(dim=0)[0] == 0
        return float((rank[0] - rank[1])[same].abs().double().mean())

    near = distance()
    monkeypatch.setattr(edge_tables, "_SORTED_ATOMS", 10**9)
    assert near < 0.4 * distance()


def test_systems_of_a_batch_stay_apart():

    atoms = waters().repeat((3, 3, 3))
    graph = collate([make_graph(atoms, 4.0), make_graph(atoms, 4.0)])
    place = spatial_order(graph)
    n = len(atoms)
    assert place[:n].max() < place[n:].min()
