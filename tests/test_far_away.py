"""Structures far from the origin and atoms far from each other: results, time and memory.

The right value is that near the origin, or the sum over the pieces.
"""

import itertools
import resource
import time

import ase
import ase.build
import numpy as np
import pytest
import torch
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters, water
from hypothesis import given, settings
from hypothesis import strategies as st

from lesff import load
from lesff.atoms import neighbors
from lesff.atoms.graph import build_graph, collate, edge_vectors
from lesff.atoms.neighbors import find_neighbors
from lesff.atoms.structure import to_structure
from lesff.atoms.verlet import VerletList
from lesff.calculator import LesffCalculator
from lesff.errors import LesffError, StructureError
from lesff.potential.predict import predict_graph

CUTOFF = 3.7
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-9}
"""Largest difference of forces in eV/A, of charges in e: float32 models round to 5e-6 anyway."""
OPEN, BULK = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64])
def potential(request):
    made = tiny_potential(state_embedding=True)
    made.cast_parameters(request.param)
    return made


def compute(potential, atoms, names, **state):
    graph = build_graph(to_structure(atoms, **state), potential.architecture.cutoff)
    return predict_graph(potential, graph, names)[0]


def assert_same(found, expected, tolerance):
    for name, value in expected.items():
        assert np.abs(np.asarray(found[name]) - value).max() < tolerance, name


MOLECULE = ("energy", "forces", "charges", "dipole", "quadrupole", "born_effective_charges")
CRYSTAL = ("energy", "forces", "stress", "charges", "born_effective_charges")


# 2^20 and 2^30: the positions of the moved copy are then exact in float64
@pytest.mark.parametrize("distance", [2.0**10, 2.0**20, 2.0**30])
def test_molecules_far_from_the_origin(distance, potential):
    atoms = two_waters()
    atoms.positions = np.round(atoms.positions * 2**20) / 2**20
    moved = atoms.copy()
    moved.positions += [distance, -distance, 0.5 * distance]
    expected = compute(potential, atoms, MOLECULE)
    # moments in float64 are about a centre that is rounded to 1e-16 of the distance
    tolerance = ROUNDING[potential.dtype] + 1e-15 * distance
    assert_same(compute(potential, moved, MOLECULE), expected, tolerance)


@pytest.mark.parametrize("distance", [0.0, 2.0**10, 2.0**20])
def test_crystals_of_unwrapped_atoms(distance, potential):
    atoms = triclinic_ice()
    moved = atoms.copy()
    shifts = np.random.default_rng(1).integers(-1000, 1000, size=(len(atoms), 3))
    moved.positions += distance + shifts @ np.array(atoms.cell)
    expected = compute(potential, atoms, CRYSTAL)
    # sums of a thousand lattice vectors round to 1e-12 A
    assert_same(compute(potential, moved, CRYSTAL), expected, ROUNDING[potential.dtype])


def test_slabs_far_along_their_normal(potential):
    atoms = triclinic_ice()
    atoms.pbc = (True, True, False)
    moved = atoms.copy()
    moved.positions += 2.0**15 * np.array([1.0, 1.0, -2.0])
    names = ("energy", "forces", "charges")
    expected = compute(potential, atoms, names)
    assert_same(compute(potential, moved, names), expected, ROUNDING[potential.dtype])


def test_a_charged_molecule_in_a_field_works_against_it(potential):
    """``-Q E.a`` for a move by a (docs/theory.md), the same forces and dipole."""
    field, move = np.array([0.1, -0.2, 0.3]), 2.0**12 * np.array([1.0, 2.0, 3.0])
    atoms = water()
    moved = atoms.copy()
    moved.positions += move
    names = ("energy", "forces", "dipole", "node_energy")
    state = {"total_charge": 2, "external_field": field}
    before, after = (compute(potential, x, names, **state) for x in (atoms, moved))
    assert after["energy"] - before["energy"] == pytest.approx(-2 * field @ move, abs=1e-3)
    assert after["node_energy"].sum() == pytest.approx(float(after["energy"]), abs=1e-3)
    for name in ("forces", "dipole"):
        assert np.abs(after[name] - before[name]).max() < ROUNDING[potential.dtype], name


@pytest.mark.parametrize("distance", [300.0, 1e4, 1e6, 1e12])
def test_molecules_far_from_each_other(distance, potential):
    """As in float64, and at 1e12 A as at any distance: their potential there is 1e-11 V.

    Latent charges are not neutral before they are shifted: it acts on forces in a molecule.
    """
    names = ("energy", "forces", "charges")
    exact = tiny_potential(state_embedding=True)

    def pair(distance):
        other = water()
        other.positions = np.round(other.positions * 2**10) / 2**10  # exact up to 1e12 A
        other.positions += [distance, 0.0, 0.0]
        return water() + other

    found = compute(potential, pair(distance), names)
    assert_same(found, compute(exact, pair(distance), names), ROUNDING[potential.dtype])
    if distance >= 1e12:
        farther = compute(exact, pair(2.0**30), names)
        assert_same(found, farther, ROUNDING[potential.dtype] + 2e-8)


def test_the_released_model_far_from_the_origin():
    """Issue 19, row A9: 0.03 eV/A at 1e4 A before differences were formed in float64."""
    model, atoms = load("off-small"), ase.build.molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    expected = model.predict(atoms).forces
    for distance in (1e2, 1e3, 1e4, 1e6):
        moved = atoms.copy()
        moved.positions += [distance, -distance, 0.3 * distance]
        assert np.abs(model.predict(moved).forces - expected).max() < 2e-5


@pytest.mark.parametrize("replay", [False, True])
def test_calculators_follow_a_molecule_that_flies_away(replay, potential):
    atoms = water()
    atoms.calc = LesffCalculator(potential, replay=replay)
    expected = atoms.get_forces()
    for _ in range(5):
        atoms.positions += 2.0**16
        assert np.abs(atoms.get_forces() - expected).max() < ROUNDING[potential.dtype]
    for _ in range(5):
        atoms.positions += 0.125
        assert np.abs(atoms.get_forces() - expected).max() < ROUNDING[potential.dtype]


def test_batches_keep_what_was_rounded():
    near, far = make_graph(water()), make_graph(triclinic_ice())
    graph = collate([near.to(dtype=torch.float32), far.to(dtype=torch.float32)])
    expected = edge_vectors(collate([near, far])).float()
    assert torch.equal(edge_vectors(graph), expected)
    # other positions are not those that were rounded
    assert graph.replace(positions=graph.positions + 1.0).exact is None
    assert graph.replace(total_charge=graph.total_charge).exact is graph.exact
    assert graph.to(dtype=torch.float64).exact is None


def brute_force(positions, cell, pbc, cutoff):
    """Directed edges of all pairs of images, O(N^2) times the images that can matter."""
    counts = np.zeros(3, dtype=int)
    if pbc.any():
        box = neighbors._complete_cell(cell, pbc)
        inverse = np.linalg.inv(box)
        spread = np.ptp(positions @ inverse, axis=0)
        counts[pbc] = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + spread)[pbc]
    found = set()
    for shift in itertools.product(*(range(-n, n + 1) for n in counts)):
        vectors = positions[None] - positions[:, None] + np.array(shift) @ cell
        near = np.linalg.norm(vectors, axis=2) < cutoff
        if not any(shift):
            np.fill_diagonal(near, val=False)
        found |= {(int(i), int(j), *shift) for i, j in zip(*np.nonzero(near), strict=True)}
    return found


def edge_set(found):
    columns = (*found.edge_index, *found.cell_shifts.T)
    return set(zip(*(column.tolist() for column in columns), strict=True))


@given(
    seed=st.integers(0, 2**32 - 1),
    n_atoms=st.integers(1, 7),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    stretch=st.sampled_from([(1, 1, 1), (30, 1, 1), (1, 20, 20), (8, 8, 8)]),
    scattered=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_edges_equal_a_search_over_all_pairs(seed, n_atoms, pbc, stretch, scattered):
    rng, pbc = np.random.default_rng(seed), np.array(pbc)
    cell = np.diag([3.0, 3.3, 3.6]) + rng.uniform(-1.2, 1.2, size=(3, 3))
    positions = rng.random((n_atoms, 3)) * stretch @ cell
    cell = np.where(pbc[:, None], cell, 0.0)
    expected = brute_force(positions, cell, pbc, CUTOFF)
    with pytest.MonkeyPatch.context() as patch:
        if scattered:  # the search for odd structures, whatever the structure
            patch.setattr(neighbors, "_suits_bins", lambda *_: False)
        found = find_neighbors(positions, cell, pbc, CUTOFF)
    assert edge_set(found) == expected
    reverse = found.reverse_edge
    assert np.array_equal(found.edge_index[:, reverse], found.edge_index[::-1])
    assert np.array_equal(found.cell_shifts[reverse], -found.cell_shifts)


@given(seed=st.integers(0, 2**32 - 1), gap=st.floats(1.0, 1e7))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_edges_of_molecules_with_gaps(seed, gap):
    rng = np.random.default_rng(seed)
    places = rng.integers(-2, 3, size=(6, 3)) * gap + rng.random((6, 3))
    positions = np.concatenate([water().positions + place for place in places])
    distances = np.linalg.norm(positions[None] - positions[:, None], axis=2)
    if np.any(np.abs(distances - CUTOFF) < 1e-6):
        return  # membership would depend on rounding
    found = find_neighbors(positions, np.zeros((3, 3)), OPEN, CUTOFF)
    assert edge_set(found) == brute_force(positions, np.zeros((3, 3)), OPEN, CUTOFF)


def chain(n_atoms, direction, step=1.5):
    direction = np.array(direction) / np.linalg.norm(direction)
    return step * np.arange(n_atoms)[:, None] * direction


def far_slab(distance):
    positions = 2.5 * np.array(list(itertools.product(range(2), range(2), range(5))), dtype=float)
    positions[0, 2] = distance
    return positions


# positions, cell, pbc and the edges they have with a cutoff of 3.7 A
HUGE = {
    "two waters 1e6 A apart": (
        np.concatenate([water().positions, water().positions + [1e6, 0, 0]]),
        np.zeros(3),
        OPEN,
        12,
    ),
    "two waters 1e12 A apart": (
        np.concatenate([water().positions, water().positions + [0, 1e12, 0]]),
        np.zeros(3),
        OPEN,
        12,
    ),
    "diagonal chain of 10,000": (chain(10_000, [1, 1, 1]), np.zeros(3), OPEN, 4 * 10_000 - 6),
    "straight chain of 10,000": (chain(10_000, [0, 1, 0]), np.zeros(3), OPEN, 4 * 10_000 - 6),
    "one atom far out": (far_slab(1e9), [5.0, 5.0, 0.0], [True, True, False], None),
    "needle cell": (np.zeros((1, 3)), [1.5, 1e7, 1e7], BULK, 4),
    "plate cell": (np.zeros((1, 3)), [1.5, 1.5, 1e9], BULK, 20),
    "long cell": (chain(1000, [1, 0, 0]), [1e8, 4.0, 4.0], BULK, 4 * 1000 - 6),
    "huge cell": (water().positions, [1e9, 1e9, 1e9], BULK, 6),
    "unwrapped by 1e6 cells": (water().positions + 5e6, [5.0, 5.0, 5.0], BULK, None),
    "sparse gas": (
        np.random.default_rng(0).random((3000, 3)) * 1e6, [1e6, 1e6, 1e6], BULK, 0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_memory_and_time_do_not_grow_with_volume(name):
    positions, lengths, pbc, count = HUGE[name]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = find_neighbors(positions, np.diag(lengths), np.array(pbc), CUTOFF)
    assert time.process_time() - start < 3.0  # s; minutes with bins that fill the volume
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    if count is not None:
        assert found.edge_index.shape[1] == count


def test_a_skewed_cell_is_the_same_lattice():
    """Adding a million times one vector to another changes no crystal."""
    cell = np.diag([3.0, 3.2, 3.4])
    skewed = cell.copy()
    skewed[1] += 1e6 * cell[0]
    positions = np.array([[0.1, 0.2, 0.3], [1.6, 1.4, 1.9]])

    def vectors(cell):
        found = find_neighbors(positions, cell, BULK, CUTOFF)
        sender, receiver = found.edge_index
        moved = positions[receiver] - positions[sender] + found.cell_shifts @ cell
        rows = np.column_stack([sender, receiver, np.round(moved, 6) + 0.0])
        return rows[np.lexsort(rows.T)]

    assert np.array_equal(vectors(skewed), vectors(cell))


BAD = {
    "not a number": (np.full((1, 3), np.nan), [5.0] * 3, BULK, "atom 0 is at"),
    "infinite cell": (np.zeros((1, 3)), [np.inf, 5.0, 5.0], BULK, "cell must be finite"),
    "cell that is not a number": (np.zeros((1, 3)), [np.nan] * 3, BULK, "cell must be finite"),
    "overflowing cell": (np.zeros((1, 3)), [1e200] * 3, BULK, "lattice vectors must be finite"),
    "overflowing atom": (np.diag([0, 0, 1e300]), [0.0] * 3, OPEN, "atom 2 is at"),
    "tiny cell": (np.zeros((1, 3)), [0.3] * 3, BULK, "the cell is too small"),
    "tiniest cell": (np.zeros((1, 3)), [1e-90] * 3, BULK, "the cell is too small"),
    "thinnest needle": (np.zeros((1, 3)), [1e-6, 1e4, 1e4], BULK, "lattice vectors of"),
    "tiny slab": (np.zeros((1, 3)), [0.05, 0.05, 0.0], [1, 1, 0], "the cell is too small"),
    "flat cell": (np.zeros((1, 3)), [5.0, 0.0, 5.0], BULK, "not zero"),
    "atoms in a heap": (np.random.default_rng(0).random((50_000, 3)), [0.0] * 3, OPEN, "too many"),
    "heap in a cell": (np.random.default_rng(0).random((50_000, 3)), [90.0] * 3, BULK, "too many"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_searched_is_refused_at_once(name):
    positions, lengths, pbc, message = BAD[name]
    start = time.process_time()
    with pytest.raises(StructureError, match=message):
        find_neighbors(positions, np.diag(lengths), np.array(pbc, dtype=bool), CUTOFF)
    assert time.process_time() - start < 10.0


def test_parallel_vectors_have_no_volume():
    cell = np.array([[5.0, 0, 0], [5e6, 1e-5, 0], [0, 0, 5.0]])
    with pytest.raises(StructureError, match="must span a volume"):
        find_neighbors(np.zeros((1, 3)), cell, BULK, CUTOFF)
    atoms = ase.Atoms("H", cell=np.eye(3) * 1e200, pbc=True)
    with pytest.raises(StructureError, match="must span a volume|must be finite"):
        make_graph(atoms)


def test_verlet_lists_of_far_pieces():
    positions = np.concatenate([water().positions, water().positions + [1e6, 0, 0]])
    kept = VerletList(CUTOFF, 0.5)
    for step in range(4):
        now = positions + 0.04 * step
        found = kept.find(now, np.zeros((3, 3)), OPEN)
        assert edge_set(found) == brute_force(now, np.zeros((3, 3)), OPEN, CUTOFF)
    assert kept.n_searches == 1


@pytest.mark.parametrize("head", ["qeq"])
def test_sums_that_float32_cannot_do_are_refused(head):
    potential = tiny_potential(head=head)
    potential.cast_parameters(torch.float32)
    other = water()
    other.positions += [1e5, 0.0, 0.0]
    with pytest.raises(StructureError, match=r"atom . of structure 0 is 5e\+04 A from the centre"):
        compute(potential, water() + other, ("energy",))
    potential.cast_parameters(torch.float64)
    assert np.isfinite(compute(potential, water() + other, ("energy",))["energy"])


def test_every_odd_structure_gives_numbers_or_an_error_of_lesff(potential):
    for positions, lengths, pbc, *_ in [*HUGE.values(), *BAD.values()]:
        if len(positions) > 100 or max(lengths) >= 1e4:
            continue  # the sum over waves has limits of its own
        atoms = ase.Atoms(f"H{len(positions)}", positions, cell=lengths, pbc=pbc)
        try:
            row = compute(potential, atoms, ("energy", "forces"))
        except LesffError:
            continue
        assert np.isfinite(row["energy"])
        assert np.isfinite(row["forces"]).all()
