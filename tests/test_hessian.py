"""The Hessian against double backward, differences of energies and ASE's vibrations."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.vibrations import Vibrations, VibrationsData
from helpers import tiny_potential

import lesff
from lesff.atoms.graph import build_graph, collate, one_system
from lesff.atoms.structure import to_structure
from lesff.errors import PropertyError
from lesff.potential import hessian as hessian_module

TRUNCATION = 1e-6
"""eV/A^2: h^4 d^6E/dr^6 / 30 with h = 1e-3 A; measured: 1e-8 for bonds with 58 eV/A^2."""
SINGLE = 2e-3
"""eV/A^2 in float32; measured: 5e-4."""


pytestmark = pytest.mark.filterwarnings("ignore:.*is an extrapolation", "ignore:.*background")
"""Ions and boxes that the model was not trained on: derivatives are derivatives."""


@pytest.fixture(scope="module")
def off_small():
    return lesff.load("off-small", dtype="float64")


def by_double_backward(potential, graph):
    """(3 n, 3 n), exact."""
    graph = graph.replace(positions=graph.positions.detach().requires_grad_(), exact=None)
    forces = potential(graph, ["forces"], create_graph=True)["forces"].reshape(-1)
    rows = [-torch.autograd.grad(f, graph.positions, retain_graph=True)[0] for f in forces]
    return torch.stack(rows).reshape(len(forces), -1).numpy()


def matrix(found):
    return found.reshape(3 * len(found), -1)


def rocksalt():
    atoms = bulk("MgO", "rocksalt", a=4.3, cubic=False)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "state"),
    [
        (molecule("CH3OH"), {}),
        (molecule("CH3OH"), {"total_charge": 1}),
        (molecule("CH3OH"), {"external_field": (0.1, 0.0, -0.2)}),
        (ase.Atoms("OH2", molecule("H2O").positions, cell=[5, 6, 7], pbc=True), {}),
        (ase.Atoms("OH2", molecule("H2O").positions + 9, cell=[5, 6, 20], pbc=[1, 1, 0]), {}),
    ],
    ids=["molecule", "ion", "field", "crystal", "slab"],
)
def test_hessian_is_that_of_double_backward(off_small, atoms, state):
    found = off_small.predict(atoms, ["hessian"], **state).hessian
    assert found.shape == (len(atoms), 3, len(atoms), 3)
    assert found.dtype == np.float64
    structure = to_structure(atoms, **state)
    graph = build_graph(structure, off_small.potential.architecture.cutoff)
    expected = by_double_backward(off_small.potential, graph)
    np.testing.assert_allclose(matrix(found), expected, rtol=0, atol=TRUNCATION)
    assert np.array_equal(matrix(found), matrix(found).T)


def test_hessian_is_the_slope_of_forces(off_small):
    """Index order: H[a, i, b, j] = - dF_ai / dr_bj, as ASE has it."""
    atoms, h = molecule("CH3OH"), 1e-3
    found = off_small.predict(atoms, "hessian").hessian
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 1] += sign * h
        ends.append(off_small.predict(moved, "forces").forces)
    slope = -(ends[0] - ends[1]) / (2 * h)
    # central differences of second order: h^2 d^4E/dr^4 / 6
    np.testing.assert_allclose(found[:, :, 1, 1], slope, rtol=0, atol=2e-3)
    assert np.abs(found[:, :, 1, 1]).max() > 10.0


def test_a_translation_costs_nothing(off_small):
    crystal = ase.Atoms("OH2", molecule("H2O").positions, cell=[5, 6, 7], pbc=True)
    for atoms in (molecule("CH3OH"), crystal):
        found = off_small.predict(atoms, "hessian").hessian
        np.testing.assert_allclose(found.sum(axis=2), 0.0, rtol=0, atol=TRUNCATION)


@pytest.mark.parametrize("batch_atoms", [1, 7, 10_000])
def test_the_bound_on_memory_changes_nothing(off_small, batch_atoms, monkeypatch):
    atoms = molecule("H2O")
    expected = off_small.predict(atoms, "hessian").hessian
    sizes = []

    def forces_of(graph):
        sizes.append(graph.n_atoms)
        return off_small.potential(graph, ["forces"])["forces"]

    graph = build_graph(to_structure(atoms), off_small.potential.architecture.cutoff)
    found = hessian_module.hessian(graph, forces_of, batch_atoms=batch_atoms)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)
    assert max(sizes) <= max(batch_atoms, 3)


def test_structures_of_different_sizes(off_small):
    structures = [molecule("H2O"), molecule("CH3OH")]
    together = off_small.predict(structures, ["energy", "hessian"]).hessian
    for atoms, found in zip(structures, together, strict=True):
        alone = off_small.predict(atoms, "hessian").hessian
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-8)


def test_single_precision():
    double = lesff.load("off-small", dtype="float64").predict(molecule("CH3OH"), "hessian").hessian
    far = molecule("CH3OH")
    far.translate((300.0, 0.0, 0.0))  # float32 holds 3e-5 A there: displacements are not rounded
    for atoms in (molecule("CH3OH"), far):
        single = lesff.load("off-small").predict(atoms, "hessian").hessian
        np.testing.assert_allclose(single, double, rtol=0, atol=SINGLE)


def test_frequencies_are_those_of_ase(off_small, tmp_path):
    """ASE's are central differences of second order with h = 1e-2 A, good to 1e-3 of a bond."""
    atoms = molecule("H2O")
    hessian = off_small.predict(atoms, "hessian").hessian
    found = VibrationsData(atoms, hessian).get_frequencies()[-3:].real
    atoms.calc = off_small.calculator()
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    expected = vibrations.get_frequencies()[-3:].real
    assert expected[-1] > 3000.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=3.0)


@pytest.mark.parametrize("head", ["latent", "qeq"])
def test_other_charge_heads(head):
    """Charges in equilibrium follow the displacements."""
    potential = tiny_potential(head=head)
    atoms = ase.Atoms("O2H2", [(0, 0, 0), (1.4, 0, 0), (1.8, 1.0, 0.1), (1.9, -0.6, 0.8)])
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    found = potential(graph, ["hessian"])["hessian"].numpy()
    step, ends = 1e-3, []
    for sign in (1, -1):
        moved = graph.positions.clone()
        moved[2, 0] += sign * step
        ends.append(potential(graph.replace(positions=moved), ["forces"])["forces"])
    slope = -(ends[0] - ends[1]).detach().numpy() / (2 * step)
    np.testing.assert_allclose(found[:, :, 2, 0], slope, rtol=0, atol=1e-3)


def test_systems_are_cut_out_of_a_batch(off_small):
    cutoff = off_small.potential.architecture.cutoff
    graphs = [
        build_graph(to_structure(atoms), cutoff)
        for atoms in (molecule("H2O"), rocksalt(), ase.Atoms("H"), molecule("CH4"))
    ]
    batch = collate(graphs)
    for index, graph in enumerate(graphs):
        found = one_system(batch, index)
        for name, value in graph._tensors().items():
            assert torch.equal(getattr(found, name), value), name


def test_what_cannot_be_done_is_refused(off_small):
    crystal = ase.Atoms("OH2", molecule("H2O").positions, cell=[5, 6, 7], pbc=True)
    with pytest.raises(PropertyError, match="hessian of a crystal in an external field cannot be"):
        off_small.predict(crystal, "hessian", external_field=(0.0, 0.0, 0.1))
    graph = build_graph(to_structure(crystal), off_small.potential.architecture.cutoff)
    with pytest.raises(PropertyError, match="`hessian` is made of differences and cannot be"):
        off_small.potential(graph, ["hessian"], create_graph=True)
    plan = off_small.potential.plan(graph)
    with pytest.raises(PropertyError, match="a planned step computes .*; got hessian"):
        off_small.potential(graph, ["hessian"], plan=plan)
