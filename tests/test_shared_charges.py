"""Charges shared out in molecules."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lesff.electrostatics.charges.sharing import (
    Bonds,
    _bonded_groups,
    plain_molecules,
    shared,
    shared_in_molecules,
)

N_ATOMS = 7
FIRST, SECOND = torch.tensor([0, 1, 3, 4, 2]), torch.tensor([1, 2, 4, 5, 3])
"""Two chains of three atoms, a bond between them, and an atom on its own."""


def _values(seed=0):
    generator = torch.Generator().manual_seed(seed)
    charges, targets = (
        torch.randn(N_ATOMS, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    weights = 0.1 + torch.rand(N_ATOMS, generator=generator, dtype=torch.float64)
    return charges, weights, targets


def _bonds(between, others=1.0):
    return torch.tensor([others] * 4 + [between], dtype=torch.float64)


def _found(bond, *values, floor=0.0):
    return shared_in_molecules(*values, Bonds(strength=bond, first=FIRST, second=SECOND), floor)


@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("between", [0.0, 1.0])
def test_molecules_are_brought_to_their_charge_like_systems(between, floor):
    charges, weights, targets = _values()
    molecule = (
        torch.tensor([0, 0, 0, 1, 1, 1, 2]) if between == 0.0 else torch.tensor([0] * 6 + [1])
    )
    totals = torch.zeros(int(molecule.max()) + 1, dtype=torch.float64)
    totals = totals.index_add(0, molecule, targets)
    expected, _ = shared(charges, weights, totals, molecule, floor=floor)
    found = _found(_bonds(between), charges, weights, targets, floor=floor)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_a_molecule_comes_apart_smoothly():
    values = _values()
    strengths = np.concatenate(
        [[0.0], np.logspace(-6, 0, 40)[:-1], 1.0 - np.logspace(-1, -5.9, 20)]
    )
    strengths = np.sort(np.append(strengths, 1.0))
    found = torch.stack([_found(_bonds(b), *values) for b in strengths])
    # charge flows from one half to the other, ever more, and none is lost
    across = found[:, :3].sum(1)
    steps = torch.diff(across)
    assert bool((steps > 0).all() or (steps < 0).all())
    total = values[2].sum()
    torch.testing.assert_close(found.sum(1), total.expand(len(found)), rtol=0.0, atol=1e-10)
    # both ends are reached in the limit: c = b / (1 - b) is a millionth, and a million
    change = float((across[-1] - across[0]).abs())
    assert float((across[1] - across[0]).abs()) < 1e-5 * change
    assert float((across[-1] - across[-2]).abs()) < 1e-5 * change


def test_weak_bonds_conduct_in_series_and_in_parallel():
    # three atoms in a ring by conductances, against the equations solved by numpy
    charges, weights, targets = (v[:3] for v in _values(3))
    bond = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    first, second = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    found = shared_in_molecules(
        charges, weights, targets, Bonds(strength=bond, first=first, second=second)
    )
    matrix = np.diag(weights.numpy())
    for b, i, j in zip(bond.tolist(), first.tolist(), second.tolist(), strict=True):
        c = b / (1.0 - b)
        matrix[[i, j], [i, j]] += c
        matrix[[i, j], [j, i]] -= c
    potential = np.linalg.solve(matrix, (targets - charges).numpy())
    np.testing.assert_allclose(found, charges.numpy() + weights.numpy() * potential, rtol=1e-12)


def test_derivatives_of_shared_charges():
    charges, weights, targets = _values(1)
    bond = _bonds(0.4, 0.7)
    inputs = [x.requires_grad_() for x in (bond, charges, weights, targets)]
    assert torch.autograd.gradcheck(_found, inputs)
    assert torch.autograd.gradgradcheck(_found, inputs)


def test_groups_are_those_of_a_graph_search():
    generator = np.random.default_rng(0)
    for n_atoms, n_pairs in ((1, 0), (40, 10), (300, 220), (300, 900)):
        first, second = generator.integers(n_atoms, size=(2, n_pairs))
        graph = coo_array((np.ones(n_pairs), (first, second)), shape=(n_atoms, n_atoms))
        _, labels = connected_components(graph, directed=False)
        bonds = Bonds(
            strength=torch.ones(n_pairs),
            first=torch.from_numpy(first),
            second=torch.from_numpy(second),
        )
        found = _bonded_groups(bonds, n_atoms)
        lowest = np.array([np.flatnonzero(labels == labels[i])[0] for i in range(n_atoms)])
        np.testing.assert_array_equal(found.group, lowest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_sharing_is_that_of_plain_pytorch(dtype):
    generator = torch.Generator().manual_seed(2)
    n_atoms, n_pairs = 60, 80
    first, second = torch.randint(n_atoms, (2, n_pairs), generator=generator)
    strength = (2.0 * torch.rand(n_pairs, generator=generator, dtype=dtype) - 0.5).clamp(0.0, 1.0)
    inputs = [torch.randn(n_atoms, generator=generator, dtype=dtype) for _ in range(3)]
    inputs[1] = inputs[1].square() + 0.1
    found = {}
    for name in ("compiled", "plain"):
        leaves = [x.clone().requires_grad_() for x in (*inputs, strength)]
        bonds = Bonds(strength=leaves[3], first=first, second=second)
        if name == "compiled":
            out = shared_in_molecules(*leaves[:3], bonds, 1e-3)
        else:
            out = plain_molecules(*leaves, bonds, 1e-3)
        gradients = torch.autograd.grad((out * torch.arange(n_atoms)).sum(), leaves)
        found[name] = [out.detach(), *gradients]
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-3}[dtype]
    for compiled, plain in zip(found["compiled"], found["plain"], strict=True):
        torch.testing.assert_close(compiled, plain, rtol=tolerance, atol=tolerance)


def test_no_bonds_no_weights_and_bonds_with_an_image():
    charges, weights, targets = _values(5)
    nobody = torch.zeros(0, dtype=torch.int64)
    empty = Bonds(strength=torch.zeros(0, dtype=torch.float64), first=nobody, second=nobody)
    # every atom by itself has its target
    torch.testing.assert_close(shared_in_molecules(charges, weights, targets, empty), targets)
    # a bond of an atom with its own image, and one counted twice, say nothing new
    ends = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])
    for strength, same in ((1.0, 1.0), (0.3, 0.3 / 0.7)):
        bonds = Bonds(
            strength=torch.full((3,), strength, dtype=torch.float64), first=ends[0], second=ends[1]
        )
        # two conductances side by side add up
        once = 1.0 if strength == 1.0 else 2.0 * same / (1.0 + 2.0 * same)
        single = Bonds(
            strength=torch.tensor([once], dtype=torch.float64),
            first=ends[0][:1],
            second=ends[1][:1],
        )
        for function in (shared_in_molecules, _plainly):
            torch.testing.assert_close(
                function(charges, weights, targets, bonds),
                function(charges, weights, targets, single),
            )
    # nobody to share with: charges stay, and derivatives are finite
    leaves = [x.clone().requires_grad_() for x in (charges, torch.zeros_like(weights), targets)]
    for function in (shared_in_molecules, _plainly):
        found = function(*leaves, Bonds(strength=_bonds(0.5), first=FIRST, second=SECOND), 1e-9)
        torch.testing.assert_close(found, charges)
        gradients = torch.autograd.grad(found.sum(), leaves)
        assert all(bool(g.isfinite().all()) for g in gradients)


def _plainly(charges, weights, targets, bonds, floor=0.0):
    return plain_molecules(charges, weights, targets, bonds.strength, bonds, floor)
