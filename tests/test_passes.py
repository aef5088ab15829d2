"""Compiled message passes, D3 and onset of AIMNet2 against the same in plain PyTorch."""

import numpy as np
import pytest
import torch
from helpers import make_graph, tiny_aimnet2, triclinic_ice, two_waters
from test_kernels import assert_close, compare, isolated, needs_kernels, topology_of

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.architectures.aimnet2.layer import GaussianShells
from lesff.architectures.aimnet2.messages import Messages, pair_shells
from lesff.atoms.graph import collate
from lesff.convert.aimnet2 import convert_aimnet2
from lesff.convert.reader import read_checkpoint
from lesff.electrostatics.d3 import D3, D3Config
from lesff.electrostatics.onset import onset_energy
from lesff.electrostatics.sums.settings import EwaldSettings

CUTOFF = 3.0


@pytest.fixture(scope="module")
def graph():
    """Molecules, atoms without neighbours and one by itself, which have rows of sums of zero."""
    parts = [two_waters() + isolated(), isolated()[:1], two_waters()]
    return collate([make_graph(atoms, CUTOFF) for atoms in parts])


def pass_inputs(graph, dtype, *, n_features, n_radial, n_vectors):
    """Features, charges, shells, units and weights of features and of charges."""
    n_pairs, n_atoms = graph.n_edges // 2, graph.n_atoms
    shapes = [
        (n_atoms, n_features, n_radial), (n_atoms,), (n_pairs, n_radial), (n_pairs, 3),
        (n_features, n_radial, n_vectors), (1, n_radial, n_vectors),
    ]  # fmt: skip
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("with_charges", [False, True])
@pytest.mark.parametrize("sizes", [(16, 16, 12), (5, 32, 17), (3, 4, 2)])
def test_pass(graph, sizes, with_charges, dtype, monkeypatch):
    names = ("n_features", "n_radial", "n_vectors")
    inputs = pass_inputs(graph, dtype, **dict(zip(names, sizes, strict=True)))
    topology = topology_of(graph)

    def run(features, charges, shells, units, weight, charge_weight):
        messages = Messages(topology, shells, units)
        given = charges if with_charges else None
        return [messages.inputs(features, given, weight, charge_weight)]

    if not with_charges:
        kept = [x for k, x in enumerate(inputs) if k not in (1, 5)]
        compare(lambda f, s, u, w: run(f, None, s, u, w, inputs[5]), kept, monkeypatch)
        return
    compare(run, inputs, monkeypatch)


@needs_kernels
def test_second_derivatives_of_a_pass(graph):
    inputs = pass_inputs(graph, torch.float64, n_features=2, n_radial=16, n_vectors=3)
    topology = topology_of(graph)

    def run(features, charges, shells, units, weight, charge_weight):
        messages = Messages(topology, shells, units)
        return messages.inputs(features, charges, weight, charge_weight)

    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shells(dtype, monkeypatch):
    shells = GaussianShells(AIMNet2Config())
    directions = torch.randn(40, 3, dtype=dtype)
    # up to the cutoff of 5 A and beyond it, where everything is zero
    lengths = torch.linspace(0.3, 6.0, 40, dtype=dtype)
    vectors = (directions / directions.norm(dim=1, keepdim=True) * lengths[:, None]).detach()
    vectors.requires_grad_()
    compare(lambda v: pair_shells(v, shells), [vectors], monkeypatch)
    beyond = pair_shells(vectors, shells)[2][lengths >= 5.0]
    assert len(beyond) > 0
    assert not beyond.any()
    if dtype == torch.float64:
        assert torch.autograd.gradgradcheck(
            lambda v: pair_shells(v, shells), vectors[:5].detach().requires_grad_()
        )


@pytest.fixture(scope="module")
def d3(tmp_path_factory):
    """D3 with published tables."""
    file = tiny_aimnet2(tmp_path_factory.mktemp("aimnet2"))
    return convert_aimnet2(read_checkpoint(file)).d3


def test_d3_of_molecules_and_crystals(d3, monkeypatch):
    config = D3Config(s8=0.39, a1=0.566, a2=3.128, cutoff=7.0)
    module = D3(config, range(len(d3.radius)))
    module.load_state_dict(d3.state_dict())
    parts = [two_waters(), triclinic_ice(), isolated()[:1], two_waters()]
    batch = collate([make_graph(atoms, CUTOFF) for atoms in parts])
    generator = torch.Generator().manual_seed(0)
    element = torch.randint(len(d3.radius), (batch.n_atoms,), generator=generator)

    def run(positions, cell):
        return [module(batch.replace(positions=positions, cell=cell), element)]

    inputs = [x.clone().requires_grad_() for x in (batch.positions, batch.cell)]
    compare(run, inputs, monkeypatch)
    small = make_graph(two_waters(), CUTOFF)

    def shares(positions):
        return module(small.replace(positions=positions), element[: small.n_atoms])

    positions = small.positions.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(shares, positions, fast_mode=True)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_onset_energy(graph, dtype, monkeypatch):
    settings = EwaldSettings(sigma=0.9, dl=0.9)
    rng = np.random.default_rng(1)
    # of the first system and of the last one
    counts = graph.atoms_per_system().tolist()
    parts = [
        rng.integers(0, counts[0], (2, 15)),
        graph.n_atoms - 1 - rng.integers(0, counts[-1], (2, 15)),
    ]
    first, second = torch.from_numpy(np.concatenate(parts, axis=1))
    # up to the end at 4.6 A and beyond it
    distance = torch.linspace(0.4, 5.5, 30, dtype=dtype).requires_grad_()
    charges = torch.from_numpy(rng.normal(size=graph.n_atoms)).to(dtype).requires_grad_()

    def run(charges, distance):
        return [onset_energy(charges, distance, first, second, graph, settings, 4.6)]

    compare(run, [charges, distance], monkeypatch)
    if dtype == torch.float64:
        inputs = (charges, distance)
        assert torch.autograd.gradgradcheck(lambda *x: run(*x)[0], inputs, fast_mode=True)


@needs_kernels
def test_weights_have_gradients(graph):
    """A gradient with respect to weights only, as of an energy loss."""
    inputs = pass_inputs(graph, torch.float64, n_features=3, n_radial=7, n_vectors=5)
    x = [tensor.detach() for tensor in inputs[:4]]
    messages = Messages(topology_of(graph), x[2], x[3])
    found = [
        torch.autograd.grad(value.square().sum(), inputs[4:])
        for value in (
            messages.inputs(x[0], x[1], *inputs[4:]),
            messages.plain_inputs(x[0], x[1], *inputs[4:])[0],
        )
    ]
    assert_close(*found)
