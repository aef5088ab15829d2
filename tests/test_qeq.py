"""Charge equilibration on arrays: values, constraints, derivatives, errors (T38, T39, T47)."""

import ase
import numpy as np
import pytest
import torch
from helpers import left_handed, make_graph, random_rotation, transformed, triclinic_ice, two_waters
from torch.autograd import gradcheck, gradgradcheck

from lesff.atoms.graph import AtomGraph, collate
from lesff.electrostatics.charges import equations as equilibration
from lesff.electrostatics.charges.coulomb_matrix import coulomb_matrix
from lesff.electrostatics.charges.equations import Fragments
from lesff.electrostatics.charges.qeq import coulomb_potential, equilibrate, equilibrate_locally
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.finite_size import makov_payne_correction
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import (
    ConfigError,
    ConvergenceError,
    NotPositiveDefiniteError,
    UnsupportedInputError,
)

SETTINGS = EwaldSettings()
KEPT_SELF = EwaldSettings(remove_self_interaction=False)
SOLVERS = ("dense", "iterative")
ROUNDING = 1e-10
"""T39; also what conjugate gradients reach with a relative residual of 1e-12."""
STEP = 1e-4
"""A: central differences, error h^2 times third derivatives of order 10."""
FRAGMENTS = [0, 0, 0, 1, 1, 1] + [2, 2, 2, 3, 3, 3] + [4] * 6 + [5] * 6
TOTALS = [1.5, -0.5, 0.4, -0.4, -1.0, 1.0]


def slab() -> ase.Atoms:
    atoms = triclinic_ice()
    atoms.pbc = [True, False, True]
    atoms.cell[1] = 0.0
    return atoms


def mixed_batch() -> AtomGraph:
    """A charged molecule, a crystal, a charged slab, a charged left-handed crystal."""
    structures = [two_waters(), triclinic_ice(), slab(), left_handed(triclinic_ice())]
    graphs = [
        make_graph(atoms, total_charge=charge)
        for atoms, charge in zip(structures, (1, 0, -1, 1), strict=True)
    ]
    return collate(graphs)


def parameters(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    chi = 3.0 * torch.randn(n, dtype=torch.float64, generator=generator)
    hardness = 4.0 + 6.0 * torch.rand(n, dtype=torch.float64, generator=generator)
    return chi, hardness


def diatomic(distance: float = 2.0) -> AtomGraph:
    return make_graph(ase.Atoms("HH", positions=[[0, 0, 0], [0, 0, distance]]))


def functional(q, chi, hardness, graph) -> torch.Tensor:
    coulomb = latent_energy(q, graph, KEPT_SELF).sum()
    return coulomb + (chi * q + 0.5 * hardness * q * q).sum()


# --- the matrix --------------------------------------------------------------------------------


def test_matrix_is_the_hessian_of_the_energy(generator):
    graph = mixed_batch()
    q = torch.randn(graph.n_atoms, dtype=torch.float64, generator=generator)
    matrix, background = coulomb_matrix(graph, SETTINGS)
    padded = Padding.of(graph.batch, graph.n_systems).pad(q)
    energy = 0.5 * torch.einsum("si,sij,sj->s", padded, matrix, padded)
    energy = energy - 0.5 * background * padded.sum(1) ** 2
    expected = latent_energy(q, graph, KEPT_SELF)
    torch.testing.assert_close(energy, expected, rtol=0, atol=ROUNDING)
    assert background.tolist()[:2] == [0.0, 0.0]
    # positive weights only, also for slabs: docs/theory.md
    assert float(torch.linalg.eigvalsh(matrix).min()) > -ROUNDING


def test_diagonal_of_open_matrix():
    # 2 ke / (sigma sqrt(2 pi)) = 11.489254808 eV/e^2 at sigma = 1 (T14)
    matrix, _ = coulomb_matrix(diatomic(), SETTINGS)
    assert float(matrix[0, 0, 0]) == pytest.approx(11.489254808, abs=1e-8)
    assert float(matrix[0, 0, 1]) == pytest.approx(6.872228905, abs=1e-8)


# --- T38, T47 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("remove_self", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_two_atoms(solver, remove_self):
    # T38; the model's rule about self terms has no influence (T47: -0.534 e without them)
    chi = torch.tensor([0.0, 2.0], dtype=torch.float64)
    hardness = torch.full((2,), 5.0, dtype=torch.float64)
    settings = EwaldSettings(remove_self_interaction=remove_self)
    found = equilibrate(chi, hardness, diatomic(), settings, solver=solver)
    assert float(found.charges[0]) == pytest.approx(0.1039822509, abs=1e-9)
    assert float(found.energy[0]) == pytest.approx(-0.1039822509, abs=1e-9)


def test_the_system_without_self_terms_has_no_minimum():
    # T47: the stationary point of the indefinite functional is q1 = -0.5341227 e, a maximum
    matrix, _ = coulomb_matrix(diatomic(), SETTINGS)
    a, j = float(matrix[0, 0, 1]), 5.0
    assert 2.0 / (2 * j - 2 * a) == pytest.approx(-0.5341227, abs=1e-7)
    hardness = torch.full((2,), 5.0 - float(matrix[0, 0, 0]), dtype=torch.float64)
    chi = torch.tensor([0.0, 2.0], dtype=torch.float64)
    with pytest.raises(NotPositiveDefiniteError, match=r"lowest eigenvalue is -1\.87"):
        equilibrate(chi, hardness, diatomic(), SETTINGS, solver="dense")
    with pytest.raises(NotPositiveDefiniteError, match="has a negative eigenvalue"):
        equilibrate(chi, hardness, diatomic(), SETTINGS, solver="iterative")


def test_polarizability_of_two_atoms():
    # T38: alpha = R^2 / D = 0.2079645 e^2 A^2 / eV; the field enters chi as -E z
    graph = diatomic()
    field = torch.zeros((), dtype=torch.float64, requires_grad=True)
    hardness = torch.full((2,), 5.0, dtype=torch.float64)
    chi = torch.tensor([0.0, 2.0], dtype=torch.float64)
    found = equilibrate(chi - field * graph.positions[:, 2], hardness, graph, SETTINGS)
    (minus_dipole,) = torch.autograd.grad(found.energy, field, create_graph=True)
    dipole = float((found.charges.detach() * graph.positions[:, 2]).sum())
    assert float(minus_dipole.detach()) == pytest.approx(-dipole, abs=1e-12)
    (minus_alpha,) = torch.autograd.grad(minus_dipole, field)
    assert -float(minus_alpha) == pytest.approx(0.2079645, abs=1e-7)
    # times ke: 2.994615 A^3
    volume = -float(minus_alpha) * SETTINGS.coulomb_constant
    assert volume == pytest.approx(2.994615, abs=1e-6)


@pytest.mark.parametrize("charge", [-1.0, 2.0])
def test_two_charged_atoms_of_unequal_hardness(charge):
    # T38: q1 = [chi2 - chi1 + Q (J2 + A22 - g)] / D, D = J1 + J2 + A11 + A22 - 2 g
    chi, hardness = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 2.0], [5.0, 7.5]))
    total = torch.tensor([charge], dtype=torch.float64)
    found = equilibrate(chi, hardness, diatomic(), SETTINGS, totals=total)
    diagonal, pair = 11.489254808, 6.872228905
    expected = 1.5 + charge * (7.5 + diagonal - pair)
    expected /= 12.5 + 2 * diagonal - 2 * pair
    assert float(found.charges[0]) == pytest.approx(expected, abs=1e-8)


# --- T39: constraints, stationarity, forces ----------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("with_fragments", [False, True])
def test_totals_and_stationarity(solver, with_fragments, generator):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    index, totals = graph.batch, graph.total_charge
    options = {}
    if with_fragments:
        index, totals = torch.tensor(FRAGMENTS), torch.tensor(TOTALS, dtype=torch.float64)
        graph = graph.replace(total_charge=torch.tensor([1.0, 0, -1, 1], dtype=torch.float64))
        options = {"fragments": index, "totals": totals}
    found = equilibrate(chi, hardness, graph, SETTINGS, solver=solver, **options)
    sums = torch.zeros_like(totals).index_add(0, index, found.charges)
    torch.testing.assert_close(sums, totals, rtol=0, atol=ROUNDING)
    slope = coulomb_potential(found.charges, graph, KEPT_SELF) + chi + hardness * found.charges
    slope = slope + found.multipliers[index]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=ROUNDING)
    energy = functional(found.charges, chi, hardness, graph)
    torch.testing.assert_close(found.energy.sum(), energy, rtol=0, atol=ROUNDING)


def test_iteration_equals_factorisation(generator):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    options = {
        "fragments": torch.tensor(FRAGMENTS),
        "totals": torch.tensor(TOTALS, dtype=torch.float64),
    }
    one, two = (
        equilibrate(chi, hardness, graph, SETTINGS, solver=solver, **options) for solver in SOLVERS
    )
    for name in ("charges", "multipliers", "energy"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=0, atol=1e-8)


def test_single_precision(generator):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    exact = equilibrate(chi, hardness, graph, SETTINGS).charges
    single = graph.to(dtype=torch.float32)
    for solver in SOLVERS:
        found = equilibrate(chi.float(), hardness.float(), single, SETTINGS, solver=solver)
        # rounding of float32 coordinates times the condition number of some ten
        torch.testing.assert_close(found.charges.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [two_waters, triclinic_ice, slab])
def test_forces_at_the_minimum_are_differences(make, generator):
    atoms = make()
    chi, hardness = parameters(6, generator)

    def energy(moved):
        return float(equilibrate(chi, hardness, make_graph(moved), SETTINGS).energy[0])

    graph = make_graph(atoms)
    r = graph.positions.clone().requires_grad_()
    found = equilibrate(chi, hardness, graph.replace(positions=r), SETTINGS)
    (slope,) = torch.autograd.grad(found.energy.sum(), r)
    for atom, axis in ((0, 0), (4, 1), (5, 2)):
        plus, minus = atoms.copy(), atoms.copy()
        plus.positions[atom, axis] += STEP
        minus.positions[atom, axis] -= STEP
        numeric = (energy(plus) - energy(minus)) / (2 * STEP)
        assert float(slope[atom, axis]) == pytest.approx(numeric, abs=1e-6)


def test_the_minimum_needs_no_adjoint_solve(generator, monkeypatch):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    r = graph.positions.clone().requires_grad_()
    solves = []
    solve = equilibration.DenseEquations.solve
    monkeypatch.setattr(
        equilibration.DenseEquations,
        "solve",
        lambda self, *args: (solves.append(1), solve(self, *args))[1],
    )
    found = equilibrate(chi, hardness, graph.replace(positions=r), SETTINGS)
    torch.autograd.grad(found.energy.sum(), r, retain_graph=True)
    assert len(solves) == 1
    torch.autograd.grad(found.charges.square().sum(), r)
    assert len(solves) == 2


def test_adjoint_equals_gradients_of_a_linear_solve(generator):
    """T39: autograd through torch.linalg.solve with the matrix written out."""
    graph = make_graph(two_waters(), total_charge=1)
    chi, hardness = parameters(6, generator)
    weight = torch.randn(6, dtype=torch.float64, generator=generator)
    inputs = [x.clone().requires_grad_() for x in (chi, hardness, graph.positions)]

    def reference(chi, hardness, r):
        distance = (r[:, None] - r).square().sum(2)
        off = ~torch.eye(6, dtype=torch.bool)
        length = torch.where(off, distance, 1.0).sqrt()
        pair = SETTINGS.coulomb_constant * torch.erf(length / 2**0.5) / length
        matrix = torch.where(off, pair, 2 * SETTINGS.self_energy) + torch.diag(hardness)
        ones = torch.ones(6, 1, dtype=torch.float64)
        zero = torch.zeros(1, 1, dtype=torch.float64)
        kkt = torch.cat([torch.cat([matrix, ones], 1), torch.cat([ones.T, zero], 1)])
        return torch.linalg.solve(kkt, torch.cat([-chi, torch.ones(1, dtype=torch.float64)]))[:6]

    def ours(chi, hardness, r):
        return equilibrate(chi, hardness, graph.replace(positions=r), SETTINGS).charges

    torch.testing.assert_close(ours(*inputs), reference(*inputs), rtol=0, atol=ROUNDING)
    found = torch.autograd.grad((weight * ours(*inputs)).sum(), inputs)
    expected = torch.autograd.grad((weight * reference(*inputs)).sum(), inputs)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("solver", ["dense", pytest.param("iterative", marks=pytest.mark.slow)])
@pytest.mark.parametrize("with_fragments", [False, True])
def test_first_and_second_derivatives(solver, with_fragments, generator):
    graph = collate([make_graph(two_waters()[:4]), make_graph(triclinic_ice()[:3])])
    chi, hardness = parameters(7, generator)
    totals = [0.3, -0.3, 0.2, -0.2] if with_fragments else [0.4, -1.1]
    fragments = torch.tensor([0, 0, 1, 1, 2, 3, 3]) if with_fragments else None
    inputs = [chi, hardness, graph.positions, graph.cell, torch.tensor(totals).double()]
    inputs = [x.clone().requires_grad_() for x in inputs]
    scale = torch.linspace(1, 2, 7, dtype=torch.float64)

    def function(chi, hardness, r, cell, totals):
        moved = graph.replace(positions=r, cell=cell, total_charge=torch.zeros(2).double())
        found = equilibrate(
            chi, hardness, moved, SETTINGS, totals=totals, fragments=fragments, solver=solver
        )
        return found.charges * scale, found.multipliers, found.energy

    assert gradcheck(function, inputs, eps=1e-5, atol=1e-6, fast_mode=True)
    assert gradgradcheck(function, inputs, eps=1e-5, atol=1e-5, fast_mode=True)


def test_rotation_and_permutation(generator):
    atoms = triclinic_ice()
    chi, hardness = parameters(6, generator)
    charges = equilibrate(chi, hardness, make_graph(atoms), SETTINGS).charges
    turned = transformed(atoms, random_rotation(generator))
    found = equilibrate(chi, hardness, make_graph(turned), SETTINGS).charges
    torch.testing.assert_close(found, charges, rtol=0, atol=ROUNDING)
    order = [3, 1, 5, 0, 4, 2]
    found = equilibrate(chi[order], hardness[order], make_graph(atoms[order]), SETTINGS).charges
    torch.testing.assert_close(found, charges[order], rtol=0, atol=ROUNDING)


def test_periodic_box_converges_to_the_molecule(generator):
    """T39. The charges see image dipoles, L^-3.

    The energy after the Makov-Payne terms has errors of L^-5 and of L^-6, the response to the
    image dipoles: it falls faster than L^-4.
    """
    atoms = two_waters()
    chi, hardness = parameters(6, generator)
    settings = EwaldSettings(dl=1.0)
    alone = equilibrate(chi, hardness, make_graph(atoms), settings)
    errors = []
    for length in (20.0, 40.0):
        boxed = atoms.copy()
        boxed.cell, boxed.pbc = [length] * 3, True
        graph = make_graph(boxed)
        found = equilibrate(chi, hardness, graph, settings)
        correction = makov_payne_correction(found.charges, graph, settings)
        charge_error = float((found.charges - alone.charges).abs().max())
        errors.append((charge_error, abs(float(found.energy + correction - alone.energy))))
    assert errors[1][0] < 1e-4
    assert errors[0][0] / errors[1][0] == pytest.approx(8.0, rel=0.1)
    assert errors[1][1] < 5e-7
    assert errors[0][1] / errors[1][1] > 16


def test_far_fragments_do_not_exchange_charge(generator):
    """With totals per fragment E(A + B) = E(A) + E(B) + ke Q_A Q_B / R up to dipoles."""
    chi, hardness = parameters(6, generator)
    atoms = two_waters()
    atoms.positions[3:] += [0, 0, 1e4]
    totals = torch.tensor([1.0, -1.0], dtype=torch.float64)
    both = equilibrate(
        chi, hardness, make_graph(atoms), SETTINGS, totals=totals,
        fragments=torch.tensor([0, 0, 0, 1, 1, 1]),
    )  # fmt: skip
    parts = [
        equilibrate(
            chi[rows], hardness[rows], make_graph(atoms[rows], total_charge=charge), SETTINGS
        )
        for rows, charge in ((slice(0, 3), 1), (slice(3, 6), -1))
    ]
    alone = torch.cat([part.charges for part in parts])
    torch.testing.assert_close(both.charges, alone, rtol=0, atol=1e-6)
    excess = float(both.energy[0] - sum(part.energy[0] for part in parts))
    assert excess == pytest.approx(-SETTINGS.coulomb_constant / 1e4, abs=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_far_atoms_as_fragments_attract_as_points(solver):
    """T42: E(A + B, 100 A) - E(A) - E(B) = ke Q_A Q_B / 100; atoms cannot be polarised."""
    chi, hardness = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 2.0], [5.0, 7.0]))
    totals = torch.tensor([1.0, -1.0], dtype=torch.float64)
    both = equilibrate(
        chi, hardness, diatomic(100.0), SETTINGS,
        totals=totals, fragments=torch.tensor([0, 1]), solver=solver,
    )  # fmt: skip
    alone = (chi * totals + 0.5 * hardness * totals**2).sum() + 2 * SETTINGS.self_energy
    excess = float(both.energy[0]) - float(alone)
    assert excess == pytest.approx(-SETTINGS.coulomb_constant / 100, abs=1e-6)


# --- diagonal problem --------------------------------------------------------------------------


def test_local_equilibration_is_the_minimum(generator):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    q = equilibrate_locally(chi, hardness, graph)
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, graph.batch, q)
    torch.testing.assert_close(sums, graph.total_charge, rtol=0, atol=ROUNDING)
    multiplier = (chi + hardness * q).reshape(4, 6)
    torch.testing.assert_close(
        multiplier, multiplier.mean(1, keepdim=True).expand(4, 6), rtol=0, atol=ROUNDING
    )
    # two atoms: q1 = (chi2 - chi1 + Q J2) / (J1 + J2)
    one = equilibrate_locally(
        torch.tensor([0.0, 2.0]).double(), torch.tensor([5.0, 3.0]).double(), diatomic()
    )
    assert float(one[0]) == pytest.approx(2.0 / 8.0, abs=1e-14)


# --- errors ------------------------------------------------------------------------------------


def test_no_convergence_names_residual_and_iterations(monkeypatch, generator):
    monkeypatch.setattr(equilibration, "_MAX_ITERATIONS", 2)
    chi, hardness = parameters(6, generator)
    with pytest.raises(ConvergenceError, match=r"in 2 iterations: relative residual \d\.\de-0\d"):
        equilibrate(chi, hardness, make_graph(two_waters()), SETTINGS, solver="iterative")


@pytest.mark.parametrize(
    ("fragments", "totals", "message"),
    [
        ([0, 0, 0, 1, 1], [0.0, 0.0], r"one entry per atom \(6\), got shape \(5,\)"),
        ([0, 0, 0, 1, 1, -1], [0.0, 0.0], "must cover every atom .* got -1 for atom 5"),
        ([0, 0, 0, 1, 1, 2], [0.0, 0.0], "must cover every atom .* got 2 for atom 5"),
        ([0] * 6, [0.0, 0.0], "fragment 1 has a total charge but no atoms"),
        (
            [0, 0, 0, 1, 1, 1],
            [0.5, 0.0],
            "must add up to its total charge 0, they exceed it by 0.5",
        ),
        (None, [0.5, 0.0], r"one entry per structure \(1\)"),
        ([0] * 6, None, "`fragments` need `totals`"),
    ],
)
def test_bad_fragments_raise(fragments, totals, message):
    one = torch.ones(6, dtype=torch.float64)
    index = None if fragments is None else torch.tensor(fragments)
    charge = None if totals is None else torch.tensor(totals, dtype=torch.float64)
    with pytest.raises(UnsupportedInputError, match=message):
        equilibrate(one, one, make_graph(two_waters()), SETTINGS, fragments=index, totals=charge)


def test_fragment_across_structures_raises():
    graph = collate([make_graph(two_waters()), make_graph(two_waters())])
    with pytest.raises(UnsupportedInputError, match="fragment 1 has atoms of more than one"):
        Fragments.of(torch.tensor([0] * 5 + [1] * 7), 2, graph)


def test_unknown_solver_raises():
    one = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ConfigError, match="`solver` must be one of auto, dense, iterative"):
        equilibrate(one, one, diatomic(), SETTINGS, solver="lu")  # type: ignore[arg-type]


def test_wires_raise():
    atoms = triclinic_ice()
    atoms.pbc = [True, False, False]
    one = torch.ones(6, dtype=torch.float64)
    for solver in SOLVERS:
        with pytest.raises(UnsupportedInputError, match="for a wire set"):
            equilibrate(one, one, make_graph(atoms), SETTINGS, solver=solver)


def test_energy_of_a_batch_without_gradients_is_plain(generator):
    graph = mixed_batch()
    chi, hardness = parameters(graph.n_atoms, generator)
    with torch.no_grad():
        found = equilibrate(chi, hardness, graph, SETTINGS)
        potential = coulomb_potential(found.charges, graph, SETTINGS)
    assert not found.energy.requires_grad
    assert not potential.requires_grad
    np.testing.assert_allclose(found.charges.sum(), 1.0, atol=ROUNDING)
