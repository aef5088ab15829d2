"""The evaluator that the ASE calculator and all engines share: one evaluation, batches, policy."""

import numpy as np
import pytest
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from helpers import left_handed, tiny_potential, triclinic_ice, two_waters, water

from lesff.calculator import LesffCalculator
from lesff.errors import PropertyError, StructureError, UnsupportedInputError
from lesff.potential.evaluator import Evaluator

ROUNDING = 1e-10
"""eV, eV/A: other order of float64 sums."""


@pytest.fixture(scope="module")
def potential():
    return tiny_potential(state_embedding=True)


def arrays(atoms):
    return atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc


@pytest.mark.parametrize("make", [water, triclinic_ice, lambda: left_handed(triclinic_ice())])
def test_arrays_give_what_the_calculator_gives(make, potential):
    atoms = make()
    names = ["energy", "forces", "charges", "node_energy"]
    names += ["stress", "virial"] if atoms.pbc.all() else ["dipole"]
    got = Evaluator(potential)(*arrays(atoms), names)
    assert set(got) == set(names)
    atoms.calc = LesffCalculator(potential)
    assert got["energy"] == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING)
    assert got["node_energy"].sum() == pytest.approx(got["energy"], abs=ROUNDING)
    np.testing.assert_allclose(got["forces"], atoms.get_forces(), atol=ROUNDING)
    np.testing.assert_allclose(got["charges"], atoms.get_charges(), atol=ROUNDING)
    if atoms.pbc.all():
        stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
        np.testing.assert_allclose(got["stress"], stress, atol=ROUNDING)
        np.testing.assert_allclose(got["virial"], -atoms.get_volume() * stress, atol=ROUNDING)


def test_virial_is_the_slope_of_the_energy_by_strain(potential):
    atoms, step = left_handed(triclinic_ice()), 1e-4
    evaluator = Evaluator(potential)
    numbers, positions, cell, pbc = arrays(atoms)
    virial = evaluator(numbers, positions, cell, pbc, ["virial"])["virial"]
    for i, j in ((0, 0), (1, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            moved = np.eye(3) + strain
            out = evaluator(numbers, positions @ moved, cell @ moved, pbc, ["energy"])
            energies.append(out["energy"])
        assert virial[i, j] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)


def test_forces_and_stress_of_a_step_are_one_evaluation(potential):
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential)
    for step in range(4):
        atoms.positions[0, 0] += 0.01
        atoms.get_forces()
        # the first step cannot know that stress will be asked for
        assert ("stress" in atoms.calc.results) is (step > 0)
        atoms.get_stress()
        assert atoms.calc.evaluator.n_evaluations == 2 + step
    for step in range(3):  # nor can the last steps know that it is asked for no more
        atoms.positions[0, 0] += 0.01
        atoms.get_forces()
        assert atoms.calc.evaluator.n_evaluations == 6 + step
    atoms.pbc = False  # where there is no stress
    atoms.get_forces()


def test_results_belong_to_the_caller(potential):
    evaluator = Evaluator(potential)
    first = evaluator(*arrays(water()))
    expected = first["forces"].copy()
    first["forces"] *= 0.0
    again = evaluator(*arrays(water()))
    assert evaluator.n_evaluations == 1
    np.testing.assert_array_equal(again["forces"], expected)


def test_a_changed_weight_or_option_is_a_new_evaluation():
    potential = tiny_potential()
    evaluator = Evaluator(potential)
    before = evaluator(*arrays(water()))["energy"]
    with torch.no_grad():
        for weight in potential.parameters():
            weight.mul_(1.1)
    assert evaluator(*arrays(water()))["energy"] != before
    evaluator.allow_close = True
    evaluator(*arrays(water()))
    assert evaluator.n_evaluations == 3


@pytest.mark.filterwarnings("ignore::lesff.errors.ChargedCellWarning")
@pytest.mark.parametrize("make", [two_waters, triclinic_ice])
def test_beads_in_one_batch_are_those_one_by_one(make, potential):
    atoms, rng = make(), np.random.default_rng(0)
    together = Evaluator(potential, total_charge=1, on_out_of_domain="ignore")
    names = ["energy", "forces", "charges", "stress" if atoms.pbc.all() else "dipole"]
    numbers, positions, cell, pbc = arrays(atoms)
    beads = [positions + rng.normal(scale=0.05, size=positions.shape) for _ in range(5)]
    structures = []
    for _ in range(3):
        beads = [bead + rng.normal(scale=0.02, size=bead.shape) for bead in beads]
        structures = [together.structure(numbers, bead, cell, pbc) for bead in beads]
        rows = together.evaluate_batch(structures, names)
        for bead, row in zip(beads, rows, strict=True):
            alone = Evaluator(potential, total_charge=1, on_out_of_domain="ignore")
            expected = alone(numbers, bead, cell, pbc, names)
            for name in names:
                np.testing.assert_allclose(row[name], expected[name], atol=ROUNDING)
    assert together.n_evaluations == 15
    # one bead moved: the others are known
    structures[2] = together.structure(numbers, beads[2] + 0.01, cell, pbc)
    together.evaluate_batch(structures, names)
    assert together.n_evaluations == 16


def test_arrays_of_a_step_are_looked_at_as_those_of_the_first(potential):
    """What changes between calls is noticed: atoms, boundaries, charge, field, bad arrays."""
    evaluator = Evaluator(potential, on_out_of_domain="ignore")
    numbers, positions, cell, pbc = arrays(triclinic_ice())
    energy = evaluator(numbers, positions, cell, pbc)["energy"]
    with pytest.raises(StructureError, match="finite, atom 2"):
        evaluator(numbers, np.where(np.arange(6)[:, None] == 2, np.nan, positions), cell, pbc)
    with pytest.raises(StructureError, match="span a volume"):
        evaluator(numbers, positions, cell * [[1], [1], [0]], pbc)
    with pytest.raises(StructureError, match="span a volume"):
        evaluator(numbers, positions, None, pbc)
    with pytest.raises(UnsupportedInputError, match="element"):
        evaluator(np.where(numbers == 1, 79, numbers), positions, cell, pbc)
    swapped = evaluator(numbers[::-1], positions[::-1], cell, pbc)
    assert swapped["energy"] == pytest.approx(energy, abs=ROUNDING)
    np.testing.assert_allclose(
        evaluator(numbers, positions, pbc=False)["energy"],
        Evaluator(potential, on_out_of_domain="ignore")(numbers, positions)["energy"],
        atol=ROUNDING,
    )
    for option, value in (("total_charge", 1), ("spin_multiplicity", 3)):
        setattr(evaluator, option, value)
        assert getattr(evaluator.structure(numbers, positions), option) == value
        setattr(evaluator, option, None)
    evaluator.external_field = [0.0, 0.1, 0.0]
    assert evaluator.structure(numbers, positions).external_field[1] == 0.1
    evaluator.external_field = 1.0
    with pytest.raises(StructureError, match="three finite numbers"):
        evaluator.structure(numbers, positions)


def test_bad_input(potential):
    evaluator = Evaluator(potential)
    with pytest.raises(UnsupportedInputError, match="element"):
        evaluator([79], np.zeros((1, 3)))
    with pytest.raises(StructureError, match="finite, atom 1"):
        evaluator([8, 1], [[0, 0, 0], [np.nan, 0, 0]])
    with pytest.raises(StructureError, match="span a volume"):
        evaluator([8, 1], [[0, 0, 0], [1, 0, 0]], np.zeros((3, 3)), True)
    with pytest.raises(PropertyError, match="`stress` needs"):
        evaluator(*arrays(water()), ["virial"])
    with pytest.raises(PropertyError, match="shape"):
        evaluator(*arrays(water()), ["shape"])
    with pytest.raises(StructureError, match="`positions` .n_atoms, 3., got"):
        evaluator([8, 1], np.zeros((3, 3)))
