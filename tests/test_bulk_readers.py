"""Sources of structures: what they hold, what they are called, what happens to damaged ones."""

import io
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.db import connect
from ase.io import write
from bulk_structures import rattled

from lesff.atoms.structure import to_structure
from lesff.bulk.items import Item, chunks_of, item_of_atoms
from lesff.bulk.smiles import atoms_of_smiles, looks_like_smiles
from lesff.bulk.sources import count_structures, items_of, sources_of
from lesff.errors import StructureError

WATER = "3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"


def items(*words: object, **options: object) -> list[Item]:
    return list(items_of(sources_of([str(word) for word in words], **options)))


def test_frames_of_an_xyz_file_are_those_that_ase_reads(tmp_path: Path) -> None:
    frames = rattled(7)
    frames[3].info["charge"] = 0
    frames[4].set_cell([9.0, 9.0, 9.0])
    frames[4].pbc = True
    write(tmp_path / "a.extxyz", frames)
    found = items(tmp_path / "a.extxyz")
    assert [item.index for item in found] == list(range(7))
    assert len({item.key for item in found}) == 7
    for item, atoms in zip(found, frames, strict=True):
        assert item.source == str(tmp_path / "a.extxyz")
        assert item.n_atoms == len(atoms)
        np.testing.assert_allclose(item.to_atoms().positions, atoms.positions, atol=1e-8)
        assert item.to_atoms().pbc.tolist() == atoms.pbc.tolist()


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (WATER.replace("3\n", "4\n"), ["it claims 4 atoms and has 3"]),
        (WATER.replace("3\n", "2\n"), ["it claims 2 atoms, and another atom follows: 'H -0.76"]),
        (WATER.replace("3\n", "three\n"), ["the first line must be the number of atoms"]),
        (WATER.replace("O 0 0 0", "O 0 0"), ["cannot be read: "]),
        (WATER.replace("O ", "Xq "), ["Xq"]),
        (WATER.replace("0.76", "1.2.3", 1), ["cannot be read: "]),
    ],
)
def test_a_damaged_frame_leaves_the_others(tmp_path: Path, damage: str, faults: list[str]) -> None:
    """Counts that are wrong, words for numbers: the frames before and behind are read."""
    path = tmp_path / "a.xyz"
    path.write_text(WATER + damage + WATER.replace("0.59", "0.60") + WATER)
    found = items(path)
    assert len(found) == 3 + len(faults)
    assert [item.index for item in found] == list(range(len(found)))
    for item, fault in zip(found[1:-2], faults, strict=True):
        with pytest.raises(StructureError, match=fault):
            item.to_atoms()
    for item, y in ((found[0], 0.59), (found[-2], 0.60), (found[-1], 0.59)):
        assert item.to_atoms().positions[1, 1] == y


def test_a_file_that_ends_inside_a_frame(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(WATER + "3\n\nO 0 0 0\nH 0 0 1")
    found = items(tmp_path / "a.xyz")
    assert [item.fault for item in found] == [None, "it claims 3 atoms and has 2"]


def test_keys_tell_structures_apart_and_only_those() -> None:
    atoms = molecule("H2O")
    key = item_of_atoms(atoms, "a", 0).key
    assert item_of_atoms(atoms.copy(), "b", 7).key == key
    others = [atoms.copy() for _ in range(5)]
    others[0].positions[0, 0] += 1e-12
    others[1].info["charge"] = 1
    others[2].pbc = [True, False, False]
    others[3].set_cell([1, 2, 3])
    others[4].numbers[0] = 16
    assert len({key, *(item_of_atoms(other, "a", 0).key for other in others)}) == 6


def test_folders_globs_and_order(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.xyz", "c/d.xyz", "c/.hidden.xyz", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(WATER)
    names = [str(tmp_path / name) for name in ("a.xyz", "b.xyz", "c/d.xyz")]
    assert [item.source for item in items(tmp_path)] == names
    assert [item.source for item in items(tmp_path / "*.xyz")] == names[:2]
    assert [item.source for item in items(tmp_path / "b.xyz", tmp_path / "a.xyz")] == names[1::-1]
    with pytest.raises(StructureError, match="no file fits the pattern"):
        items(tmp_path / "*.cif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StructureError, match="holds no structure files"):
        items(tmp_path / "empty")


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].xyz").write_text(WATER)
    assert len(items(tmp_path / "a[1].xyz")) == 1


def test_databases_and_other_files(tmp_path: Path) -> None:
    frames = rattled(4)
    with connect(tmp_path / "a.db") as database:  # pyright: ignore[reportGeneralTypeIssues]
        for atoms in frames:
            database.write(atoms, key_value_pairs={"total_charge": -1})
    found = items(tmp_path / "a.db")
    assert [item.to_atoms().info["total_charge"] for item in found] == [-1] * 4
    write(tmp_path / "a.traj", frames)
    write(tmp_path / "a.cif", ase.Atoms("NaCl", [[0, 0, 0], [2.8, 0, 0]], cell=[5.6] * 3, pbc=True))
    assert len(items(tmp_path / "a.traj", tmp_path / "a.cif")) == 5
    sources = sources_of([str(tmp_path / "a.db")])
    assert count_structures(sources) == 4


def test_a_file_that_cannot_be_read_is_one_faulty_item(tmp_path: Path) -> None:
    (tmp_path / "a.traj").write_bytes(b"nonsense")
    (tmp_path / "b.xyz").write_text(WATER)
    found = items(tmp_path / "a.traj", tmp_path / "b.xyz")
    assert [item.fault is None for item in found] == [False, True]


def test_lines_of_smiles(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("smiles name\nCCO ethanol\n\n# comment\n[NH4+]\tammonium ion\n")
    first, second = items(tmp_path / "a.smi")
    assert (first.smiles, first.info) == ("CCO", {"name": "ethanol"})
    assert (second.smiles, second.info) == ("[NH4+]", {"name": "ammonium ion"})


def test_tables_with_smiles(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,SMILES,note\n1,CCO,"a, b"\n2,,none\n3,O,\n')
    found = items(tmp_path / "a.csv")
    assert [item.smiles for item in found] == ["CCO", None, "O"]
    assert found[0].info == {"id": "1", "note": "a, b"}
    assert found[1].fault == "column 'SMILES' is empty"
    (tmp_path / "b.tsv").write_text("structure\tid\nCCO\t1\n")
    (fault,) = items(tmp_path / "b.tsv")
    assert "must have a column `smiles`, got structure, id" in str(fault.fault)
    (item,) = items(tmp_path / "b.tsv", column="structure")
    assert item.smiles == "CCO"


@pytest.mark.parametrize(
    ("text", "count"), [(WATER * 2, 2), ("CCO\nO\n", 2), ("id,smiles\n1,CCO\n", 1)]
)
def test_standard_input_says_what_it_is(text: str, count: int) -> None:
    found = items("-", stdin=io.StringIO(text))
    assert len(found) == count
    assert all(item.fault is None for item in found)
    (fault,) = items("-", stdin=io.StringIO("\n"))
    assert fault.fault == "standard input holds no structures"


def test_words_that_are_smiles() -> None:
    assert [item.smiles for item in items("CCO", "smiles:c1ccccc1")] == ["CCO", "c1ccccc1"]
    assert looks_like_smiles("C[C@@H](N)C(=O)[O-]")
    assert not looks_like_smiles("water.xyz")
    with pytest.raises(StructureError, match="structure file none.xyz does not exist"):
        items("none.xyz")
    with pytest.raises(StructureError, match="CC1 does not exist, and as SMILES: 'CC1' is no"):
        items("CC1")


def test_smiles_become_the_same_structure_each_time() -> None:
    """Total charge and radicals are those of the SMILES; bonds are those of chemistry."""
    first, second = (atoms_of_smiles("C[NH2+]CC(=O)[O-].[Na+]") for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    assert to_structure(first).total_charge == 1
    assert to_structure(atoms_of_smiles("[CH3]")).spin_multiplicity == 2
    ethane = atoms_of_smiles("CC")
    assert ethane.get_chemical_formula() == "C2H6"
    # 1.536 A: microwave and electron diffraction, Hirota et al., J. Mol. Spectrosc. 89, 285 (1981)
    assert ethane.get_distance(0, 1) == pytest.approx(1.536, abs=0.03)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "unclosed|cannot be parsed"),
        ("C(C)(C)(C)(C)C", "valence"),
        ("c1cccc1", "kekulize|Kekul"),
        ("", "is empty"),
        ("C*", r"atom of no element \(\*\)"),
        ("C" * 3000, "at most 2000 characters"),
    ],
)
def test_bad_smiles_have_one_clear_reason(smiles: str, reason: str) -> None:
    with pytest.raises(StructureError, match=reason) as caught:
        atoms_of_smiles(smiles)
    assert "\n" not in str(caught.value)


def test_chunks_end_by_number_and_by_atoms() -> None:
    given = [item_of_atoms(atoms, "a", i) for i, atoms in enumerate(rattled(25))]
    chunks = list(chunks_of(iter(given), 10, 10**6))
    assert [len(chunk.items) for chunk in chunks] == [10, 10, 5]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    # ethanol and benzene have 9 + 12 atoms
    assert len(next(chunks_of(iter(given), 10, 20)).items) == 2
    assert chunks[0].key("a") != chunks[0].key("b")
