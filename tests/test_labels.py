"""Labels: keys, conventions, shapes, and what is wrong with them."""

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from helpers import triclinic_ice, two_waters, water

from lesff.errors import ConfigError, DataError, StateWarning
from lesff.train.data import read_labelled
from lesff.train.labels import LABELS, kind_of_key


def with_labels(atoms, **labels):
    """Atoms with arrays for per-atom labels and info for the others."""
    atoms = atoms.copy()
    for key, value in labels.items():
        if np.ndim(value) >= 1 and len(value) == len(atoms):
            atoms.arrays[key] = np.asarray(value)
        else:
            atoms.info[key] = value
    return atoms


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("energy", "energy"),
        ("REF_energy", "energy"),
        ("dft_energy", "energy"),
        ("force", "forces"),
        ("REF_forces", "forces"),
        ("virials", "virial"),
        ("REF_stress", "stress"),
        ("DFT_dipole", "dipole"),
        ("REF_charges", "charges"),
        ("bec", "born_effective_charges"),
        ("mbi_charges", None),
        ("charge", None),
        ("energy_corrected", None),
    ],
)
def test_keys_are_recognised(key, name):
    assert kind_of_key(key) == name


def test_prefixed_labels_and_state_are_read_and_listed():
    forces = np.arange(9.0).reshape(3, 3)
    atoms = with_labels(
        water(), REF_energy=-1.0, REF_forces=forces, charges=[1.2, -0.1, -0.1], charge=1,
        dipole=[[1.0, 2.0, 3.0]], my_tag="a",
    )  # fmt: skip
    frames, summary = read_labelled([atoms, with_labels(water(), REF_energy=-2.0)])
    first, second = frames
    assert first.energy == -1.0
    np.testing.assert_array_equal(first.forces, forces)
    np.testing.assert_array_equal(first.dipole, [1.0, 2.0, 3.0])
    assert first.structure.total_charge == 1
    assert np.isnan(second.forces).all()
    text = "\n".join(summary.lines())
    assert "energy from key `REF_energy`, 2 frames, in eV" in text
    assert "forces from key `REF_forces`, 1 frames, in eV/A; minus the gradient" in text
    assert "total charge: 0 (1), 1 (1)" in text
    assert "not used: my_tag" in text


def test_virial_is_minus_volume_times_stress():
    """A crystal under tension: positive stress, negative virial."""
    stress = np.diag([0.1, 0.2, 0.3]) + 0.01
    volume = triclinic_ice().get_volume()
    atoms = with_labels(triclinic_ice(), energy=0.0, virials=-stress * volume)
    np.testing.assert_allclose(read_labelled([atoms])[0][0].stress, stress)
    flat = with_labels(triclinic_ice(), energy=0.0, virials=(-stress * volume).ravel())
    np.testing.assert_allclose(read_labelled([flat])[0][0].stress, stress)
    both = with_labels(atoms, stress=-stress)
    with pytest.raises(DataError, match="`stress` must be minus the virial over the volume"):
        read_labelled([both])
    frames, _ = read_labelled([both], keys={"virial": ""})
    np.testing.assert_allclose(frames[0].stress, -stress)


def test_stress_of_molecules_and_dipole_of_crystals_are_left_out_and_said():
    molecule = with_labels(water(), energy=0.0, stress=np.zeros(6))
    crystal = with_labels(triclinic_ice(), energy=0.0, dipole=np.ones(3))
    frames, summary = read_labelled([molecule, crystal])
    assert frames[0].stress is None
    assert frames[1].dipole is None
    assert any("dipole of periodic frames" in key for key in summary.unused)
    assert any("stress of frames that are not periodic" in key for key in summary.unused)


def test_two_keys_for_one_label_must_agree():
    atoms = with_labels(water(), REF_energy=-1.0, dft_energy=-2.0)
    with pytest.raises(DataError, match=r"both mean energy and differ; .* labels=\{'energy'"):
        read_labelled([atoms])
    frames, _ = read_labelled([atoms], keys={"energy": "dft_energy"})
    assert frames[0].energy == -2.0
    same = with_labels(water(), REF_energy=-1.0, dft_energy=-1.0)
    assert read_labelled([same])[0][0].energy == -1.0


def test_keys_can_be_given():
    atoms = with_labels(water(), U0=-3.0, mbis=[0.2, -0.1, -0.1])
    frames, summary = read_labelled([atoms], keys={"energy": "U0", "charges": "mbis"})
    assert frames[0].energy == -3.0
    np.testing.assert_array_equal(frames[0].charges, [0.2, -0.1, -0.1])
    assert summary.unused == {}
    with pytest.raises(DataError, match="frame 0: key `U1` for energy is not there; keys: U0"):
        read_labelled([atoms], keys={"energy": "U1"})
    with pytest.raises(ConfigError, match="`labels` must name energy, forces"):
        read_labelled([atoms], keys={"enthalpy": "U0"})


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"forces": np.zeros((2, 3))}, r"`forces` must have shape \(3, 3\) \(eV/A\), got \(2, 3\)"),
        ({"dipole": [1.0, 2.0]}, r"`dipole` must have shape \(3,\)"),
        ({"energy": "low"}, "`energy` must be numbers"),
        ({"energy": np.nan}, "labels must be finite"),
        ({"born_effective_charges": np.zeros((3, 3))}, r"must have shape \(3, 3, 3\)"),
        ({"charges": [0.5, 0.2, 0.1]}, "charges must sum to the total charge 0, got 0.800 e"),
        ({"weight": -1.0}, "`weight` must be a number of at least 0"),
    ],
)
def test_bad_labels_are_named(labels, text):
    with pytest.raises(DataError, match=text):
        read_labelled([with_labels(water(), **labels)])


def test_weights_groups_and_born_charges_are_read():
    z = np.tile(np.eye(3).ravel(), (3, 1))
    atoms = with_labels(water(), energy=0.0, weight=2.0, series="a", bec=z)
    frames, _ = read_labelled([atoms], group_key="series", weight=0.5)
    assert (frames[0].weight, frames[0].group) == (1.0, "a")
    np.testing.assert_array_equal(frames[0].born_effective_charges, np.tile(np.eye(3), (3, 1, 1)))
    with pytest.raises(DataError, match=r"no info\['molecule_id'\] to group by"):
        read_labelled([atoms], group_key="molecule_id")


def test_ase_databases_and_lists_hold_the_same_frames(tmp_path):
    atoms = two_waters()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.ones((6, 3)))
    with connect(tmp_path / "data.db") as database:  # pyright: ignore[reportGeneralTypeIssues]
        database.write(atoms, dft_charge_note=1, data={"dipole": np.array([0.1, 0.2, 0.3])})
    ase.io.write(tmp_path / "data.xyz", atoms)
    row, line, item = (
        read_labelled(source)[0][0]
        for source in (tmp_path / "data.db", tmp_path / "data.xyz", [atoms])
    )
    assert row.energy == line.energy == item.energy == -1.5
    np.testing.assert_array_equal(row.forces, item.forces)
    np.testing.assert_allclose(row.dipole, [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="holds no frames"):
        read_labelled([])


def test_every_kind_of_label_has_a_unit():
    assert all(kind.unit for kind in LABELS.values())


def single_point(**results):
    atoms = water()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_results_of_another_geometry_are_not_labels():
    """ASE's own rule: get_potential_energy of these atoms has no such result either."""
    atoms = single_point(energy=-1.0, forces=np.ones((3, 3)))
    assert read_labelled([atoms])[0][0].energy == -1.0
    atoms.positions[0] += 0.3
    with pytest.warns(StateWarning, match="frame 0: .* not used: .*different: positions"):
        frames, summary = read_labelled([atoms])
    assert frames[0].labels() == ()
    with pytest.raises(DataError, match=r"calculators of 1 frame\(s\) are not theirs: .* frame 0"):
        summary.check_results()
    with (
        pytest.warns(StateWarning, match="not used"),
        pytest.raises(DataError, match="are not theirs"),
    ):
        read_labelled([atoms], required=("energy",))


@pytest.mark.parametrize("change", ["cell", "pbc", "numbers", "initial_charges"])
def test_every_change_that_ase_sees_counts(change):
    atoms = single_point(energy=-1.0)
    {
        "cell": lambda: atoms.set_cell([9.0, 9.0, 9.0]),
        "pbc": lambda: atoms.set_pbc(True) or atoms.set_cell([9.0, 9.0, 9.0]),
        "numbers": lambda: atoms.set_atomic_numbers([8, 1, 2]),
        "initial_charges": lambda: atoms.set_initial_charges([-0.2, 0.1, 0.1]),
    }[change]()
    with pytest.warns(StateWarning, match=f"different: .*{change}"):
        assert np.isnan(read_labelled([atoms])[0][0].energy)


def test_a_shared_calculator_labels_one_frame_only():
    """The last one that it computed; the energies of the others are never mixed up."""
    calculator, frames = EMT(), []
    for seed in range(3):
        atoms = water()
        atoms.rattle(0.05, seed=seed)
        atoms.calc = calculator
        atoms.get_forces()
        frames.append(atoms)
    with pytest.warns(StateWarning, match="frame 0"):
        found, summary = read_labelled(frames)
    assert [np.isnan(f.energy) for f in found] == [True, True, False]
    assert found[2].energy == frames[2].get_potential_energy()
    assert len(summary.refused) == 2


@pytest.mark.parametrize("place", ["info", "arrays"])
def test_two_places_of_one_label_must_agree(place):
    results = {"energy": -1.0, "forces": np.ones((3, 3))}
    atoms = single_point(**results)
    name = "energy" if place == "info" else "forces"
    store = getattr(atoms, place)
    store[name] = np.array(results[name])
    assert read_labelled([atoms])[0][0].energy == -1.0
    store[name] = np.array(results[name]) + 0.01
    with pytest.raises(DataError, match=rf"`{name}` \(calculator\) and `{name}` \({place}\) both"):
        read_labelled([atoms])
    for chosen, value in ((f"calculator.{name}", 0.0), (f"{place}.{name}", 0.01)):
        frame = read_labelled([atoms], keys={name: chosen})[0][0]
        np.testing.assert_allclose(getattr(frame, name), results[name] + value, atol=1e-12)


def test_rounding_of_float32_is_no_difference_and_a_millielectronvolt_is():
    atoms = single_point(energy=-2000.0)
    atoms.info["REF_energy"] = np.float32(-2000.0001)
    assert read_labelled([atoms])[0][0].energy == -2000.0
    atoms.info["REF_energy"] = -2000.001
    with pytest.raises(DataError, match="both mean energy and differ"):
        read_labelled([atoms])


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_labels_that_mean_nothing_are_left_out_whatever_their_value(bad):
    """MACE writes an infinite stress for molecules: their cell has no volume."""
    molecule = with_labels(water(), energy=-1.0, stress=np.full(6, bad), virial=np.full(9, bad))
    crystal = with_labels(triclinic_ice(), energy=-1.0, dipole=np.full(3, bad))
    frames, summary = read_labelled([molecule, crystal])
    assert [frame.labels() for frame in frames] == [("energy",), ("energy",)]
    assert len([key for key in summary.unused if key.startswith(("stress of", "dipole of"))]) == 2
    with pytest.raises(DataError, match="`stress`: labels must be finite"):
        read_labelled([with_labels(triclinic_ice(), energy=-1.0, stress=np.full(6, bad))])
