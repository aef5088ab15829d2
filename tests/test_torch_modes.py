"""Modes of PyTorch that the caller is in: inference mode, autocast, default device and dtype.

Every right value is that outside the mode, bit for bit.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ase.optimize import BFGS
from helpers import make_graph, tiny_potential, triclinic_ice, water

from lesff import load
from lesff.autograd import gradients, plain_arithmetic
from lesff.calculator import LesffCalculator
from lesff.errors import PropertyError
from lesff.potential.potential import Potential
from lesff.potential.predict import predict_graph


@contextmanager
def default_device():
    torch.set_default_device("meta")  # what is made there by mistake cannot be used
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": default_device,
    "default dtype": default_dtype,
}
MOLECULE = ("energy", "node_energy", "forces", "charges", "dipole", "born_effective_charges")
CRYSTAL = ("energy", "forces", "stress", "charges", "born_effective_charges")


def rows(potential, cutoff=3.2):
    return [
        predict_graph(potential, make_graph(water(), cutoff), MOLECULE)[0],
        predict_graph(potential, make_graph(triclinic_ice(), cutoff), CRYSTAL)[0],
    ]


def assert_same(found, expected):
    for row, right in zip(found, expected, strict=True):
        assert row.keys() == right.keys()
        for name, value in right.items():
            assert np.array_equal(row[name], value), name
            assert row[name].dtype == value.dtype, name
            if name != "charges":
                assert np.any(value), name  # zeros would compare equal to a lost graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_predictions_do_not_depend_on_the_mode(mode, dtype):
    potential = tiny_potential()
    potential.cast_parameters(dtype)
    expected = rows(potential)
    with MODES[mode]():
        assert_same(rows(potential), expected)
    assert_same(rows(potential), expected)  # nothing that was kept inside spoils what follows


@pytest.mark.parametrize("mode", MODES)
def test_first_use_inside_a_mode(mode):
    expected = rows(tiny_potential())
    potential = tiny_potential()
    with MODES[mode]():
        assert_same(rows(potential), expected)
    assert_same(rows(potential), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_loaded_and_used_inside_a_mode(mode):
    outside = load("off-small").predict(water(), MOLECULE)
    with MODES[mode]():
        model = load("off-small")
        inside = model.predict(water(), MOLECULE)
    after = model.predict(water(), MOLECULE)
    for name in MOLECULE:
        assert np.array_equal(inside[name], outside[name]), name
        assert np.array_equal(after[name], outside[name]), name


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_calculators_across_modes(mode, replay):
    """A calculator used outside, inside and outside again, its kept tables included."""
    calculator = LesffCalculator(tiny_potential(), replay=replay)
    atoms, plain = water(), LesffCalculator(tiny_potential())
    for step in range(3):
        atoms.positions[0, 0] += 0.01
        expected = plain.get_property("forces", atoms)
        with MODES[mode]() if step != 2 else plain_arithmetic():
            found = calculator.get_property("forces", atoms)
        assert np.allclose(found, expected, atol=1e-12)


def test_a_relaxation_in_inference_mode_relaxes():
    atoms = water()
    atoms.calc = LesffCalculator(tiny_potential())
    assert np.abs(atoms.get_forces()).max() > 0.5
    with torch.inference_mode():
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=1)
    assert np.abs(atoms.positions - water().positions).max() > 1e-3


@pytest.mark.slow
def test_hessians_in_inference_mode():
    """Finite differences of forces, and the second derivative of the energy by autograd."""
    potential, graph = tiny_potential(), make_graph(water())

    def hessian_row():
        with torch.enable_grad():
            positions = graph.positions.clone().requires_grad_()
            moved = graph.replace(positions=positions)
            forces = potential(moved, ["forces"], create_graph=True)["forces"]
            return torch.autograd.grad(forces[0, 0], positions)[0]

    expected = hessian_row()
    with torch.inference_mode(), torch.inference_mode(mode=False):
        assert torch.equal(hessian_row(), expected)


def test_graphs_made_in_inference_mode():
    potential = tiny_potential()
    expected = potential(make_graph(water()), ["forces"])["forces"]
    with torch.inference_mode():
        graph = make_graph(water())
        born = potential.born_effective_charges(graph)
        plan = potential.plan(graph)
    assert graph.batch.is_inference()
    assert torch.equal(potential(graph, ["forces"])["forces"], expected)
    assert torch.allclose(potential(graph, ["forces"], plan=plan)["forces"], expected, atol=1e-12)
    assert torch.equal(potential.born_effective_charges(make_graph(water())), born)


def test_weights_made_in_inference_mode_are_refused():
    config = tiny_potential().config
    with torch.inference_mode():
        potential = Potential(config).double()
        with pytest.raises(PropertyError, match=r"made inside torch.inference_mode"):
            potential(make_graph(water()), ["forces"])
    with pytest.raises(PropertyError, match=r"made inside torch.inference_mode"):
        potential.born_effective_charges(make_graph(water()))


def test_derivatives_without_a_graph_are_refused():
    x = torch.ones(2)
    with pytest.raises(PropertyError, match="need arguments that record gradients"):
        gradients(x.sum(), [x], create_graph=False)
    with torch.inference_mode():
        y = torch.ones(2)
    with pytest.raises(PropertyError, match="need arguments that record gradients"):
        gradients(y.sum(), [y], create_graph=False)


def test_shares_of_atoms_whose_charges_depend_on_nothing():
    """Frozen weights and an atom without neighbours: the self energy is still the atom's own."""
    potential = tiny_potential()  # its weights are frozen
    graph = make_graph(water()[:1], total_charge=1, spin_multiplicity=2)
    out = potential(graph, ["energy", "node_energy"])
    assert float(out["node_energy"].sum()) == pytest.approx(float(out["energy"]), abs=1e-12)
    settings = potential.ewald
    assert settings is not None
    assert settings.remove_self_interaction is False or float(out["energy"]) != 0
