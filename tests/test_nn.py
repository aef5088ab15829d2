"""Blocks of the network against e3nn, dense references and numerical derivatives."""

import inspect
import math
import re
from importlib import import_module
from pkgutil import walk_packages

import ase
import numpy as np
import pytest
import torch
from e3nn import nn as e3nn_nn
from e3nn import o3
from helpers import double_default, make_graph, random_rotation, triclinic_ice, two_waters
from torch.func import functional_call

import lesff
from lesff.architectures import MACEConfig
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import collate
from lesff.errors import ConfigError
from lesff.heads.base import HeadInput, HeadSizes
from lesff.heads.config import LongRangeConfig
from lesff.heads.free import FreeHead
from lesff.nn import contraction as contraction_module
from lesff.nn import edge_tables as topology_module
from lesff.nn.contraction import SymmetricContraction
from lesff.nn.convolution import Convolution
from lesff.nn.coupling import (
    TABLE_ORDER,
    _stored_tensors,
    computed_wigner_3j,
    contraction_basis,
    lm_slice,
    monomials,
    wigner_3j,
)
from lesff.nn.edge_tables import build_topology
from lesff.nn.harmonics import plain_harmonics
from lesff.nn.linear import ElementLinear, OrderLinear, split_orders
from lesff.nn.radial import (
    BesselBasis,
    ChebyshevBasis,
    RadialNetwork,
    ScreenedRepulsion,
    polynomial_cutoff,
)
from lesff.nn.readout import GatedReadout, LinearReadout

ROUNDING = 1e-12
"""Float64 sums of some hundred terms of order one."""
ELEMENTS = (1, 6, 8)
ROWS = element_rows(ELEMENTS)


def randn(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def topology_of(graph):
    return build_topology(graph, ROWS)


def pairs_of_edges(graph):
    """Pair index of each edge: pairs are numbered in the order of their lower edge."""
    lower = torch.minimum(torch.arange(graph.n_edges), graph.reverse_edge)
    return torch.unique(lower, return_inverse=True)[1]


def edge_vectors(graph):
    sender, receiver = graph.edge_index
    shift = graph.cell_shifts.to(torch.float64) @ graph.cell[0]
    return graph.positions[receiver] - graph.positions[sender] + shift


def pair_harmonics_of(graph, max_ell):
    """Y of every pair's vector, pairs in the order of their lower edge."""
    forward = torch.arange(graph.n_edges) < graph.reverse_edge
    return o3.spherical_harmonics(
        list(range(max_ell + 1)), edge_vectors(graph)[forward], True, "component"
    )


def to_e3nn(blocks):
    """(n, 2 l + 1, c) per order -> e3nn's flat layout, (c, m) row-major within each order."""
    return torch.cat([block.transpose(1, 2).flatten(1) for block in blocks], dim=1)


def irreps(channels, max_l):
    return o3.Irreps([(channels, (l, (-1) ** l)) for l in range(max_l + 1)])


def assert_second_derivatives(run, inputs, *, fast_mode):
    """gradgradcheck, which alone would skip first derivatives that lost their graph."""
    outputs = run(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [torch.randn_like(out).requires_grad_() for out in outputs]
    first = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True)
    assert all(grad.requires_grad for grad in first)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=fast_mode)


# --- convolution -------------------------------------------------------------------------------


def e3nn_convolution(graph, features, radial, channels, feature_l, max_ell):
    """MACE's own form: an e3nn "uvu" tensor product of every edge, scattered to receivers.

    Weights: path-major, then channel, paths in the order of the sorted output irreps.
    """
    with double_default():
        out, instructions = [], []
        first, second = irreps(channels, feature_l), o3.Irreps.spherical_harmonics(max_ell)
        for i, (mul, ir_1) in enumerate(first):
            for j, (_, ir_2) in enumerate(second):
                for ir in ir_1 * ir_2:
                    if ir.l <= max_ell and ir.p == (-1) ** ir.l:
                        instructions.append((i, j, len(out)))
                        out.append((mul, ir))
        sorted_out = o3.Irreps(out).sort()
        paths = sorted(
            ((i, j, sorted_out.p[k], "uvu", True) for i, j, k in instructions),
            key=lambda path: path[2],
        )
        product = o3.TensorProduct(
            first, second, sorted_out.irreps, paths, shared_weights=False, internal_weights=False
        )
        harmonics = o3.spherical_harmonics(
            list(range(max_ell + 1)), edge_vectors(graph), True, "component"
        )
        sender, receiver = graph.edge_index
        x = to_e3nn(split_orders(features, feature_l))
        messages = product(x[sender], harmonics, radial[pairs_of_edges(graph)])
    summed = x.new_zeros(graph.n_atoms, messages.shape[1]).index_add(0, receiver, messages)
    # e3nn: one (c, m) block per path, paths of one order side by side -> (m, (path, c))
    start, by_order = 0, {l: [] for l in range(max_ell + 1)}
    for mul, ir in sorted_out.irreps:
        block = summed[:, start : start + mul * ir.dim].view(-1, mul, ir.dim)
        by_order[ir.l].append(block.transpose(1, 2))
        start += mul * ir.dim
    return [torch.cat(parts, dim=2) for parts in by_order.values()]


@pytest.mark.parametrize("chunk_edges", [1024, 12])
@pytest.mark.parametrize("feature_l", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [two_waters, triclinic_ice])
def test_convolution_against_e3nn(make, feature_l, chunk_edges, monkeypatch):
    monkeypatch.setattr(topology_module, "_CHUNK_EDGES", chunk_edges)
    max_ell, channels = 2, 3
    graph = make_graph(make(), 2.6)
    topology = topology_of(graph)
    conv = Convolution(channels=channels, feature_l=feature_l, max_ell=max_ell)
    features = randn(graph.n_atoms, (feature_l + 1) ** 2, channels)  # graph order
    radial = randn(graph.n_edges // 2, conv.n_paths * channels)
    got = conv(features[topology.node_order], pair_harmonics_of(graph, max_ell), radial, topology)
    expected = e3nn_convolution(graph, features, radial, channels, feature_l, max_ell)
    assert len(got) == max_ell + 1
    for block, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(block[topology.node_rank], reference, rtol=0, atol=10 * ROUNDING)


def tiny_edges():
    """Three atoms, one with a single neighbour: a padded slot among 4 directed edges."""
    atoms = ase.Atoms("OHH", positions=[[0, 0, 0.1], [0.9, 0.1, 0], [-0.5, 0.8, 0]])
    graph = make_graph(atoms, 1.1)
    assert graph.n_edges == 4
    return graph


@pytest.mark.parametrize(("feature_l", "directions"), [(0, 1), (1, 1), (2, 1), (1, 2)])
def test_convolution_derivatives(feature_l, directions):
    """Radial weights per pair, and per direction of each pair."""
    graph = tiny_edges()
    topology = topology_of(graph)
    conv = Convolution(channels=2, feature_l=feature_l, max_ell=1 if feature_l < 2 else 2)
    inputs = (
        randn(3, (feature_l + 1) ** 2, 2, grad=True),
        randn(2 * directions, conv.n_paths * 2, grad=True),
    )
    harmonics = randn(2, (conv.max_ell + 1) ** 2, grad=True)

    def run(h, radial, y):
        return tuple(conv(h, y, radial, topology))

    fast = feature_l == 2  # 11 paths: the full numerical Jacobian takes ten seconds
    assert torch.autograd.gradcheck(run, (*inputs, harmonics), fast_mode=fast)
    assert_second_derivatives(run, (*inputs, harmonics), fast_mode=fast)


def test_directed_radial_weights_are_those_of_pairs_if_equal():
    topology = topology_of(make_graph(two_waters()))
    conv = Convolution(channels=2, feature_l=1, max_ell=2)
    features, y = randn(6, 4, 2), randn(topology.n_pairs, 9)
    radial = randn(topology.n_pairs, conv.n_paths * 2)
    pairs = conv(features, y, radial, topology)
    directed = conv(features, y, torch.cat([radial, radial]), topology)
    for one, other in zip(pairs, directed, strict=True):
        assert torch.equal(one, other)


def test_convolution_without_any_edge():
    graph = make_graph(ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 9.0]]), 1.0)
    topology = topology_of(graph)
    conv = Convolution(channels=2, feature_l=1, max_ell=2)
    features = randn(2, 4, 2, grad=True)
    out = conv(features, randn(0, 9), randn(0, conv.n_paths * 2), topology)
    assert [tuple(block.shape[:2]) for block in out] == [(2, 1), (2, 3), (2, 5)]
    assert all(bool((block == 0).all()) for block in out)
    (grad,) = torch.autograd.grad(sum(block.sum() for block in out), features)
    assert bool((grad == 0).all())


# --- topology ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_edges", [1024, 10])
def test_topology_slots_cover_every_edge_once(chunk_edges, monkeypatch):
    monkeypatch.setattr(topology_module, "_CHUNK_EDGES", chunk_edges)
    graph = make_graph(triclinic_ice(), 3.0)
    topology = topology_of(graph)
    real = topology.slots.sign != 0
    assert int(real.sum()) == graph.n_edges
    assert sorted(topology.slots.of_pair.flatten().tolist()) == torch.nonzero(real)[:, 0].tolist()
    assert topology.node_element.tolist() == sorted(topology.node_element.tolist())
    for part in topology.elements:
        assert set(topology.node_element[part.start : part.stop].tolist()) == {part.element}
    last = topology.slots.chunks[-1]
    assert (last.node_stop, last.edge_stop) == (graph.n_atoms, len(real))


# --- symmetric contraction ---------------------------------------------------------------------


def dense_contraction(module, features, node_element, max_ell, l_out):
    letters = "xyz"
    total = 0
    for nu, weight in enumerate(module.weights, start=1):
        u = torch.from_numpy(contraction_basis(max_ell, l_out, nu))
        idx = letters[:nu]
        factors = ",".join(f"n{x}c" for x in idx)
        total = total + torch.einsum(
            f"m{idx}p,npc,{factors}->nmc", u, weight[node_element], *[features] * nu
        )
    return total


@pytest.mark.parametrize("block_values", [250_000, 1])
@pytest.mark.parametrize("correlation", [1, 2, 3])
@pytest.mark.parametrize("l_out", [0, 1, 2])
def test_contraction_against_dense_einsum(correlation, l_out, block_values, monkeypatch):
    monkeypatch.setattr(contraction_module, "_BLOCK_VALUES", block_values)
    max_ell, channels = 2, 3
    topology = topology_of(make_graph(triclinic_ice().repeat(2), 2.0))
    module = SymmetricContraction(
        channels=channels, max_ell=max_ell, l_out=l_out, correlation=correlation, n_elements=3
    ).double()
    features = randn(len(topology.node_element), 9, channels)
    expected = dense_contraction(module, features, topology.node_element, max_ell, l_out)
    torch.testing.assert_close(module(features, topology), expected, rtol=1e-12, atol=ROUNDING)


@pytest.mark.parametrize("correlation", [1, 2, 3])
@pytest.mark.parametrize("l_out", [0, 1, 2])
def test_contraction_derivatives(correlation, l_out):
    max_ell = max(l_out, 1) if correlation < 3 else 1
    if l_out > max_ell:
        max_ell = l_out
    topology = topology_of(tiny_edges())
    module = SymmetricContraction(
        channels=1, max_ell=max_ell, l_out=l_out, correlation=correlation, n_elements=3
    ).double()
    names = [name for name, _ in module.named_parameters()]
    weights = tuple(p.detach().clone().requires_grad_() for p in module.parameters())

    def run(features, *values):
        return functional_call(module, dict(zip(names, values, strict=True)), (features, topology))

    features = randn(3, (max_ell + 1) ** 2, 1, grad=True)
    fast = correlation == 3 and l_out == 2  # 37 paths: the full numerical Jacobian takes a minute
    assert torch.autograd.gradcheck(run, (features, *weights), fast_mode=fast)
    assert_second_derivatives(run, (features, *weights), fast_mode=fast)


def test_contraction_gives_no_gradient_to_absent_elements():
    topology = topology_of(two_waters_graph := make_graph(two_waters(), 2.0))
    module = SymmetricContraction(
        channels=2, max_ell=1, l_out=0, correlation=2, n_elements=3
    ).double()
    module(randn(two_waters_graph.n_atoms, 4, 2), topology).sum().backward()
    for weight in module.weights:
        assert bool((weight.grad[1] == 0).all())  # carbon
        assert bool((weight.grad[0] != 0).any())


@pytest.mark.parametrize(("l_out", "degree", "n_paths"), [(0, 1, 1), (0, 2, 3), (1, 2, 4)])
def test_number_of_paths(l_out, degree, n_paths):
    # couplings of (0e+1o+2e)^degree of natural parity by hand; (1, 2): 01, 10, 12, 21
    assert contraction_basis(2, l_out, degree).shape[-1] == n_paths


def wigner_d(l, rotation):
    """D with Y(R x) = D Y(x), solved from harmonics: e3nn's own D is good to 1e-7 only."""
    points = randn(40, 3)
    y = o3.spherical_harmonics(l, points, normalize=True)
    y_turned = o3.spherical_harmonics(l, points @ rotation.T, normalize=True)
    return torch.linalg.lstsq(y, y_turned).solution.T


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("l_out", [0, 1, 2])
def test_contraction_basis_is_equivariant(degree, l_out, generator):
    q = random_rotation(generator)
    d_in = torch.block_diag(*[wigner_d(l, q) for l in range(3)]).numpy()
    d_out = wigner_d(l_out, q).numpy()
    turned = contraction_basis(2, l_out, degree)
    for axis in range(1, degree + 1):
        turned = np.moveaxis(np.tensordot(d_in, turned, axes=(0, axis)), 0, axis)
    turned = np.tensordot(d_out.T, turned, axes=(1, 0))
    np.testing.assert_allclose(turned, contraction_basis(2, l_out, degree), atol=1e-12)


def test_monomials_are_distinct_and_sorted():
    table = monomials(2, 1, 3)
    keys = [(c, *i) for c, i in zip(table.component, table.index.tolist(), strict=True)]
    assert len(set(keys)) == len(keys)
    assert all(list(i) == sorted(i) for i in table.index.tolist())
    assert table.component.tolist() == sorted(table.component.tolist())


# --- linear maps -------------------------------------------------------------------------------


def test_order_linear_against_e3nn():
    """e3nn's flat weight: one (c_in, c_out) row-major matrix per order, orders ascending."""
    channels_in, channels_out = (4, 6, 5), (3, 3, 2)
    ours = OrderLinear(channels_in=channels_in, channels_out=channels_out).double()
    blocks = [randn(7, 2 * l + 1, c) for l, c in enumerate(channels_in)]
    with double_default():
        first = o3.Irreps([(c, (l, (-1) ** l)) for l, c in enumerate(channels_in)])
        second = o3.Irreps([(c, (l, (-1) ** l)) for l, c in enumerate(channels_out)])
        reference = o3.Linear(first, second)
        with torch.no_grad():
            reference.weight.copy_(torch.cat([w.flatten() for w in ours.weights]))
        expected = reference(to_e3nn(blocks))
    same = OrderLinear(channels_in=channels_in, channels_out=(3, 3, 3)).double()
    assert same(blocks).shape == (7, 9, 3)
    got = [b @ (w / w.shape[0] ** 0.5) for b, w in zip(blocks, ours.weights, strict=True)]
    torch.testing.assert_close(to_e3nn(got), expected, rtol=0, atol=ROUNDING)
    with torch.no_grad():
        for a, b in zip(same.weights[:2], ours.weights[:2], strict=True):
            a.copy_(b)
    for l in (0, 1):
        torch.testing.assert_close(same(blocks)[:, lm_slice(l)], got[l], rtol=0, atol=ROUNDING)


def test_order_linear_drops_orders_without_output():
    layer = OrderLinear(channels_in=(2, 2, 2), channels_out=(3,)).double()
    assert layer([randn(4, 1, 2), randn(4, 3, 2), randn(4, 5, 2)]).shape == (4, 1, 3)


@pytest.mark.parametrize("max_l", [0, 1, 2])
def test_element_linear_against_e3nn(max_l):
    """e3nn's flat weight: (c_in, n_elements, c_out) row-major per order, orders ascending."""
    channels, channels_out = 3, 4
    graph = make_graph(two_waters(), 2.0)
    topology = topology_of(graph)
    ours = ElementLinear(
        channels=channels, channels_out=channels_out, n_elements=3, max_l=max_l
    ).double()
    features = randn(graph.n_atoms, (max_l + 1) ** 2, channels)
    with double_default():
        reference = o3.FullyConnectedTensorProduct(
            irreps(channels, max_l), o3.Irreps("3x0e"), irreps(channels_out, max_l)
        )
        with torch.no_grad():
            reference.weight.copy_(torch.cat([w.flatten() for w in ours.weights]))
        one_hot = torch.nn.functional.one_hot(topology.node_element, 3).double()
        expected = reference(to_e3nn(split_orders(features, max_l)), one_hot)
    got = to_e3nn(split_orders(ours(features, topology), max_l))
    torch.testing.assert_close(got, expected, rtol=0, atol=ROUNDING)


# --- radial functions --------------------------------------------------------------------------


def test_radial_network_against_e3nn():
    """e3nn's layers hold (n_in, n_out) matrices, the same layout."""
    sizes = (4, 8, 6, 5)
    ours = RadialNetwork(sizes=sizes).double()
    with double_default():
        reference = e3nn_nn.FullyConnectedNet(list(sizes), torch.nn.functional.silu)
        with torch.no_grad():
            for layer, weight in zip(reference, ours.weights, strict=True):
                layer.weight.copy_(weight)
        x = randn(9, 4)
        # e3nn estimates the constant of silu from a float64 sample with a fixed seed
        torch.testing.assert_close(ours(x), reference(x), rtol=1e-9, atol=ROUNDING)


@pytest.mark.parametrize("p", [2, 5, 6])
def test_polynomial_cutoff(p):
    x = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    u = polynomial_cutoff(x, p)
    assert float(u[0]) == 1.0
    assert float(u[3]) == 0.0
    # DimeNet eq. 8 term by term
    expected = (
        1 - (p + 1) * (p + 2) / 2 * 0.5**p + p * (p + 2) * 0.5 ** (p + 1)
        - p * (p + 1) / 2 * 0.5 ** (p + 2)
    )  # fmt: skip
    assert float(u[1]) == pytest.approx(expected, abs=1e-15)
    edge = torch.tensor(1.0 - 1e-12, dtype=torch.float64, requires_grad=True)
    value = polynomial_cutoff(edge, p)
    (first,) = torch.autograd.grad(value, edge, create_graph=True)
    (second,) = torch.autograd.grad(first, edge)
    # third derivative -p (p + 1) (p + 2) <= 336, times 1e-12; coefficients of order 50 x eps
    for derivative in (value, first, second):
        assert float(derivative.detach()) == pytest.approx(0.0, abs=2e-9)


def test_bessel_basis():
    cutoff, p = 4.5, 5
    basis = BesselBasis(cutoff=cutoff, n_basis=3, p=p)
    r = torch.tensor([0.7, 2.0, 4.4, 4.5, 5.0], dtype=torch.float64)
    got = basis(r, r)
    for row, x in enumerate([0.7, 2.0, 4.4]):
        u = float(polynomial_cutoff(torch.tensor(x / cutoff, dtype=torch.float64), p))
        for n in (1, 2, 3):
            expected = math.sqrt(2 / cutoff) * math.sin(n * math.pi * x / cutoff) / x * u
            assert float(got[row, n - 1]) == pytest.approx(expected, abs=1e-14)
    assert bool((got[3:] == 0).all())


def test_chebyshev_basis():
    """numpy's Chebyshev polynomials, which are of the first kind too."""
    basis = ChebyshevBasis(cutoff=4.0, n_basis=5, p=5, has_envelope=False)
    x = torch.linspace(-1.0, 3.0, 7, dtype=torch.float64)
    expected = np.polynomial.chebyshev.chebvander(x.numpy(), 5)[:, 1:]
    np.testing.assert_allclose(basis(x, x).numpy(), expected, rtol=1e-13)


def test_screened_repulsion_of_two_carbons():
    """ZBL by hand at r = 1.2 A: R_C = 0.76 A (ase covalent radii), p = 6; rounded constants."""
    r, z = 1.2, 6
    a = 0.4543 * 0.529 / (2 * z**0.3)
    x = r / a
    phi = (
        0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
        + 0.2802 * math.exp(-0.4028 * x) + 0.02817 * math.exp(-0.2016 * x)
    )  # fmt: skip
    t = r / (2 * 0.76)
    u = 1 - 28 * t**6 + 48 * t**7 - 21 * t**8
    expected = 14.3996 * z * z / r * phi * u
    carbon = torch.tensor([z])
    got = ScreenedRepulsion()(torch.tensor([r], dtype=torch.float64), carbon, carbon)
    assert float(got) == pytest.approx(expected, rel=1e-12)
    beyond = ScreenedRepulsion()(torch.tensor([1.53], dtype=torch.float64), carbon, carbon)
    assert float(beyond) == 0.0


# --- readouts and charge heads -----------------------------------------------------------------


def test_readouts_against_e3nn():
    """(c_in, c_out) row-major, the same layout; silu normalised to unit second moment."""
    x = randn(5, 4)
    linear, gated = LinearReadout(channels=4).double(), GatedReadout(channels=4, hidden=3).double()
    with double_default():
        first, second = o3.Linear("4x0e", "3x0e"), o3.Linear("3x0e", "1x0e")
        single = o3.Linear("4x0e", "1x0e")
        act = e3nn_nn.Activation("3x0e", [torch.nn.functional.silu])
        with torch.no_grad():
            single.weight.copy_(linear.weight.flatten())
            first.weight.copy_(gated.weight_1.flatten())
            second.weight.copy_(gated.weight_2.flatten())
        torch.testing.assert_close(linear(x), single(x)[:, 0], rtol=0, atol=ROUNDING)
        torch.testing.assert_close(gated(x), second(act(first(x)))[:, 0], rtol=1e-9, atol=ROUNDING)


@pytest.mark.parametrize("name", ["latent", "shifted"])
def test_charge_heads(name):
    config = LongRangeConfig(head=name, readout_hidden=3)
    head = FreeHead(config, HeadSizes(channels=2, n_layers=2, n_elements=2, cutoff=3.0)).double()
    atoms = [ase.Atoms("H2", np.eye(3)[:2]), ase.Atoms("H3", 2.0 * np.eye(3))]
    charge = [1, -2]
    graphs = [make_graph(a, total_charge=q) for a, q in zip(atoms, charge, strict=True)]
    graph = collate(graphs)
    x = HeadInput(
        invariants=[randn(5, 2), randn(5, 2)],
        element=torch.zeros(5, dtype=torch.int64),
        graph=graph,
        settings=config.settings(),
    )
    raw, charges = head.local(x).detach(), head(x).charges.detach()
    if name == "latent":
        assert torch.equal(charges, raw)
        return
    sums = [float(charges[:2].sum()), float(charges[2:].sum())]
    assert sums == pytest.approx([1.0, -2.0], abs=ROUNDING)
    moved = charges - raw  # one value per system
    assert float(moved[:2].std() + moved[2:].std()) == pytest.approx(0.0, abs=ROUNDING)


def test_stored_couplings_of_one_module_leave_others_alone():
    """Coupling tables are cached; what is loaded into one module must not reach the cache."""

    def make(*, stores_basis):
        return SymmetricContraction(
            channels=2, max_ell=1, l_out=0, correlation=2, n_elements=1, stores_basis=stores_basis
        )

    first = make(stores_basis=True)
    before = {name: value.clone() for name, value in make(stores_basis=False).named_buffers()}
    first.load_state_dict({name: value + 1.0 for name, value in first.state_dict().items()})
    for name, value in make(stores_basis=False).named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


# --- abstract or final -------------------------------------------------------------------------


def classes_of_the_model():
    """Classes that are written in the rooms of the network and of the charge heads."""
    for room in ("architectures", "heads", "nn"):
        for module in walk_packages([f"{lesff.__path__[0]}/{room}"], f"lesff.{room}."):
            for cls in vars(import_module(module.name)).values():
                if inspect.isclass(cls) and cls.__module__ == module.name:
                    yield cls


def bases_of_ours(cls):
    return [base for base in cls.__mro__[1:] if base.__module__.startswith("lesff.")]


def test_classes_are_abstract_or_final():
    """Subclasses fill in abstract methods and are final; no method with a body is overridden."""
    derived = [cls for cls in classes_of_the_model() if bases_of_ours(cls)]
    assert len(derived) >= 12
    for cls in derived:
        assert getattr(cls, "__final__", False), cls
        assert not inspect.isabstract(cls), cls
        for base in bases_of_ours(cls):
            abstract = getattr(base, "__abstractmethods__", frozenset()) | {"__init__"}
            written = {name for name, x in vars(base).items() if inspect.isfunction(x)}
            overridden = (written - abstract) & set(vars(cls))
            assert not overridden, (cls, overridden)


# --- tables instead of e3nn ---------------------------------------------------------------------


def test_stored_wigner_tensors_are_those_of_e3nn():
    """Bit for bit, every order in the table."""
    orders = range(TABLE_ORDER + 1)
    triples = [
        (a, b, c) for a in orders for b in orders for c in orders if abs(a - b) <= c <= a + b
    ]
    assert set(_stored_tensors()) == set(triples)
    for triple in triples:
        expected = o3.wigner_3j(*triple, dtype=torch.float64).numpy()
        assert np.array_equal(wigner_3j(*triple), expected)


@pytest.mark.parametrize("triple", [(1, 1, 0), (2, 3, 4), (5, 4, 1), (3, 4, 6), (8, 5, 7)])
def test_computed_wigner_tensors_are_those_of_e3nn(triple):
    """Sign and basis included; beyond the table these are the ones that are used."""
    expected = o3.wigner_3j(*triple, dtype=torch.float64).numpy()
    np.testing.assert_allclose(computed_wigner_3j(*triple), expected, rtol=0, atol=1e-15)
    if max(triple) > TABLE_ORDER:
        assert np.array_equal(wigner_3j(*triple), computed_wigner_3j(*triple))


def test_orders_that_cannot_couple_are_refused():
    with pytest.raises(ValueError, match=r"orders must obey .* got 5, 1, 1"):
        wigner_3j(5, 1, 1)


@pytest.mark.parametrize("max_ell", [0, 1, 3, 8])
def test_plain_harmonics_are_those_of_e3nn(max_ell):
    """Rounding grows with the order; a vector of length zero has the scalar one only."""
    vectors = torch.cat([randn(50, 3), torch.zeros(1, 3), torch.eye(3)])
    distance, values = plain_harmonics(vectors, max_ell)
    orders = list(range(max_ell + 1))
    expected = o3.spherical_harmonics(orders, vectors, normalize=True, normalization="component")
    torch.testing.assert_close(values, expected, rtol=0, atol=2e-15 * (1 + max_ell))
    torch.testing.assert_close(distance, vectors.norm(dim=1))


@pytest.mark.parametrize(
    "irreps", ["64x0e", "64x0e+64x1o", "8x0e + 8x1o + 8x2e", " 0e + 1x1o", "4 x 0e+4x1o"]
)
def test_hidden_irreps_are_read_as_e3nn_reads_them(irreps):
    config = MACEConfig(cutoff=3.0, hidden_irreps=irreps)
    known = o3.Irreps(irreps)
    assert config.channels == known[0].mul
    assert config.feature_l == known.lmax


@pytest.mark.parametrize(
    ("irreps", "message"),
    [
        ("64", "must be e3nn irreps, got '64'"),
        ("64x0e+", "must be e3nn irreps"),
        ("", "must be e3nn irreps"),
        ("64x0", "must be e3nn irreps"),
        ("-4x0e", "must be e3nn irreps"),
        ("64x0e+32x1o", "with one multiplicity"),
        ("64x0o", "natural parity"),
        ("64x1o", "must list orders 0..L"),
        ("0x0e", "with one multiplicity of at most 4096"),
        ("5000x0e", "with one multiplicity of at most 4096"),
    ],
)
def test_other_irreps_are_refused(irreps, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        MACEConfig(cutoff=3.0, hidden_irreps=irreps)
