"""Potentials, models, calculators, atoms, predictions: pickled, copied, sent to workers."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters, water
from joblib import Parallel, delayed

import lesff
from lesff.atoms.verlet import VerletList
from lesff.calculator import LesffCalculator
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.heads import LongRangeConfig, MultipoleConfig
from lesff.potential.config import ModelConfig
from lesff.potential.edit import with_dispersion
from lesff.potential.potential import Potential
from lesff.prediction import Prediction

PROPERTIES = ("energy", "forces", "charges", "latent_charges")


def through_pickle(x):
    return pickle.loads(pickle.dumps(x))


COPIES = {"pickle": through_pickle, "deepcopy": copy.deepcopy}
copied_both_ways = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


@pytest.fixture(scope="module")
def off_small():
    return lesff.load("off-small")


def gated_potential(interaction):
    """Another kind of messages than the tiny potential's."""
    tiny = tiny_potential().config
    architecture = {**tiny.architecture, "interaction": interaction}
    config = ModelConfig(
        architecture=architecture,
        elements=tiny.elements,
        long_range=LongRangeConfig(),
        reference_energies=tiny.reference_energies,
    )
    return Potential(config).to(torch.float64)


def multipole_potential():
    """Induced moments on anisotropic atoms."""
    tiny = tiny_potential(hidden_irreps="4x0e+4x1o+4x2e").config
    chosen = MultipoleConfig(
        dipoles=True, quadrupoles=True, induced="both", polarizability="anisotropic"
    )
    config = ModelConfig(
        architecture=tiny.architecture,
        elements=tiny.elements,
        long_range=LongRangeConfig(multipoles=chosen),
        reference_energies=tiny.reference_energies,
    )
    return Potential(config).to(torch.float64)


POTENTIALS = {
    "latent": tiny_potential,
    "without charges": partial(tiny_potential, head=None),
    "state embedding": partial(tiny_potential, state_embedding=True),
    "qeq": partial(tiny_potential, head="qeq"),
    "edge": partial(tiny_potential, head="edge"),
    "fukui": partial(tiny_potential, head="fukui"),
    "gated": partial(gated_potential, "gated"),
    "attention": partial(gated_potential, "attention"),
    "multipoles": multipole_potential,
    "dispersion": lambda: with_dispersion(tiny_potential(), DispersionConfig()),
}


def results(potential, *, dtype=torch.float64):
    """Energies, forces and stress of a batch of one crystal."""
    graph = make_graph(triclinic_ice()).to(dtype=dtype)
    return potential(graph, ("energy", "forces", "stress"))


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name in expected:
        assert np.array_equal(np.asarray(got[name]), np.asarray(expected[name])), name


# --- one object at a time ----------------------------------------------------------------------


@copied_both_ways
@pytest.mark.parametrize("make", POTENTIALS.values(), ids=POTENTIALS)
def test_potential(make, copied):
    potential = make()
    fresh = copied(potential)
    expected = results(potential)
    assert_same(results(fresh), expected)
    assert_same(results(copied(potential)), expected)  # with what a calculation leaves behind
    assert list(fresh.state_dict()) == list(potential.state_dict())


@copied_both_ways
def test_potential_with_radial_tables(off_small, copied):
    potential = copied(off_small.potential)
    assert potential.radial == "table"
    expected = results(off_small.potential, dtype=torch.float32)
    assert_same(results(potential, dtype=torch.float32), expected)
    assert_same(results(copied(potential), dtype=torch.float32), expected)


@copied_both_ways
def test_a_copy_shares_nothing(copied):
    potential = tiny_potential()
    expected = results(potential)
    twin = copied(potential)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.zero_()
    assert results(potential)["energy"] != expected["energy"]
    assert_same(results(twin), expected)


@copied_both_ways
def test_a_copy_notices_changed_weights(off_small, copied):
    """Its tables of radial weights and of the contraction are built from its own weights."""
    potential = copied(off_small.potential)
    before = results(potential, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in potential.named_parameters():
            if ".radial." in name or ".contractions." in name:
                parameter.mul_(1.01)
    after = results(potential, dtype=torch.float32)
    potential.radial = "exact"
    exact = results(potential, dtype=torch.float32)
    change = float((after["forces"] - before["forces"]).abs().max())
    table_error = float((after["forces"] - exact["forces"]).abs().max())
    assert change > 1e-3
    assert table_error < 1e-2 * change


def test_what_can_be_built_again_is_not_pickled(off_small):
    atoms = two_waters()
    atoms.calc = off_small.calculator(replay=True)
    fresh = len(pickle.dumps(copy.deepcopy(atoms.calc.potential)))
    atoms.get_forces()
    results(off_small.potential, dtype=torch.float32)
    assert len(pickle.dumps(off_small.potential)) == fresh
    twin = through_pickle(atoms.calc)
    assert twin.repeated.n_plans == 0
    assert twin.neighbors.n_searches == 0
    assert twin.repeated.potential is twin.potential


@copied_both_ways
def test_model(off_small, copied):
    expected = off_small.predict(two_waters(), PROPERTIES)
    twin = copied(off_small)
    assert_same(twin.predict(two_waters(), PROPERTIES), expected)
    assert (twin.name, twin.card) == (off_small.name, off_small.card)


@copied_both_ways
def test_copies_can_be_trained(copied):
    potential = tiny_potential().requires_grad_(requires_grad=True)
    gradients = []
    for p in (potential, copied(potential)):
        forces = p(make_graph(water()), ("forces",), create_graph=True)["forces"]
        gradients.append(torch.autograd.grad(forces.square().sum(), [*p.architecture.parameters()]))
    assert any(g.any() for g in gradients[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def trajectory(atoms):
    """Energies and forces of a crystal whose first atom moves, further than half the skin too."""
    found = []
    for step in (0.0, 0.05, 0.4):
        atoms.positions[0] += step
        found.append({"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()})
    return found


@pytest.mark.filterwarnings("ignore::lesff.errors.CloseContactWarning")
@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
@copied_both_ways
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("source", ["tiny", "off-small"])
@pytest.mark.parametrize("is_used", [False, True])
def test_calculator_and_atoms(source, replay, is_used, copied, off_small):
    potential = tiny_potential() if source == "tiny" else off_small.potential
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential, replay=replay)
    if is_used:
        atoms.get_forces()
    twin, other = copied(atoms), triclinic_ice()
    other.calc = copied(atoms.calc)
    assert bool(twin.calc.results) == is_used
    assert_same(other.calc.results, atoms.calc.results)
    expected = trajectory(atoms)
    assert not np.array_equal(expected[0]["forces"], expected[1]["forces"])
    for got in (trajectory(twin), trajectory(other)):
        for row, wanted in zip(got, expected, strict=True):
            assert_same(row, wanted)


@copied_both_ways
def test_verlet_list(copied):
    atoms = triclinic_ice()
    args = atoms.positions, np.array(atoms.cell), atoms.pbc
    verlet = VerletList(3.0, 0.5)
    expected = verlet.find(*args)
    twin = copied(verlet)
    assert (twin.cutoff, twin.skin, twin.n_searches) == (3.0, 0.5, 0)
    assert_same(vars(twin.find(*args)), vars(expected))


@copied_both_ways
@pytest.mark.parametrize("structures", [water(), [water(), two_waters()]], ids=["one", "many"])
def test_prediction(structures, copied, off_small):
    prediction = off_small.predict(structures, PROPERTIES)
    twin = copied(prediction)
    assert repr(twin) == repr(prediction)
    assert twin.model == prediction.model
    for got, expected in zip(twin.per_structure(), prediction.per_structure(), strict=True):
        assert_same(got, expected)
    assert twin.out_of_domain == prediction.out_of_domain
    assert repr(copy.copy(prediction)) == repr(prediction)


def test_private_names_of_a_prediction_are_no_results():
    bare = Prediction.__new__(Prediction)
    with pytest.raises(AttributeError, match="'Prediction' object has no attribute '_values'"):
        _ = bare._values


# --- workers -----------------------------------------------------------------------------------


def energy_and_forces(model, atoms):
    """What a worker does; from a model, or from a potential through the calculator."""
    torch.set_num_threads(1)  # as here, see conftest.py
    if isinstance(model, Potential):
        atoms = atoms.copy()
        atoms.calc = LesffCalculator(model)
        return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    return dict(model.predict(atoms, PROPERTIES))


def forces_of(atoms):
    """What a worker does with atoms that carry a calculator."""
    torch.set_num_threads(1)
    return {"forces": atoms.get_forces()}


STRUCTURES = [water(), two_waters(), triclinic_ice()]


def with_calculator(potential):
    found = []
    for atoms in STRUCTURES:
        found.append(atoms.copy())
        found[-1].calc = LesffCalculator(potential)
    return found


@pytest.mark.slow
def test_process_pool(off_small):
    models = [tiny_potential(), off_small]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for model in models:
            got = pool.map(partial(energy_and_forces, model), STRUCTURES)
            for row, atoms in zip(got, STRUCTURES, strict=True):
                assert_same(row, energy_and_forces(model, atoms))
        carrying = with_calculator(off_small.potential)
        for row, atoms in zip(pool.map(forces_of, carrying), carrying, strict=True):
            assert_same(row, forces_of(atoms))


@pytest.mark.slow
def test_joblib(off_small):
    for model in (tiny_potential(), off_small):
        jobs = [delayed(energy_and_forces)(model, atoms) for atoms in STRUCTURES]
        got = Parallel(n_jobs=2, backend="loky")(jobs)
        for row, atoms in zip(got, STRUCTURES, strict=True):
            assert_same(row, energy_and_forces(model, atoms))
