"""Neighbour edges against ase.neighborlist for every kind of cell."""

from collections import Counter

import ase
import ase.build
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from helpers import left_handed, triclinic_ice, water
from hypothesis import given, settings
from hypothesis import strategies as st

from lesff.atoms import verlet
from lesff.atoms.neighbors import find_neighbors, nearest_pairs
from lesff.atoms.verlet import ClosestPairs, VerletList
from lesff.kernels import KernelStatus, kernel_status


def skewed() -> ase.Atoms:
    atoms = triclinic_ice()
    cell = np.array(atoms.cell)
    atoms.cell = [cell[0], cell[1], cell[2] + 2 * cell[0] - cell[1]]
    return atoms


def slab() -> ase.Atoms:
    atoms = ase.build.fcc111("Cu", size=(2, 2, 2), a=3.6)
    atoms.pbc = (True, True, False)
    return atoms  # ase leaves the third row of the cell zero


def wire() -> ase.Atoms:
    atoms = triclinic_ice()
    atoms.pbc = (False, True, False)
    return atoms


def wire_without_other_rows() -> ase.Atoms:
    atoms = triclinic_ice()
    cell = np.zeros((3, 3))
    cell[2] = [-0.7, 0.9, 3.4]
    atoms.cell, atoms.pbc = cell, (False, False, True)
    return atoms


def outside_the_cell() -> ase.Atoms:
    atoms = triclinic_ice()
    shifts = np.random.default_rng(0).integers(-3, 4, size=(len(atoms), 3))
    atoms.positions += shifts @ np.array(atoms.cell)
    return atoms


SYSTEMS = {
    "cubic": lambda: ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "primitive": lambda: ase.build.bulk("NaCl", "rocksalt", a=5.64),
    "triclinic": triclinic_ice,
    "skewed": skewed,
    "left-handed": lambda: left_handed(triclinic_ice()),
    "smaller than the cutoff": lambda: ase.Atoms("H", cell=[1.3, 1.5, 1.7], pbc=True),
    "small and skewed": lambda: ase.Atoms(
        "H", cell=[[1.3, 0, 0], [0.6, 1.5, 0], [-0.4, 0.5, 1.7]], pbc=True
    ),
    "slab": slab,
    "wire": wire,
    "bare wire": wire_without_other_rows,
    "molecule": water,
    "one atom": lambda: ase.Atoms("O", positions=[[1.0, 2.0, 3.0]]),
    "outside the cell": outside_the_cell,
}
CUTOFF = 3.7  # no pair distance of these systems is 3.7 within rounding


def found(atoms, cutoff=CUTOFF):
    return find_neighbors(atoms.positions, np.array(atoms.cell), np.array(atoms.pbc), cutoff)


def multiset(senders, receivers, shifts):
    return Counter(
        (int(i), int(j), *map(int, s)) for i, j, s in zip(senders, receivers, shifts, strict=True)
    )


def assert_equals_ase(atoms, cutoff=CUTOFF):
    edges = found(atoms, cutoff)
    # ase: D = r_j - r_i + S @ cell, so i sends and j receives
    i, j, shifts = neighbor_list("ijS", atoms, cutoff)
    assert multiset(*edges.edge_index, edges.cell_shifts) == multiset(i, j, shifts)


@pytest.mark.parametrize("name", SYSTEMS)
def test_edges_equal_ase(name):
    assert_equals_ase(SYSTEMS[name]())


@given(
    cell=st.lists(st.floats(-1, 1), min_size=9, max_size=9),
    fractional=st.lists(st.floats(-1.5, 1.5), min_size=9, max_size=9),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@settings(max_examples=30, deadline=None)
def test_edges_of_random_cells_equal_ase(cell, fractional, pbc):
    matrix = np.array(cell).reshape(3, 3) + 3.5 * np.eye(3)
    scaled = np.array(fractional).reshape(3, 3) + [[0], [0.31], [0.67]]
    atoms = ase.Atoms("HHH", positions=scaled @ matrix, cell=matrix, pbc=pbc)
    distances = neighbor_list("d", atoms, CUTOFF + 0.1)
    if np.any(np.abs(distances - CUTOFF) < 1e-9) or np.any(distances < 1e-6):
        return  # membership would depend on rounding
    assert_equals_ase(atoms)


@pytest.mark.parametrize("name", SYSTEMS)
def test_edges_are_sorted_by_receiver(name):
    receiver = found(SYSTEMS[name]()).edge_index[1]
    assert np.all(np.diff(receiver) >= 0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_reverse_edge_is_the_same_pair_from_the_other_end(name):
    edges = found(SYSTEMS[name]())
    reverse, ids = edges.reverse_edge, np.arange(len(edges.reverse_edge))
    assert np.array_equal(reverse[reverse], ids)
    assert np.all(reverse != ids)
    assert np.array_equal(edges.edge_index[:, reverse], edges.edge_index[::-1])
    assert np.array_equal(edges.cell_shifts[reverse], -edges.cell_shifts)


@pytest.mark.parametrize("name", SYSTEMS)
def test_edge_vectors_are_shorter_than_the_cutoff(name):
    atoms = SYSTEMS[name]()
    edges = found(atoms)
    sender, receiver = edges.edge_index
    vectors = atoms.positions[receiver] - atoms.positions[sender]
    vectors = vectors + edges.cell_shifts @ np.array(atoms.cell)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all(lengths < CUTOFF)
    i, j, d = neighbor_list("ijd", atoms, CUTOFF)
    np.testing.assert_allclose(np.sort(lengths), np.sort(d), atol=1e-12)
    open_axes = ~np.array(atoms.pbc)
    assert np.all(edges.cell_shifts[:, open_axes] == 0)


@pytest.mark.parametrize("name", ["slab", "wire", "bare wire", "triclinic"])
def test_periodic_systems_do_have_edges_across_the_boundary(name):
    assert np.any(found(SYSTEMS[name]()).cell_shifts != 0)


def test_no_edges():
    edges = found(ase.Atoms("O"))
    assert edges.edge_index.shape == (2, 0)
    assert edges.cell_shifts.shape == (0, 3)
    assert edges.reverse_edge.shape == (0,)
    assert {edges.edge_index.dtype, edges.cell_shifts.dtype, edges.reverse_edge.dtype} == {
        np.dtype(np.int64)
    }


def test_results_do_not_share_memory_between_calls():
    """vesin reuses its buffers; a second call must not change the first result."""
    first = found(triclinic_ice())
    copy = first.cell_shifts.copy(), first.edge_index.copy()
    found(skewed())
    assert np.array_equal(first.cell_shifts, copy[0])
    assert np.array_equal(first.edge_index, copy[1])


# --- lists that are kept along a trajectory -----------------------------------------------------


def edge_set(found):
    sender, receiver = found.edge_index
    rows = np.concatenate([sender[:, None], receiver[:, None], found.cell_shifts], axis=1)
    return sorted(map(tuple, rows.tolist()))


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_verlet_list_is_a_fresh_list_at_every_step(pbc):
    rng = np.random.default_rng(3)
    cell = np.array([[6.0, 0, 0], [1.5, 5.5, 0], [-1.0, 0.7, 7.0]])
    periodic = np.broadcast_to(np.array(pbc), 3).copy()
    positions = rng.uniform(size=(20, 3)) @ cell
    kept = VerletList(3.0, 0.6)
    for _ in range(30):
        found = kept.find(positions, cell, periodic)
        assert edge_set(found) == edge_set(find_neighbors(positions, cell, periodic, 3.0))
        assert np.array_equal(found.edge_index[:, found.reverse_edge], found.edge_index[::-1])
        assert np.array_equal(found.cell_shifts[found.reverse_edge], -found.cell_shifts)
        assert (np.diff(found.edge_index[1]) >= 0).all()
        positions = positions + rng.normal(scale=0.03, size=positions.shape)
    assert 1 < kept.n_searches < 15


def test_verlet_list_gives_the_same_edges_in_the_same_order_whenever_it_was_searched():
    rng = np.random.default_rng(4)
    cell, periodic = np.diag([6.0, 6.0, 6.0]), np.ones(3, dtype=bool)
    start = rng.uniform(size=(15, 3)) * 6.0
    end = start + rng.uniform(-0.1, 0.1, size=start.shape)
    old = VerletList(3.0, 1.0)
    old.find(start, cell, periodic)
    one, other = old.find(end, cell, periodic), VerletList(3.0, 1.0).find(end, cell, periodic)
    assert old.n_searches == 1
    for name in ("edge_index", "cell_shifts", "reverse_edge"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.skipif(kernel_status().instruction_set is None, reason="no compiled kernels")
@pytest.mark.parametrize("make", SYSTEMS.values(), ids=list(SYSTEMS))
def test_compiled_verlet_lists_are_those_of_numpy(make, monkeypatch):
    atoms, rng = make(), np.random.default_rng(5)
    cell, pbc = np.array(atoms.cell), np.array(atoms.pbc)
    compiled, plain = VerletList(CUTOFF, 0.4), VerletList(CUTOFF, 0.4)
    for _ in range(3):
        one = compiled.find(atoms.positions, cell, pbc)
        with monkeypatch.context() as patch:
            patch.setattr(verlet, "kernel_status", lambda: KernelStatus(None))
            other = plain.find(atoms.positions, cell, pbc)
        assert compiled._kept is not None
        assert compiled._kept._near is not None
        assert plain._kept is not None
        assert plain._kept._near is None
        for name, value in vars(other).items():
            # other order of three sums
            np.testing.assert_allclose(getattr(one, name), value, rtol=1e-14)
            assert np.asarray(getattr(one, name)).dtype == np.asarray(value).dtype
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
    assert compiled.n_searches == 1


@pytest.mark.parametrize("make", [triclinic_ice, lambda: left_handed(triclinic_ice()), water])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.5])
def test_the_closest_pairs_along_a_trajectory_are_those_of_a_search(make, share):
    atoms, rng = make(), np.random.default_rng(6)
    cell, pbc = np.array(atoms.cell), np.array(atoms.pbc)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)  # no two equally long
    count = int(share * len(find_neighbors(atoms.positions, cell, pbc, CUTOFF).lengths) / 2)
    kept = ClosestPairs()
    for step in range(12):
        one, held = kept.find(atoms.positions, cell, pbc, CUTOFF, count)
        other, expected = nearest_pairs(atoms.positions, cell, pbc, CUTOFF, count)
        assert held == pytest.approx(expected, rel=1e-14)
        for name in ("edge_index", "cell_shifts", "reverse_edge"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.lengths, other.lengths, rtol=1e-14)
        # a step too long for what is kept, and another cell
        atoms.positions += rng.normal(scale=0.5 if step == 6 else 0.02, size=atoms.positions.shape)
        cell = cell * (1.01 if step == 8 else 1.0)
    assert 1 <= kept.n_searches < 8


@pytest.mark.parametrize("make", SYSTEMS.values(), ids=list(SYSTEMS))
def test_verlet_lists_follow_a_cell(make):
    atoms, rng, kept = make(), np.random.default_rng(7), VerletList(CUTOFF, 0.5)
    for _ in range(12):
        cell, pbc = np.array(atoms.cell), np.array(atoms.pbc)
        found = kept.find(atoms.positions, cell, pbc)
        expected = find_neighbors(atoms.positions, cell, pbc, CUTOFF)
        assert edge_set(found) == edge_set(expected)
        np.testing.assert_allclose(np.sort(found.lengths), np.sort(expected.lengths), rtol=1e-12)
        assert found.min_period == pytest.approx(expected.min_period, rel=1e-12) or (
            found.min_period > CUTOFF and expected.min_period == np.inf
        )
        # a barostat: positions go with the cell, and about a point of their own
        strain = np.eye(3) + rng.normal(scale=2e-3, size=(3, 3))
        atoms.set_cell(cell @ strain)
        atoms.positions = atoms.positions @ strain + rng.normal(scale=0.02, size=(len(atoms), 3))
        atoms.positions += rng.normal(size=3)
    if atoms.pbc.all():
        assert 1 <= kept.n_searches < 8


def test_verlet_list_is_searched_again_when_it_must_be():
    cell, periodic = np.diag([5.0, 5.0, 5.0]), np.ones(3, dtype=bool)
    positions = np.array([[0.0, 0, 0], [2.0, 0, 0]])
    kept = VerletList(3.0, 0.5)
    kept.find(positions, cell, periodic)
    kept.find(positions + [[0.2, 0, 0], [0, 0, 0]], cell, periodic)
    assert kept.n_searches == 1
    kept.find(positions + [[0.3, 0, 0], [0, 0, 0]], cell, periodic)  # more than half the skin
    kept.find(positions + [[0.3, 0, 0], [0, 0, 0]], cell * 0.8, periodic)
    kept.find(positions + [[0.3, 0, 0], [0, 0, 0]], cell * 0.8, ~periodic)
    kept.find(positions[:1], cell, ~periodic)
    assert kept.n_searches == 5
