"""Predictions: by number, in other units, as arrays and as tables."""

import json

import numpy as np
import pytest

from lesff.errors import PropertyError
from lesff.prediction import Prediction, Values

MANY = Prediction(
    {
        "energy": [1.0, 2.0, 4.0],
        "forces": [np.ones((2, 3)), np.zeros((2, 3)), np.ones((3, 3))],
        "dipole": [np.array([0.0, 0.0, z]) for z in (1.0, 2.0, 3.0)],
    },
    is_single=False,
    model="m",
    reasons=[(), ("charge never seen",), ()],
)


def test_a_number_gives_the_prediction_of_one_structure() -> None:
    second = MANY[1]
    assert isinstance(second, Prediction)
    assert second.energy == 2.0
    assert second["forces"].shape == (2, 3)
    assert second.out_of_domain == ("charge never seen",)
    assert MANY[np.int64(-1)].forces.shape == (3, 3)
    assert second[0].energy == 2.0
    assert MANY[1:].energy == [2.0, 4.0]
    assert [MANY[i].energy for i in range(MANY.n_structures)] == [1.0, 2.0, 4.0]


def test_indices_that_are_none() -> None:
    with pytest.raises(IndexError, match="structure 3 was not predicted; there are 3"):
        MANY[3]
    with pytest.raises(IndexError, match="structure 1 was not predicted; there are 1"):
        MANY[0][1]
    with pytest.raises(KeyError, match="indexed by names of properties or numbers"):
        MANY[1.5]
    assert list(MANY) == ["energy", "forces", "dipole"]
    assert len(MANY) == 3


def test_lists_are_arrays_where_shapes_agree() -> None:
    assert MANY.energy == [1.0, 2.0, 4.0]
    assert isinstance(MANY.energy, list)
    assert json.dumps(MANY.energy) == "[1.0, 2.0, 4.0]"
    assert np.asarray(MANY.dipole).shape == MANY.dipole.shape == (3, 3)
    np.testing.assert_array_equal(MANY.dipole.array[:, 2], [1.0, 2.0, 3.0])
    assert np.mean(MANY.energy) == pytest.approx(7 / 3)
    with pytest.raises(PropertyError, match=r"different sizes .* \(2, 3\), \(3, 3\)"):
        np.asarray(MANY.forces)
    arrays = MANY.arrays()
    assert arrays["energy"].shape == (3,)
    assert isinstance(arrays["forces"], list)
    assert Values().array.shape == (0,)


def test_units_by_name() -> None:
    """1 e A = 4.80320471 D, 1 eV = 23.0605478 kcal/mol, 1 bohr = 0.529177211 A (CODATA 2018)."""
    found = MANY.to("Debye", "kcal/mol")
    assert found.dipole[1][2] == pytest.approx(2 * 4.80320471)
    assert found.energy[2] == pytest.approx(4 * 23.0605478)
    assert found.units == {"energy": "kcal/mol", "forces": "eV/A", "dipole": "debye"}
    assert MANY.units["dipole"] == "e*A"
    assert MANY.dipole[1][2] == 2.0
    assert "kcal/mol" in repr(found)
    # on from there, and back
    assert found.to("hartree").energy[0] == pytest.approx(1 / 27.211386, rel=1e-7)
    assert found.to("eV").energy == pytest.approx(MANY.energy)
    assert found[1].units == found.units
    only = MANY.to(forces="hartree/bohr", energy="kJ/mol")
    assert only.forces[0][0, 0] == pytest.approx(0.529177211 / 27.211386, rel=1e-7)
    assert only.energy[0] == pytest.approx(96.4853321, rel=1e-8)


def test_units_of_another_kind_are_refused() -> None:
    with pytest.raises(PropertyError, match="no result can be given in gpa, a unit for eV/A\\^3"):
        MANY.to("gpa")
    with pytest.raises(PropertyError, match="energy is in eV; it cannot be given in debye"):
        MANY.to(energy="debye")
    with pytest.raises(PropertyError, match="unknown unit 'furlong'; known are"):
        MANY.to("furlong")
    with pytest.raises(PropertyError, match="'stress' was not asked for"):
        MANY.to(stress="gpa")


def test_tables_of_pandas() -> None:
    frame = MANY.to("debye").to_dataframe()
    assert frame["energy"].tolist() == [1.0, 2.0, 4.0]
    assert frame["energy"].dtype == np.float64
    assert frame["forces"][2].shape == (3, 3)
    assert frame["out_of_domain"].tolist() == ["", "charge never seen", ""]
    assert frame.attrs["units"]["dipole"] == "debye"
    single = MANY[0].to_dataframe()
    assert len(single) == 1
    assert single["dipole"][0].tolist() == [0.0, 0.0, 1.0]
