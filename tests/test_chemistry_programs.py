"""QCSchema, PySCF's scanners, phonopy: programs that ask for one structure after the other."""

import sys
from importlib import import_module

import numpy as np
import pytest
from engine_adapters import ENGINES, is_installed
from helpers import triclinic_ice, water
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import lesff
from lesff.engines.scanner import Scanner
from lesff.errors import (
    ChargeSpinError,
    MissingDependencyError,
    StructureError,
    UnsupportedInputError,
)
from lesff.potential.evaluator import Evaluator

HARTREE, BOHR = 27.211386245988, 0.529177210903
"""eV and A, CODATA 2018."""
needs_qcengine = pytest.mark.skipif(
    not is_installed(ENGINES["qcengine"]), reason='pip install "lesff[qcengine]"'
)


@pytest.fixture(scope="module")
def model():
    return lesff.load("off-small", dtype="float64")


class Mole:
    """What a scanner reads of PySCF's ``Mole`` (2.14): names, coordinates, charge, spin 2S."""

    def __init__(self, atoms, charge=0, spin=0):
        self.natm, self.charge, self.spin = len(atoms), charge, spin
        self._symbols, self._coordinates = list(atoms.symbols), atoms.positions / BOHR

    def atom_pure_symbol(self, index):
        return self._symbols[index]

    def atom_coords(self):
        return self._coordinates


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_scanner_of_a_pyscf_molecule(model):
    atoms, scanner = water(), Scanner(model, on_out_of_domain="ignore")
    for charge, spin in ((0, 0), (0, 2), (1, 1), (0, 0)):
        expected = model.predict(atoms, total_charge=charge, spin_multiplicity=spin + 1)
        energy, gradient = scanner(Mole(atoms, charge, spin))
        assert energy == scanner.e_tot
        assert energy * HARTREE == pytest.approx(expected.energy, rel=1e-9)
        np.testing.assert_allclose(-gradient * HARTREE / BOHR, expected.forces, atol=1e-9)


def test_gradient_of_a_scanner_is_the_slope_of_its_energy(model):
    scanner, step = Scanner(model), 1e-3
    coordinates = water().positions / BOHR
    _, gradient = scanner([8, 1, 1], coordinates)
    for atom, axis in ((0, 2), (1, 1)):
        moved = np.zeros((3, 3))
        moved[atom, axis] = step
        energies = [scanner(["O", "H", "H"], coordinates + s * moved)[0] for s in (1, -1)]
        slope = (energies[0] - energies[1]) / (2 * step)
        assert gradient[atom, axis] == pytest.approx(slope, abs=1e-6)


def test_what_a_scanner_refuses(model):
    scanner, coordinates = Scanner(model), water().positions / BOHR
    with pytest.raises(StructureError, match="PySCF molecule, got list alone"):
        scanner(["O", "H", "H"])
    with pytest.raises(StructureError, match="atom 1 must be the symbol of an element, got 'Hx'"):
        scanner(["O", "Hx", "H"], coordinates)
    with pytest.raises(StructureError, match=r"must be a list.*got 'OHH'"):
        scanner("OHH", coordinates)
    with pytest.raises(ChargeSpinError, match="electrons"):
        scanner(Mole(water(), charge=0, spin=1))
    cell = Mole(water())
    cell.lattice_vectors = lambda: np.eye(3)
    with pytest.raises(UnsupportedInputError, match="periodic PySCF cell"):
        scanner(cell)


def task(model, driver, **keywords):
    atoms = water()
    molecule = {"symbols": list(atoms.symbols), "geometry": (atoms.positions / BOHR).ravel()}
    molecule |= {"fix_com": True, "fix_orientation": True}
    method = {"method": str(model.source.folder)}
    keywords = {"dtype": "float64", **keywords}
    return {"molecule": molecule, "driver": driver, "model": method, "keywords": keywords}


@needs_qcengine
def test_every_driver_of_qcschema_in_atomic_units(model):
    import qcengine

    from lesff.engines.qcengine import register

    register()
    register()  # again does nothing
    assert "lesff" in qcengine.list_available_programs()
    names = ["energy", "forces", "hessian", "dipole", "charges"]
    expected = model.predict(water(), names)
    found = {
        driver: qcengine.compute(task(model, driver), "lesff", raise_error=True)
        for driver in ("energy", "gradient", "hessian", "properties")
    }
    energy = expected.energy / HARTREE
    assert found["energy"].return_result == pytest.approx(energy, rel=1e-9)
    assert found["energy"].provenance.creator == "lesff"
    assert found["gradient"].properties.return_energy == pytest.approx(energy, rel=1e-9)
    gradient = np.reshape(found["gradient"].return_result, (3, 3))
    # QCSchema rounds geometries to 1e-8 bohr
    np.testing.assert_allclose(gradient, -expected.forces * BOHR / HARTREE, atol=1e-7)
    hessian = np.reshape(found["hessian"].return_result, (9, 9))
    right = np.reshape(expected.hessian, (9, 9)) * BOHR**2 / HARTREE
    np.testing.assert_allclose(hessian, right, atol=1e-5)
    named = found["properties"].return_result
    np.testing.assert_allclose(named["dipole"], expected.dipole / BOHR, atol=1e-6)
    np.testing.assert_allclose(named["charges"], expected.charges, atol=1e-6)


@needs_qcengine
def test_what_lesff_refuses_is_a_failed_operation_with_the_reason(model):
    import qcengine

    from lesff.engines.qcengine import register

    register()
    gold = task(model, "energy")
    gold["molecule"]["symbols"] = ["Au", "H", "H"]
    ghost = task(model, "energy")
    ghost["molecule"]["real"] = [True, True, False]
    half = task(model, "energy")
    half["molecule"] |= {"molecular_charge": 0.5, "validate": False, "molecular_multiplicity": 1}
    for bad, reason in (
        (gold, "Au"),
        (ghost, "ghost"),
        (half, "charge"),
        (task(model, "energy", stricter=True), "unknown keyword stricter"),
        ({**task(model, "energy"), "model": {"method": "off-huge"}}, "off-huge"),
    ):
        found = qcengine.compute(bad, "lesff")
        assert not found.success
        assert reason in found.error.error_message


def test_force_constants_of_phonopy_are_the_hessian_of_the_supercell(model):
    """Displacements of phonopy, forces by arrays of one trajectory, an independent Hessian."""
    atoms = triclinic_ice()
    cell = PhonopyAtoms(symbols=list(atoms.symbols), positions=atoms.positions, cell=atoms.cell[:])
    phonons = Phonopy(cell, np.diag([1, 1, 1]), is_symmetry=False, primitive_matrix="P")
    phonons.generate_displacements(distance=0.005, is_plusminus=True)
    evaluator = Evaluator(model.potential, on_out_of_domain="ignore")
    structures = [
        evaluator.structure(x.numbers, x.positions, x.cell, True)
        for x in phonons.supercells_with_displacements or []
    ]
    rows = evaluator.evaluate_batch(structures, ["forces"])
    phonons.forces = [row["forces"] for row in rows]
    phonons.produce_force_constants()
    # (i, j, a, b) of phonopy, (i, a, j, b) of lesff
    hessian = model.predict(atoms, ["hessian"]).hessian.transpose(0, 2, 1, 3)
    largest = np.abs(hessian).max()
    np.testing.assert_allclose(phonons.force_constants, hessian, atol=2e-3 * largest)


@pytest.mark.parametrize(
    ("module", "package"), [("qcengine", "qcengine"), ("torchsim", "torch_sim")]
)
def test_an_engine_that_is_not_installed_names_its_extra(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"lesff.engines.{module}", raising=False)
    with pytest.raises(MissingDependencyError, match=rf'pip install "lesff\[{module}\]"'):
        import_module(f"lesff.engines.{module}")
