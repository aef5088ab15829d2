"""Atoms too close or too far: refused, warned of, named; ordinary compounds are neither."""

import warnings

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2
from ase.data import covalent_radii
from ase.io import write
from click.testing import CliRunner

import lesff
from lesff.atoms.contacts import ContactRule, closest
from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import VerletList, find_neighbors
from lesff.atoms.structure import to_structure
from lesff.cli import main
from lesff.errors import CloseContactWarning, StructureError
from lesff.train.data import read_labelled

BOHR = 0.529177210903
"""A, CODATA 2018."""


@pytest.fixture(scope="module")
def model():
    return lesff.load("off-small", offline=True)


def scaled(name, factor):
    atoms = molecule(name)
    atoms.positions *= factor
    return atoms


def pair(first, second, share):
    """Two atoms at a share of the sum of their covalent radii."""
    atoms = ase.Atoms([first, second], [[0, 0, 0], [0, 0, 1]])
    atoms.positions[1, 2] = share * covalent_radii[atoms.numbers].sum()
    return atoms


@pytest.mark.parametrize("name", ["H2O", "C6H6"])
def test_nanometres_are_refused(model, name):
    with pytest.raises(StructureError, match=r"structure: atoms \d.*overlap.*positions in nm\?.*"):
        model.predict(scaled(name, 0.1))
    atoms = scaled(name, 0.1)
    atoms.calc = model.calculator()
    with pytest.raises(InputError, match="overlap"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("name", ["H2O", "C6H6"])
def test_bohr_is_noticed(model, name):
    with pytest.warns(CloseContactWarning, match=r"no two atoms are bonded.*positions in bohr\?"):
        model.predict(scaled(name, 1.0 / BOHR))


@pytest.mark.parametrize("name", ["H2O", "C6H6"])
def test_positions_converted_twice_are_noticed(model, name):
    """A taken for bohr and converted: 0.53 of the distances, between warning and error."""
    with pytest.warns(CloseContactWarning, match="bonds are longer than 0.7"):
        model.predict(scaled(name, BOHR))


def test_a_cell_of_two_angstrom_is_refused(model):
    atoms = molecule("H2O")
    atoms.set_cell([2.0] * 3)
    atoms.pbc = True
    message = r"structure 1: atoms 0 \(O\) and 0 \(O, its image in cell .*\) are 2\.000 A apart"
    with pytest.raises(StructureError, match=message):
        model.predict([molecule("H2O"), atoms])


@pytest.mark.parametrize(("first", "second"), [("H", "H"), ("O", "C"), ("C", "C"), ("P", "Cl")])
def test_thresholds_are_shares_of_covalent_radii(model, first, second):
    """Issue: a warning below 0.7 and an error below 0.45."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CloseContactWarning)
        model.predict(pair(first, second, 0.71))
    for share in (0.69, 0.46):
        with pytest.warns(CloseContactWarning, match=rf"{share:.2f} of the sum of their cov"):
            model.predict(pair(first, second, share))
    message = rf"atoms 0 \({first}\) and 1 \({second}\) are .* 0\.44 of the sum"
    with pytest.raises(StructureError, match=message):
        model.predict(pair(first, second, 0.44))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CloseContactWarning)
        assert np.isfinite(model.predict(pair(first, second, 0.3), allow_close=True).energy)


def test_atoms_on_top_of_each_other_are_refused_always(model):
    with pytest.raises(StructureError, match="they must be 0.01 A apart at least"):
        model.predict(pair("C", "C", 1e-4), allow_close=True)


def test_images_count(model):
    """An oxygen and a hydrogen, 0.3 A apart across the boundary."""
    atoms = ase.Atoms("OHH", [[0, 0, 0.1], [0, 0, 7.8], [0, 0.9, 0.6]], cell=[8] * 3, pbc=True)
    with pytest.raises(StructureError, match=r"atoms 0 \(O\) and 1 \(H, its image in cell \(0, 0,"):
        model.predict(atoms)


def test_the_command_line(tmp_path):
    write(tmp_path / "two.xyz", [molecule("H2O"), scaled("H2O", 0.3)])
    arguments = ["predict", str(tmp_path / "two.xyz"), "-m", "off-small", "-p", "energy"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert "structure 1: atoms 0 (O) and 1 (H) are 0.291 A apart" in str(result.output) + str(
        result.exception
    )
    assert CliRunner().invoke(main, [*arguments, "--allow-close"]).exit_code == 0


def test_a_trajectory_warns_of_a_pair_once(model):
    atoms = scaled("H2O", 0.69)
    atoms.calc = model.calculator()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            atoms.positions[1] += 1e-3
            atoms.get_forces()
    pairs = [str(row.message).split(" are ")[0] for row in caught]
    assert pairs
    assert len(set(pairs)) == len(pairs)


@pytest.mark.filterwarnings("ignore::lesff.errors.StateWarning")
def test_ordinary_compounds_are_left_alone():
    """All molecules of the G2 set, and crystals of every kind."""
    solids = [bulk(s) for s in ("C", "Si", "Be", "Fe", "Cu", "Na", "Cs", "W", "Ti", "Mg")]
    solids += [bulk(f, "rocksalt", a=a) for f, a in (("MgO", 4.21), ("LiF", 4.03), ("CsI", 7.0))]
    solids += [bulk("BN", "zincblende", a=3.615), bulk("CsCl", "cesiumchloride", a=4.12)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CloseContactWarning)
        for atoms in [*(molecule(name) for name in g2.names), *solids]:
            structure = to_structure(atoms)
            found = find_neighbors(structure.positions, structure.cell, structure.pbc, 5.0)
            ContactRule().check(structure, found, "structure")


def test_edge_lengths_are_distances():
    """Of a new search and of a kept list that is cut down."""
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    verlet = VerletList(4.0, 0.5)
    for seed in (0, 1):
        atoms.rattle(0.05, seed=seed)
        arguments = atoms.positions, np.array(atoms.cell), atoms.pbc
        for found in (find_neighbors(*arguments, 4.0), verlet.find(*arguments)):
            sender, receiver = found.edge_index
            vectors = atoms.positions[receiver] - atoms.positions[sender]
            vectors = vectors + found.cell_shifts @ np.array(atoms.cell)
            np.testing.assert_allclose(found.lengths, np.linalg.norm(vectors, axis=1), atol=1e-12)


def test_frames_to_train_on_are_kept_and_counted(tmp_path):
    frames = [molecule("H2O"), scaled("H2O", 0.4), molecule("CH4")]
    for atoms in frames:
        zero = np.zeros((len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=zero)
    write(tmp_path / "data.extxyz", frames)
    with pytest.warns(CloseContactWarning, match="1 of 3 frames of .*data.extxyz.*they are used"):
        found, summary = read_labelled(tmp_path / "data.extxyz")
    assert len(found) == 3
    assert "in frame 1: atoms 0 (O) and 1 (H)" in "\n".join(summary.lines())


def test_low_level_graphs_refuse_overlaps_only():
    structure = to_structure(pair("C", "C", 0.3))
    assert build_graph(structure, 3.0).n_edges == 2
    found = find_neighbors(structure.positions, structure.cell, structure.pbc, 3.0)
    contact = closest(structure, found)
    assert contact.share == pytest.approx(0.3)
    assert contact.symbols == ("C", "C")
