"""Evaluators of the k sum against each other, torch-pme and numerical derivatives (T18-T20)."""

import ase
import ase.build
import numpy as np
import pytest
import torch
import torchpme
from helpers import full_result, make_graph, nacl, random_crystal

from lesff.atoms.graph import collate
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums import direct, mesh, nufft, pair_sum
from lesff.electrostatics.sums import plan as groups
from lesff.electrostatics.sums.direct import DirectTransform
from lesff.electrostatics.sums.ewald import periodic_energy
from lesff.electrostatics.sums.mesh import MeshTransform
from lesff.electrostatics.sums.nufft import NufftTransform
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.electrostatics.sums.structure_factor import Grid, structure_factor
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.units import COULOMB_CONSTANT as KE

EVALUATORS = ("direct", "nufft", "mesh")
THOROUGH = [
    "direct",
    pytest.param("nufft", marks=pytest.mark.slow),
    pytest.param("mesh", marks=pytest.mark.slow),
]
"""For derivatives element by element: those of the other two equal the direct ones quickly, in
``test_training_on_forces_gives_the_same_gradients``."""
TRANSFORMS = {"direct": DirectTransform(), "nufft": NufftTransform(), "mesh": MeshTransform()}
ROUNDING = 1e-10
"""Sums of some thousand float64 terms of order 1 to 10 eV."""
RELATIVE = {
    torch.float64: {"direct": 1e-13, "nufft": 1e-10, "mesh": 1e-9},
    torch.float32: {"direct": 1e-5, "nufft": 3e-5, "mesh": 1e-5},
}
"""Stated errors of energies, forces and stress, relative to their largest component."""


def random_cell(seed: int) -> tuple[ase.Atoms, np.ndarray]:
    """Skewed cell of either handedness with 5 to 20 atoms and a net charge."""
    rng = np.random.default_rng(seed)
    n_atoms = int(rng.integers(5, 21))
    cell = rng.uniform(4.0, 9.0, 3)[:, None] * (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    if seed % 2:
        cell = cell[[1, 0, 2]]
    atoms = ase.Atoms(["H"] * n_atoms, scaled_positions=rng.random((n_atoms, 3)), cell=cell)
    atoms.pbc = True
    return atoms, rng.normal(size=n_atoms)


def assert_relative(got, expected, tolerance) -> None:
    scale = float(expected.abs().max())
    error = float((got.double() - expected).abs().max())
    assert error < tolerance * scale


# --- against another code ----------------------------------------------------------------------


def pme_result(atoms, charges, sigma, wavelength):
    """k-space energy, forces and stress of torch-pme's Ewald sum of Gaussian charges.

    No neighbours are given, so nothing but its sum over waves and its self term is left.
    """
    calculator = torchpme.EwaldCalculator(
        torchpme.CoulombPotential(smearing=sigma), lr_wavelength=wavelength
    ).to(torch.float64)
    q = torch.tensor(charges)[:, None]
    r = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    potential = calculator(
        charges=q,
        cell=torch.tensor(np.array(atoms.cell)) @ deform,
        positions=r @ deform,
        neighbor_indices=torch.zeros((0, 2), dtype=torch.int64),
        neighbor_distances=torch.zeros(0, dtype=torch.float64),
    )
    energy = KE * (q * potential).sum()
    d_r, d_strain = torch.autograd.grad(energy, [r, strain])
    return energy.detach(), -d_r, d_strain / atoms.get_volume()


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("seed", range(10))
def test_converged_sum_equals_torch_pme(seed, evaluator):
    atoms, charges = random_cell(seed)
    charges = charges - charges.mean()  # it removes the width term of net charges, LES keeps it
    sigma, dl = 1.2, 0.9  # truncation weight exp(-(1.2 * 2 pi / 0.9)^2 / 2) = 6e-16
    # its box of waves ends at pi / lr_wavelength along each axis
    expected = pme_result(atoms, charges, sigma, 0.5 * dl)
    result = full_result(atoms, charges, EwaldSettings(sigma=sigma, dl=dl), evaluator)
    for got, value in zip(result, expected, strict=True):
        assert_relative(got, value, 1e-6)


# --- against each other ------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", ["sharp", "smooth"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("seed", range(4))
def test_evaluators_agree(seed, evaluator, dtype, cutoff):
    atoms, charges = random_cell(seed + 20)
    settings = EwaldSettings(cutoff=cutoff)
    expected = full_result(atoms, charges, settings, rounded=dtype)
    result = full_result(atoms, charges, settings, evaluator, dtype)
    for got, value in zip(result, expected, strict=True):
        assert_relative(got, value, RELATIVE[dtype][evaluator])


def perturbed_nacl(n: int):
    atoms = nacl().atoms.repeat(n)
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    charges = np.where(atoms.numbers == 11, 1.0, -1.0) + rng.normal(scale=0.1, size=len(atoms))
    return atoms, charges


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_t18_single_precision_on_a_thousand_atoms(evaluator):
    atoms, charges = perturbed_nacl(5)
    assert len(atoms) == 1000
    expected = full_result(atoms, charges, EwaldSettings())
    energy, forces, _ = full_result(atoms, charges, EwaldSettings(), evaluator, torch.float32)
    assert abs(float(energy) - float(expected[0])) / len(atoms) < 1e-5  # T18
    assert float((forces.double() - expected[1]).abs().max()) < 1e-4  # T18


@pytest.mark.parametrize("evaluator", ["nufft", "mesh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_t19_fast_evaluators_on_a_thousand_atoms(evaluator, dtype):
    atoms, charges = perturbed_nacl(5)
    settings = EwaldSettings(dl=1.0)
    # the same input: the rounding of coordinates is not the evaluator's
    _, expected, _ = full_result(atoms, charges, settings, rounded=dtype)
    _, forces, _ = full_result(atoms, charges, settings, evaluator, dtype)
    # T19; FINUFFT rounds its mesh coordinates, which are of the length of the cell, in float32
    single = evaluator == "nufft" and dtype == torch.float32
    assert_relative(forces, expected, 3e-5 if single else 1e-5)


@pytest.mark.parametrize("width", [4, 6, 8, 10])
def test_mesh_error_falls_by_ten_with_each_point(width):
    torch.manual_seed(width)
    q, s = torch.randn(1, 1, 40, dtype=torch.float64), torch.rand(1, 40, 3, dtype=torch.float64)
    grid = Grid((5, 3, 4))
    expected = DirectTransform().sum(q, s, grid)
    error = (MeshTransform(width).sum(q, s, grid) - expected).abs().max() / expected.abs().max()
    assert 10.0 ** (-2 - width) < float(error) < 10.0 ** (2 - width)


def test_mesh_width_is_checked():
    with pytest.raises(ConfigError, match="`width` of the mesh must be 2 to 14, got 20"):
        MeshTransform(20)


def test_mesh_sizes_have_small_factors():
    assert [mesh._smooth_size(n) for n in (1, 7, 22, 98, 202)] == [2, 8, 24, 100, 216]


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator", THOROUGH)
def test_structure_factor_derivatives(evaluator):
    q = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    s = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)

    def waves(q, s):
        return structure_factor(q, s, Grid((1, 2, 1)), TRANSFORMS[evaluator])

    assert torch.autograd.gradcheck(waves, (q, s))
    assert torch.autograd.gradgradcheck(waves, (q, s))


@pytest.mark.parametrize("cutoff", ["sharp", "smooth"])
@pytest.mark.parametrize("evaluator", THOROUGH)
def test_energy_derivatives(evaluator, cutoff):
    """First, second and third derivatives in charges, positions and cell."""
    atoms, charges = random_crystal(n_atoms=3)
    graph = make_graph(atoms, 0.1)
    settings = EwaldSettings(dl=3.1, sigma=1.1, cutoff=cutoff)
    inputs = tuple(
        x.clone().requires_grad_() for x in (torch.tensor(charges), graph.positions, graph.cell)
    )

    def energy(q, r, h):
        return latent_energy(q, graph.replace(positions=r, cell=h), settings, evaluator)

    def gradient(q, r, h):
        return torch.autograd.grad(energy(q, r, h).sum(), (q, r, h), create_graph=True)

    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(gradient, inputs)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_training_on_forces_gives_the_same_gradients(evaluator):
    """d(force loss)/d(charge parameters), the derivative that training needs."""
    atoms, charges = random_cell(31)
    graph = make_graph(atoms, 0.1)
    results = []
    for name in ("direct", evaluator):
        q = torch.tensor(charges, requires_grad=True)
        r = graph.positions.clone().requires_grad_()
        energy = latent_energy(
            q * r.square().sum(1), graph.replace(positions=r), EwaldSettings(), name
        )
        (forces,) = torch.autograd.grad(energy.sum(), r, create_graph=True)
        forces.square().sum().backward()
        results.append(q.grad)
    assert_relative(results[1], results[0], 1e-9)


@pytest.mark.parametrize("inputs", ["charges", "positions", "cell"])
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_one_gradient_alone(evaluator, inputs):
    atoms, charges = random_crystal()
    graph = make_graph(atoms, 0.1)
    values = {"charges": torch.tensor(charges), "positions": graph.positions, "cell": graph.cell}

    def energy(chosen):
        v = {k: x.clone().requires_grad_(k in chosen) for k, x in values.items()}
        moved = graph.replace(positions=v["positions"], cell=v["cell"])
        out = latent_energy(v["charges"], moved, EwaldSettings(), evaluator).sum()
        return torch.autograd.grad(out, [v[k] for k in chosen])

    together = dict(zip(values, energy(list(values)), strict=True))
    torch.testing.assert_close(energy([inputs])[0], together[inputs], rtol=0, atol=ROUNDING)


# --- blocks and dispatch -----------------------------------------------------------------------


def test_t20_blocks_change_nothing(monkeypatch):
    atoms, charges = random_cell(4)
    expected = full_result(atoms, charges, EwaldSettings())
    monkeypatch.setattr(direct, "_block", lambda values, like, n_atoms: 3)
    for got, value in zip(full_result(atoms, charges, EwaldSettings()), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=0, atol=ROUNDING)
    on_mesh = full_result(atoms, charges, EwaldSettings(), "mesh")
    monkeypatch.setattr(mesh, "_BLOCK_VALUES", 5000)
    for got, value in zip(
        full_result(atoms, charges, EwaldSettings(), "mesh"), on_mesh, strict=True
    ):
        torch.testing.assert_close(got, value, rtol=0, atol=ROUNDING)


def test_direct_blocks_stay_in_the_cache():
    like = torch.zeros(1)
    assert direct._block(4 * 25 * 25, like, 12288) == 2**18 // 2500
    assert direct._block(10**9, like, 100) == 16
    assert direct._block(10, like, 7) == 7


def test_auto_switches_by_size():
    atoms, charges = random_crystal()
    chosen = []

    class Spy(DirectTransform):
        def __init__(self, name):
            self.name = name

        def sum(self, q, s, grid):
            chosen.append(self.name)
            return super().sum(q, s, grid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_sum, "TRANSFORMS", {n: Spy(n) for n in EVALUATORS})
        for n in (1, 8):
            graph = make_graph(atoms.repeat(n), 0.1)
            latent_energy(torch.tensor(np.tile(charges, n**3)), graph, EwaldSettings())
        assert chosen == ["direct", "nufft"]
        cuda = torch.device("cuda")
        assert groups.fastest(192, 1000, cuda) == "direct"
        assert groups.fastest(50_000, 10**6, cuda) == "mesh"


def test_without_finufft(monkeypatch):
    monkeypatch.setattr(nufft, "finufft", None)
    cpu = torch.device("cpu")
    assert groups.fastest(50_000, 10**6, cpu) == "mesh"
    assert groups.fastest(100, 1000, cpu) == "direct"
    atoms, charges = random_crystal()
    graph = make_graph(atoms, 0.1)
    with pytest.raises(UnsupportedInputError, match="'nufft' needs FINUFFT, which is not"):
        latent_energy(torch.tensor(charges), graph, EwaldSettings(), "nufft")


@pytest.mark.parametrize("pbc", [True, False])
def test_unknown_evaluator_raises(pbc):
    atoms, charges = random_crystal()
    atoms.pbc = pbc
    graph = make_graph(atoms, 0.1)
    with pytest.raises(ConfigError, match="`evaluator` must be one of auto, direct, nufft, mesh"):
        latent_energy(torch.tensor(charges), graph, EwaldSettings(), "pme")


def test_a_batch_of_many_crystals_is_cut_into_groups(monkeypatch):
    atoms, charges = random_crystal()
    graph = make_graph(atoms, 0.1)

    batch, q = collate([graph] * 7), torch.tensor(np.tile(charges, 7))
    expected = latent_energy(q, batch, EwaldSettings())
    monkeypatch.setattr(groups, "_BATCH_WAVES", 400)  # one system has some 150
    sizes = []
    inner = periodic_energy

    def counted(*args, **options):
        sizes.append(len(args[2]))
        return inner(*args, **options)

    monkeypatch.setattr(pair_sum, "periodic_energy", counted)
    got = latent_energy(q, batch, EwaldSettings())
    torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)
    assert sum(sizes) == 7
    assert len(sizes) > 2
