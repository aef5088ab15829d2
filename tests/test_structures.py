"""Input checks, charge and spin rules, files, graphs in and out of batches."""

import ase
import ase.io
import numpy as np
import pytest
import torch
from helpers import make_graph, triclinic_ice, two_waters, water

from lesff.atoms.graph import AtomGraph, build_graph, collate, split_rows
from lesff.atoms.structure import read_structures, to_structure, to_structures
from lesff.errors import ChargeSpinError, LesffError, StructureError


def state(atoms, **arguments):
    structure = to_structure(atoms, **arguments)
    return structure.total_charge, structure.spin_multiplicity


# --- charge and spin ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "charge", "expected"),
    [("OHH", None, (0, 1)), ("OHH", 1, (1, 2)), ("OH", None, (0, 2)), ("OH", -1, (-1, 1)),
     ("H", 1, (1, 1)), ("H", None, (0, 2))],
)  # fmt: skip
def test_default_spin_is_the_lowest_of_the_right_parity(symbols, charge, expected):
    atoms = ase.Atoms(symbols, positions=np.eye(3)[: len(ase.Atoms(symbols))])
    assert state(atoms, total_charge=charge) == expected


@pytest.mark.parametrize("charge_key", ["charge", "total_charge"])
@pytest.mark.parametrize("spin_key", ["spin_multiplicity", "spin"])
def test_info_keys(charge_key, spin_key):
    atoms = water()
    atoms.info.update({charge_key: 2, spin_key: 3})
    assert state(atoms) == (2, 3)


def test_arguments_win_over_info():
    atoms = water()
    atoms.info.update(charge=2, spin=3)
    assert state(atoms, total_charge=0, spin_multiplicity=1) == (0, 1)


def test_zero_as_argument_is_not_a_missing_value():
    atoms = water()
    atoms.info["charge"] = 2
    assert state(atoms, total_charge=0) == (0, 1)


@pytest.mark.parametrize("value", [1.0, np.int64(1), np.float32(1.0), "1"])
def test_integers_of_any_type(value):
    structure = to_structure(water(), total_charge=value)
    assert structure.total_charge == 1
    assert type(structure.total_charge) is int


def test_equal_values_under_both_keys_agree():
    atoms = water()
    atoms.info.update(charge=1, total_charge=1.0)
    assert state(atoms) == (1, 2)


@pytest.mark.parametrize("keys", [("charge", "total_charge"), ("spin", "spin_multiplicity")])
def test_contradictory_info_raises(keys):
    atoms = water()
    atoms.info.update({keys[0]: 1, keys[1]: 3})
    with pytest.raises(ChargeSpinError, match="atoms.info has contradictory values"):
        to_structure(atoms)


@pytest.mark.parametrize("value", [0.5, "cation", np.nan, np.inf, [1, 2]])
def test_charge_must_be_an_integer(value):
    with pytest.raises(ChargeSpinError, match="total charge must be an integer, got"):
        to_structure(water(), total_charge=value)


@pytest.mark.parametrize("value", [0.5, "cation", np.nan, np.array([1, 2])])
def test_charge_in_info_must_be_an_integer(value):
    atoms = water()
    atoms.info["charge"] = value
    with pytest.raises(ChargeSpinError, match="total charge must be an integer, got"):
        to_structure(atoms)


@pytest.mark.parametrize("value", [1.5, "singlet"])
def test_spin_must_be_an_integer(value):
    with pytest.raises(ChargeSpinError, match="spin multiplicity must be an integer, got"):
        to_structure(water(), spin_multiplicity=value)


@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (0, 2, r"10 electrons \(total charge 0\) need an odd spin multiplicity .* got 2"),
        (1, 1, r"9 electrons \(total charge 1\) need an even spin multiplicity .* got 1"),
        (0, 13, "of at most 11, got 13"),
        (0, 0, "got 0"),
        (0, -1, "got -1"),
    ],
)
def test_impossible_spin_raises(charge, spin, message):
    with pytest.raises(ChargeSpinError, match=message):
        to_structure(water(), total_charge=charge, spin_multiplicity=spin)


def test_more_charge_than_electrons_raises():
    with pytest.raises(ChargeSpinError, match="total charge 11 exceeds the 10 electrons"):
        to_structure(water(), total_charge=11)


def test_all_spins_up_is_allowed():
    assert state(ase.Atoms("H"), spin_multiplicity=2) == (0, 2)
    assert state(ase.Atoms("He"), spin_multiplicity=3) == (0, 3)


# --- bad structures ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_must_be_finite(value):
    atoms = water()
    atoms.positions[1, 2] = value
    with pytest.raises(StructureError, match="positions must be finite, atom 1 is at"):
        to_structure(atoms)


def test_no_atoms():
    with pytest.raises(StructureError, match="must have at least one atom, got none"):
        to_structure(ase.Atoms())


def test_dummy_atoms():
    with pytest.raises(StructureError, match=r"atomic numbers must be 1\.\.118, got"):
        to_structure(ase.Atoms("XH", positions=[[0, 0, 0], [1, 0, 0]]))


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        ([[1, 0, 0], [2, 0, 0], [0, 0, 1]], True),
        ([[5, 0, 0], [10, 0, 0], [0, 0, 5]], (True, True, False)),
        (np.diag([5.0, 5, 0]), (False, False, True)),
    ],
)
def test_periodic_cells_need_a_volume(cell, pbc):
    atoms = ase.Atoms("H", cell=cell, pbc=pbc)
    with pytest.raises(StructureError, match="must span a volume, got .* set atoms.pbc = False"):
        to_structure(atoms)


def test_cell_must_be_finite():
    atoms = ase.Atoms("H", cell=[5, 5, np.nan], pbc=True)
    with pytest.raises(StructureError, match="the cell must be finite"):
        to_structure(atoms)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.diag([5.0, 0, 0])])
def test_cells_of_molecules_do_not_matter(cell):
    atoms = ase.Atoms("H", cell=cell)
    assert not to_structure(atoms).pbc.any()
    assert build_graph(to_structure(atoms), 3.0).cell.abs().max() == 0


def test_slab_with_open_zero_row_is_accepted():
    atoms = ase.Atoms("H", cell=np.diag([3.0, 3.0, 0]), pbc=(True, True, False))
    assert build_graph(to_structure(atoms), 3.5).n_edges == 4  # four images in the plane


@pytest.mark.parametrize("periodic", [False, True])
def test_overlapping_atoms(periodic):
    atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.1]])
    if periodic:
        atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 4.9]], cell=[5] * 3, pbc=True)
    with pytest.raises(StructureError, match=r"overlap: they must be at least 0\.2 A apart, got 0"):
        make_graph(atoms, 3.0)


def test_external_field():
    atoms = water()
    atoms.info["external_field"] = [0.0, 0.0, 0.0]
    assert to_structure(atoms).external_field is None
    atoms.info["external_field"] = [0.0, 0.0, 0.1]
    assert to_structure(atoms).external_field.tolist() == [0.0, 0.0, 0.1]
    assert to_structure(atoms, external_field=[1, 2, 3]).external_field.tolist() == [1, 2, 3]


@pytest.mark.parametrize("field", [0.1, [0.1, 0.2], [0.1, 0.2, np.nan], "up", [[1, 2, 3]]])
def test_bad_external_field(field):
    with pytest.raises(StructureError, match="`external_field` must be three finite numbers"):
        to_structure(water(), external_field=field)


def test_external_fields_one_per_structure():
    rows = [[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]]
    (first, second), _ = to_structures([water(), water()], external_field=rows)
    assert first.external_field.tolist() == rows[0]
    assert second.external_field is None
    with pytest.raises(StructureError, match=r"one row per structure \(1\), got 2 rows"):
        to_structures([water()], external_field=rows)


def test_collate_fills_missing_fields_with_zeros():
    inside = build_graph(to_structure(water(), external_field=[0.0, 0.1, 0.0]), 3.0)
    outside = build_graph(to_structure(water()), 3.0)
    assert collate([outside, outside]).external_field is None
    joined = collate([inside, outside]).external_field
    assert joined.tolist() == [[0.0, 0.1, 0.0], [0.0, 0.0, 0.0]]
    assert collate([inside]).to(dtype=torch.float32).external_field.dtype == torch.float32


@pytest.mark.parametrize("source", [3, {"numbers": [1]}, object()])
def test_wrong_type(source):
    with pytest.raises(StructureError, match="must be an ASE Atoms object, .*a pymatgen structure"):
        to_structure(source)


def test_errors_have_a_common_and_a_builtin_base():
    with pytest.raises(LesffError, match="at least one atom"):
        to_structure(ase.Atoms())
    with pytest.raises(ValueError, match="at least one atom"):
        to_structure(ase.Atoms())


# --- one, many, files, other packages ----------------------------------------------------------


def test_single_and_list():
    structures, is_single = to_structures(water())
    assert (len(structures), is_single) == (1, True)
    structures, is_single = to_structures([water()])
    assert (len(structures), is_single) == (1, False)
    structures, _ = to_structures(iter([water(), two_waters()]))
    assert [len(s) for s in structures] == [3, 6]


def test_one_value_or_one_per_structure():
    structures, _ = to_structures([water(), water()], total_charge=1)
    assert [s.total_charge for s in structures] == [1, 1]
    structures, _ = to_structures(
        [water(), water()], total_charge=[1, 0], spin_multiplicity=np.array([2, 3])
    )
    assert [(s.total_charge, s.spin_multiplicity) for s in structures] == [(1, 2), (0, 3)]


def test_wrong_number_of_values():
    with pytest.raises(ChargeSpinError, match=r"`total_charge` must be one value or one per str"):
        to_structures([water(), water()], total_charge=[1])
    with pytest.raises(ChargeSpinError, match=r"`spin_multiplicity` must be .* \(1\), got 2"):
        to_structures(water(), spin_multiplicity=[1, 1])


def test_empty_list():
    with pytest.raises(StructureError, match="at least one structure must be given, got an empty"):
        to_structures([])


def test_the_failing_structure_is_named():
    with pytest.raises(StructureError, match="structure 1 must have at least one atom"):
        to_structures([water(), ase.Atoms()])


class Foreign:
    """Looks like a pymatgen structure."""

    def __init__(self, atoms):
        self.atoms = atoms

    def to_ase_atoms(self):
        return self.atoms


class ForeignSequence(Foreign):
    """A pymatgen Structure is itself a sequence of sites."""

    def __iter__(self):
        return iter(["site", "site"])


@pytest.mark.parametrize("kind", [Foreign, ForeignSequence])
def test_pymatgen_like_objects(kind):
    structures, is_single = to_structures(kind(triclinic_ice()))
    assert is_single
    np.testing.assert_array_equal(structures[0].positions, triclinic_ice().positions)
    assert structures[0].pbc.all()
    many, _ = to_structures([kind(water()), two_waters()])
    assert [len(s) for s in many] == [3, 6]


@pytest.mark.parametrize("as_text", [True, False])
def test_extxyz_file(tmp_path, as_text):
    path = tmp_path / "frames.extxyz"
    cation = water()
    cation.info["charge"] = 1
    ase.io.write(path, [cation, triclinic_ice()])
    structures, is_single = to_structures(str(path) if as_text else path)
    assert not is_single
    assert [(s.total_charge, s.spin_multiplicity) for s in structures] == [(1, 2), (0, 1)]
    # extxyz prints eight digits
    np.testing.assert_allclose(structures[1].cell, np.array(triclinic_ice().cell), atol=1e-7)
    np.testing.assert_allclose(structures[0].positions, cation.positions, atol=1e-7)
    assert [s.pbc.all() for s in structures] == [False, True]
    assert [len(atoms) for _, atoms in read_structures(path)] == [3, 6]


def test_missing_file(tmp_path):
    with pytest.raises(StructureError, match="structure file .*none.xyz does not exist"):
        to_structures(tmp_path / "none.xyz")


@pytest.mark.parametrize(
    ("name", "text"),
    [("bad.xyz", "two\natoms\n"), ("data.unknown", "nothing that ase knows"),
     ("short.xyz", "3\n\nO 0 0 0\n"), ("bad.cif", "data_x\n_cell_length_a what\n")],
)  # fmt: skip
def test_unreadable_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(StructureError, match=f"structure file .*{name}"):
        to_structures(path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.xyz"
    path.touch()
    with pytest.raises(StructureError, match="structure file .*empty.xyz"):
        to_structures(path)


def test_bad_frame_is_named(tmp_path):
    path = tmp_path / "frames.extxyz"
    wrong = water()
    wrong.info["charge"] = 0.5
    ase.io.write(path, [water(), wrong])
    with pytest.raises(ChargeSpinError, match="frames.extxyz, frame 1: total charge must be an"):
        to_structures(path)


# --- graphs ------------------------------------------------------------------------------------


def test_graph_of_a_structure():
    graph = make_graph(triclinic_ice(), 3.0, total_charge=-1)
    assert (graph.n_atoms, graph.n_systems) == (6, 1)
    assert graph.positions.dtype == graph.cell.dtype == graph.total_charge.dtype == torch.float64
    assert (graph.total_charge.tolist(), graph.spin_multiplicity.tolist()) == ([-1.0], [2])
    np.testing.assert_array_equal(graph.cell[0], np.array(triclinic_ice().cell))
    sender, receiver = graph.edge_index
    vectors = graph.positions[receiver] - graph.positions[sender]
    vectors = vectors + graph.cell_shifts.double() @ graph.cell[0]
    assert float(vectors.norm(dim=1).max()) < 3.0
    torch.testing.assert_close(vectors[graph.reverse_edge], -vectors)


def test_building_a_graph_does_not_alias_the_atoms():
    atoms = water()
    graph = make_graph(atoms)
    before = graph.positions.clone()
    atoms.positions += 1.0
    assert torch.equal(graph.positions, before)


def test_collate_and_split():
    graphs = [make_graph(water(), total_charge=1), make_graph(triclinic_ice(), 3.0),
              make_graph(ase.Atoms("O"))]  # fmt: skip
    both = collate(graphs)
    assert (both.n_atoms, both.n_systems) == (10, 3)
    assert both.n_edges == sum(graph.n_edges for graph in graphs)
    assert both.atoms_per_system().tolist() == [3, 6, 1]
    assert both.batch.tolist() == [0] * 3 + [1] * 6 + [2]
    assert both.total_charge.tolist() == [1.0, 0.0, 0.0]
    assert both.pbc.all(1).tolist() == [False, True, False]
    assert torch.equal(both.batch[both.edge_index[0]], both.batch[both.edge_index[1]])
    assert bool((both.edge_index[1].diff() >= 0).all())
    assert torch.equal(both.edge_index[:, both.reverse_edge], both.edge_index.flip(0))
    parts = split_rows(both.positions, [3, 6, 1])
    for part, graph in zip(parts, graphs, strict=True):
        assert torch.equal(part, graph.positions)


def test_collate_of_one_and_of_none():
    graph = make_graph(water())
    assert collate([graph]) is graph
    with pytest.raises(StructureError, match="`graphs` must hold at least one structure"):
        collate([])


def test_nested_collate():
    a, b, c = (make_graph(x) for x in (water(), two_waters(), water()))
    nested, flat = collate([collate([a, b]), c]), collate([a, b, c])
    for name in AtomGraph.__dataclass_fields__:
        if getattr(flat, name) is not None:
            assert torch.equal(getattr(nested, name), getattr(flat, name)), name


def test_graph_dtype_and_immutability():
    graph = make_graph(water())
    single = graph.to(dtype=torch.float32)
    assert single.positions.dtype == single.total_charge.dtype == torch.float32
    assert single.edge_index.dtype == single.cell_shifts.dtype == torch.int64
    assert graph.positions.dtype == torch.float64
    with pytest.raises(AttributeError, match="cannot assign to field 'positions'"):
        graph.positions = single.positions  # type: ignore[misc]
