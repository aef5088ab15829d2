"""More crystals of the evaluation suite: phonons and surfaces on potentials solved elsewhere."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from ase.phonons import Phonons

from lesff.evaluation.checks import crystals
from lesff.evaluation.checks.crystals import (
    MORE_SOLIDS,
    PHONONS,
    check_more_solids,
    check_phonons,
    check_surfaces,
    compare_phonons,
    frequencies,
    phonon_crystal,
)
from lesff.evaluation.checks.solids import SOLIDS
from lesff.evaluation.results import NotCoveredError


class Rows(Calculator):
    """Springs within every row of a supercell."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, constant, order, length):
        super().__init__()
        self.constant, self.order, self.length = constant, order, length
        self.rest = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.rest = atoms.positions.round(0) if self.rest is None else self.rest
        x = (atoms.positions - self.rest)[self.order, 0].reshape(-1, self.length)
        stretch = np.roll(x, -1, axis=1) - x
        forces = np.zeros((len(atoms), 3))
        k = self.constant
        forces[self.order, 0] = (k * (stretch - np.roll(stretch, 1, axis=1))).ravel()
        self.results = {"energy": 0.5 * k * float((stretch**2).sum()), "forces": forces}


def subject(calculator, elements):
    """A method of the suite."""
    return SimpleNamespace(
        name="emt",
        model=None,
        calculator=lambda: calculator,
        lacks=lambda numbers, charge=0, spin=None: "" if set(numbers) <= set(elements) else "lacks",
    )


def test_a_chain_of_two_masses_has_its_frequencies():
    """w^2 = k (1/m + 1/M) (1 +- sqrt(1 - 4 m M sin^2(q a / 2) / (m + M)^2)), Kittel, chapter 4."""
    atoms = ase.Atoms("LiCl", positions=[[0, 0, 0], [2, 0, 0]], cell=[4, 9, 9], pbc=True)
    cells = 3
    big = atoms.repeat(cells)
    order = np.lexsort((big.positions[:, 0], big.positions[:, 1], big.positions[:, 2]))
    calculator = Rows(2.0, order, 2 * cells)
    found = frequencies(atoms, calculator, cells)
    light, heavy = atoms.get_masses()
    q = 2.0 * np.pi * np.arange(cells) / cells
    root = np.sqrt(1.0 - 4.0 * light * heavy * np.sin(q / 2.0) ** 2 / (light + heavy) ** 2)
    # eV/A^2/u in (rad/fs)^2, and 1/fs in THz
    base = 2.0 * (1.0 / light + 1.0 / heavy) / 103.64269652680505
    squares = base * np.array([1.0 + root, np.clip(1.0 - root, 0.0, None)])
    expected = np.sqrt(squares) / (2e-3 * np.pi)
    along_x = found.reshape(cells, cells, cells, 6)[:, 0, 0]
    np.testing.assert_allclose(along_x.max(1), expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.sort(along_x, axis=1)[1:, -2], expected[1, 1:], rtol=1e-6)
    assert abs(found).min() < 1e-3


def test_frequencies_are_those_of_ase(tmp_path):
    """Copper by EMT, at the wave vectors of the supercell: another code."""
    atoms, cells = bulk("Cu", "fcc", a=3.6), 3
    other = Phonons(atoms, EMT(), supercell=(cells,) * 3, delta=0.01, name=str(tmp_path / "p"))
    other.run()
    other.read(acoustic=False)
    steps = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    # eV / h in THz
    expected = other.band_structure(steps / cells, verbose=False) / 4.135667696e-3
    found = frequencies(atoms, EMT(), cells)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(found[0], 0.0, atol=1e-2)


def test_crystals_of_the_phonon_check_are_what_they_are_called():
    for name in PHONONS:
        atoms = phonon_crystal(name)
        assert len(atoms) in crystals.CELLS
        formula = atoms.symbols.formula.reduce()[0].count()
        assert formula == ase.Atoms(name).symbols.formula.reduce()[0].count()
    # corundum: 25.6 A^3 a formula unit times 1.66 over 102 u is the density 3.99 g/cm^3 (CRC)
    corundum = phonon_crystal("Al2O3")
    density = corundum.get_masses().sum() / corundum.get_volume() * 1.66053907
    assert density == pytest.approx(3.99, abs=0.02)


def test_phonons_are_compared_mode_by_mode():
    ours = [{"crystal": "Si", "thz": [[0.0, 9.0], [3.0, 6.0]]}, {"crystal": "MgO", "thz": [[5.0]]}]
    theirs = [{"crystal": "Si", "thz": [[0.0, 10.0], [4.0, 7.0]]}]
    slope, difference = compare_phonons("m", ours, theirs)
    assert slope["value"] == pytest.approx((90.0 + 12.0 + 42.0) / (100.0 + 16.0 + 49.0))
    assert difference["value"] == pytest.approx(np.sqrt(3.0 / 4.0), rel=1e-5)
    assert compare_phonons("m", ours, [{"crystal": "LiF", "thz": [[1.0]]}]) == []


def test_what_nothing_covers_is_said():
    nothing = subject(EMT(), ())
    for check in (check_more_solids, check_phonons, check_surfaces):
        with pytest.raises(NotCoveredError, match="lacks"):
            check(nothing)
    assert len(MORE_SOLIDS) == 20
    assert not set(MORE_SOLIDS) & set(SOLIDS)


class Bonds(Calculator):
    """One eV for each pair of neighbours: of NaCl at 2.82 A, not the next ones of LiF at 2.84."""

    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        first, _ = neighbor_list("ij", atoms, 2.83)
        self.results = {
            "energy": -0.5 * len(first),
            "forces": np.zeros((len(atoms), 3)),
            "stress": np.zeros(6),
        }


def test_a_face_costs_half_a_bond_for_each_of_its_atoms():
    """Cleaving rock salt cuts one bond an atom and makes two faces: 0.5 eV on a^2 / 4 * 2."""
    found = check_surfaces(subject(Bonds(), (3, 9, 11, 12, 8, 17)))
    by_name = {row["solid"]: row["j_per_m2"] for row in found.rows}
    assert set(by_name) == {"LiF", "NaCl", "MgO"}
    for name, value in by_name.items():
        # an atom of the face has a^2 / 4; 1 eV / A^2 is 16.02 J / m^2
        assert value == pytest.approx(0.5 * 16.02176634 / (SOLIDS[name].a ** 2 / 4.0), rel=1e-6)


def test_crystals_are_kept_apart_and_squeezed(monkeypatch):
    """Nearest ions of NaCl are a / 2 apart, and the sum of their radii is 2.68 A."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools" / "data"))
    is_apart = importlib.import_module("apart").is_apart
    tool = importlib.import_module("squeezed")
    salt = bulk("NaCl", "rocksalt", a=4.0)
    share = 2.0 / covalent_radii[[11, 17]].sum()
    for factor, expected in ((0.99, True), (1.01, False)):
        parts = salt.numbers, salt.positions, np.array(salt.cell)
        assert is_apart(*parts, factor * share) is expected
    start = bulk("NaCl", "rocksalt", a=5.64)
    rng = np.random.default_rng(0)
    found = [tool.squeezed(start, rng) for _ in range(200)]
    lengths = [(4.0 * atoms.get_volume()) ** (1 / 3) / 5.64 for atoms in found if atoms is not None]
    assert tool.LEAST <= min(lengths) < 0.7
    assert 1.1 < max(lengths) <= tool.MOST
    # what would be closer than 0.6 of the sum is left out: none of a salt that starts at 1.05
    assert None not in found
    assert tool.squeezed(bulk("NaCl", "rocksalt", a=2.5), rng) is None
