"""Compiled sums over the pairs of isolated systems, against plain PyTorch and each other."""

import pytest
import torch

from lesff import kernels
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.electrostatics.sums.open_boundary import open_energy, plain_derivatives
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import KernelError

pytestmark = pytest.mark.skipif(
    kernels.backend(torch.zeros(1)) is None, reason="no compiled kernels here"
)
INTERACTIONS = [EwaldSettings(), EwaldSettings(sigma=0.4), DispersionConfig()]


def _systems(n_atoms, dtype=torch.float64):
    """Two systems of a liquid's density; the second one is smaller, and padded by zeros."""
    torch.manual_seed(0)
    positions = torch.rand(2, n_atoms, 3, dtype=torch.float64) * (n_atoms / 0.1) ** (1 / 3)
    charges = torch.randn(2, n_atoms, dtype=torch.float64)
    positions[1, -3:], charges[1, -3:] = 0.0, 0.0
    # two atoms nearly at one place: the series of the kernels
    positions[0, 1] = positions[0, 0] + 1e-3
    return charges.to(dtype), positions.to(dtype)


@pytest.mark.parametrize("settings", INTERACTIONS, ids=["1 A", "0.4 A", "dispersion"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("n_atoms", [4, 33, 400])
def test_compiled_sums_are_those_of_pytorch(n_atoms, dtype, tolerance, settings):
    q, r = _systems(n_atoms, dtype)
    found = kernels.backend(q).open_pairs(q, r, settings.pair_kind, settings.sigma, forces=True)
    # of the same rounded coordinates, in double precision
    expected = plain_derivatives(q.double(), r.double(), settings, forces=True)
    for x, y in zip(found, expected, strict=True):
        assert float((x.double() - y).abs().max()) < tolerance * float(y.abs().max())
    energy_only = kernels.backend(q).open_pairs(
        q, r, settings.pair_kind, settings.sigma, forces=False
    )
    assert torch.equal(energy_only[0], found[0])
    assert not energy_only[1].any()


@pytest.mark.parametrize("settings", INTERACTIONS, ids=["1 A", "0.4 A", "dispersion"])
def test_first_and_second_derivatives_are_those_of_finite_differences(settings):
    q, r = _systems(5)
    batch = torch.zeros(5, dtype=torch.int64)
    q, r = q[0].requires_grad_(), (0.7 * r[0]).detach().requires_grad_()

    def energy(q, r):
        return open_energy(q, r, batch, 1, settings)

    assert torch.autograd.gradcheck(energy, (q, r))
    assert torch.autograd.gradgradcheck(energy, (q, r))


def test_sums_do_not_depend_on_the_number_of_threads():
    q, r = _systems(200, torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(kernels.backend(q).open_pairs(q, r, "gaussian", 1.0, forces=True))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_types_must_agree():
    q, r = _systems(4)
    with pytest.raises(KernelError, match="inputs must be"):
        kernels.backend(q).open_pairs(q, r.float(), "gaussian", 1.0, forces=True)
