"""Latent Ewald sum of crystals: Madelung constants, analytic limits, naive sums."""

import math

import ase
import ase.build
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from helpers import (
    CRYSTALS,
    Crystal,
    atoms_energy,
    full_result,
    latent_sum,
    left_handed,
    nacl,
    random_crystal,
)
from scipy.special import erfc

from lesff.electrostatics.sums import ewald
from lesff.electrostatics.sums.ewald import wave_limits
from lesff.electrostatics.sums.open_boundary import open_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.units import COULOMB_CONSTANT as KE

ROUNDING = 1e-10
"""Sums of some thousand float64 terms of order 1 to 10 eV."""
PRINTED_10 = 1e-8
"""Reference values are printed with ten digits; their products with ke / r0 are not larger."""


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
def test_t01_to_t06_madelung_constants(name, sigma):
    crystal = CRYSTALS[name]()
    energy = point_energy(crystal, sigma) / crystal.formula_units
    assert -energy * crystal.length / KE == pytest.approx(crystal.madelung, abs=PRINTED_10)


@pytest.mark.parametrize(
    ("name", "per_a"), [("cscl", 2.0353615095), ("zincblende", 3.7829261041)]
)  # T2, T3: the same constants per lattice constant
def test_t02_t03_madelung_constants_per_lattice_constant(name, per_a):
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
def test_t07_one_charge_in_a_cube(length, expected):
    energy = cubic_box([[0.3, 0.1, 0.2]], [1.0], length)
    # T7: printed with six digits
    assert energy == pytest.approx(expected, abs=1e-6)
    # Wigner constant of the cube and width term of the Gaussian, docs/theory.md
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
def test_t08_nacl_gaussian_energy(sigma, dl, expected, tolerance):
    energy = latent_sum(nacl(), sigma=sigma, dl=dl) / 4
    assert energy == pytest.approx(expected, abs=tolerance)


# --- T11 to T13: choice of cell ----------------------------------------------------------------


@pytest.mark.parametrize("dl", [2.0, 1.1])
def test_t11_supercell_is_extensive(dl):
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
def test_t12_cell_choice(name, dl):
    atoms, charges, others = cell_choices()
    reference = full_result(atoms, charges, EwaldSettings(dl=dl))
    result = full_result(others[name], charges, EwaldSettings(dl=dl))
    for got, expected in zip(result, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


def test_t12_niggli_cell():
    atoms, charges, others = cell_choices()
    # the reduction rotates: the energy, lengths of forces and principal stresses stay
    settings = EwaldSettings(dl=1.1)
    energy, forces, stress = full_result(atoms, charges, settings)
    twin_energy, twin_forces, twin_stress = full_result(others["niggli"], charges, settings)
    assert float(twin_energy) == pytest.approx(float(energy), abs=ROUNDING)
    torch.testing.assert_close(twin_forces.norm(dim=1), forces.norm(dim=1), rtol=0, atol=ROUNDING)
    principal, twin_principal = (torch.linalg.eigvalsh(s) for s in (stress, twin_stress))
    torch.testing.assert_close(twin_principal, principal, rtol=0, atol=ROUNDING)


def test_t12_primitive_and_conventional_cell():
    """With the chlorine sublattice moved off its place, so that there are forces."""
    settings, shift = EwaldSettings(dl=1.7), [0.3, -0.2, 0.1]
    primitive, crystal = ase.build.bulk("NaCl", "rocksalt", a=5.64), nacl()
    primitive.positions[1] += shift
    crystal.atoms.positions[crystal.charges < 0] += shift
    energy, forces, stress = full_result(primitive, np.array([1.0, -1.0]), settings)
    four, all_forces, twin_stress = full_result(crystal.atoms, crystal.charges, settings)
    assert float(four) == pytest.approx(4 * float(energy), abs=4 * ROUNDING)
    assert float(forces.abs().max()) > 0.1
    rows = torch.from_numpy((crystal.charges < 0).astype(int))
    torch.testing.assert_close(all_forces, forces[rows], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(twin_stress, stress, rtol=0, atol=ROUNDING)


def test_t13_wrapping_changes_nothing():
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


# --- T16: stress -------------------------------------------------------------------------------


def test_t16_stress_at_fixed_charges():
    atoms, charges = random_crystal()
    settings = EwaldSettings(sigma=0.9, dl=1.3)
    _, _, stress = full_result(atoms, charges, settings)
    volume = atoms.get_volume()
    k, e_k = naive_terms(atoms, charges, 0.9, 1.3)
    k2 = (k * k).sum(1)
    # stress at fixed charges, docs/theory.md
    analytic = -e_k.sum() * np.eye(3) + np.einsum(
        "k,ka,kb->ab", 2 * e_k * (1 / k2 + 0.9**2 / 2), k, k
    )
    np.testing.assert_allclose(stress.numpy() * volume, analytic, atol=ROUNDING)
    trace = -e_k.sum() + 0.9**2 * (k2 * e_k).sum()
    assert float(stress.trace()) * volume == pytest.approx(trace, abs=ROUNDING)


def test_t16_stress_against_finite_strain():
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
def test_t17_self_energy(sigma):
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
    assert EwaldSettings().self_energy == pytest.approx(5.744627, abs=1e-6)  # docs/theory.md


@pytest.mark.parametrize("dl", [2.0, 1.1])
def test_t20_half_space_equals_full_space(dl):
    atoms, charges = random_crystal()
    settings = EwaldSettings(dl=dl, remove_self_interaction=False)
    _, e_k = naive_terms(atoms, charges, 1.0, dl)
    assert float(atoms_energy(atoms, charges, settings)) == pytest.approx(e_k.sum(), abs=ROUNDING)


# --- the sphere of wave vectors -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [6.0, 10.0, 14.0])
def test_vectors_on_the_sphere_count(length, dtype):
    """A cell length that is a multiple of dl puts vectors on the sphere: the rule is |k| <= k_max.

    The sum with a sphere wider by one part in 1e4 has the same vectors.
    """
    atoms, charges = random_crystal()
    atoms.set_cell([length] * 3, scale_atoms=True)
    on, wider = EwaldSettings(dl=2.0), EwaldSettings(dl=2.0 / 1.0001)
    energy, _, _ = full_result(atoms, charges, on, dtype=dtype)
    expected, _, _ = full_result(atoms, charges, wider)
    narrower, _, _ = full_result(atoms, charges, EwaldSettings(dl=2.0 * 1.0001))
    assert float(energy) == pytest.approx(float(expected), abs=1e-5)  # float32 rounding
    assert abs(float(energy) - float(narrower)) > 1e-4


def scan(settings, lengths):
    """Energy of a cubic crystal that is scaled, and its derivative in the length."""
    atoms, charges = random_crystal()
    energies, slopes = [], []
    for length in lengths:
        atoms.set_cell([length] * 3, scale_atoms=True)
        energy, _, stress = full_result(atoms, charges, settings)
        energies.append(float(energy))
        slopes.append(float(stress.trace()) * length**2)  # dE/dL = 3 V stress / L, mean diagonal
    return np.array(energies), np.array(slopes)


def test_smooth_cutoff_is_continuous_in_the_cell_and_the_sharp_one_is_not():
    lengths = np.linspace(9.95, 10.05, 21)  # vectors (5, 0, 0) pass the sphere of dl = 2 at 10 A
    step = lengths[1] - lengths[0]
    residual = {}
    for cutoff in ("sharp", "smooth"):
        energy, slope = scan(EwaldSettings(cutoff=cutoff), lengths)
        # trapezoid rule: of order step^3 where the energy is smooth
        residual[cutoff] = abs(np.diff(energy) - 0.5 * step * (slope[1:] + slope[:-1])).max()
    assert residual["smooth"] < 1e-6
    assert residual["sharp"] > 1e-3


def test_smooth_cutoff_stress_against_finite_strain():
    atoms, charges = random_crystal()
    settings, h = EwaldSettings(cutoff="smooth"), 1e-4
    _, _, stress = full_result(atoms, charges, settings)
    volume, energies = atoms.get_volume(), []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(np.array(atoms.cell) * (1 + sign * h), scale_atoms=True)
        energies.append(float(atoms_energy(moved, charges, settings)))
    numeric = (energies[0] - energies[1]) / (2 * h) / volume
    assert float(stress.trace()) == pytest.approx(numeric, abs=1e-7)


def test_smooth_weights_lie_below_the_sharp_ones_and_meet_inside():
    sharp, smooth = EwaldSettings(), EwaldSettings(cutoff="smooth")
    k2 = torch.linspace(0.0, 1.1, 500, dtype=torch.float64).square() * sharp.k_max**2
    inner = k2 < (0.85 * sharp.k_max) ** 2  # where the taper starts
    assert torch.equal(sharp.weight(k2)[inner], smooth.weight(k2)[inner])
    assert bool((smooth.weight(k2) <= sharp.weight(k2)).all())
    edge = torch.tensor([sharp.k_max**2], dtype=torch.float64)
    assert float(smooth.weight(edge)) == pytest.approx(0.0, abs=1e-12)
    x = torch.tensor([0.85, 1.0], dtype=torch.float64) * sharp.k_max
    x.requires_grad_()
    (first,) = torch.autograd.grad(smooth.taper(x.square()).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # C2: first and second derivative vanish at both ends
    torch.testing.assert_close(first.detach(), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(second, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


def test_tiny_cell_has_the_self_energy_only():
    atoms = ase.Atoms("H", positions=[[0.1, 0.2, 0.3]], cell=[1.5] * 3, pbc=True)
    energy = float(atoms_energy(atoms, np.array([0.7]), EwaldSettings()))  # 2 pi / 1.5 A > k_max
    assert energy == pytest.approx(-0.49 * KE / math.sqrt(2 * math.pi), abs=ROUNDING)


@pytest.mark.parametrize("evaluator", ["direct", "nufft", "mesh"])
def test_zero_charges_have_no_energy(evaluator):
    atoms, charges = random_crystal()
    for value in full_result(atoms, 0.0 * charges, EwaldSettings(), evaluator):
        assert float(value.abs().max()) == 0.0


def test_long_cells_lose_no_waves():
    atoms, charges = random_crystal(n_atoms=4)
    long = atoms.repeat((40, 1, 1))  # 240 A
    one = float(atoms_energy(atoms, charges, EwaldSettings()))
    forty = float(atoms_energy(long, np.tile(charges, 40), EwaldSettings()))
    assert forty == pytest.approx(40 * one, abs=40 * ROUNDING)


def test_a_vacuum_box_approaches_the_molecule():
    atoms, charges = random_crystal(n_atoms=4)
    charges = charges - charges.mean()
    atoms.set_cell([90.0] * 3)
    settings = EwaldSettings(dl=1.5)
    boxed = float(atoms_energy(atoms, charges, settings))
    q, r = torch.tensor(charges), torch.tensor(atoms.positions)
    free = float(open_energy(q, r, torch.zeros(4, dtype=torch.int64), 1, settings))
    dipole = charges @ atoms.positions
    leading = -2 * math.pi * KE * dipole @ dipole / (3 * 90.0**3)  # Makov and Payne
    # truncation weight exp(-(2 pi / 1.5)^2 / 2) = 1.5e-4 of some eV, spread over many vectors
    assert boxed - free == pytest.approx(leading, abs=1e-3)


def test_too_many_waves_raise():
    cell = 2000.0 * torch.eye(3, dtype=torch.float64)[None]
    with pytest.raises(UnsupportedInputError, match=r"has 4\.0e\+09 wave vectors at dl = 2.0 A"):
        wave_limits(cell, 2.0)


def test_wave_blocks_change_nothing(monkeypatch):
    atoms, charges = random_crystal()
    expected = full_result(atoms, charges, EwaldSettings())
    monkeypatch.setattr(ewald, "_BLOCK_WAVES", 60)
    calls = []
    block = ewald._power_block
    monkeypatch.setattr(ewald, "_power_block", lambda *a, **k: calls.append(1) or block(*a, **k))
    for got, value in zip(full_result(atoms, charges, EwaldSettings()), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=0, atol=ROUNDING)
    assert len(calls) > 2


# --- settings ----------------------------------------------------------------------------------


def test_unknown_cutoff_raises():
    with pytest.raises(ConfigError, match="`long_range.cutoff` must be 'sharp' or 'smooth', got"):
        EwaldSettings(cutoff="soft")


@pytest.mark.parametrize("name", ["sigma", "dl", "prefactor"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1000.0, math.nan])
def test_settings_are_checked(name, value):
    with pytest.raises(ConfigError, match=f"`long_range.{name}` must be in"):
        EwaldSettings(**{name: value})


def test_other_prefactors_scale_everything():
    # CACE typed eps0 as 5.55263e-3: 90.0474 (docs/theory.md)
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
