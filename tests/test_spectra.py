"""Spectra and transport against analytic cases (docs/theory.md, T30, T32)."""

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase import units as ase_units
from ase.build import molecule
from click.testing import CliRunner
from helpers import cscl, tiny_potential, triclinic_ice, water

from lesff.cli import main
from lesff.electrostatics.sums.direct import DirectTransform
from lesff.electrostatics.sums.ewald import periodic_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import DataError
from lesff.hub.resolve import ResolvedModel
from lesff.model import Model
from lesff.spectra.correlation import (
    WAVENUMBER_PER_ANGULAR,
    autocorrelation,
    cosine_spectrum,
    peaks,
)
from lesff.spectra.lo_to import non_analytic_term, write_born
from lesff.spectra.series import property_series
from lesff.spectra.trajectory import as_trajectory, read_trajectory
from lesff.spectra.transport import (
    dielectric_constant,
    green_kubo,
    helfand,
    integrated,
    mean_squared_displacement,
)
from lesff.spectra.vibrations import density_of_states, infrared, polarisation_current, raman
from lesff.units import BOLTZMANN, CONDUCTIVITY_TO_S_PER_M, COULOMB_CONSTANT, DALTON

KT = BOLTZMANN * 300.0


# --- T32: two charges on a spring --------------------------------------------------------------


def spring(time_step=0.5, n_times=8000, wavenumber=1500.0):
    """Two unlike atoms on a spring along x at 300 K: velocities, masses, omega.

    At energy kT in the mode, <v_rel^2> = kT / mu.
    """
    masses = np.array([1.0, 16.0])
    mu = masses.prod() / masses.sum()
    omega = wavenumber / WAVENUMBER_PER_ANGULAR
    relative = np.sqrt(2 * KT / (mu * DALTON)) * np.cos(omega * time_step * np.arange(n_times))
    velocities = np.zeros((n_times, 2, 3))
    velocities[:, 0, 0] = relative * masses[1] / masses.sum()
    velocities[:, 1, 0] = -relative * masses[0] / masses.sum()
    return velocities, masses, mu


def test_charges_on_a_spring_give_one_line():
    """T32: at omega = sqrt(k / mu), of integral (pi / 2) q^2 / (mu V) in Re sigma(omega).

    One mode along x: <J^2> = q^2 kT / mu, a third of an isotropic oscillator's; so
    int Re sigma domega = pi / 2 <J^2> / (3 V kT) = pi q^2 / (6 mu V), and
    n alpha = Re sigma / (eps0 c); over the wavenumber: omega / (2 pi c).
    """
    q, volume = 0.7, 500.0
    velocities, _, mu = spring()
    born = q * np.array([1.0, -1.0])[None, :, None, None] * np.eye(3)
    born = np.repeat(born, len(velocities), axis=0)
    current = polarisation_current(born, velocities)
    found = infrared(current, 0.5, temperature=300.0, volume=volume, n_blocks=4)
    assert peaks(found, 0, 4000) == pytest.approx(1500.0, abs=5.0)
    # outside the width of the window (33 / cm at half height) there is nothing
    assert found.integral(1300, 1700) == pytest.approx(found.integral(), rel=2e-3)
    speed = 2997.92458  # A / fs
    over_omega = np.pi * q**2 / (6 * mu * DALTON * volume) * 4 * np.pi * COULOMB_CONSTANT / speed
    expected = over_omega * WAVENUMBER_PER_ANGULAR * 1e8  # 1/A to 1/cm
    assert found.integral() == pytest.approx(expected, rel=0.01)
    assert np.nanmax(found.errors) < 0.02 * found.values.max()
    alone = infrared(current, 0.5, temperature=300.0, volume=None, n_blocks=4)
    np.testing.assert_allclose(alone.values, found.values * volume / 1e8, rtol=1e-12)
    assert (found.unit, alone.unit) == ("1/cm", "A^2")


def test_integral_of_the_density_of_states_counts_modes():
    velocities, masses, _ = spring()
    found = density_of_states(velocities, masses, 0.5, temperature=300.0, n_blocks=4)
    assert peaks(found, 0, 4000) == pytest.approx(1500.0, abs=5.0)
    assert found.integral() == pytest.approx(1.0, rel=0.01)  # one mode with energy kT


def test_white_noise_has_a_flat_spectrum_with_honest_errors():
    rng = np.random.default_rng(0)
    found = cosine_spectrum(rng.normal(size=40_000), 2.0, max_lag=100.0, n_blocks=10)
    # int cos C dt of unit white noise sampled at dt: half the weight of lag 0, dt / 2
    scaled = (found.values - 1.0) / found.errors
    assert np.abs(np.mean(found.values) - 1.0) < 0.02
    assert np.std(scaled) < 2.0
    assert np.std(scaled) > 0.5


def test_autocorrelation_equals_the_double_sum():
    series = np.random.default_rng(1).normal(size=(12, 2))
    for k, value in enumerate(autocorrelation(series, 12)):
        direct = np.mean([(series[t] * series[t + k]).sum() for t in range(12 - k)])
        assert value == pytest.approx(direct, abs=1e-12)


def test_raman_of_a_breathing_and_of_a_shearing_mode():
    """A trace that oscillates is polarised only; a traceless one has VH / VV = 3 / 4."""
    t = 0.5 * np.arange(8000)
    wave = np.cos(1000.0 / WAVENUMBER_PER_ANGULAR * t)[:, None, None]
    breathing = raman(0.3 * wave * np.eye(3), 0.5, temperature=300.0, n_blocks=2)
    assert peaks(breathing.parallel, 100, 3000) == pytest.approx(1000.0, abs=5.0)
    assert breathing.perpendicular.values.max() < 1e-12 * breathing.parallel.values.max()
    shear = 0.3 * wave * np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0.0]])
    found = raman(shear, 0.5, temperature=300.0, n_blocks=2)
    inside = np.abs(found.parallel.wavenumber - 1000) < 20
    ratio = found.perpendicular.values[inside] / found.parallel.values[inside]
    np.testing.assert_allclose(ratio, 0.75, rtol=1e-6)


def test_interpolated_born_charges_are_exact_where_they_are_linear():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 3, 3, 3))
    b[-1] = -b[:-1].sum(0)  # neutral at all times
    a[-1] = -a[:-1].sum(0)
    times = np.arange(9)
    born = a + times[:, None, None, None] * b
    velocities = rng.normal(size=(9, 3, 3))
    full = polarisation_current(born, velocities)
    np.testing.assert_allclose(polarisation_current(born[::4], velocities, every=4), full)
    expected = np.einsum("tnab,tnb->ta", born, velocities)
    np.testing.assert_allclose(full, expected, atol=1e-12)
    with pytest.raises(DataError, match=r"`born` must be \(3, 3, 3, 3\) for 9 frames and every=4"):
        polarisation_current(born, velocities, every=4)


def test_uniform_motion_carries_the_total_charge_only():
    born = np.random.default_rng(3).normal(size=(1, 4, 3, 3)).repeat(5, axis=0)
    velocities = np.ones((5, 4, 3)) * [0.0, 0.0, 2.0]
    np.testing.assert_allclose(polarisation_current(born, velocities), 0.0, atol=1e-12)
    charged = polarisation_current(born, velocities, total_charge=1)
    np.testing.assert_allclose(charged, [[0.0, 0.0, 2.0]] * 5, atol=1e-12)


# --- transport ---------------------------------------------------------------------------------


def test_random_walk_has_the_conductivity_of_nernst_and_einstein():
    """sigma = N q^2 D / (V kT); independent ions, <dr^2> = 6 D t."""
    rng = np.random.default_rng(4)
    n_ions, q, diffusion, volume, dt = 8, 1.5, 2e-3, 1000.0, 10.0
    steps = rng.normal(size=(20_000, n_ions, 3)) * np.sqrt(2 * diffusion * dt)
    moved = q * np.cumsum(steps, axis=0).sum(1)
    expected = n_ions * q**2 * diffusion / (volume * KT) * CONDUCTIVITY_TO_S_PER_M
    found = helfand(
        moved, dt, temperature=300.0, volume=volume, lower=20.0, upper=500.0, n_blocks=10
    )
    assert abs(found.conductivity - expected) < 3 * found.error
    assert found.error < 0.1 * expected


def test_green_kubo_of_langevin_ions():
    """<v(0) v(t)> = kT / m exp(-gamma t) per direction: sigma = N q^2 / (V m gamma)."""
    rng = np.random.default_rng(5)
    n_ions, q, mass, gamma, volume, dt = 6, 1.0, 7.0, 0.02, 800.0, 2.0
    decay = np.exp(-gamma * dt)
    thermal = np.sqrt(KT / (mass * DALTON))
    kicks = rng.normal(size=(40_000, n_ions, 3)) * thermal * np.sqrt(1 - decay**2)
    velocities = np.empty_like(kicks)
    velocities[0] = rng.normal(size=(n_ions, 3)) * thermal
    for t in range(1, len(kicks)):
        velocities[t] = decay * velocities[t - 1] + kicks[t]
    current = q * velocities.sum(1)
    expected = n_ions * q**2 / (volume * mass * DALTON * gamma) * CONDUCTIVITY_TO_S_PER_M
    options = {"temperature": 300.0, "volume": volume, "n_blocks": 10}
    kubo = green_kubo(current, dt, upper=400.0, **options)
    assert abs(kubo.conductivity - expected) < 3 * kubo.error
    assert kubo.error < 0.15 * expected
    slope = helfand(integrated(current, dt), dt, lower=200.0, upper=800.0, **options)
    assert abs(slope.conductivity - expected) < 3 * slope.error


def test_mean_squared_displacement_equals_the_double_sum():
    series = np.random.default_rng(6).normal(size=(15, 3)).cumsum(0) + 100.0
    found = mean_squared_displacement(series, 15)
    for k in range(15):
        direct = np.mean([((series[t + k] - series[t]) ** 2).sum() for t in range(15 - k)])
        assert found[k] == pytest.approx(direct, abs=1e-9)


def test_gaussian_dipoles_give_the_dielectric_constant_of_their_variance():
    """eps - eps_inf = 4 pi ke 3 s^2 / (3 V kT) for a variance s^2 in each direction."""
    rng = np.random.default_rng(7)
    s, volume = 2.0, 2000.0
    dipole = rng.normal(size=(20_000, 3)) * s + [5.0, -3.0, 0.0]
    eps, error = dielectric_constant(dipole, temperature=300.0, volume=volume, eps_inf=1.78)
    expected = 1.78 + 4 * np.pi * COULOMB_CONSTANT * s**2 / (volume * KT)
    assert abs(eps - expected) < 4 * error
    assert error < 0.02 * expected
    _, alone = dielectric_constant(dipole, temperature=300.0, volume=volume, n_blocks=1)
    assert np.isnan(alone)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: cosine_spectrum(x, 1.0, max_lag=30.0, n_blocks=4), "`max_lag` must be 2 to 25"),
        (lambda x: cosine_spectrum(x, 1.0, max_lag=3.0, n_blocks=40), "`n_blocks` must be 1 to 25"),
        (lambda x: infrared(x, 1.0, temperature=0.0, volume=1.0), "`temperature` must be positive"),
        (
            lambda x: green_kubo(x, 1.0, temperature=1.0, volume=-1.0, upper=5.0),
            "`volume` must be positive",
        ),
        (
            lambda x: green_kubo(x, 1.0, temperature=1.0, volume=1.0, upper=50.0),
            "`upper` must be 2 to 19 fs",
        ),
        (
            lambda x: helfand(x, 1.0, temperature=1.0, volume=1.0, lower=9.0, upper=10.0),
            "`lower` must be 0 to less than 10 fs",
        ),
    ],
)
def test_bad_numbers(call, text):
    with pytest.raises(DataError, match=text):
        call(np.zeros((100, 3)))


# --- LO-TO: T30 --------------------------------------------------------------------------------


def dynamical_matrix(hessian: np.ndarray, n_cells: int, n_basis: int, n: int) -> np.ndarray:
    """At q = n / n_cells of the first reciprocal vector; cell-major supercell along a."""
    block = hessian.reshape(n_cells, 3 * n_basis, n_cells, 3 * n_basis)[0]
    phase = np.exp(2j * np.pi * n * np.arange(n_cells) / n_cells)
    return np.einsum("iRj,R->ij", block, phase)


@pytest.mark.parametrize("n_cells", [12, 24])
def test_smallest_wave_of_the_ewald_matrix_is_the_non_analytic_term(n_cells):
    """T30, rigid ions (CsCl structure): D(q -> 0) - D(0) = NAC, up to q^2."""
    crystal = cscl()
    atoms = crystal.atoms.repeat((n_cells, 1, 1))  # images follow each other cell by cell
    charges = torch.as_tensor(np.tile(crystal.charges, n_cells))
    cell = torch.as_tensor(np.array(atoms.cell))[None]
    settings = EwaldSettings(sigma=1.0, dl=1.2)

    def energy(flat):
        batch = torch.zeros(len(atoms), dtype=torch.int64)
        return periodic_energy(
            charges, flat.reshape(-1, 3), cell, batch, settings, DirectTransform()
        )[0]

    positions = torch.as_tensor(atoms.positions).reshape(-1)
    rows = []
    r = positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(r), r, create_graph=True)
    for i in range(6):
        rows.append(torch.autograd.grad(gradient[i], r, retain_graph=True)[0])
    block = np.zeros((3 * len(atoms), 3 * len(atoms)))
    block[:6] = torch.stack(rows).numpy()
    smallest = dynamical_matrix(block, n_cells, 2, 1)
    gamma = dynamical_matrix(block, n_cells, 2, 0)
    born = crystal.charges[:, None, None] * np.eye(3)
    volume = abs(np.linalg.det(crystal.atoms.cell))
    expected = non_analytic_term([1, 0, 0], born, np.eye(3), np.ones(2), volume)
    # atoms of a cell at their own phases: exp(i q (r_j - r_i)) instead of exp(i q R)
    q = 2 * np.pi / (n_cells * crystal.atoms.cell[0, 0])
    phase = np.exp(1j * q * crystal.atoms.positions[:, 0]).repeat(3)
    smallest = smallest * phase.conj()[:, None] * phase[None, :]
    # Gaussian charges: exp(-sigma^2 q^2 / 2), and the dispersion of the lattice sum, of order q^2
    found = (smallest - gamma).real
    assert abs(expected[0, 0]) > 1.0
    np.testing.assert_allclose(found, expected, atol=4.0 * q**2 * abs(expected[0, 0]))


def test_splitting_obeys_lyddane_sachs_and_teller():
    """Fixed charges on springs: omega_LO^2 - omega_TO^2 = 4 pi ke q^2 / (eps V mu); LST.

    eps_0 = eps_inf + 4 pi ke q^2 / (V mu omega_TO^2), so omega_LO^2 / omega_TO^2 = eps_0 / eps_inf.
    """
    masses, q, volume, eps, k = np.array([23.0, 35.5]), 1.1, 45.0, 2.4, 3.0
    mu = masses.prod() / masses.sum()
    springs = k * np.kron(np.array([[1, -1], [-1, 1]]), np.eye(3))
    matrix = springs / np.sqrt(np.outer(masses, masses).repeat(3, 0).repeat(3, 1))
    born = q * np.array([1.0, -1.0])[:, None, None] * np.eye(3)
    direction = np.array([1.0, 2.0, -0.5])
    nac = non_analytic_term(direction, born, eps * np.eye(3), masses, volume)
    values = np.linalg.eigvalsh(matrix + nac)
    np.testing.assert_allclose(values[:3], 0.0, atol=1e-12)
    np.testing.assert_allclose(values[3:5], k / mu, rtol=1e-12)
    plasma = 4 * np.pi * COULOMB_CONSTANT * q**2 / (volume * mu)
    assert values[5] == pytest.approx(k / mu + plasma / eps, rel=1e-12)
    eps_0 = eps + plasma / (k / mu)
    assert values[5] / values[4] == pytest.approx(eps_0 / eps, rel=1e-12)


def test_born_file_has_phonopys_layout(tmp_path):
    born = np.random.default_rng(8).normal(size=(2, 3, 3))
    eps = np.diag([2.0, 3.0, 4.0])
    write_born(tmp_path / "BORN", born, eps, atoms=[1])
    lines = (tmp_path / "BORN").read_text().splitlines()
    assert lines[0] == "14.399652"
    np.testing.assert_allclose(np.fromstring(lines[1], sep=" ").reshape(3, 3), eps)
    np.testing.assert_allclose(np.fromstring(lines[2], sep=" ").reshape(3, 3), born[1], atol=1e-8)
    assert len(lines) == 3


def test_phonopy_finds_the_same_splitting(tmp_path):
    """phonopy reads our BORN file; its Gamma frequencies along q equal ours with the NAC term."""
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    masses, q, k, a = np.array([22.98976928, 35.453]), 1.1, 3.0, 5.64
    unit = PhonopyAtoms(
        symbols=["Na", "Cl"], cell=np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * a / 2,
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], masses=masses,
    )  # fmt: skip
    phonon = phonopy.Phonopy(
        unit, supercell_matrix=np.eye(3, dtype=int), primitive_matrix=np.eye(3)
    )
    springs = k * np.array([[1, -1], [-1, 1]])
    phonon.force_constants = springs[:, :, None, None] * np.eye(3)
    born = q * np.array([1.0, -1.0])[:, None, None] * np.eye(3)
    eps = 2.4 * np.eye(3)
    write_born(tmp_path / "BORN", born, eps)
    phonon.nac_params = phonopy.file_IO.parse_BORN(phonon.primitive, filename=tmp_path / "BORN")
    phonon.run_qpoints([[0, 0, 0]], nac_q_direction=[0, 0, 1])
    direction = np.linalg.inv(unit.cell)[:, 2]
    matrix = (springs[:, None, :, None] * np.eye(3)[None, :, None, :]).reshape(6, 6)
    matrix = matrix / np.sqrt(np.outer(masses, masses).repeat(3, 0).repeat(3, 1))
    volume = abs(np.linalg.det(unit.cell))
    ours = np.linalg.eigvalsh(matrix + non_analytic_term(direction, born, eps, masses, volume))
    thz = np.sqrt(ours.clip(min=0) / DALTON) / (2 * np.pi) * 1e3  # 1/fs to THz
    found = phonon.qpoints.frequencies[0]
    np.testing.assert_allclose(found[3:], thz[3:], rtol=1e-5)


def test_bad_non_analytic_terms():
    born = np.zeros((2, 3, 3))
    with pytest.raises(DataError, match="`direction` must be three numbers, not all zero"):
        non_analytic_term([0, 0, 0], born, np.eye(3), np.ones(2), 1.0)
    with pytest.raises(DataError, match=r"`born` must be \(n_atoms, 3, 3\)"):
        non_analytic_term([0, 0, 1], born, np.eye(3), np.ones(3), 1.0)
    with pytest.raises(DataError, match=r"`born` must be \(n_atoms, 3, 3\)"):
        write_born("unused", born[0], np.eye(3))


# --- trajectories and commands -----------------------------------------------------------------


def drifting(n_frames=12, time_step=2.0, *, momenta=True):
    """A crystal of two waters that moves uniformly, wrapped into its cell in every frame."""
    frames = []
    for t in range(n_frames):
        atoms = triclinic_ice()
        atoms.positions += [0.2 * t * time_step, 0.0, 0.05 * t * time_step]
        atoms.wrap()
        if momenta:
            atoms.set_velocities(np.tile([0.2, 0.0, 0.05], (6, 1)) / ase_units.fs)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("momenta", [True, False])
def test_trajectories_are_unwrapped_and_have_velocities(momenta):
    run = as_trajectory(drifting(momenta=momenta), 2.0)
    np.testing.assert_allclose(run.velocities, np.tile([0.2, 0.0, 0.05], (12, 6, 1)), atol=1e-12)
    moved = run.positions[-1] - run.positions[0]
    np.testing.assert_allclose(moved, np.tile([4.4, 0, 1.1], (6, 1)), atol=1e-12)
    assert run.has_velocities is momenta
    assert run.temperature == pytest.approx(0.0, abs=1e-9)  # motion of the centre of mass only


@pytest.mark.parametrize("wrap", [False, True])
def test_a_breathing_cell_moves_no_atom_across_it(wrap):
    """Atoms at fixed fractions of a cell that swings by 4 %, hundreds of cells away or wrapped.

    Their unwrapped positions are the fractions times the cell, up to the cells of the first frame.
    """
    rng = np.random.default_rng(0)
    fractions = rng.random((6, 3)) + (0 if wrap else rng.integers(-300, 300, size=(6, 3)))
    cell = np.diag([8.0, 9.0, 10.0]) + rng.normal(scale=0.3, size=(3, 3))
    drift = np.array([0.11, 0.0, -0.07])  # of the cell, in each frame
    frames, expected = [], []
    for index in range(12):
        now = cell * (1.0 + 0.04 * np.sin(index))
        scaled = fractions + index * drift
        expected.append(scaled @ now)
        atoms = ase.Atoms("H6", scaled @ now, cell=now, pbc=True)
        if wrap:
            atoms.wrap()
        frames.append(atoms)
    run = as_trajectory(frames, 1.0)
    np.testing.assert_allclose(run.positions, expected, atol=1e-9)


def test_a_slab_unwraps_in_its_plane_only():
    atoms = ase.Atoms("H", [[1.0, 1.0, 3.0]], cell=[4.0, 4.0, 0.0], pbc=[True, True, False])
    frames = []
    for index in range(8):
        now = atoms.copy()
        now.positions[0] += [index * 0.9, 0.0, index * 20.0]
        now.wrap()
        frames.append(now)
    run = as_trajectory(frames, 1.0)
    moved = run.positions[-1, 0] - run.positions[0, 0]
    np.testing.assert_allclose(moved, [6.3, 0.0, 140.0], atol=1e-12)


def test_kinetic_temperature():
    """3 kT / 2 per relative degree of freedom of two equal atoms: m v^2 = 3 kT at +v and -v."""
    atoms = ase.Atoms("ArAr", positions=[[0, 0, 0], [4, 0, 0]])
    speed = np.sqrt(3 * 300 * ase_units.kB / (2 * atoms.get_masses()[0]))
    atoms.set_velocities([[speed, 0, 0], [-speed, 0, 0]])
    assert as_trajectory([atoms] * 4, 1.0).temperature == pytest.approx(300.0)


def test_temperature_of_frames_without_velocities_has_to_be_given():
    """Positions every 50 fs say little of vibrations: their temperature would be far too low."""
    with_velocities, without = drifting(momenta=True), drifting(momenta=False)
    assert as_trajectory(without, 2.0).temperature_or(300.0) == 300.0
    assert as_trajectory(with_velocities, 2.0).temperature_or(None) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(DataError, match="no velocities, .*: give `--temperature`"):
        as_trajectory(without, 2.0).temperature_or(None)


def test_frames_are_as_far_apart_as_they_say():
    frames = drifting()
    for index, atoms in enumerate(frames):
        atoms.info["time_fs"] = 2.0 * index
    assert as_trajectory(frames, 2.0).n_frames == 12
    frames[-1].info["time_fs"] -= 1.0
    with pytest.raises(DataError, match="frames 10 and 11 are 1 fs apart .* given as 2 fs"):
        as_trajectory(frames, 2.0)
    with pytest.raises(DataError, match="frames 0 and 1 are 2 fs apart .* given as 1 fs"):
        as_trajectory(frames, 1.0)


def test_bad_trajectories():
    frames = drifting()
    with pytest.raises(DataError, match="at least 4 frames, got 3"):
        as_trajectory(frames[:3], 1.0)
    with pytest.raises(DataError, match="`time_step` must be a positive number of fs"):
        as_trajectory(frames, 0.0)
    with pytest.raises(DataError, match="frame 11 must have the atoms"):
        as_trajectory([*frames[:11], water()], 1.0)
    frames[5].positions[0] += 0.5 * np.array(frames[5].cell[1])
    with pytest.raises(DataError, match=r"moves by more than 0\.35 of the cell between frames 4"):
        as_trajectory(frames, 1.0)


@pytest.fixture
def saved(tmp_path):
    """A model folder of a tiny random potential."""
    folder = tmp_path / "model"
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("# tiny\n")
    (source / "LICENSE").write_text("none\n")
    resolved = ResolvedModel(name="tiny", version=None, folder=source, origin="folder")
    Model(tiny_potential(), resolved).save(folder)
    return folder


def moving_molecule(n_frames=24):
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(n_frames):
        atoms = molecule("H2O")
        atoms.rattle(0.02, rng=rng)
        atoms.set_velocities(0.01 * rng.normal(size=(3, 3)))
        frames.append(atoms)
    return frames


def test_series_resume_and_refuse_other_input(tmp_path, saved, monkeypatch):
    from lesff.model import load

    model, frames = load(saved), moving_molecule()
    name, folder = "born_effective_charges", tmp_path / "series"
    first = property_series(model, frames, name, folder, progress=False)
    (folder / "00000010.npz").unlink()
    asked = []
    predict = Model.predict

    def counted(self, structures, *arguments, **options):
        asked.append(len(structures))
        return predict(self, structures, *arguments, **options)

    monkeypatch.setattr(Model, "predict", counted)
    again = property_series(model, frames, name, folder, progress=False)
    np.testing.assert_array_equal(again, first)
    assert asked == [10]  # the missing chunk only
    asked.clear()
    short = property_series(model, frames[:17], name, folder, progress=False)
    np.testing.assert_array_equal(short, first[:17])
    longer = property_series(model, [*frames, frames[0]], name, folder, progress=False)
    # batches of other sizes round differently
    np.testing.assert_allclose(longer, np.concatenate([first, first[:1]]), atol=1e-12)
    assert asked == [1]
    with pytest.raises(DataError, match="belongs to other frames"):
        property_series(model, frames[::-1], name, folder, progress=False)
    with pytest.raises(DataError, match="was made with another dtype"):
        property_series(load(saved, dtype="float32"), frames, name, folder, progress=False)


@pytest.mark.parametrize("kind", ["ir", "vdos"])
def test_spectrum_command(tmp_path, saved, kind):
    path = tmp_path / "run.traj"
    ase.io.write(path, moving_molecule())
    out = tmp_path / "out"
    arguments = ["spectrum", path, "-o", out, "--kind", kind, "--dt", 2, "--blocks", 2]
    arguments += [] if kind == "vdos" else ["-m", saved]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--lag", 20, "--every", 2]])
    assert result.exit_code == 0, result.output
    for suffix in ("csv", "json", "png"):
        assert (out / f"{kind}.{suffix}").stat().st_size > 0
    table = np.genfromtxt(out / f"{kind}.csv", delimiter=",", names=True)
    assert np.isfinite(table["wavenumber_1cm"]).all()


def test_models_where_they_are_needed_only(tmp_path, saved):
    path = tmp_path / "run.traj"
    ase.io.write(path, moving_molecule())
    for extra in (["--kind", "ir"], ["--kind", "vdos", "-m", saved]):
        arguments = ["spectrum", path, "-o", tmp_path / "out", "--dt", 2, *extra]
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 2
        assert "--model is needed for ir and raman" in result.output


@pytest.mark.parametrize("command", [["spectrum", "--kind", "ir"], ["transport"]])
def test_spectra_of_wires_are_refused(tmp_path, saved, command):
    frames = moving_molecule()
    for atoms in frames:
        atoms.cell, atoms.pbc = [9.0] * 3, [True, False, False]
    path = tmp_path / "run.traj"
    ase.io.write(path, frames)
    arguments = [*command, path, "-m", saved, "-o", tmp_path / "out", "--dt", 2, "--blocks", 2]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 1
    expected = "for a wire set atoms.pbc" if command[0] == "spectrum" else "periodic in 3D"
    assert expected in result.output


def test_raman_command_needs_a_model_that_responds(tmp_path, saved):
    path = tmp_path / "run.traj"
    ase.io.write(path, moving_molecule())
    arguments = ["spectrum", path, "-m", saved, "-o", tmp_path / "o", "--kind", "raman", "--dt", 2]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--blocks", 2]])
    assert result.exit_code == 1
    assert "charges do not respond to a field" in result.output


def test_transport_command(tmp_path, saved):
    path = tmp_path / "run.traj"
    ase.io.write(path, drifting(24))
    assert read_trajectory(path, 2.0).has_velocities
    out = tmp_path / "out"
    arguments = ["transport", path, "-m", saved, "-o", out, "--dt", 2, "--blocks", 2]
    arguments += ["--every", 4, "--temperature", 300]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "Green-Kubo:" in result.output
    for name in ("transport.csv", "transport.json", "transport.png"):
        assert (out / name).stat().st_size > 0
    result = CliRunner().invoke(main, [str(a) for a in [*arguments[:-1], -5]])
    assert "`temperature` must be positive" in result.output
