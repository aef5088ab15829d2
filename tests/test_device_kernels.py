"""Triton kernels against plain PyTorch: on a GPU, or through Triton's interpreter on a CPU."""

import gc

import ase
import pytest
import torch
from helpers import make_graph, tiny_potential, water

from lesff import kernels
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import collate
from lesff.errors import KernelError
from lesff.nn.contraction import SymmetricContraction
from lesff.nn.convolution import Convolution
from lesff.nn.edge_tables import build_topology

pytest.importorskip("triton")
device_kernels = pytest.importorskip("lesff.kernels.gpu")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ELEMENTS = (1, 6, 8)
ATOL = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Other order of sums of some ten terms of order one."""


def fused(monkeypatch):
    monkeypatch.setattr(kernels, "backend", lambda tensor: device_kernels.GPU)


def unfused(monkeypatch):
    monkeypatch.setattr(kernels, "backend", lambda tensor: None)


def small_batch():
    """A crystal with edges to images and a lone atom, of two of three elements."""
    chain = ase.Atoms("CH", positions=[[0, 0, 0], [0.7, 0.3, -0.2]], cell=[1.4, 9, 9], pbc=True)
    batch = collate([make_graph(atoms, 1.45) for atoms in (chain, water()[:1])])
    assert 4 < batch.n_edges < 12
    return batch


def topology_of(graph):
    graph = graph.to(dtype=torch.float64, device=DEVICE)
    return build_topology(graph, element_rows(ELEMENTS).to(DEVICE))


def compare(module, run, inputs, monkeypatch):
    """Value and all first derivatives, with Triton kernels and without."""
    results = []
    for choose in (fused, unfused):
        with monkeypatch.context() as patch:
            choose(patch)
            out = run(module, *inputs)
            g = torch.Generator().manual_seed(1)
            weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in out]
            leaves = [*inputs, *module.parameters()]
            grads = torch.autograd.grad(out, leaves, weights)
            results.append([*out, *grads])
    for got, expected in zip(*results, strict=True):
        assert got.abs().max() > 0
        torch.testing.assert_close(got, expected, rtol=0, atol=ATOL[got.dtype])


@pytest.mark.parametrize(
    ("feature_l", "max_ell", "channels", "dtype", "directed"),
    [
        (0, 3, 33, torch.float64, False),
        (1, 2, 3, torch.float32, True),
        pytest.param(2, 2, 2, torch.float64, False, marks=pytest.mark.slow),
        pytest.param(3, 3, 2, torch.float64, False, marks=pytest.mark.slow),
    ],
)
def test_convolution(feature_l, max_ell, channels, dtype, directed, monkeypatch):
    graph = small_batch()
    conv = Convolution(channels=channels, feature_l=feature_l, max_ell=max_ell).to(DEVICE)
    topology = topology_of(graph)
    n_pairs = graph.n_edges // 2
    shapes = [
        (graph.n_atoms, (feature_l + 1) ** 2, channels),
        (n_pairs, (max_ell + 1) ** 2),
        (n_pairs * (1 + directed), conv.n_paths * channels),
    ]
    inputs = [torch.randn(*s, dtype=dtype, device=DEVICE).requires_grad_() for s in shapes]
    compare(conv, lambda module, *x: module(*x, topology), inputs, monkeypatch)


@pytest.mark.parametrize(
    ("l_out", "correlation", "dtype", "n_elements"),
    [
        pytest.param(0, 3, torch.float64, len(ELEMENTS), marks=pytest.mark.slow),
        (1, 2, torch.float32, 1),
        (1, 1, torch.float64, len(ELEMENTS)),
    ],
)
def test_contraction(l_out, correlation, dtype, n_elements, monkeypatch):
    graph = small_batch()
    module = SymmetricContraction(
        channels=3, max_ell=2, l_out=l_out, correlation=correlation, n_elements=n_elements
    ).to(dtype=dtype, device=DEVICE)
    topology = topology_of(graph)
    features = torch.randn(graph.n_atoms, 9, 3, dtype=dtype, device=DEVICE)
    run = lambda m, x: [m(x, topology)]  # noqa: E731
    compare(module, run, [features.requires_grad_()], monkeypatch)


def test_energy_and_forces_of_a_model(monkeypatch):
    potential = tiny_potential(head="shifted", hidden_irreps="2x0e").to(DEVICE)
    graph = make_graph(water()).to(dtype=torch.float64, device=DEVICE)
    found = []
    for choose in (fused, unfused):
        with monkeypatch.context() as patch:
            choose(patch)
            found.append(potential(graph, ("energy", "forces"), plan=potential.plan(graph)))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-11)


def test_second_derivatives_go_through_plain_pytorch(monkeypatch):
    potential = tiny_potential(head="latent", hidden_irreps="2x0e", n_layers=1).to(DEVICE)
    graph = make_graph(water()).to(dtype=torch.float64, device=DEVICE)
    hessians = []
    for choose in (fused, unfused):
        with monkeypatch.context() as patch:
            choose(patch)
            moved = graph.replace(positions=graph.positions.clone().requires_grad_())
            forces = potential(moved, ("forces",), create_graph=True)["forces"]
            hessians.append(torch.autograd.grad(forces[0, 0], moved.positions)[0])
    torch.testing.assert_close(hessians[0], hessians[1], rtol=0, atol=1e-10)


def test_graph_without_edges(monkeypatch):
    graph = make_graph(water()[:1])
    conv = Convolution(channels=2, feature_l=0, max_ell=1).to(DEVICE)
    args = (
        torch.ones(1, 1, 2, device=DEVICE, dtype=torch.float64, requires_grad=True),
        torch.zeros(0, 4, device=DEVICE, dtype=torch.float64),
        torch.zeros(0, conv.n_paths * 2, device=DEVICE, dtype=torch.float64),
    )
    fused(monkeypatch)
    messages = conv(*args, topology_of(graph))
    (grad,) = torch.autograd.grad(sum(m.sum() for m in messages), args[0])
    assert not grad.any()
    assert all(not m.any() for m in messages)


def test_wrong_types_raise(monkeypatch):
    graph = small_batch()
    conv = Convolution(channels=2, feature_l=0, max_ell=1).to(DEVICE)
    fused(monkeypatch)
    n_pairs = graph.n_edges // 2
    with pytest.raises(KernelError, match="inputs must be torch.float64 like the features"):
        conv(
            torch.ones(graph.n_atoms, 1, 2, dtype=torch.float64, device=DEVICE),
            torch.ones(n_pairs, 4, dtype=torch.float64, device=DEVICE),
            torch.ones(n_pairs, conv.n_paths * 2, dtype=torch.float32, device=DEVICE),
            topology_of(graph),
        )


def test_neither_tables_nor_harmonics_are_asked_of_triton(monkeypatch):
    potential = tiny_potential(hidden_irreps="2x0e", n_layers=1).to(DEVICE)
    potential.radial = "table"
    graph = make_graph(water()).to(dtype=torch.float64, device=DEVICE)
    found = []
    for choose in (fused, unfused):
        with monkeypatch.context() as patch:
            choose(patch)
            found.append(potential(graph, ("energy", "forces")))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-11)
    with pytest.raises(KernelError, match="no harmonics in Triton"):
        device_kernels.GPU.harmonics(torch.ones(1, 3), 1)
    with pytest.raises(KernelError, match="no harmonics in Triton"):
        device_kernels.GPU.harmonics_backward(*torch.ones(2, 1), torch.ones(1, 3), 0)


def test_device_tables_go_with_the_model(monkeypatch):
    backend = device_kernels.GPUBackend()
    monkeypatch.setattr(kernels, "backend", lambda tensor: backend)
    potential = tiny_potential(hidden_irreps="2x0e", n_layers=1).to(DEVICE)
    potential(make_graph(water()).to(dtype=torch.float64, device=DEVICE), ("energy",))
    assert (len(backend._paths), len(backend._terms)) == (1, 1)
    del potential
    gc.collect()
    assert (len(backend._paths), len(backend._terms)) == (0, 0)


def test_plain_pytorch_on_cpus_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "is_active", lambda tensor: False)
    assert kernels.backend(torch.zeros(1)) is None
