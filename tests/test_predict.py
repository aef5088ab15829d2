"""The predict API: inputs, batches, domain checks, results; and the ASE calculator."""

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from helpers import tiny_potential, triclinic_ice, two_waters, water

from lesff.atoms.batching import plan_batches
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.calculator import LesffCalculator
from lesff.errors import (
    CaveatWarning,
    ChargedCellWarning,
    ChargeSpinError,
    DeviceError,
    ExtrapolationWarning,
    PropertyError,
    StructureError,
    UnsupportedInputError,
)
from lesff.hub.resolve import ResolvedModel
from lesff.model import Model, load


@pytest.fixture
def model(tmp_path):
    """A tiny random model in float64."""
    source = ResolvedModel(folder=tmp_path, name="tiny", version=None, origin="folder")
    return Model(tiny_potential(head="shifted", state_embedding=True), source)


def test_single_structure_gives_arrays_and_list_gives_lists(model):
    single = model.predict(water(), ["energy", "forces", "dipole"])
    many = model.predict([water(), two_waters()], ["energy", "forces"])
    assert isinstance(single.energy, float)
    assert single.forces.shape == (3, 3)
    assert [f.shape for f in many.forces] == [(3, 3), (6, 3)]
    assert many.energy[0] == pytest.approx(single.energy, abs=1e-10)


def test_order_of_results_is_the_order_of_inputs(model):
    structures = [two_waters(), water(), triclinic_ice(), water()]
    one_by_one = [model.predict(atoms).energy for atoms in structures]
    for batch_size in ("auto", 1, 2, 100):
        together = model.predict(structures, batch_size=batch_size).energy
        np.testing.assert_allclose(together, one_by_one, atol=1e-10)


def test_repr_shows_units(model):
    text = repr(model.predict(two_waters(), ["energy", "dipole", "charges"]))
    assert "eV" in text
    assert "e*A" in text
    assert "(n_atoms,) e" in text


def test_absent_result_says_how_to_get_it(model):
    prediction = model.predict(water())
    with pytest.raises(AttributeError, match=r"'dipole' was not asked for; use predict"):
        _ = prediction.dipole
    with pytest.raises(KeyError, match="no result 'bananas'"):
        _ = prediction["bananas"]


def test_file_input(model, tmp_path):
    path = tmp_path / "in.xyz"
    ase.io.write(path, [water(), two_waters()])
    assert len(model.predict(path).energy) == 2


def test_charge_from_argument_wins_over_info(model):
    atoms = water()
    atoms.info["charge"] = 3
    with pytest.warns(ExtrapolationWarning, match=r"total_charge 3, but .* trained on -2\.\.2"):
        charges = model.predict(atoms, "charges").charges
    assert charges.sum() == pytest.approx(3.0, abs=1e-10)
    neutral = model.predict(atoms, "charges", total_charge=0).charges
    assert neutral.sum() == pytest.approx(0.0, abs=1e-10)


def test_strict_refuses_charge_and_spin_outside_the_range(model):
    with pytest.raises(UnsupportedInputError, match="total_charge 3, but the model was trained"):
        model.predict(water(), total_charge=3, strict=True)
    with pytest.raises(UnsupportedInputError, match="spin_multiplicity 5, but the model was"):
        model.predict(water(), spin_multiplicity=5, strict=True)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"structures": molecule("CH4")}, UnsupportedInputError, r"element\(s\) C"),
        ({"structures": []}, StructureError, "empty list"),
        ({"structures": "no/such/file.xyz"}, StructureError, "does not exist"),
        ({"structures": 7}, StructureError, "must be an ASE Atoms object"),
        ({"structures": water(), "properties": "hardness"}, PropertyError, "unknown property"),
        ({"structures": water(), "properties": []}, PropertyError, "must name at least one"),
        ({"structures": water(), "properties": "stress"}, PropertyError, "periodic in all three"),
        ({"structures": triclinic_ice(), "properties": "dipole"}, PropertyError, "choice of cell"),
        ({"structures": water(), "spin_multiplicity": 2}, ChargeSpinError, "odd spin"),
        ({"structures": [water()], "total_charge": [0, 0]}, ChargeSpinError, "one per structure"),
        ({"structures": water(), "batch_size": 0}, PropertyError, "`batch_size` must be 'auto'"),
    ],
)
def test_bad_input_is_named(model, arguments, error, text):
    with pytest.raises(error, match=text):
        model.predict(**arguments)


def test_wires_are_refused(model):
    atoms = triclinic_ice()
    atoms.pbc = (True, False, False)
    with pytest.raises(UnsupportedInputError, match="`pbc` must be True in three directions"):
        model.predict(atoms)
    atoms.calc = model.calculator()
    with pytest.raises(UnsupportedInputError, match="for a wire set atoms.pbc = True"):
        atoms.get_forces()


def test_slabs_do_not_depend_on_the_open_cell_row(model):
    atoms = triclinic_ice()
    atoms.pbc = (True, True, False)
    expected = model.predict(atoms, ["energy", "forces"])
    atoms.cell[2] = [0.0, 1.0, 30.0]
    got = model.predict(atoms, ["energy", "forces"])
    assert got.energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(got.forces, expected.forces, atol=1e-9)


def test_plan_batches_covers_every_structure_once():
    sizes = np.array([5, 900, 3, 3000, 40, 40])
    for batch_size in ("auto", 1, 4):
        order = np.concatenate(plan_batches(sizes, batch_size))
        assert sorted(order.tolist()) == list(range(6))


def test_calculator_matches_predict_and_uses_voigt_order(model):
    atoms = triclinic_ice()
    atoms.calc = model.calculator()
    expected = model.predict(atoms, ["energy", "forces", "stress", "node_energy", "charges"])
    xx, yy, zz, yz, xz, xy = atoms.get_stress()
    np.testing.assert_allclose(np.diag(expected.stress), [xx, yy, zz], atol=1e-12)
    assert expected.stress[1, 2] == pytest.approx(yz, abs=1e-12)
    assert expected.stress[0, 2] == pytest.approx(xz, abs=1e-12)
    assert expected.stress[0, 1] == pytest.approx(xy, abs=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.node_energy, atol=1e-12)
    np.testing.assert_allclose(atoms.get_charges(), expected.charges, atol=1e-12)


def test_quantities_not_to_be_trusted_warn(tmp_path):
    caveats = {"charges": "made up", "dipole": "made of them"}
    source = ResolvedModel(
        folder=tmp_path, name="tiny", version="1.0.0", origin="folder", caveats=caveats
    )
    model = Model(tiny_potential(head="shifted"), source)
    model.predict(water(), ["energy", "forces"], strict=True)
    with pytest.warns(CaveatWarning, match=r"charges of tiny@1.0.0 is not to be trusted: made up"):
        model.predict(water(), ["energy", "charges"])
    with pytest.raises(UnsupportedInputError, match="dipole of tiny@1.0.0 .* made of them"):
        model.predict(water(), "dipole", strict=True)
    atoms = water()
    atoms.calc = model.calculator()
    atoms.get_forces()
    with pytest.warns(CaveatWarning, match="charges of this model"):
        atoms.get_charges()


def test_charges_of_elements_that_were_not_trained_warn(tmp_path):
    potential = tiny_potential(head="shifted")
    long_range = replace(potential.config.long_range, charge_elements=(1,))
    potential.config = replace(potential.config, long_range=long_range)
    source = ResolvedModel(folder=tmp_path, name="tiny", version="1.0.0", origin="folder")
    model = Model(potential, source)
    model.predict(water(), ["energy", "forces"], strict=True)
    text = "structure 0 has O, whose charges this model was not trained on: charges mean nothing"
    with pytest.warns(CaveatWarning, match=text):
        model.predict(water(), ["energy", "charges"])
    with pytest.raises(UnsupportedInputError, match=text):
        model.predict(water(), "charges", strict=True)
    atoms = water()
    atoms.calc = model.calculator()
    atoms.get_forces()
    with pytest.warns(CaveatWarning, match=text):
        atoms.get_charges()
    assert potential.config.to_dict()["long_range"]["charge_elements"] == (1,)


def test_calculator_dipole_of_a_molecule(model):
    atoms = water()
    atoms.calc = model.calculator()
    expected = model.predict(atoms, "dipole").dipole
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected, atol=1e-12)


def test_calculator_forgets_when_charge_in_info_changes(model):
    atoms = water()
    atoms.calc = model.calculator()
    atoms.get_potential_energy()
    neutral = atoms.get_charges().sum()
    atoms.info["charge"] = 3
    with pytest.warns(ExtrapolationWarning, match="total_charge 3"):
        cation = atoms.get_charges().sum()
    assert neutral == pytest.approx(0.0, abs=1e-10)
    assert cation == pytest.approx(3.0, abs=1e-10)


def test_calculator_notices_a_field_set_later(model):
    atoms = water()
    atoms.calc = model.calculator()
    before = atoms.get_potential_energy()
    dipole = atoms.get_dipole_moment()
    atoms.info["external_field"] = [0.0, 0.0, 0.1]
    # T22: F(E) = U - E.P; the dipole of a neutral molecule has no origin
    assert atoms.get_potential_energy() - before == pytest.approx(-0.1 * dipole[2], abs=1e-9)


def test_field_of_the_calculator_comes_before_that_of_the_atoms(model):
    atoms = water()
    atoms.info["external_field"] = [0.0, 0.0, 0.1]
    atoms.calc = model.calculator(external_field=[0.2, 0.0, 0.0])
    expected = model.predict(water(), external_field=[0.2, 0.0, 0.0])
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)


def test_calculator_of_a_crystal_in_a_field_has_forces_only(model):
    atoms = triclinic_ice()
    atoms.calc = model.calculator(external_field=[0.0, 0.0, 0.1])
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyError, match="energy of a crystal in an external field"):
        atoms.get_potential_energy()


def test_molecular_dynamics_conserves_energy(model):
    """Analytic forces of a smooth energy: Verlet's fluctuation shrinks with the square of dt."""

    def fluctuation(step: float, n_steps: int) -> float:
        atoms = two_waters()
        atoms.calc = model.calculator()
        thermalize_momenta(atoms, temperature_K=50, rng=np.random.default_rng(1))
        dynamics = VelocityVerlet(atoms, timestep=step * fs)
        energies = []
        dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
        dynamics.run(n_steps)
        return float(np.std(energies))

    assert fluctuation(0.1, 100) / fluctuation(0.05, 200) == pytest.approx(4.0, rel=0.5)


def test_two_models_of_different_dtype_side_by_side(model, tmp_path):
    single = Model(tiny_potential(head="shifted", state_embedding=True).float(), model.source)
    before = torch.get_default_dtype()
    energies = [m.predict(water()).energy for m in (model, single, model)]
    assert energies[0] == energies[2]
    assert energies[1] == pytest.approx(energies[0], abs=1e-4)
    assert torch.get_default_dtype() == before


def test_crystal_and_molecules_in_one_call(model):
    crystal = bulk("Fe")  # not covered: the message names the structure
    with pytest.raises(UnsupportedInputError, match=r"structure 1 has element\(s\) Fe"):
        model.predict([water(), crystal])


def test_born_charges_of_crystals_and_molecules_in_one_call(model):
    structures = [water(), triclinic_ice(), two_waters()]
    together = model.predict(structures, "born_effective_charges").born_effective_charges
    for atoms, expected in zip(structures, together, strict=True):
        alone = model.predict(atoms, "born_effective_charges").born_effective_charges
        np.testing.assert_allclose(alone, expected, atol=1e-10)
        assert np.abs(expected).max() > 0.01


def test_a_bare_potential_refuses_unknown_elements(model):
    graph = build_graph(to_structure(molecule("CO")), 3.0)
    with pytest.raises(UnsupportedInputError, match=r"must be among \[1, 8\], got \[6\]"):
        model.potential(graph)


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_absent_devices_are_named(device):
    with pytest.raises(DeviceError, match=f"`device` must be .*, got '{device}'"):
        load("off-small", device=device)


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_dtype_as_text_or_of_torch(dtype):
    model = load("off-small", dtype=dtype)
    assert model.potential.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, np.float64, 64, ["float64"]])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(PropertyError, match="`dtype` must be 'float32' or 'float64'"):
        load("off-small", dtype=dtype)


def test_properties_as_text_with_commas(model):
    together = model.predict(water(), "energy, forces,charges")
    assert list(together) == ["energy", "forces", "charges"]
    assert list(model.predict(water(), ["energy,forces"])) == ["energy", "forces"]
    with pytest.raises(PropertyError, match="unknown property 'nonsense'"):
        model.predict(water(), "energy,nonsense")
    with pytest.raises(PropertyError, match="`properties` must be names, got 3"):
        model.predict(water(), ["energy", 3])
    with pytest.raises(PropertyError, match="`properties` must name at least one"):
        model.predict(water(), " , ")


def test_batch_sizes_of_any_integer_type(model):
    expected = model.predict([water()] * 3).energy
    for batch_size in (2, np.int64(2), np.uint8(2), np.array(2)):
        assert model.predict([water()] * 3, batch_size=batch_size).energy == expected
    for batch_size in (0, np.int64(-1), 2.0, True, "2", None):
        with pytest.raises(PropertyError, match="`batch_size` must be 'auto' or at least 1"):
            model.predict(water(), batch_size=batch_size)


def test_text_in_info_beside_an_argument(model):
    atoms = water()
    atoms.info["charge"] = "unknown"
    assert model.predict(atoms, total_charge=0).energy == model.predict(water()).energy
    with pytest.raises(ChargeSpinError, match="total charge must be an integer, got 'unknown'"):
        model.predict(atoms)


def test_charged_cells_warn_once_a_call(model):
    cells = [triclinic_ice(), triclinic_ice(), water()]
    with pytest.warns(ChargedCellWarning, match=r"structure 0 \(and 1 more\)") as heard:
        model.predict(cells, total_charge=2)
    assert len(heard) == 1
    model.predict(water(), total_charge=2)


def test_isotopes_are_explained(tmp_path):
    path = tmp_path / "heavy.xyz"
    path.write_text("3\n\nO 0 0 0\nD 0.96 0 0\nD -0.2 0.9 0\n")
    with pytest.raises(StructureError, match="no symbol 'D'; write H, .* the mass to 2.014 u"):
        load("off-small").predict(path)


def test_dtype_must_be_known():
    with pytest.raises(PropertyError, match="`dtype` must be 'float32' or 'float64', got 'half'"):
        load("off-small", dtype="half")


def test_molecular_dynamics_does_not_depend_on_the_skin():
    """Bit for bit: the list with a skin is cut down to the pairs within the cutoff."""
    calculators = [LesffCalculator(tiny_potential(), skin=skin) for skin in (0.0, 0.3, 1.5)]
    ends = []
    for calculator in calculators:
        atoms = triclinic_ice()
        atoms.calc = calculator
        atoms.set_momenta(np.random.default_rng(0).normal(scale=0.5, size=(len(atoms), 3)))
        VelocityVerlet(atoms, timestep=0.5 * fs).run(20)
        ends.append(atoms.positions)
    searches = [calculator.neighbors.n_searches for calculator in calculators]
    assert searches[0] > searches[1] > searches[2]
    for end in ends[1:]:
        assert np.array_equal(end, ends[0])


def test_skin_must_make_sense():
    with pytest.raises(PropertyError, match="`skin` must be from 0 to 10 A, got -1"):
        LesffCalculator(tiny_potential(), skin=-1)
