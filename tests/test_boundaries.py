"""Molecules, slabs, charged boxes and mixed batches (T7, T9, T10, T14, T15, T20)."""

import math

import ase
import numpy as np
import pytest
import torch
from helpers import (
    atoms_energy,
    left_handed,
    make_graph,
    nacl,
    random_crystal,
    random_rotation,
    tiny_potential,
    transformed,
    two_waters,
)
from scipy.special import erf

from lesff.atoms.graph import collate
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums import open_boundary
from lesff.electrostatics.sums.finite_size import makov_payne_correction
from lesff.electrostatics.sums.gaussian_kernel import gaussian_kernel, kernel_derivatives
from lesff.electrostatics.sums.open_boundary import open_energy
from lesff.electrostatics.sums.pair_sum import check_boundaries
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.units import COULOMB_CONSTANT as KE
from lesff.units import VACUUM_PERMITTIVITY

ROUNDING = 1e-10
"""Sums of some thousand float64 terms of order 1 to 10 eV."""
PRINTED_10 = 1e-8
"""Reference values are printed with ten digits."""
CONVERGED = EwaldSettings(sigma=1.0, dl=1.0)
"""Truncation weight 2.7e-9."""


def energy_of(atoms, charges, settings=CONVERGED, **options) -> float:
    graph = make_graph(atoms, 0.1)  # no edges
    return float(
        latent_energy(torch.as_tensor(charges, dtype=torch.float64), graph, settings, **options)[0]
    )


def cubic_box(positions, charges, length, **options) -> float:
    atoms = ase.Atoms(["H"] * len(charges), positions=positions, cell=[length] * 3, pbc=True)
    return energy_of(atoms, np.array(charges), **options)


# --- T7, T9, T10: finite size -------------------------------------------------------------------


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
def test_t09_dimer_in_a_box(length):
    # six digits printed
    assert dimer_difference(length) == pytest.approx(DIMER_PBC_MINUS_ISOLATED[length], abs=1e-6)


def test_t10_dimer_remainder_after_makov_payne_falls_as_fifth_power():
    # dipole term of Makov and Payne, PRB 51, 4014 (1995): -2 pi ke mu^2 / (3 L^3)
    remainder = {
        length: dimer_difference(length) + 2 * math.pi * KE * 9 / (3 * length**3)
        for length in (20, 40)
    }
    assert abs(remainder[40]) < 4e-5  # T10
    # next order gives corrections of (3 A / L)^2 = 2 percent
    assert remainder[20] / remainder[40] == pytest.approx(32, rel=0.03)


CORRECTED = {"finite_size_correction": "makov-payne"}


def isolated(positions, charges) -> float:
    atoms = ase.Atoms(["H"] * len(charges), positions=positions)
    return energy_of(atoms, np.array(charges))


@pytest.mark.parametrize("length", [10, 20])
def test_t07_one_charge_corrected_is_free_of_the_box(length):
    # monopole and width terms are complete for one charge: self energy removed, nothing remains
    energy = cubic_box([[0.3, 0.1, 0.2]], [1.0], length, **CORRECTED)
    assert energy == pytest.approx(0.0, abs=PRINTED_10)


def test_t10_corrected_dimer():
    r = [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    error = {n: cubic_box(r, [1.0, -1.0], n, **CORRECTED) - isolated(r, [1, -1]) for n in (20, 40)}
    assert abs(error[40]) < 4e-5  # T10
    # next order in R / L: corrections of (3/20)^2 = 2 percent
    assert error[20] / error[40] == pytest.approx(32, rel=0.03)


@pytest.mark.parametrize("origin", [0.0, 2.5, 300.0])
def test_t10_corrected_charged_dimer(origin):
    q, r = [1.0, 0.5], np.array([[origin, 0.3, 0.1], [origin + 1.5, 0.2, 1.1]])
    # remainder of order ke R^4 / L^5 = 2e-6
    corrected = cubic_box(r, q, 40.0, **CORRECTED)
    assert corrected == pytest.approx(isolated(r, q), abs=1e-5)
    distance = np.linalg.norm(r[1] - r[0])
    assert corrected == pytest.approx(KE * 0.5 * erf(distance / 2**0.5) / distance, abs=1e-5)


def test_correction_is_differentiable():
    graph = make_graph(nacl().atoms, 0.1)
    q = torch.randn(8, dtype=torch.float64, requires_grad=True)
    r = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, r: makov_payne_correction(q, graph.replace(positions=r), CONVERGED), (q, r)
    )


def test_correction_needs_a_cube():
    atoms, charges = random_crystal()
    with pytest.raises(UnsupportedInputError, match="Makov-Payne correction needs cubic cells"):
        energy_of(atoms, charges, **CORRECTED)
    atoms.set_cell([9.0] * 3)
    atoms.pbc = False
    with pytest.raises(UnsupportedInputError, match="Makov-Payne correction needs cubic cells"):
        energy_of(atoms, charges, **CORRECTED)


def test_unknown_correction_raises():
    with pytest.raises(ConfigError, match="`finite_size_correction` must be None or 'makov-payne'"):
        cubic_box([[0.0] * 3], [1.0], 10.0, finite_size_correction="mp")


# --- T14: open boundaries ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "expected"),
    [(1, 9.830487), (2, 6.872228), (3, 4.786923), (5, 2.879928), (10, 1.439965)],
)  # docs/theory.md, six digits printed
def test_t14_pair_energy(r, expected):
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, r, 0.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    energy = open_energy(one, positions, torch.zeros(2, dtype=torch.int64), 1, EwaldSettings())
    assert float(energy) == pytest.approx(expected, abs=1e-6)
    assert float(energy) == pytest.approx(KE * erf(r / math.sqrt(2)) / r, abs=PRINTED_10)


def test_t14_kernel_limits():
    # r -> 0: sqrt(2 / pi) ke / sigma = 11.489254808 eV
    zero = gaussian_kernel(torch.zeros(1, dtype=torch.float64), 1.0)
    assert KE * float(zero) == pytest.approx(11.489254808, abs=PRINTED_10)
    assert float(zero) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-15)
    far = gaussian_kernel(torch.tensor([2500.0], dtype=torch.float64), 1.0)
    assert float(far) == pytest.approx(1 / 50, abs=1e-12)


def test_kernel_matches_erf_on_both_sides_of_the_series():
    # the series takes over at r = 0.5 sqrt(2) sigma; scipy's erf is good to 1e-16
    sigma = 0.7
    r = np.concatenate([np.linspace(1e-3, 0.2, 100), np.linspace(0.3, 20, 50)])
    expected = erf(r / (math.sqrt(2) * sigma)) / r
    got = gaussian_kernel(torch.from_numpy(r**2), sigma).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_kernel_derivatives_are_finite_at_zero_and_smooth_at_the_seam():
    seam = (0.5 * math.sqrt(2)) ** 2
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


@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_kernel_derivatives_are_those_of_the_kernel(sigma):
    # 0.5 sqrt(2) sigma is the seam of the series
    r2 = torch.tensor([0.0, 0.05, 0.15, 0.4, 0.6, 3.0, 90.0], dtype=torch.float64)
    r2.requires_grad_()
    value = gaussian_kernel(r2, sigma)
    for hand in kernel_derivatives(r2.detach(), sigma, 3):
        torch.testing.assert_close(hand, value.detach(), rtol=1e-9, atol=1e-12)
        (value,) = torch.autograd.grad(value.sum(), r2, create_graph=True)


def test_t14_far_pair_is_coulomb():
    r = [[0.0, 0.0, 0.0], [0.0, 50.0, 0.0]]
    assert isolated(r, [1.0, -2.0]) == pytest.approx(-2 * KE / 50, abs=1e-12)


def open_result(atoms, charges):
    r = torch.tensor(atoms.positions, requires_grad=True)
    batch = torch.zeros(len(charges), dtype=torch.int64)
    energy = open_energy(torch.as_tensor(charges), r, batch, 1, EwaldSettings())[0]
    (grad,) = torch.autograd.grad(energy, r)
    return energy.detach(), grad


def open_tensors(n_systems=2, n_atoms=4):
    q = torch.randn(n_systems * n_atoms, dtype=torch.float64, requires_grad=True)
    r = 2.5 * torch.randn(n_systems * n_atoms, 3, dtype=torch.float64)
    batch = torch.arange(n_systems).repeat_interleave(n_atoms)
    batch[n_atoms] = 0  # unequal sizes: padding
    return q, r.requires_grad_(), batch


@pytest.mark.parametrize("pairs", [2**16, pytest.param(9, marks=pytest.mark.slow)])
def test_open_sum_derivatives(pairs, monkeypatch):
    """First and second by hand, third by the fallback; one block and many."""
    monkeypatch.setattr(open_boundary, "_CACHE_VALUES", pairs)
    q, r, batch = open_tensors()

    def energy(q, r):
        return open_energy(q, r, batch, 2, EwaldSettings(remove_self_interaction=False))

    def gradient(q, r):
        return torch.autograd.grad(energy(q, r).sum(), [q, r], create_graph=True)

    assert torch.autograd.gradcheck(energy, (q, r))
    assert torch.autograd.gradgradcheck(energy, (q, r))
    assert torch.autograd.gradgradcheck(gradient, (q, r))


def test_t20_open_blocks_change_nothing(monkeypatch):
    atoms, charges = random_crystal(n_atoms=9)
    monkeypatch.setattr(open_boundary.kernels, "backend", lambda _: None)
    expected = open_result(atoms, charges)
    monkeypatch.setattr(open_boundary, "_CACHE_VALUES", 20)
    calls = []
    pairs = open_boundary._pairs
    monkeypatch.setattr(open_boundary, "_pairs", lambda *a: calls.append(1) or pairs(*a))
    for got, value in zip(open_result(atoms, charges), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=0, atol=ROUNDING)
    assert len(calls) == 5  # two rows a block


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


# --- T15: slabs ---------------------------------------------------------------------------------


def random_slab(height=40.0, n_atoms=7, seed=5):
    """Skewed in-plane cell, open along z, net charge."""
    rng = np.random.default_rng(seed)
    cell = np.array([[6.1, 0.4, 0.0], [1.7, 5.3, 0.0], [0.0, 0.0, height]])
    positions = rng.random((n_atoms, 3)) @ (cell * [[1], [1], [4.0 / height]])
    atoms = ase.Atoms(["H"] * n_atoms, positions=positions, cell=cell, pbc=[True, True, False])
    return atoms, rng.normal(size=n_atoms)


def with_open_row(atoms, row):
    other = atoms.copy()
    cell = np.array(atoms.cell)
    cell[2] = row
    other.cell = cell
    other.pbc = atoms.pbc
    return other


SLAB_SETTINGS = EwaldSettings(sigma=1.0, dl=0.8)
"""Truncation weight 4e-14: sums over different auxiliary cells agree to rounding."""


def test_t15_sheets_have_the_field_of_a_capacitor():
    """Two oppositely charged sheets: energy per area (density)^2 d / (2 eps0), from either side."""
    n, a, q = 8, 8.0, 0.02
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), [0.0], indexing="ij"), -1)
    sheet = grid.reshape(-1, 3) * (a / n)
    energies = {}
    for d in (6.0, 8.0):
        positions = np.concatenate([sheet, sheet + [0, 0, d]])
        atoms = ase.Atoms(["H"] * len(positions), positions=positions, cell=[a, a, 0.0])
        atoms.pbc = [True, True, False]
        charges = np.repeat([q, -q], n * n)
        energies[d] = energy_of(atoms, charges, SLAB_SETTINGS)
        graph = make_graph(atoms, 0.1)
        r = graph.positions.clone().requires_grad_()
        total = latent_energy(torch.tensor(charges), graph.replace(positions=r), SLAB_SETTINGS)
        (slope,) = torch.autograd.grad(total.sum(), r)
        density = q * n * n / a**2
        # field of the other sheet on each charge: density / (2 eps0)
        expected = q * density / (2 * VACUUM_PERMITTIVITY)
        np.testing.assert_allclose(slope[: n * n, 2], -expected, rtol=1e-8)
        probe = atoms + ase.Atoms("HHH", positions=[[0.3, 0.1, z] for z in (-9.0, d / 2, d + 9.0)])
        graph = make_graph(probe, 0.1)
        charge = torch.tensor([*charges, 0.0, 0.0, 0.0], requires_grad=True)
        r = graph.positions.clone().requires_grad_()
        total = latent_energy(charge, graph.replace(positions=r), SLAB_SETTINGS)
        (potential,) = torch.autograd.grad(total.sum(), charge, create_graph=True)
        (field,) = torch.autograd.grad(-potential[-3:].sum(), r)
        # T15: sigma / eps0 inside, zero outside. Widths: erfc(3 / sqrt(2)) = 2.7e-3 of each sheet's
        # own field is missing at 3 A, erfc(4 / sqrt(2)) = 6e-5 at 4 A
        tail = {6.0: 2.7e-3, 8.0: 6.4e-5}[d]
        inside = density / VACUUM_PERMITTIVITY
        np.testing.assert_allclose(field[-3:, 2], [0.0, inside, 0.0], rtol=1.01 * tail, atol=1e-9)
    work = energies[8.0] - energies[6.0]
    assert work == pytest.approx(a * a * density**2 / (2 * VACUUM_PERMITTIVITY) * 2.0, rel=1e-7)


def ew3dc(atoms, charges, height, settings) -> float:
    """3D sum in a cell of the given height with the EW3DC terms for slabs with net charge.

    Ballenegger, Arnold, Cerda, JCP 131, 094107 (2009); the last term is the Gaussian width: the
    pair kernel is a point charge in a Gaussian of width sigma, <z^2> = z^2 + sigma^2.
    """
    boxed = with_open_row(atoms, [0.0, 0.0, height])
    boxed.pbc = True
    z, total, volume = atoms.positions[:, 2], charges.sum(), boxed.get_volume()
    moments = (charges @ z) ** 2 - total * (charges @ z**2)
    background = total**2 * (height**2 / 12 + settings.sigma**2 / 2)
    energy = float(atoms_energy(boxed, charges, settings))
    return energy + 2 * math.pi * KE / volume * (moments - background)


@pytest.mark.parametrize("net", [True, False])
@pytest.mark.parametrize("height", [30.0, 60.0])
def test_t15_slab_equals_ew3dc(height, net):
    atoms, charges = random_slab()
    charges = charges if net else charges - charges.mean()
    # EW3DC leaves image terms exp(-2 pi gap / period), gap 26 A, period 6 A: 1e-12
    expected = ew3dc(atoms, charges, height, SLAB_SETTINGS)
    assert energy_of(atoms, charges, SLAB_SETTINGS) == pytest.approx(expected, abs=ROUNDING)


def test_t15_ew3dc_needs_the_gaussian_width_of_a_net_charge():
    """Without sigma^2 / 2 the corrected 3D energy depends on the height: pi ke sigma^2 Q^2 / V."""
    atoms, charges = random_slab()
    area = np.linalg.norm(np.cross(*np.array(atoms.cell)[:2]))
    width = {h: math.pi * KE * charges.sum() ** 2 / (area * h) for h in (30.0, 60.0)}
    with_term = [ew3dc(atoms, charges, h, SLAB_SETTINGS) for h in width]
    assert with_term[0] == pytest.approx(with_term[1], abs=ROUNDING)
    assert abs(width[30.0] - width[60.0]) > 0.01


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.0, 0.0, 12.0], [3.0, -2.0, 90.0], [0, 0, -40]])
def test_t15_the_open_row_has_no_influence(row):
    atoms, charges = random_slab()
    expected = energy_of(atoms, charges, EwaldSettings())
    assert energy_of(with_open_row(atoms, row), charges, EwaldSettings()) == expected


def test_t15_independent_of_the_auxiliary_height():
    """A neutral pair far away from the slab makes the auxiliary cell larger."""
    atoms, charges = random_slab()
    far = atoms + ase.Atoms("HH", positions=[[0.0, 0.0, 2.0], [0.0, 0.0, 14.0]])
    extra = np.append(charges, [0.0, 0.0])
    assert energy_of(far, extra, SLAB_SETTINGS) == pytest.approx(
        energy_of(atoms, charges, SLAB_SETTINGS), abs=ROUNDING
    )


@pytest.mark.parametrize("evaluator", ["direct", "nufft", "mesh"])
def test_slab_in_any_orientation(evaluator, generator):
    atoms, charges = random_slab()
    expected = energy_of(atoms, charges)
    matrix = random_rotation(generator)
    turned = transformed(atoms, matrix)
    turned.pbc = atoms.pbc
    # mesh: 1e-11 of sums of order 100
    got = energy_of(turned, charges, evaluator=evaluator)
    assert got == pytest.approx(expected, abs=1e-8)
    for axes in ([2, 0, 1], [1, 2, 0], [1, 0, 2]):  # open axis first, second; left-handed
        other = turned.copy()
        other.cell, other.pbc = np.array(turned.cell)[axes], np.array(turned.pbc)[axes]
        got = energy_of(other, charges, evaluator=evaluator)
        assert got == pytest.approx(expected, abs=1e-8)
    lifted = atoms.copy()
    lifted.positions += [0.0, 0.0, 123.0]  # anywhere along the open direction
    got = energy_of(lifted, charges, evaluator=evaluator)
    assert got == pytest.approx(expected, abs=1e-8)


def test_slab_of_one_cell_against_a_large_patch_of_molecules():
    """A neutral slab is the limit of finite patches: pair sum over images in the plane."""
    atoms, charges = random_slab(n_atoms=4)
    charges = charges - charges.mean()
    dipole = charges @ atoms.positions
    q = torch.tensor(charges)
    sums = []
    for n in (20, 40):
        grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
        shifts = grid @ np.array(atoms.cell)[:2]
        shifts = shifts[np.linalg.norm(shifts, axis=1) < 4.5 * n]
        d = atoms.positions[:, None, None] - atoms.positions[None, :, None] - shifts
        kernel = gaussian_kernel(torch.from_numpy((d**2).sum(-1)), 1.0).sum(-1)
        energy = 0.5 * KE * float(q @ kernel @ q) - EwaldSettings().self_energy * float(q @ q)
        # beyond the disc: normal and in-plane dipoles, ke pi / (area R) (p_z^2 - p_xy^2 / 2)
        area = np.linalg.norm(np.cross(*np.array(atoms.cell)[:2]))
        outside = dipole[2] ** 2 - 0.5 * (dipole[0] ** 2 + dipole[1] ** 2)
        sums.append(energy + math.pi * KE / (area * 4.5 * n) * outside)
    # ragged rim of the disc: falls with R, some 1e-2 eV at 180 A
    expected = energy_of(atoms, charges, SLAB_SETTINGS)
    assert sums[1] == pytest.approx(expected, abs=2e-2)


def test_slab_derivatives():
    atoms, charges = random_slab(n_atoms=3)
    graph = make_graph(atoms, 0.1)
    q = torch.tensor(charges, requires_grad=True)
    r = graph.positions.clone().requires_grad_()

    def energy(q, r):
        return latent_energy(q, graph.replace(positions=r), EwaldSettings(dl=2.5))

    assert torch.autograd.gradcheck(energy, (q, r))
    assert torch.autograd.gradgradcheck(energy, (q, r))


def test_wrapped_slab_raises():
    atoms, charges = random_slab()
    atoms.positions[:, 2] -= 2.0
    wrapped = atoms.copy()
    wrapped.positions[:, 2] %= 40.0
    with pytest.raises(UnsupportedInputError, match="unwrap the atoms, or, if two separate layers"):
        energy_of(wrapped, charges)
    apart = with_open_row(wrapped, [0.0, 0.0, 0.0])  # two layers on purpose
    assert math.isfinite(energy_of(apart, charges))


def test_slab_of_one_atom():
    """A charged square lattice: only the self energy and the smeared lattice sum are left."""
    atoms = ase.Atoms("H", cell=[5.0, 5.0, 0.0], pbc=[True, True, False])
    expected = ew3dc(atoms, np.array([0.7]), 40.0, SLAB_SETTINGS)
    assert energy_of(atoms, [0.7], SLAB_SETTINGS) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("head", ["latent", None])
def test_slab_properties_of_a_potential(head):
    potential = tiny_potential(head=head)
    atoms = two_waters()
    atoms.cell, atoms.pbc = [6.0, 6.0, 0.0], [True, True, False]
    graph = make_graph(atoms)
    out = potential(graph, ["energy", "forces"])
    step = 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        energies.append(float(potential(make_graph(moved), ["energy"])["energy"]))
    force = -(energies[0] - energies[1]) / (2 * step)
    assert float(out["forces"][1, 2]) == pytest.approx(force, abs=1e-6)  # step^2 times 100
    with pytest.raises(PropertyError, match="`stress` needs structures periodic in all three"):
        potential(graph, ["stress"])
    if head:
        with pytest.raises(PropertyError, match="leave them out for slabs"):
            potential(graph, ["born_effective_charges"])
        with pytest.raises(PropertyError, match="quadrupole of a periodic structure"):
            potential(graph, ["quadrupole"])


@pytest.mark.parametrize("head", ["latent", "qeq", "edge", "fukui"])
@pytest.mark.parametrize("open_axis", [0, 1, 2])
def test_slabs_have_a_dipole_along_their_normal(head, open_axis):
    """mu.n = -dF/dE_n, of any orientation; the same whatever images are in the list."""
    potential = tiny_potential(head=head)
    atoms = two_waters()
    cell = np.array([[6.0, 0.5, 0.0], [-1.0, 7.0, 0.0], [0.0, 0.0, 0.0]])
    atoms.set_cell(np.roll(cell, open_axis - 2, axis=0))
    atoms.pbc = [axis != open_axis for axis in range(3)]
    atoms.rotate(40, (1.0, 2.0, -0.5), rotate_cell=True)
    first, second = np.array(atoms.cell)[atoms.pbc]
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    dipole = potential(make_graph(atoms), ["dipole"])["dipole"][0].numpy()
    assert abs(dipole @ normal) > 1e-3
    np.testing.assert_allclose(dipole, (dipole @ normal) * normal, atol=1e-12)

    def enthalpy(field):
        atoms.info["external_field"] = field * normal
        return float(potential(make_graph(atoms), ["energy"])["energy"])

    slope = (enthalpy(1e-3) - enthalpy(-1e-3)) / 2e-3
    assert dipole @ normal == pytest.approx(-slope, abs=1e-8)
    del atoms.info["external_field"]
    atoms.positions[2] += first - 2 * second
    moved = potential(make_graph(atoms), ["dipole"])["dipole"][0].numpy()
    np.testing.assert_allclose(moved, dipole, atol=1e-10)


def test_a_batch_of_boundaries_has_dipoles():
    potential = tiny_potential()
    slab = two_waters()
    slab.cell, slab.pbc = [6.0, 6.0, 0.0], [True, True, False]
    both = collate([make_graph(two_waters()), make_graph(slab)])
    found = potential(both, ["dipole"])["dipole"]
    for row, atoms in zip(found, (two_waters(), slab), strict=True):
        alone = potential(make_graph(atoms), ["dipole"])["dipole"][0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-12)


# --- which systems -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_wires_raise(axis):
    pbc = [i == axis for i in range(3)]
    with pytest.raises(UnsupportedInputError, match=r"slab.*got .*\(structure 1\); for a wire set"):
        check_boundaries(torch.tensor([[True] * 3, pbc]))
    for name in ("energy", "stress", "dipole", "born_effective_charges"):
        with pytest.raises(UnsupportedInputError, match="for a wire set atoms.pbc = True"):
            tiny_potential()(make_graph(wire(axis)), [name])


def wire(axis):
    atoms = two_waters()
    atoms.cell = [8.0] * 3
    atoms.pbc = [i == axis for i in range(3)]
    return atoms


@pytest.mark.parametrize("pbc", [(True,) * 3, (False,) * 3, (True, False, True)])
def test_crystals_slabs_and_molecules_pass(pbc):
    assert check_boundaries(torch.tensor([list(pbc)])) is None


@pytest.mark.parametrize("evaluator", ["auto", "direct", "nufft", "mesh"])
def test_t20_mixed_batch_equals_one_by_one(evaluator):
    crystal, _ = random_crystal(n_atoms=4)
    molecule, _ = random_crystal(n_atoms=6, seed=9)
    molecule.pbc = False
    atom = ase.Atoms("H")
    other, _ = random_crystal(n_atoms=3, seed=11)
    other.cell = 1.7 * np.array(other.cell)[[1, 0, 2]]  # left-handed, other k vectors
    other.positions *= 1.7
    slab, _ = random_slab()
    large, _ = random_crystal(n_atoms=90, seed=12)
    large.pbc = False
    long = crystal.repeat((1, 1, 9))
    graphs = [
        make_graph(a, 0.1)
        for a in (crystal, slab, molecule, atom, large, other, molecule, long, slab[:2])
    ]
    rng = np.random.default_rng(2)
    charges = [torch.from_numpy(rng.normal(size=g.n_atoms)) for g in graphs]
    settings = EwaldSettings()
    batch = collate(graphs)
    r = batch.positions.clone().requires_grad_()
    together = latent_energy(torch.cat(charges), batch.replace(positions=r), settings, evaluator)
    (slope,) = torch.autograd.grad(together.sum(), r)
    slopes = torch.split(slope, batch.atoms_per_system().tolist())
    for got, d_r, q, graph in zip(together, slopes, charges, graphs, strict=True):
        alone = graph.positions.clone().requires_grad_()
        energy = latent_energy(q, graph.replace(positions=alone), settings)
        (expected,) = torch.autograd.grad(energy.sum(), alone)
        # mesh: 1e-11 of sums of order 100
        assert float(got.detach()) == pytest.approx(float(energy.detach()), abs=1e-8)
        torch.testing.assert_close(d_r, expected, rtol=0, atol=1e-8)
    assert float(together[3].detach()) == 0.0  # one atom in open space
