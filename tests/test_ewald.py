"""Latent Ewald sum against Madelung constants, analytic limits and naive sums (science.md 6)."""

import math

import ase.build
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from helpers import CRYSTALS, Crystal, atoms_energy, latent_sum, left_handed, make_graph, nacl
from scipy.special import erf, erfc

from lesff.electrostatics import ewald
from lesff.electrostatics.ewald import (
    EwaldSettings,
    gaussian_kernel,
    open_energy,
    periodic_energy,
)
from lesff.electrostatics.latent_ewald import check_boundaries, latent_energy
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.graph import collate
from lesff.units import COULOMB_CONSTANT as KE

ROUNDING = 1e-10
"""Sums of some thousand float64 terms of order 1 to 10 eV."""
PRINTED_10 = 1e-8
"""Reference values are printed with ten digits; their products with ke / r0 are not larger."""


def random_crystal(n_atoms: int = 6, seed: int = 3):
    """Skewed cell, charges with a net charge; a generic structure for symmetry tests."""
    rng = np.random.default_rng(seed)
    cell = np.array([[6.1, 0.4, -0.3], [1.7, 5.3, 0.6], [-0.9, 1.2, 6.7]])
    atoms = ase.Atoms(["H"] * n_atoms, scaled_positions=rng.random((n_atoms, 3)), cell=cell)
    atoms.pbc = True
    return atoms, rng.normal(size=n_atoms)


def full_result(atoms, charges, settings):
    """Energy, forces and stress at fixed charges."""
    q = torch.as_tensor(charges)
    r = torch.tensor(atoms.positions, requires_grad=True)
    h = torch.tensor(np.array(atoms.cell))
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    batch = torch.zeros(len(q), dtype=torch.int64)
    deform = torch.eye(3, dtype=torch.float64) + strain
    energy = periodic_energy(q, r @ deform, (h @ deform)[None], batch, settings)[0]
    d_r, d_strain = torch.autograd.grad(energy, [r, strain])
    return energy.detach(), -d_r, d_strain / torch.linalg.det(h).abs()


def naive_terms(atoms, charges, sigma, dl):
    """k vectors of the full sphere and the energy of each, straight from the formula."""
    cell = np.array(atoms.cell)
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    n_max = np.floor(np.linalg.norm(cell, axis=1) / dl).astype(int)
    axes = [np.arange(-n, n + 1) for n in n_max]
    n = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    k = n @ reciprocal
    k2 = (k * k).sum(1)
    keep = (k2 > 1e-12) & (k2 <= (2 * np.pi / dl) ** 2)
    k, k2 = k[keep], k2[keep]
    structure = (charges * np.exp(1j * k @ atoms.positions.T)).sum(1)
    volume = abs(np.linalg.det(cell))
    return k, 2 * np.pi * KE / volume * np.exp(-(sigma**2) * k2 / 2) / k2 * abs(structure) ** 2


# --- T1 to T6: Madelung constants -------------------------------------------------------------


def point_energy(crystal: Crystal, sigma: float) -> float:
    """Point-charge energy per cell: converged Gaussian sum plus the real-space remainder."""
    # erfc(6) = 2e-17: the real-space sum is complete at 6 sqrt(2) sigma
    i, j, r = neighbor_list("ijd", crystal.atoms, 6 * math.sqrt(2) * sigma)
    q = crystal.charges
    real = 0.5 * KE * (q[i] * q[j] * erfc(r / (math.sqrt(2) * sigma)) / r).sum()
    return latent_sum(crystal, sigma=sigma, dl=0.4 * sigma) + real


@pytest.mark.parametrize("sigma", [0.8, 1.3])
@pytest.mark.parametrize("name", CRYSTALS)
def test_madelung_constants(name, sigma):
    crystal = CRYSTALS[name]()
    energy = point_energy(crystal, sigma) / crystal.formula_units
    assert -energy * crystal.length / KE == pytest.approx(crystal.madelung, abs=PRINTED_10)


@pytest.mark.parametrize(
    ("name", "per_a"), [("cscl", 2.0353615095), ("zincblende", 3.7829261041)]
)  # T2, T3: the same constants per lattice constant
def test_madelung_constants_per_lattice_constant(name, per_a):
    crystal = CRYSTALS[name]()
    a = {"cscl": 4.12, "zincblende": 5.41}[name]
    energy = point_energy(crystal, 0.8) / crystal.formula_units
    assert -energy * a / KE == pytest.approx(per_a, abs=PRINTED_10)


# --- T7 to T10: finite size --------------------------------------------------------------------

CONVERGED = EwaldSettings(sigma=1.0, dl=1.0)  # truncation weight 2.7e-9


def cubic_box(positions, charges, length, settings=CONVERGED) -> float:
    atoms = ase.Atoms(["H"] * len(charges), positions=positions, cell=[length] * 3, pbc=True)
    return float(atoms_energy(atoms, np.array(charges), settings))


@pytest.mark.parametrize(
    ("length", "expected"), [(10, -1.997566), (20, -1.015747), (40, -0.509994)]
)
def test_one_charge_in_a_cube(length, expected):
    energy = cubic_box([[0.3, 0.1, 0.2]], [1.0], length)
    # T7: printed with six digits
    assert energy == pytest.approx(expected, abs=1e-6)
    # Wigner constant of the cube and width term of the Gaussian, science.md 1.2
    analytic = -2.8372974795 * KE / (2 * length) + math.pi * KE / length**3
    assert energy == pytest.approx(analytic, abs=PRINTED_10)


@pytest.mark.parametrize(
    ("sigma", "dl", "expected", "tolerance"),
    [
        (1.0, 2.0, -8.794700209646, 1e-9),
        (1.0, 1.0, -8.779243576, PRINTED_10),
        (1.0, 0.5, -8.779243573, PRINTED_10),
        (1.5, 0.6, -7.396552825, PRINTED_10),
        (0.5, 0.25, -8.923513881, PRINTED_10),
    ],
)  # T8
def test_nacl_gaussian_energy(sigma, dl, expected, tolerance):
    energy = latent_sum(nacl(), sigma=sigma, dl=dl) / 4
    assert energy == pytest.approx(expected, abs=tolerance)


DIMER_PBC_MINUS_ISOLATED = {10: -0.308601, 20: -0.0350666, 40: -0.00427649}  # T9


def dimer_difference(length: float) -> float:
    r = [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    isolated = open_energy(
        torch.tensor([1.0, -1.0], dtype=torch.float64),
        torch.tensor(r, dtype=torch.float64),
        torch.zeros(2, dtype=torch.int64),
        1,
        CONVERGED,
    )
    assert float(isolated) == pytest.approx(-4.786923124, abs=PRINTED_10)
    return cubic_box(r, [1.0, -1.0], length) - float(isolated)


@pytest.mark.parametrize("length", DIMER_PBC_MINUS_ISOLATED)
def test_dimer_in_a_box(length):
    # six digits printed
    assert dimer_difference(length) == pytest.approx(DIMER_PBC_MINUS_ISOLATED[length], abs=1e-6)


def test_dimer_remainder_after_makov_payne_falls_as_fifth_power():
    # dipole term of Makov and Payne, PRB 51, 4014 (1995): -2 pi ke mu^2 / (3 L^3)
    remainder = {
        length: dimer_difference(length) + 2 * math.pi * KE * 9 / (3 * length**3)
        for length in (20, 40)
    }
    assert abs(remainder[40]) < 4e-5  # T10
    # next order gives corrections of (3 A / L)^2 = 2 percent
    assert remainder[20] / remainder[40] == pytest.approx(32, rel=0.03)


@pytest.mark.parametrize("origin", [0.0, 2.5])
def test_makov_payne_of_a_charged_dimer(origin):
    """Monopole, dipole and quadrupole terms of science.md 1.5, in any origin."""
    length, sigma = 40.0, 1.0
    q, r = np.array([1.0, 0.5]), np.array([[origin, 0.3, 0.1], [origin + 1.5, 0.2, 1.1]])
    total, p = q.sum(), q @ r
    trace = (q * (r * r).sum(1)).sum() + 1.5 * sigma**2 * total
    correction = (
        2.8372974795 * KE * total**2 / (2 * length)
        + 2 * math.pi * KE * (p @ p) / (3 * length**3)
        - 2 * math.pi * KE * total * trace / (3 * length**3)
    )
    distance = np.linalg.norm(r[1] - r[0])
    isolated = KE * 0.5 * erf(distance / math.sqrt(2)) / distance
    # remainder of order ke R^4 / L^5 = 2e-6
    assert cubic_box(r, q, length) + correction == pytest.approx(isolated, abs=1e-5)


# --- T11 to T13: choice of cell ----------------------------------------------------------------


@pytest.mark.parametrize("dl", [2.0, 1.1])
def test_supercell_is_extensive(dl):
    settings = EwaldSettings(dl=dl)
    atoms, charges = random_crystal()
    charges = charges - charges.mean()
    one = float(atoms_energy(atoms, charges, settings))
    eight = float(atoms_energy(atoms.repeat(2), np.tile(charges, 8), settings))
    assert eight == pytest.approx(8 * one, abs=8 * ROUNDING)


def cell_choices():
    atoms, charges = random_crystal()
    cell = np.array(atoms.cell)
    sheared = atoms.copy()
    sheared.cell = [cell[0], cell[1], cell[2] + 5 * cell[0]]
    niggli = sheared.copy()
    ase.build.niggli_reduce(niggli)
    return atoms, charges, {"sheared": sheared, "left": left_handed(atoms), "niggli": niggli}


@pytest.mark.parametrize("name", ["sheared", "left"])
@pytest.mark.parametrize("dl", [2.0, 1.1])
def test_cell_choice(name, dl):
    atoms, charges, others = cell_choices()
    reference = full_result(atoms, charges, EwaldSettings(dl=dl))
    result = full_result(others[name], charges, EwaldSettings(dl=dl))
    for got, expected in zip(result, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


def test_niggli_cell():
    atoms, charges, others = cell_choices()
    # the reduction rotates: only the energy and the lengths of forces stay
    settings = EwaldSettings(dl=1.1)
    energy, forces, _ = full_result(atoms, charges, settings)
    twin_energy, twin_forces, _ = full_result(others["niggli"], charges, settings)
    assert float(twin_energy) == pytest.approx(float(energy), abs=ROUNDING)
    torch.testing.assert_close(twin_forces.norm(dim=1), forces.norm(dim=1), rtol=0, atol=ROUNDING)


def test_primitive_and_conventional_cell():
    a, settings = 5.64, EwaldSettings(dl=1.7)
    conventional = latent_sum(nacl(a), dl=1.7)
    primitive = ase.build.bulk("NaCl", "rocksalt", a=a)
    energy = float(atoms_energy(primitive, np.array([1.0, -1.0]), settings))
    assert conventional == pytest.approx(4 * energy, abs=4 * ROUNDING)


def test_wrapping_changes_nothing():
    atoms, charges = random_crystal()
    moved = atoms.copy()
    shifts = np.random.default_rng(0).integers(-3, 4, size=(len(atoms), 3))
    moved.positions += shifts @ np.array(atoms.cell)
    for got, expected in zip(
        full_result(moved, charges, EwaldSettings()),
        full_result(atoms, charges, EwaldSettings()),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


# --- T14: open boundaries ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "expected"),
    [(1, 9.830487), (2, 6.872228), (3, 4.786923), (5, 2.879928), (10, 1.439965)],
)  # science.md 1.4, six digits printed
def test_pair_energy(r, expected):
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, r, 0.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    energy = open_energy(one, positions, torch.zeros(2, dtype=torch.int64), 1, EwaldSettings())
    assert float(energy) == pytest.approx(expected, abs=1e-6)


def test_kernel_limits():
    # r -> 0: sqrt(2 / pi) ke / sigma = 11.489254808 eV
    zero = gaussian_kernel(torch.zeros(1, dtype=torch.float64), 1.0)
    assert KE * float(zero) == pytest.approx(11.489254808, abs=PRINTED_10)
    assert float(zero) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-15)
    far = gaussian_kernel(torch.tensor([2500.0], dtype=torch.float64), 1.0)
    assert float(far) == pytest.approx(1 / 50, abs=1e-12)


def test_kernel_matches_erf_on_both_sides_of_the_series():
    # the series takes over at r = 0.05 sqrt(2) sigma; scipy's erf is good to 1e-16
    sigma = 0.7
    r = np.concatenate([np.linspace(1e-3, 0.2, 100), np.linspace(0.3, 20, 50)])
    expected = erf(r / (math.sqrt(2) * sigma)) / r
    got = gaussian_kernel(torch.from_numpy(r**2), sigma).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_kernel_derivatives_are_finite_at_zero_and_smooth_at_the_seam():
    seam = (0.05 * math.sqrt(2)) ** 2
    r2 = torch.tensor([0.0, seam * (1 - 1e-9), seam * (1 + 1e-9)], dtype=torch.float64)
    r2.requires_grad_()
    (first,) = torch.autograd.grad(gaussian_kernel(r2, 1.0).sum(), r2, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r2)
    first = first.detach()
    # d/d(r^2) at 0 is -sqrt(2/pi) / 6 (series of erf)
    assert float(first[0]) == pytest.approx(-math.sqrt(2 / math.pi) / 6, abs=1e-14)
    # cancellation of 1e-16 / r^2 (first) and 1e-16 / r^4 (second derivative) at r^2 = 5e-3
    assert float(first[1]) == pytest.approx(float(first[2]), abs=1e-10)
    assert float(second[1]) == pytest.approx(float(second[2]), abs=1e-8)


# --- T16: stress -------------------------------------------------------------------------------


def test_stress_at_fixed_charges():
    atoms, charges = random_crystal()
    settings = EwaldSettings(sigma=0.9, dl=1.3)
    _, _, stress = full_result(atoms, charges, settings)
    volume = atoms.get_volume()
    k, e_k = naive_terms(atoms, charges, 0.9, 1.3)
    k2 = (k * k).sum(1)
    # science.md 1.7
    analytic = -e_k.sum() * np.eye(3) + np.einsum(
        "k,ka,kb->ab", 2 * e_k * (1 / k2 + 0.9**2 / 2), k, k
    )
    np.testing.assert_allclose(stress.numpy() * volume, analytic, atol=ROUNDING)
    trace = -e_k.sum() + 0.9**2 * (k2 * e_k).sum()
    assert float(stress.trace()) * volume == pytest.approx(trace, abs=ROUNDING)


def test_stress_against_finite_strain():
    atoms, charges = random_crystal()
    settings, h = EwaldSettings(sigma=0.9, dl=1.3), 1e-4
    _, _, stress = full_result(atoms, charges, settings)
    numeric = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            values = []
            for sign in (1, -1):
                deform = np.eye(3)
                deform[a, b] += sign * h
                moved = atoms.copy()
                moved.set_cell(np.array(atoms.cell) @ deform, scale_atoms=True)
                values.append(float(atoms_energy(moved, charges, settings)))
            numeric[a, b] = (values[0] - values[1]) / (2 * h) / atoms.get_volume()
    # h^2 = 1e-8 times derivatives of order 10, over a volume of 200
    np.testing.assert_allclose(stress.numpy(), numeric, atol=1e-7)


# --- T17, T18, T20 -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.8, 1.0])
def test_self_energy(sigma):
    atoms, q = random_crystal()
    kept = EwaldSettings(sigma=sigma, remove_self_interaction=False)
    removed = EwaldSettings(sigma=sigma)
    expected = KE * (q * q).sum() / (sigma * math.sqrt(2 * math.pi))
    periodic = atoms_energy(atoms, q, kept) - atoms_energy(atoms, q, removed)
    assert float(periodic) == pytest.approx(expected, abs=ROUNDING)
    r, batch = torch.tensor(atoms.positions), torch.zeros(len(q), dtype=torch.int64)
    charges = torch.from_numpy(q)
    isolated = open_energy(charges, r, batch, 1, kept) - open_energy(charges, r, batch, 1, removed)
    assert float(isolated) == pytest.approx(expected, abs=ROUNDING)


def test_self_energy_of_a_unit_charge():
    assert EwaldSettings().self_energy == pytest.approx(5.744627, abs=1e-6)  # science.md 1.2


def test_single_precision_on_a_thousand_atoms():
    atoms = nacl().atoms.repeat(5)
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    charges = np.where(atoms.numbers == 11, 1.0, -1.0) + rng.normal(scale=0.1, size=len(atoms))
    results = []
    for dtype in (torch.float64, torch.float32):
        r = torch.tensor(atoms.positions).to(dtype).requires_grad_()
        energy = periodic_energy(
            torch.tensor(charges).to(dtype),
            r,
            torch.tensor(np.array(atoms.cell)).to(dtype)[None],
            torch.zeros(len(atoms), dtype=torch.int64),
            EwaldSettings(),
        )
        (grad,) = torch.autograd.grad(energy.sum(), r)
        results.append((float(energy.detach()) / len(atoms), grad.double()))
    assert len(atoms) == 1000
    assert abs(results[0][0] - results[1][0]) < 1e-5  # T18
    assert float((results[0][1] - results[1][1]).abs().max()) < 1e-4  # T18


@pytest.mark.parametrize("dl", [2.0, 1.1])
def test_half_space_equals_full_space(dl):
    atoms, charges = random_crystal()
    settings = EwaldSettings(dl=dl, remove_self_interaction=False)
    _, e_k = naive_terms(atoms, charges, 1.0, dl)
    assert float(atoms_energy(atoms, charges, settings)) == pytest.approx(e_k.sum(), abs=ROUNDING)


def open_result(atoms, charges):
    r = torch.tensor(atoms.positions, requires_grad=True)
    batch = torch.zeros(len(charges), dtype=torch.int64)
    energy = open_energy(torch.as_tensor(charges), r, batch, 1, EwaldSettings())[0]
    (grad,) = torch.autograd.grad(energy, r)
    return energy.detach(), grad


def test_blocks_change_nothing(monkeypatch):
    atoms, charges = random_crystal(n_atoms=9)
    periodic = full_result(atoms, charges, EwaldSettings())
    isolated = open_result(atoms, charges)
    calls = []
    block = ewald._structure_block
    monkeypatch.setattr(ewald, "_structure_block", lambda *a: calls.append(1) or block(*a))
    monkeypatch.setattr(ewald, "_BLOCK_VALUES", 60)  # two atoms or so, and some ten pairs, a block
    for got, expected in zip(full_result(atoms, charges, EwaldSettings()), periodic, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)
    assert len(calls) > 2  # the blocked branch did run
    monkeypatch.setattr(ewald, "_BLOCK_VALUES", 5)
    for got, expected in zip(open_result(atoms, charges), isolated, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


def test_mixed_batch_equals_one_by_one():
    crystal, _ = random_crystal(n_atoms=4)
    molecule, _ = random_crystal(n_atoms=6, seed=9)
    molecule.pbc = False
    atom = ase.Atoms("H")
    other, _ = random_crystal(n_atoms=3, seed=11)
    other.cell = 1.7 * np.array(other.cell)[[1, 0, 2]]  # left-handed, other k vectors
    other.positions *= 1.7
    graphs = [make_graph(a, 1.0) for a in (crystal, molecule, atom, other, molecule)]
    rng = np.random.default_rng(2)
    charges = [torch.from_numpy(rng.normal(size=g.n_atoms)) for g in graphs]
    together = latent_energy(torch.cat(charges), collate(graphs), EwaldSettings())
    for got, q, graph in zip(together, charges, graphs, strict=True):
        alone = latent_energy(q, graph, EwaldSettings())[0]
        assert float(got) == pytest.approx(float(alone), abs=ROUNDING)
    assert float(together[2]) == 0.0  # one atom in open space


def test_boundaries_follow_pbc_not_the_cell():
    atoms, charges = random_crystal()
    q = torch.from_numpy(charges)
    boxed = atoms.copy()
    boxed.pbc = False  # a molecule in a file with a cell stays a molecule
    expected, _ = open_result(atoms, charges)
    got = latent_energy(q, make_graph(boxed, 1.0), EwaldSettings())[0]
    assert float(got) == pytest.approx(float(expected), abs=ROUNDING)
    left = latent_energy(q, make_graph(left_handed(atoms), 1.0), EwaldSettings())[0]
    right = latent_energy(q, make_graph(atoms, 1.0), EwaldSettings())[0]
    assert float(left) == pytest.approx(float(right), abs=ROUNDING)
    assert abs(float(right) - float(expected)) > 1e-3


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_partial_periodicity_raises(pbc):
    with pytest.raises(UnsupportedInputError, match=r"`pbc` must be all True or all False.*\(str"):
        check_boundaries(torch.tensor([[True] * 3, list(pbc)]))


@pytest.mark.parametrize("pbc", [True, False])
def test_full_periodicity_and_none_pass(pbc):
    assert check_boundaries(torch.tensor([[pbc] * 3])) is None


@pytest.mark.parametrize("name", ["sigma", "dl", "prefactor"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1000.0, math.nan])
def test_settings_are_checked(name, value):
    with pytest.raises(ConfigError, match=f"`long_range.{name}` must be in"):
        EwaldSettings(**{name: value})


def test_other_prefactors_scale_everything():
    # CACE typed eps0 as 5.55263e-3: 90.0474 (science.md 1.6)
    atoms, charges = random_crystal()
    factor = 90.0474 / (2 * math.pi * KE)
    cace, right = EwaldSettings(prefactor=90.0474), EwaldSettings()
    assert float(atoms_energy(atoms, charges, cace)) == pytest.approx(
        factor * float(atoms_energy(atoms, charges, right)), abs=ROUNDING
    )
    r, batch = torch.tensor(atoms.positions), torch.zeros(len(charges), dtype=torch.int64)
    q = torch.from_numpy(charges)
    assert float(open_energy(q, r, batch, 1, cace)) == pytest.approx(
        factor * float(open_energy(q, r, batch, 1, right)), abs=ROUNDING
    )
