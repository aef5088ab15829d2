"""Planned and repeated steps: the same numbers, and nothing that a host would wait for.

Whether a step asks for numbers is seen without a GPU: on fake tensors (shapes without values) every
such question raises.
"""

import copy
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters, water
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

import lesff
from lesff import kernels
from lesff.atoms.cell import cell_volume, inverse_cell
from lesff.atoms.graph import build_graph, collate
from lesff.atoms.structure import to_structure
from lesff.calculator import LesffCalculator
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.electrostatics.sums import gaussian_kernel
from lesff.errors import PropertyError, UnsupportedInputError
from lesff.potential.edit import with_dispersion
from lesff.potential.plan import PLANNED
from lesff.potential.replay import RepeatedStep
from lesff.potential.uncertainty import Uncertainty

ROUNDING = 1e-11
"""eV, eV/A: other order of float64 sums."""
SKIN = 0.6
HEADS = ("latent", "shifted", "edge", "fukui")


def with_skin(potential, *structures):
    cutoff = potential.architecture.cutoff
    narrow = collate([make_graph(atoms, cutoff) for atoms in structures])
    wide = collate([make_graph(atoms, cutoff + SKIN) for atoms in structures])
    assert wide.n_edges > narrow.n_edges
    return narrow, wide


BATCHES = {
    "molecule": (two_waters,),
    "crystal": (triclinic_ice,),
    "mixed": (triclinic_ice, two_waters, water),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("head", HEADS)
def test_planned_step_with_edges_beyond_the_cutoff_changes_nothing(head, batch):
    potential = tiny_potential(head=head)
    narrow, wide = with_skin(potential, *(make() for make in BATCHES[batch]))
    absent = {"energy_dispersion"} if batch == "crystal" else {"stress", "energy_dispersion"}
    wanted = PLANNED - absent - {"novelty"}  # the model is not calibrated
    expected = potential(narrow, wanted)
    got = potential(wide, wanted, plan=potential.plan(wide))
    assert set(got) == wanted
    for name in wanted:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=ROUNDING)
    moved = wide.replace(positions=wide.positions + 0.01 * torch.randn_like(wide.positions))
    again = potential(moved, wanted, plan=potential.plan(wide))
    for name in wanted:
        torch.testing.assert_close(again[name], potential(moved, wanted)[name], rtol=0,
                                   atol=ROUNDING)  # fmt: skip


def faked(value):
    """The same with tensors that have no values; to be called inside a FakeTensorMode."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    if isinstance(value, tuple):
        return tuple(faked(part) for part in value)
    if is_dataclass(value):
        twin = copy.copy(value)
        for name, part in vars(value).items():
            object.__setattr__(twin, name, faked(part))
        return twin
    return value


def run_on_fake_tensors(potential, graph, plan, wanted=("energy", "forces", "charges")):
    with FakeTensorMode(allow_non_fake_inputs=False):
        for module in potential.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    table[name] = faked(tensor)
        return potential(faked(graph), wanted, plan=faked(plan))


@pytest.fixture
def as_on_a_device(monkeypatch):
    """No compiled kernels, and the branches for tensors that are not in host memory."""
    monkeypatch.setattr(kernels, "is_active", lambda tensor: False)
    monkeypatch.setattr(gaussian_kernel, "is_on_host", lambda tensor: False)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dispersion", [None, DispersionConfig()])
def test_planned_step_asks_for_no_number(dispersion, head, batch, as_on_a_device):
    potential = tiny_potential(head=head)
    if dispersion is not None:
        potential = with_dispersion(potential, dispersion)
    potential.requires_grad_(False)
    _, graph = with_skin(potential, *(make() for make in BATCHES[batch]))
    out = run_on_fake_tensors(potential, graph, potential.plan(graph))
    assert out["forces"].shape == graph.positions.shape


def test_novelty_asks_the_host_nothing(as_on_a_device):
    potential = tiny_potential(head="latent", elements=(1, 6, 8))
    n = potential.architecture.n_features
    real, known = {"dtype": torch.float64}, torch.tensor([1, 8])
    potential.uncertainty = Uncertainty(
        {
            "energy_root": torch.eye(n, **real),
            "energy_scale": torch.ones((), **real),
            "force_root": torch.eye(n, **real),
            "elements": known,
            "mean": torch.zeros(2, n, **real),
            "whitening": torch.eye(n, **real).repeat(2, 1, 1),
            "total_charge": torch.tensor([0]),
            "spin_multiplicity": torch.tensor([1]),
            "periodic_directions": torch.tensor([0]),
            "weights": torch.zeros(32, dtype=torch.uint8),
        }
    )
    _, graph = with_skin(potential, two_waters())
    plan = potential.plan(graph)
    out = run_on_fake_tensors(potential, graph, plan, ("energy", "novelty"))
    assert out["novelty"].shape == (6,)


def test_the_check_sees_what_a_step_without_plan_asks(as_on_a_device):
    potential = tiny_potential(head="latent")
    _, graph = with_skin(potential, two_waters())
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException), match="aten"):
        run_on_fake_tensors(potential, graph, None)


def test_pair_kernel_without_questions(monkeypatch):
    r2 = torch.tensor([0.0, 1e-12, 1e-3, 0.4, 0.5, 0.51, 3.0, 400.0], dtype=torch.float64)
    expected = gaussian_kernel.kernel_derivatives(r2, 1.0, 3)
    monkeypatch.setattr(gaussian_kernel, "is_on_host", lambda tensor: False)
    for got, value in zip(gaussian_kernel.kernel_derivatives(r2, 1.0, 3), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-15, atol=0)


def test_inverse_and_volume_of_cells():
    cells = torch.tensor(np.random.default_rng(0).normal(size=(5, 3, 3)) * 4)
    torch.testing.assert_close(inverse_cell(cells), torch.linalg.inv(cells), rtol=1e-11, atol=1e-13)
    volume = torch.linalg.det(cells).abs()
    assert (torch.linalg.det(cells) < 0).any()
    torch.testing.assert_close(cell_volume(cells), volume, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [two_waters, triclinic_ice])
def test_repeated_step_follows_a_trajectory(make):
    potential = tiny_potential(head="shifted")
    step = RepeatedStep(potential, SKIN)
    atoms, rng = make(), np.random.default_rng(1)
    searches = []
    for _ in range(12):
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
        got = step(to_structure(atoms), ("energy", "forces"))
        graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
        expected = potential(graph.to(dtype=potential.dtype))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=ROUNDING)
        searches.append(step.n_searches)
    # a recorded step goes on with other edges, others are planned anew
    assert searches[0] == searches[1]
    assert searches[0] < searches[-1] < 12 * searches[0]


def changed_cell(atoms):
    atoms.set_cell(atoms.cell[:] * 1.01, scale_atoms=True)


def changed_element(atoms):
    atoms.numbers[0] = 1


def changed_charge(atoms):
    atoms.info["charge"] = 2


@pytest.mark.parametrize("change", [changed_cell, changed_element, changed_charge])
def test_repeated_step_plans_anew_for_another_structure(change):
    potential = tiny_potential(head="shifted", state_embedding=True)
    step = RepeatedStep(potential, SKIN)
    atoms = triclinic_ice()
    first = float(step(to_structure(atoms), ("energy",))["energy"])
    change(atoms)
    structure = to_structure(atoms)
    got = float(step(structure, ("energy",))["energy"])
    graph = build_graph(structure, potential.architecture.cutoff).to(dtype=potential.dtype)
    assert got == pytest.approx(float(potential(graph, ("energy",))["energy"]), abs=ROUNDING)
    assert abs(got - first) > 1e-6
    # a plan lasts while the cell changes little
    assert step.n_plans == (1 if change is changed_cell else 2)


def test_calculator_repeats_steps():
    potential = tiny_potential(head="shifted")
    atoms, twin = triclinic_ice(), triclinic_ice()
    atoms.calc = calculator = LesffCalculator(potential, replay=True)
    twin.calc = LesffCalculator(potential, replay=False)
    rng = np.random.default_rng(2)
    for _ in range(3):
        move = rng.normal(scale=0.02, size=atoms.positions.shape)
        for one in (atoms, twin):
            one.positions += move
        assert atoms.get_potential_energy() == pytest.approx(
            twin.get_potential_energy(), abs=ROUNDING
        )
        np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(atoms.get_stress(), twin.get_stress(), rtol=0, atol=ROUNDING)
    assert calculator.repeated is not None
    assert calculator.repeated.n_plans == 1
    molecule = water()  # a dipole cannot be planned: computed all the same
    molecule.calc = LesffCalculator(potential, replay=True)
    assert np.linalg.norm(molecule.get_dipole_moment()) > 0
    assert LesffCalculator(potential).repeated is None  # not on a GPU


def slab():
    atoms = two_waters()
    atoms.set_cell([6, 6, 20])
    atoms.pbc = (True, True, False)
    return atoms


def in_a_field():
    atoms = water()
    atoms.info["external_field"] = [0, 0, 0.1]
    return atoms


@pytest.mark.parametrize("make", [slab, in_a_field])
def test_what_cannot_be_planned_raises(make):
    potential = tiny_potential(head="latent")
    graph = build_graph(to_structure(make()), 3.2).to(dtype=potential.dtype)
    with pytest.raises(UnsupportedInputError, match="got a slab, a field or point charges"):
        potential.plan(graph)


def test_models_that_solve_equations_cannot_be_planned():
    potential = tiny_potential(head="qeq")
    with pytest.raises(PropertyError, match="cannot be planned"):
        potential.plan(make_graph(water()))
    with pytest.raises(PropertyError, match="`replay` must be False or None"):
        LesffCalculator(potential, replay=True)


def test_other_properties_need_a_step_without_plan():
    potential = tiny_potential(head="latent")
    graph = make_graph(water())
    with pytest.raises(PropertyError, match="got dipole: leave out `plan`"):
        potential(graph, ("energy", "dipole"), plan=potential.plan(graph))


def test_a_recording_without_ions_is_made_anew_when_ions_appear():
    """A proton from water to water: what is zero for closed shells is left out until then."""
    potential = lesff.load("off-large").potential
    atoms = molecule("H2O") + molecule("H2O")
    atoms.positions[3:] += atoms.positions[1] + [0.0, 1.9, 0.0] - atoms.positions[3]
    along = atoms.positions[3] - atoms.positions[1]
    step, left_out = RepeatedStep(potential, SKIN), []
    for share in [0.0] * 6 + list(np.linspace(0.0, 0.5, 26)) + [0.5] * 6:
        moved = atoms.copy()
        moved.positions[1] += share * along
        structure = to_structure(moved)
        found = {k: v.clone() for k, v in step(structure, ("energy", "forces")).items()}
        expected = potential(
            build_graph(structure, potential.architecture.cutoff).to(dtype=potential.dtype),
            ("energy", "forces"),
        )
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
        recordings = list(step._step._recordings.values())
        left_out.append([len(recording.assumed) > 0 for recording in recordings])
    # recorded without charges first, not at all for a while, with them at last
    assert left_out[5] == [True]
    assert [] in left_out[6:]
    assert left_out[-1] == [False]
