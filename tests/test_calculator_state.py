"""Results of the ASE calculator: float64, and of the atoms that were asked for, whatever changed.

Every right value is that of a fresh calculator for the same atoms.
"""

import copy
from pathlib import Path

import ase
import ase.build
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.db import connect
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from helpers import tiny_potential, triclinic_ice, two_waters, water

import lesff
from lesff.atoms.structure import Structure, to_structure
from lesff.calculator import LesffCalculator
from lesff.errors import CaveatWarning, ChargedCellWarning, ExtrapolationWarning, PropertyError

FIELD = np.array([0.1, -0.2, 0.3])


@pytest.fixture(scope="module")
def potential():
    return tiny_potential(state_embedding=True)


def fresh(potential, atoms, name, **options):
    """The result of a calculator that has seen nothing else."""
    return LesffCalculator(potential, **options).get_property(name, atoms.copy())


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_float64_and_contiguous(dtype, replay):
    potential = tiny_potential()
    potential.cast_parameters(dtype)
    calculator = LesffCalculator(potential, replay=replay)
    calculator.calculate(triclinic_ice(), ["energy", "energies", "stress", "charges"])
    calculator.calculate(triclinic_ice(), ["forces"])
    assert set(calculator.results) >= {"energy", "energies", "forces", "stress", "charges"}
    for name, value in calculator.results.items():
        if np.ndim(value):
            assert value.dtype == np.float64, name
            assert value.flags.c_contiguous, name
        else:
            assert type(value) is float, name


def test_a_database_gives_back_what_was_written(tmp_path):
    """ASE writes the bytes of forces and charges as they are and reads them as float64."""
    potential = tiny_potential()
    potential.cast_parameters(torch.float32)
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential)
    stress, forces, charges = atoms.get_stress(), atoms.get_forces(), atoms.get_charges()
    database = connect(Path(tmp_path) / "results.db")
    row = database.get(database.write(atoms))
    assert np.array_equal(row.forces, forces)
    assert np.array_equal(row.stress, stress)
    assert np.array_equal(row.charges, charges)


def test_direct_calculations_keep_nothing_of_other_atoms(potential):
    calculator = LesffCalculator(potential)
    first, second = triclinic_ice(), triclinic_ice()
    second.set_cell(np.array(second.cell) * 1.05, scale_atoms=True)
    calculator.calculate(first, ["energy", "stress", "charges"])
    calculator.calculate(second, ["energy"])
    # what each step was asked for so far comes along, of these atoms
    assert np.allclose(calculator.results["stress"], fresh(potential, second, "stress"), atol=1e-12)
    second.calc = calculator
    assert np.allclose(second.get_stress(), fresh(potential, second, "stress"), atol=1e-12)
    calculator.calculate(water(), ["energy"])
    assert "charges" not in calculator.results
    assert len(calculator.get_property("charges")) == 3


def test_results_of_the_same_atoms_stay(potential):
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential)
    atoms.get_stress()
    atoms.get_charges()
    assert {"energy", "forces", "stress", "charges"} <= set(atoms.calc.results)
    atoms.calc.calculate = None  # nothing is computed again
    atoms.get_stress()
    atoms.get_charges()


def test_a_failed_calculation_leaves_no_results(potential):
    calculator = LesffCalculator(potential)
    calculator.calculate(triclinic_ice(), ["energy", "stress"])
    with pytest.raises(PropertyError, match="`stress` needs structures periodic"):
        calculator.calculate(water(), ["stress"])
    assert calculator.results == {}
    atoms = triclinic_ice()
    expected = fresh(potential, atoms, "energy")
    assert calculator.get_property("energy", atoms) == pytest.approx(expected, abs=1e-10)


def moved(atoms):
    atoms.positions[1, 0] += 1e-9


def strained(atoms):
    atoms.cell[0, 0] += 0.1


def opened(atoms):
    atoms.pbc = False


def exchanged(atoms):
    atoms.numbers[1] = 8
    atoms.info["spin_multiplicity"] = 2


def charged(atoms):
    atoms.info["charge"] = -2


def other_spin(atoms):
    atoms.info["spin_multiplicity"] = 3


def in_a_field(atoms):
    atoms.pbc = False
    atoms.info["external_field"] = FIELD


CHANGES = (moved, strained, opened, exchanged, charged, other_spin, in_a_field)


@pytest.mark.filterwarnings("ignore::lesff.errors.ChargedCellWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_changed_atoms_are_computed_anew(change, potential):
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential)
    before = atoms.get_forces()
    change(atoms)
    after = atoms.get_forces()
    assert not np.array_equal(before, after)
    assert np.allclose(after, fresh(potential, atoms, "forces"), atol=1e-9)


@pytest.mark.parametrize("name", ["get_potential_energy", "get_property"])
def test_a_field_edited_in_place_counts(name, potential):
    atoms = water()
    atoms.info["external_field"] = FIELD.copy()
    atoms.calc = LesffCalculator(potential)
    before = atoms.get_potential_energy()
    atoms.info["external_field"][2] = -0.5
    after = (
        atoms.get_potential_energy()
        if name == "get_potential_energy"
        else atoms.calc.get_property("energy", atoms)
    )
    assert after != before
    assert after == pytest.approx(fresh(potential, atoms, "energy"), abs=1e-10)


def test_results_without_atoms_are_of_the_last_ones(potential):
    """Also after the caller's own field was edited: the calculator keeps a copy."""
    atoms = water()
    atoms.info["external_field"] = FIELD.copy()
    calculator = LesffCalculator(potential)
    calculator.calculate(atoms, ["energy"])
    expected = calculator.results["energy"]
    atoms.info["external_field"][:] = 0.0
    assert calculator.get_property("energy") == expected
    with pytest.raises(PropertyNotImplementedError, match="nothing has been calculated yet"):
        LesffCalculator(potential).get_property("energy")


OPTIONS = {
    "total_charge": -2,
    "spin_multiplicity": 3,
    "external_field": [0.0, 0.1, 0.2],
}


@pytest.mark.parametrize("how", ["attribute", "set"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_set_later_count(name, how, potential):
    atoms = water()
    atoms.calc = LesffCalculator(potential)
    before = atoms.get_potential_energy()
    if how == "set":
        assert atoms.calc.set(**{name: OPTIONS[name]}) == {name: OPTIONS[name]}
        assert atoms.calc.set(**{name: OPTIONS[name]}) == {}
    else:
        setattr(atoms.calc, name, OPTIONS[name])
    # asked with and without atoms
    for after in (atoms.calc.get_property("energy"), atoms.get_potential_energy()):
        assert after != before
        expected = fresh(potential, atoms, "energy", **{name: OPTIONS[name]})
        assert after == pytest.approx(expected, abs=1e-10)


def test_a_field_of_the_calculator_edited_in_place_counts(potential):
    atoms, field = water(), [0.0, 0.0, 0.1]
    atoms.calc = LesffCalculator(potential, external_field=field)
    atoms.get_potential_energy()
    field[2] = 0.5
    expected = fresh(potential, atoms, "energy", external_field=field)
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-10)


def test_unknown_options_are_refused(potential):
    calculator = LesffCalculator(potential)
    with pytest.raises(PropertyError, match="unknown option nonsense .* it has total_charge, "):
        calculator.set(total_charge=-2, nonsense=1)
    assert calculator.total_charge is None


def test_skin_and_replay_can_be_set(potential):
    atoms = water()
    atoms.calc = LesffCalculator(potential)
    expected = atoms.get_forces()
    atoms.calc.set(skin=0.0, replay=True)
    assert (atoms.calc.skin, atoms.calc.replay) == (0.0, True)
    assert np.allclose(atoms.get_forces(), expected, atol=1e-10)
    with pytest.raises(PropertyError, match="`skin` must be from 0 to 10 A, got -1"):
        atoms.calc.set(skin=-1)


def test_other_weights_are_computed_anew():
    potential = tiny_potential()
    atoms = water()
    atoms.calc = LesffCalculator(potential)
    before = atoms.get_potential_energy()
    with torch.no_grad():
        next(potential.parameters()).mul_(1.5)
    changed = atoms.get_potential_energy()
    assert changed != before
    other = tiny_potential(seed=3)
    atoms.calc.potential = other
    assert atoms.get_potential_energy() == pytest.approx(fresh(other, atoms, "energy"), abs=1e-10)


def test_one_calculator_of_two_structures(potential):
    calculator = LesffCalculator(potential)
    first, second = water(), two_waters()
    first.calc = second.calc = calculator
    for atoms in (first, second, first):
        assert np.allclose(atoms.get_forces(), fresh(potential, atoms, "forces"), atol=1e-10)


def test_text_in_info_does_not_matter_beside_an_argument(potential):
    atoms = water()
    atoms.info["charge"] = "unknown"
    atoms.calc = LesffCalculator(potential, total_charge=0)
    assert atoms.get_potential_energy() == pytest.approx(fresh(potential, water(), "energy"))
    assert atoms.get_charges().shape == (3,)


def test_what_a_model_cannot_give_is_an_error_of_ase(potential):
    calculator = LesffCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="`stress` needs structures periodic"):
        calculator.get_property("stress", water())
    with pytest.raises(PropertyNotImplementedError, match="unknown property 'magmom'"):
        calculator.calculate(water(), ["magmom"])


def test_a_copied_calculator_keeps_its_results(potential):
    atoms = triclinic_ice()
    atoms.calc = LesffCalculator(potential)
    expected = atoms.get_stress()
    copied = atoms.copy()
    copied.calc = copy.deepcopy(atoms.calc)
    assert copied.calc.check_state(copied) == []
    assert np.array_equal(copied.get_stress(), expected)


def test_a_charged_cell_warns_once(potential):
    atoms = triclinic_ice()
    atoms.info["charge"] = 2
    atoms.calc = LesffCalculator(potential)
    match = r"structure 0 is periodic and has total_charge \+2.*makov_payne_correction"
    with pytest.warns(ChargedCellWarning, match=match):
        atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.01
    atoms.get_potential_energy()  # warnings are errors here
    molecule = water()
    molecule.calc = LesffCalculator(potential, total_charge=2)
    molecule.get_potential_energy()
    neutral = tiny_potential(head=None)
    atoms.calc = LesffCalculator(neutral)
    atoms.get_potential_energy()


def test_trajectories_of_new_arrays_warn_once(potential):
    """As of a band of images: equal atoms in other arrays at each step."""
    evaluator = LesffCalculator(potential).evaluator

    def images(x: float) -> list[Structure]:
        atoms = water()
        atoms.positions[0, 0] += x
        return [to_structure(atoms.copy(), total_charge=4) for _ in range(2)]

    with pytest.warns(ExtrapolationWarning, match="total_charge 4"):
        evaluator.evaluate_batch(images(0.0), ["energy"])
    evaluator.evaluate_batch(images(0.01), ["energy"])  # warnings are errors here
    with pytest.warns(ExtrapolationWarning, match="total_charge -4"):
        evaluator.evaluate_batch([to_structure(water(), total_charge=-4)], ["energy"])


def test_caveats_are_still_heard(potential):
    calculator = LesffCalculator(potential, caveats={"charges": "they are a guess"})
    with pytest.warns(CaveatWarning, match="they are a guess"):
        calculator.get_property("charges", water())


def test_a_slab_counts_as_a_cell(potential):
    atoms = ase.build.molecule("H2O", vacuum=4.0, pbc=(True, True, False))
    atoms.calc = LesffCalculator(potential, total_charge=-2)
    with pytest.warns(ChargedCellWarning, match="total_charge -2"):
        atoms.get_potential_energy()


def test_parameters_say_what_is_computed_with(tmp_path):
    """In atoms.calc.parameters, in databases and in what a calculator exports."""
    model = lesff.load("off-small")
    atoms = triclinic_ice()
    atoms.calc = model.calculator(skin=0.3, external_field=None)
    assert atoms.calc.parameters["model"] == model.name
    assert atoms.calc.parameters["skin"] == 0.3
    atoms.calc.skin = 0.4
    assert atoms.calc.parameters["skin"] == 0.4
    energy, stress = atoms.get_potential_energy(), atoms.get_stress()
    exported = atoms.calc.export_properties()
    assert exported["energy"] == energy
    np.testing.assert_array_equal(exported["stress"], stress)
    database = connect(tmp_path / "one.db")
    row = database.get(database.write(atoms))
    assert row.calculator == "lesff"
    assert row.calculator_parameters["model"] == model.name
    assert row.calculator_parameters["skin"] == 0.4
    assert row.energy == energy
    in_field = water()
    in_field.calc = model.calculator(external_field=np.array([0.0, 0.0, 0.1]))
    in_field.get_forces()
    row = database.get(database.write(in_field))
    assert row.calculator_parameters["external_field"] == [0.0, 0.0, 0.1]


def test_a_property_that_comes_along_does_so_while_it_is_read(potential):
    atoms, rng = triclinic_ice(), np.random.default_rng(0)
    atoms.calc = calculator = LesffCalculator(potential)
    atoms.get_stress()
    for reads in (True, True, False, False, False):
        atoms.set_cell(np.array(atoms.cell) * (1.0 + 1e-4 * rng.normal()), scale_atoms=True)
        before = calculator.evaluator.n_evaluations
        atoms.get_forces()
        had_stress = "stress" in calculator.results
        if reads:
            atoms.get_stress()
        assert calculator.evaluator.n_evaluations == before + 1
    assert not had_stress


@pytest.mark.parametrize("make", [water, triclinic_ice])
def test_what_writers_of_trajectories_look_for_is_not_computed_for_them(potential, make, tmp_path):
    """They ask for every property without a calculation; a molecule has no stress."""
    atoms = make()
    atoms.calc = calculator = LesffCalculator(potential)
    VelocityVerlet(atoms, 0.1 * fs, trajectory=str(tmp_path / "run.traj")).run(3)
    assert not {"stress", "charges"} & calculator.results.keys()
    assert calculator.get_property("charges", atoms, allow_calculation=False) is None
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert "charges" not in calculator.results
