"""Composites: frames far from each other, with labels that follow from those of the parts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_potential

from lesff.atoms.structure import Structure
from lesff.errors import ConfigError, DataError
from lesff.train.batches import make_batch
from lesff.train.composites import Composer, CompositesConfig, joined
from lesff.train.data import Frame
from lesff.train.gradients import accumulate_gradients
from lesff.train.loss import BatchPrediction, LossConfig, loss_value
from lesff.train.training_data import TrainingData


def frame(numbers, *, charge=0, multiplicity=1, seed=0, pbc=False, **labels):
    """A frame with made-up positions and forces."""
    rng = np.random.default_rng(seed)
    structure = Structure(
        numbers=np.array(numbers),
        positions=rng.normal(size=(len(numbers), 3)) + 7.0,
        cell=np.eye(3) * 9.0 * pbc,
        pbc=np.full(3, pbc),
        total_charge=charge,
        spin_multiplicity=multiplicity,
    )
    given = {"energy": float(rng.normal()), "forces": rng.normal(size=(len(numbers), 3)), **labels}
    return Frame(structure=structure, **given)


CHLORIDE = frame([17], charge=-1, seed=1, weight=2.0)
AMMONIUM = frame([7, 1, 1, 1, 1], charge=1, seed=2)
OXYGEN = frame([8, 8], multiplicity=3, seed=3)
METHYL = frame([6, 1, 1, 1], multiplicity=2, seed=4)
WATER = frame([8, 1, 1], seed=5, dipole=np.ones(3))
CRYSTAL = frame([11, 17], seed=6, pbc=True)
FRAMES = [CHLORIDE, AMMONIUM, OXYGEN, METHYL, WATER, CRYSTAL]


def centre(structure, part):
    """Centre of nuclear charge of some atoms."""
    return np.average(structure.positions[part], axis=0, weights=structure.numbers[part])


def test_labels_of_a_composite():
    """Sum of energies and 14.3996 eV A / r (CODATA) of opposite charges; spins in parallel."""
    parts = [CHLORIDE, AMMONIUM, OXYGEN, METHYL]
    centres = 100.0 * np.eye(4, 3)
    whole = joined(parts, centres)
    coulomb = -14.39964548 / np.hypot(100.0, 100.0)
    assert whole.energy == pytest.approx(sum(p.energy for p in parts) + coulomb, abs=1e-9)
    np.testing.assert_array_equal(whole.forces, np.concatenate([p.forces for p in parts]))
    structure = whole.structure
    assert (structure.total_charge, structure.spin_multiplicity) == (0, 4)
    assert structure.numbers.tolist() == [17, 7, 1, 1, 1, 1, 8, 8, 6, 1, 1, 1]
    np.testing.assert_allclose(centre(structure, slice(1, 6)), centres[1], atol=1e-9)
    for part, at in ((AMMONIUM, slice(1, 6)), (METHYL, slice(8, 12))):
        moved = structure.positions[at] - part.structure.positions
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    assert whole.weight == pytest.approx((2.0 + 11.0) / 12.0)  # by atoms
    assert whole.labels() == ("energy", "forces")


def test_spins_of_two_radicals_cancel_where_asked():
    centres = 100.0 * np.eye(3)
    pair = joined([METHYL, METHYL, OXYGEN], centres, antiparallel=True)
    # the triplet is no radical: two unpaired electrons stay
    assert pair.structure.spin_multiplicity == 3
    assert pair.energy == pytest.approx(2 * METHYL.energy + OXYGEN.energy)
    nitrogen = frame([7], multiplicity=4, seed=7)
    # 2S of 3 and 1 do not cancel
    unequal = joined([METHYL, nitrogen], centres[:2], antiparallel=True)
    assert unequal.structure.spin_multiplicity == 5
    drawn = Composer(CompositesConfig(antiparallel=0.5), [METHYL])
    rng = np.random.default_rng(0)
    found = [drawn.frame((0, 0), rng).structure.spin_multiplicity for _ in range(40)]
    assert set(found) == {1, 3}


def test_electrons_of_radicals_in_a_singlet_are_not_counted():
    centres = 100.0 * np.eye(3)[:2]
    pair = joined([METHYL, METHYL], centres, antiparallel=True)
    shells = joined([CHLORIDE, AMMONIUM], centres, antiparallel=True)
    broken = joined([replace(WATER, is_closed=False), CHLORIDE], centres)
    assert (pair.is_closed, shells.is_closed, broken.is_closed) == (False, True, False)
    config = LossConfig(energy=0.0, forces=0.0, charge_guess=2.0)
    for item, expected in ((pair, 0.0), (shells, 2.0 * 0.5**2), (broken, 0.0)):
        batch = make_batch([item], 3.0, torch.float64)
        guess = torch.zeros(len(item.structure), dtype=torch.float64)
        guess[0] = 0.5  # half a charge too much
        found = BatchPrediction(
            energy=torch.zeros(1), forces=torch.zeros(len(guess), 3), charge_guess=guess
        )
        # a neutral system, too: a fiftieth of the squares
        expected = expected * 1.02
        assert float(loss_value(found, batch, config)) == pytest.approx(expected)


def test_guesses_between_steps_cost_although_their_sum_is_right():
    batch = make_batch([frame([8, 17], charge=-1)], 3.0, torch.float64)
    config = LossConfig(energy=0.0, forces=0.0, charge_guess=1.0)

    def loss(*guess: float) -> float:
        found = BatchPrediction(
            energy=torch.zeros(1),
            forces=torch.zeros(2, 3),
            charge_guess=torch.tensor(guess, dtype=torch.float64),
        )
        return float(loss_value(found, batch, config))

    assert loss(-0.5, -0.5) == 0.0 == loss(-1.0, 0.0)
    # half of the two squares
    assert loss(-0.7, -0.3) == pytest.approx(0.2**2)


def test_charges_and_spins_of_parts_cost_what_is_not_theirs():
    """Sums over each part against its own total; a whole system has none of it."""
    pair = joined([METHYL, CHLORIDE], 100.0 * np.eye(3)[:2])
    opposite = joined([METHYL, METHYL], 100.0 * np.eye(3)[:2], antiparallel=True)
    batch = make_batch([pair, WATER, opposite], 3.0, torch.float64)
    assert batch.part.bincount().tolist() == [4, 1, 3, 4, 4]
    assert batch.is_composite.tolist() == [True, True, False, True, True]
    config = LossConfig(energy=0.0, forces=0.0, part_states=3.0)
    states = torch.zeros(16, 2, dtype=torch.float64)
    # -0.2 e and 0.4 unpaired electrons where none should be, and of radicals in a singlet -0.3 e
    states[:4, 0], states[4, 0] = -0.05, -0.8
    states[:4, 1], states[4, 1] = 0.15, 0.4
    states[8, 0], states[12, 0] = -0.3, 0.3
    states[8, 1], states[12, 1] = 0.7, -0.7
    states[5, 0], states[6, 0] = 5.0, -5.0
    found = BatchPrediction(energy=torch.zeros(3), forces=torch.zeros(16, 3), part_states=states)
    # parts count as their systems do: (2 + 4) / 5 by atoms
    first, second = pair.weight, opposite.weight
    squares = first * (0.2**2 + 0.2**2 + 0.4**2 + 0.4**2) + second * 2 * 0.3**2
    expected = 3.0 * squares / (2 * first + 2 * second)
    assert float(loss_value(found, batch, config)) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["double_backward", "central_difference"])
def test_parts_have_gradients(method):
    """Against differences of the loss by weights of the local state."""
    pair = joined([frame([8, 1], multiplicity=2, seed=8), WATER], 100.0 * np.eye(3)[:2])
    batch = make_batch([pair], 3.0, torch.float64)
    potential = tiny_potential(local_state=True).requires_grad_(True)
    config = LossConfig(energy=0.0, forces=0.0, part_states=3.0)
    weight = potential.local_state.element
    index = (1, 3)  # spin of oxygen
    values = []
    for step in (1e-4, -2e-4):
        with torch.no_grad():
            weight[index] += step
        values.append(accumulate_gradients(potential, batch, config, method))
    expected = (values[0] - values[1]) / 2e-4
    with torch.no_grad():
        weight[index] += 1e-4
    potential.zero_grad()
    accumulate_gradients(potential, batch, config, method)
    assert float(weight.grad[index]) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-3


def test_a_composite_lacks_what_a_part_lacks():
    with_charges = replace(WATER, charges=np.array([-0.8, 0.4, 0.4]))
    both = joined([with_charges, with_charges], 100.0 * np.eye(2, 3))
    assert both.labels() == ("energy", "forces", "charges")
    one = joined([replace(with_charges, energy=np.nan), CHLORIDE], 100.0 * np.eye(2, 3))
    assert one.labels() == ("forces",)


def test_parts_are_apart_and_as_often_as_asked():
    config = CompositesConfig(fraction=0.25, most=5, states=1.0, distance=(50.0, 60.0))
    composer = Composer(config, FRAMES)
    visits = np.tile(np.arange(6), 500)
    rng = np.random.default_rng(0)
    drawn = composer.draw(visits, 1000, rng)
    assert [parts[0] for parts in drawn] == visits.tolist()
    assert {len(parts) for parts in drawn} == {1, 2, 3, 4, 5}
    # 2500 draws of molecules: six standard errors of the share
    share = np.mean([len(parts) > 1 for parts in drawn if parts[0] != 5])
    assert share == pytest.approx(0.25, abs=0.052)
    others = [i for parts in drawn for i in parts[1:]]
    assert set(others) == {0, 1, 2, 3}
    assert all(len(parts) == 1 for parts in drawn if parts[0] == 5)
    for parts in [parts for parts in drawn if len(parts) > 1][:200]:
        structure = composer.frame(parts, rng).structure
        stops = np.cumsum([len(FRAMES[i].structure) for i in parts])
        pieces = np.split(structure.positions, stops[:-1])
        for a, b in itertools.combinations(pieces, 2):
            assert np.linalg.norm(a[:, None] - b[None], axis=-1).min() >= 50.0


def test_composites_keep_to_the_limits_of_a_batch():
    config = CompositesConfig(fraction=1.0, most=4, states=0.0)
    drawn = Composer(config, FRAMES).draw(np.tile(np.arange(5), 100), 6, np.random.default_rng(1))
    sizes = [sum(len(FRAMES[i].structure) for i in parts) for parts in drawn]
    assert max(sizes) == 6
    assert {parts[0] for parts in drawn if len(parts) > 1} == {0, 1, 2, 3, 4}
    smaller = replace(config, max_atoms=4)
    drawn = Composer(smaller, FRAMES).draw(np.zeros(100, dtype=int), 6, np.random.default_rng(1))
    assert max(sum(len(FRAMES[i].structure) for i in parts) for parts in drawn) == 4


def test_an_epoch_is_a_function_of_its_number_and_seed():
    data = TrainingData(
        train=FRAMES * 20, validation=[], recipe_hash="", composites=CompositesConfig(fraction=0.5)
    )
    first, again = data.batches(1, 7, 20), data.batches(1, 7, 20)
    assert first == again
    for one, other in zip(first, again, strict=True):
        for a, b in zip(data.frames_of(one), data.frames_of(other), strict=True):
            np.testing.assert_array_equal(a.structure.positions, b.structure.positions)
    assert data.batches(2, 7, 20) != first
    assert data.batches(1, 8, 20) != first
    visited = sorted(parts[0] for visits in first for parts in visits.parts)
    assert visited == list(range(120))
    for visits in first:
        assert sum(len(f.structure) for f in data.frames_of(visits)) <= 20


def test_without_composites_batches_are_those_of_before():
    data = TrainingData(train=FRAMES * 20, validation=[], recipe_hash="")
    for visits, indices in zip(data.batches(3, 1, 20), data.epoch(3, 1, 20), strict=True):
        assert [index for (index,) in visits.parts] == indices.tolist()
        found = data.frames_of(visits)
        assert all(f is data.train[i] for f, i in zip(found, indices, strict=True))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fraction": 1.5}, "`composites.fraction` must be from 0 to 1, got 1.5"),
        ({"states": -0.1}, "`composites.states` must be from 0 to 1"),
        ({"most": 1}, "`composites.most` must be at least 2, got 1"),
        ({"max_atoms": -1}, "`composites.max_atoms` must be at least 0"),
        ({"distance": (5.0, 90.0)}, "two rising numbers from 20 to 10000 A"),
        ({"distance": (90.0, 50.0)}, "two rising numbers from 20 to 10000 A"),
        ({"distance": (float("nan"), 50.0)}, "two rising numbers from 20 to 10000 A"),
    ],
)
def test_options_without_meaning_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        CompositesConfig(**options)


def test_crystals_alone_cannot_be_joined():
    with pytest.raises(DataError, match="`composites` need molecules without external field"):
        TrainingData(train=[CRYSTAL], validation=[], recipe_hash="", composites=CompositesConfig())
