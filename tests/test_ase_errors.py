"""lesff's errors in ASE's hands."""

import pickle  # noqa: TID251 - errors travel between processes
import subprocess
import sys

import pytest
from ase.build import molecule
from ase.calculators.calculator import (
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
)
from helpers import tiny_potential, triclinic_ice, two_waters

from lesff.atoms.ase_errors import AsePropertyError, ase_errors
from lesff.calculator import LesffCalculator
from lesff.errors import (
    ChargeSpinError,
    ConvergenceError,
    LesffError,
    PropertyError,
    StructureError,
    UnsupportedInputError,
)


def with_calculator(atoms, **options):
    atoms.calc = LesffCalculator(tiny_potential(), **options)
    return atoms


def test_a_property_without_a_value_is_not_implemented():
    crystal = with_calculator(triclinic_ice())
    with pytest.raises(PropertyNotImplementedError, match="dipole of a periodic structure"):
        crystal.get_dipole_moment()
    with pytest.raises(PropertyError, match="dipole of a periodic structure"):
        crystal.get_dipole_moment()
    with pytest.raises(PropertyNotImplementedError, match="`stress` needs structures periodic"):
        with_calculator(two_waters()).get_stress()


def test_slabs_have_a_dipole_in_ase():
    atoms = two_waters()
    atoms.cell, atoms.pbc = [6.0, 6.0, 0.0], [True, True, False]
    dipole = with_calculator(atoms).get_dipole_moment()
    assert dipole.shape == (3,)
    assert dipole[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "atoms", "ours"),
    [
        ({"total_charge": 99}, "H2O", ChargeSpinError),
        ({}, "CH4", UnsupportedInputError),
        ({"external_field": [0.0, float("nan"), 0.0]}, "H2O", StructureError),
    ],
)
def test_atoms_that_cannot_be_used_are_input_errors(options, atoms, ours):
    atoms = with_calculator(molecule(atoms), **options)
    with pytest.raises(InputError, match=".") as caught:
        atoms.get_potential_energy()
    assert isinstance(caught.value, ours)
    assert isinstance(caught.value, LesffError)


def test_options_are_setup_errors():
    with pytest.raises(CalculatorSetupError, match="`skin` must be from 0 to 10 A, got -1"):
        LesffCalculator(tiny_potential(), skin=-1)


def fail(error):
    with ase_errors():
        raise error


def test_errors_travel_between_processes_and_others_pass():
    with pytest.raises(PropertyNotImplementedError, match="text") as caught:
        fail(PropertyError("text"))
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made here
    assert (type(copy), copy.args) == (AsePropertyError, ("text",))
    with pytest.raises(RuntimeError, match="no charges"):
        fail(ConvergenceError("no charges"))
    with pytest.raises(KeyError, match="other"):
        fail(KeyError("other"))
    with pytest.raises(AsePropertyError, match="once"):
        fail(AsePropertyError("once"))


def test_errors_do_not_import_ase():
    """`lesff --help` starts in 0.2 s; ASE alone takes longer."""
    code = "import sys, lesff.errors; sys.exit('ase' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603 - this Python
    assert done.returncode == 0
