"""A file that one command writes is valid input of every other, with the same charge, spin, field.

Labels are the model's own predictions: all errors are of the size of rounding, of the file (eight
decimals of positions and forces) and of float64.
"""

import json
import warnings
from dataclasses import replace

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.db import connect
from click.testing import CliRunner
from helpers import tiny_potential, triclinic_ice, water

import lesff
from lesff.cli.main import main
from lesff.errors import StateWarning
from lesff.model_folder.folder import load_model, save_model
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_MODEL, INFO_SPIN
from lesff.train.batches import make_batch
from lesff.train.data import read_labelled
from lesff.train.gradients import accumulate_gradients
from lesff.train.loss import LossConfig

FIELD = [0.0, 0.02, 0.05]
ROUNDING = 1e-3
"""meV/atom, meV/A, D: eight decimals of positions and forces."""


def ion(seed):
    atoms = ase.Atoms("OH", [[5.0, 4.0, 3.0], [5.0, 4.0, 3.97]])
    atoms.rattle(0.03, seed=seed)
    atoms.info["total_charge"] = -1
    return atoms


def triplet(seed):
    atoms = molecule("O2")
    atoms.rattle(0.03, seed=seed)
    atoms.info["spin"] = 3
    return atoms


def in_field(seed):
    atoms = water()
    atoms.rattle(0.03, seed=seed)
    atoms.info[INFO_FIELD] = np.array(FIELD)
    return atoms


def crystal(seed):
    atoms = triclinic_ice()
    atoms.rattle(0.03, seed=seed)
    return atoms


def slab(seed):
    atoms = water()
    atoms.cell = np.diag([4.0, 4.2, 0.0])
    atoms.pbc = [True, True, False]
    atoms.rattle(0.03, seed=seed)
    return atoms


KINDS = {"ion": ion, "triplet": triplet, "in_field": in_field, "crystal": crystal, "slab": slab}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that knows states and charges, and frames of every kind."""
    path = tmp_path_factory.mktemp("round")
    potential = tiny_potential(head="shifted", state_embedding=True)
    save_model(potential, path / "m", card="---\nname: m\nlicense: CC0-1.0\n---\nM.\n",
               license_text="Yours.\n")  # fmt: skip
    # calibration refuses labels of the model itself
    other = tiny_potential(head="shifted", state_embedding=True)
    for parameter in other.parameters():
        parameter.mul_(1.002)
    save_model(other, path / "other", card="O.\n", license_text="Yours.\n")
    frames = []
    for name, make in KINDS.items():
        for seed in range(6):
            frames.append(make(seed))
            frames[-1].info["molecule"] = name
    ase.io.write(path / "in.extxyz", frames)
    return path


def call(*arguments):
    """The command line, in process; it must end well."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def predicted(folder):
    out = folder / "out.extxyz"
    call("predict", folder / "in.extxyz", "-m", folder / "m", "-o", out, "-p",
         "energy,forces,charges")  # fmt: skip
    # moments of finite systems, in a file of their own
    finite = [a for a in ase.io.read(folder / "in.extxyz", ":") if not a.pbc.any()]
    ase.io.write(folder / "finite.extxyz", finite)
    call("predict", folder / "finite.extxyz", "-m", folder / "m", "-o", folder / "moments.extxyz",
         "-p", "energy,forces,charges,dipole,quadrupole,born_effective_charges")  # fmt: skip
    return out


def test_every_state_is_written_under_the_keys_that_are_read(folder, predicted):
    for before, after in zip(
        ase.io.read(folder / "in.extxyz", ":"), ase.io.read(predicted, ":"), strict=True
    ):
        assert after.info[INFO_CHARGE[0]] == before.info.get("total_charge", 0)
        spin = before.info.get("spin", 1 + (before.numbers.sum() - after.info["charge"]) % 2)
        assert after.info[INFO_SPIN[0]] == spin
        np.testing.assert_array_equal(
            after.info.get(INFO_FIELD, np.zeros(3)), before.info.get(INFO_FIELD, np.zeros(3))
        )
        assert after.info[INFO_MODEL] == "m"
        assert not {"total_charge", "spin"} & set(after.info)


@pytest.mark.parametrize("name", ["out.extxyz", "moments.extxyz"])
def test_evaluate_finds_rounding_only(folder, predicted, name):
    text = call("evaluate", folder / "m", folder / name, "--json", folder / "e.json")
    assert "nan" not in text
    errors = json.loads((folder / "e.json").read_text())["errors"]["all"]
    wanted = ["energy_mae", "forces_mae", "charges_rmse"]
    if name == "moments.extxyz":
        wanted += ["dipole_mae", "born_effective_charges_rmse"]
    assert all(errors[key] is not None and errors[key] < ROUNDING for key in wanted)


def test_arguments_are_written_and_replace_other_keys(folder, predicted):
    """`--charge` and `--spin` win over what the file says, and the file then says it."""
    path, out = folder / "water.extxyz", folder / "cation.extxyz"
    atoms = water()
    atoms.info |= {"total_charge": 0, "REF_energy": -1.0, "dipole": np.ones(3)}
    ase.io.write(path, atoms)
    text = call("predict", path, "-m", folder / "m", "-o", out, "--charge", "1", "--spin", "2",
                "--field", *map(str, FIELD), "-p", "energy,forces,dipole")  # fmt: skip
    assert "in place of labels of water.extxyz: REF_energy, dipole" in text
    (frame,), _ = read_labelled(out)
    assert (frame.structure.total_charge, frame.structure.spin_multiplicity) == (1, 2)
    np.testing.assert_allclose(frame.structure.external_field, FIELD)
    call("evaluate", folder / "m", out, "--json", folder / "e.json")
    errors = json.loads((folder / "e.json").read_text())["errors"]["all"]
    assert max(errors[k] for k in ("energy_mae", "forces_mae", "dipole_mae")) < ROUNDING


@pytest.mark.slow
def test_the_other_commands_take_the_file(folder, predicted):
    """finetune, calibrate, select with the calibrated model, and split; each file is read again."""
    for source in (predicted, folder / "moments.extxyz"):
        run = folder / f"run-{source.stem}"
        text = call("finetune", source, "-m", folder / "m", "-o", run, "--set",
                    "optimizer.max_steps=4", "--set", "optimizer.validate_every=2", "--set",
                    "split.validation=0.3")  # fmt: skip
        assert "total charge: -1 (6), 0" in text
    call("split", predicted, "-o", folder / "parts")
    parts = [folder / "parts" / f"{part}.extxyz" for part in ("train", "validation")]
    call("calibrate", folder / "other", "--train", parts[0], "--validation", parts[1], "-o",
         folder / "calibrated")  # fmt: skip
    call("select", predicted, "-n", "5", "-m", folder / "calibrated", "-o", folder / "s.extxyz")
    states = {}
    for name, paths in (("all", [predicted]), ("parts", parts), ("chosen", [folder / "s.extxyz"])):
        frames = [f for path in paths for f in read_labelled(path)[0]]
        states[name] = [
            (f.structure.total_charge, f.structure.spin_multiplicity,
             f.structure.external_field is not None) for f in frames
        ]  # fmt: skip
        call("evaluate", folder / "m", *paths, "--json", folder / "e.json")
        errors = json.loads((folder / "e.json").read_text())["errors"]["all"]
        assert max(errors["energy_mae"], errors["forces_mae"]) < ROUNDING
    assert sorted(states["all"]) == sorted(states["parts"])
    assert set(states["chosen"]) <= set(states["all"])
    assert len(states["chosen"]) == 5


def test_the_calculator_reads_the_file(folder, predicted):
    model = lesff.load(folder / "m")
    for atoms in ase.io.read(folder / "moments.extxyz", ":"):
        labels = dict(atoms.calc.results)
        atoms.calc = model.calculator()
        assert atoms.get_potential_energy() == pytest.approx(labels["energy"], abs=1e-6)
        np.testing.assert_allclose(atoms.get_dipole_moment(), labels["dipole"], atol=1e-6)


def test_rows_of_a_database_keep_their_state(folder, predicted):
    """The key-value pairs of a row hold charge and spin for training and prediction alike."""
    with connect(folder / "rows.db") as database:  # pyright: ignore[reportGeneralTypeIssues]
        database.write(ion(0), key_value_pairs={"total_charge": -1}, data={"energy": -3.0})
    (frame,), _ = read_labelled(folder / "rows.db")
    assert (frame.structure.total_charge, frame.energy) == (-1, -3.0)
    call("predict", folder / "rows.db", "-m", folder / "m", "-o", folder / "rows.extxyz")
    assert ase.io.read(folder / "rows.extxyz").info["charge"] == -1


def test_a_file_without_molecules_is_divided_by_formula(folder, predicted):
    frames = ase.io.read(folder / "moments.extxyz", ":")
    for atoms in frames:
        del atoms.info["molecule"]
    ase.io.write(folder / "plain.extxyz", frames)
    text = call("split", folder / "plain.extxyz", "-o", folder / "byformula")
    assert "divided by formula" in text
    assert json.loads((folder / "byformula" / "split.json").read_text())["by"] == "composition"


def test_one_atom_is_written(folder):
    atoms = ase.Atoms("O", info={"spin_multiplicity": 3})
    ase.io.write(folder / "atom.extxyz", atoms)
    call("predict", folder / "atom.extxyz", "-m", folder / "m", "-o", folder / "atom-out.extxyz",
         "-p", "energy,forces,latent_charges,born_effective_charges")  # fmt: skip
    (frame,), _ = read_labelled(folder / "atom-out.extxyz")
    assert frame.born_effective_charges.shape == (1, 3, 3)
    call("evaluate", folder / "m", folder / "atom-out.extxyz")


def test_labels_of_ions_about_another_point_say_so():
    """mu(r0) = mu(R) + Q (R - r0), R the centre of nuclear charge (8, 1: oxygen, hydrogen)."""
    atoms = ion(0)
    atoms.positions = [[5.0, 4.0, 3.0], [5.0, 4.0, 4.0]]
    centre = np.array([5.0, 4.0, 3.0 + 1.0 / 9.0])
    mass = np.array([5.0, 4.0, 3.0 + 1.008 / (1.008 + 15.999)])
    about_centre = np.array([0.1, 0.2, 0.3])
    for origin, point in (
        ("nuclear_charge", centre), ("coordinates", np.zeros(3)), ("mass", mass),
        ([1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0])),
    ):  # fmt: skip
        labelled = atoms.copy()
        labelled.info |= {"dipole": about_centre - (centre - point), "dipole_origin": origin}
        (frame,), _ = read_labelled([labelled])
        np.testing.assert_allclose(frame.dipole, about_centre, atol=1e-12)
    plain = atoms.copy()
    plain.info["dipole"] = about_centre
    np.testing.assert_array_equal(read_labelled([plain])[0][0].dipole, about_centre)
    plain.info["dipole_origin"] = "somewhere"
    with pytest.raises(
        lesff.errors.DataError, match="`dipole_origin` must be nuclear_charge, mass"
    ):
        read_labelled([plain])


@pytest.mark.parametrize("origin", [None, b"nuclear_charge"])
def test_shards_say_what_their_dipoles_are_about(tmp_path, origin):
    """Without the array: the coordinate origin, as all shards were before."""
    atoms = ion(0)
    arrays = {"n": [2], "numbers": atoms.numbers, "positions": atoms.positions, "energy": [0.0],
              "forces": np.zeros((2, 3)), "charge": [-1], "dipole": [[1.0, 2.0, 3.0]],
              "external_field": [FIELD]}  # fmt: skip
    if origin is not None:
        arrays["dipole_origin"] = [origin]
    np.savez(tmp_path / "a.npz", **arrays)
    (frame,), _ = read_labelled(tmp_path / "a.npz")
    centre = np.average(atoms.positions, axis=0, weights=atoms.numbers)
    shift = centre if origin is None else 0.0
    np.testing.assert_allclose(frame.dipole, np.array([1.0, 2.0, 3.0]) + shift, atol=1e-12)
    np.testing.assert_allclose(frame.structure.external_field, FIELD)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"initial_charges": [-1.0, 0.0]}, "initial charges .*total charge \\+0 is used"),
        ({"initial_magmoms": [2.0, 1.0]}, "initial magnetic moments .*multiplicity 2 is used"),
        ({"multiplicity": 4}, "multiplicity"),
        ({"REF_multiplicity": "4"}, "REF_multiplicity"),
        ({"uhf": 3}, "uhf"),
        ({"S": 1.5}, r"info\['S'\] \(2S\+1 = 4\)"),
        ({"Charge": -1}, r"info\['Charge'\]"),
        ({"net_charge": 2.0}, "net_charge"),
    ],
)
def test_unread_keys_that_say_something_else_warn_once(folder, change, text):
    atoms = ase.Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])
    for key, value in change.items():
        if key.startswith("initial_"):
            atoms.arrays[key] = np.array(value)
        else:
            atoms.info[key] = value
    model = lesff.load(folder / "m")
    with pytest.warns(StateWarning, match=text) as caught:
        model.predict([atoms, atoms.copy()])
    assert sum(issubclass(w.category, StateWarning) for w in caught) == 1
    with pytest.warns(StateWarning, match=text):
        read_labelled([with_energy(atoms), with_energy(atoms)])


def with_energy(atoms):
    copy = atoms.copy()
    copy.info["energy"] = 0.0
    return copy


def test_keys_that_agree_and_arguments_do_not_warn(folder):
    atoms = molecule("O2")  # ASE gives it the moments of a triplet
    atoms.info |= {"spin_multiplicity": 3, "uhf": 2, "S": 1, "multiplicity": 3.0, "Charge": 0}
    atoms.set_initial_charges([0.3, -0.3])
    model = lesff.load(folder / "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(atoms)
        model.predict(molecule("O2"), spin_multiplicity=1)  # who says it means it


@pytest.mark.parametrize(
    ("formula", "charge", "spin"),
    [
        # Huber, Herzberg, Constants of Diatomic Molecules (1979); CH2: X 3B1
        ("O2", 0, 3), ("S2", 0, 3), ("SO", 0, 3), ("NH", 0, 3), ("CH2", 0, 3), ("NO", -1, 3),
        ("OH", 1, 3),
        # Hund's rules
        ("O", 0, 3), ("S", 0, 3), ("N", 0, 4), ("C", 0, 3), ("O", 1, 4), ("C", -1, 4),
    ],
)  # fmt: skip
def test_known_ground_states_are_named_and_never_chosen(formula, charge, spin):
    from lesff.atoms.structure import lowest_spin, to_structure

    atoms = ase.Atoms(formula)
    atoms.positions[:, 0] = 1.3 * np.arange(len(atoms))
    with pytest.warns(StateWarning, match=f"ground state of .* has {spin}"):
        structure = to_structure(atoms, total_charge=charge)
    lowest = lowest_spin(int(atoms.numbers.sum()) - charge)
    assert structure.spin_multiplicity == lowest < spin


@pytest.mark.parametrize(
    ("formula", "charge"), [("NO", 1), ("H2O", 0), ("O2", 1), ("N2", 0), ("H", 0), ("Cl", -1),
                            ("Na", 1), ("O3", 0), ("O2", -1), ("H", 1)]
)  # fmt: skip
def test_other_ground_states_are_the_lowest(formula, charge):
    from lesff.atoms.structure import to_structure

    atoms = ase.Atoms(formula)
    atoms.positions[:, 0] = 1.3 * np.arange(len(atoms))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_structure(atoms, total_charge=charge)


@pytest.mark.parametrize("method", ["double_backward", "central_difference"])
def test_training_sees_the_energy_in_a_field(folder, predicted, method):
    """The loss of the model's own answers is nothing; without the field's share it is far off."""
    potential = load_model(folder / "m").requires_grad_(requires_grad=True)
    frames = [
        f for f in read_labelled(folder / "moments.extxyz")[0]
        if f.structure.external_field is not None
    ]  # fmt: skip
    assert frames
    batch = make_batch(frames, potential.architecture.cutoff, torch.float64)
    loss = LossConfig(kind="mse", dipole=1.0)
    assert accumulate_gradients(potential, batch, loss, method) < 1e-12
    without = replace(batch, graph=batch.graph.replace(external_field=None))
    assert accumulate_gradients(potential, without, loss, method) > 1e-6
