"""Files of structures and arrays that claim too much: one error each, at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import water

from lesff.atoms.files import read_images, read_npz
from lesff.atoms.structure import read_structures
from lesff.cli.main import main
from lesff.errors import ConfigError, DataError, StructureError
from lesff.train.shards import read_shard

WATER = "3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


def claiming(count: str) -> str:
    return f"{count}\n\nO 0 0 0.119\n"


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".xyz.gz", ".xyz.xz", ".xyz.bz2"])
@pytest.mark.parametrize("count", ["1000000000000", "2", "999999999999999999"])
def test_more_atoms_than_lines(suffix: str, count: str, tmp_path: Path) -> None:
    path = tmp_path / f"claims{suffix}"
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    with openers.get(path.suffix, open)(path, "wt") as stream:
        stream.write(WATER + claiming(count))
    with pytest.raises(StructureError, match=f"frame 1: it claims {count} atoms and has 1"):
        list(read_structures(path))


@pytest.mark.parametrize("count", ["-1", "1e12", "9" * 5000, "x"])
def test_counts_that_are_none(count: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.xyz"
    path.write_text(claiming(count))
    with pytest.raises(StructureError, match="must be the number of atoms, got"):
        read_images(path)


def test_more_atoms_than_lines_in_a_poscar(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    ase.io.write(path, ase.Atoms("NaCl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True))
    assert len(read_images(path)[0]) == 2
    lines = path.read_text().splitlines()
    lines[6] = "1 1000000000000"
    path.write_text("\n".join(lines))
    with pytest.raises(StructureError, match="claims 1000000000001 atoms and has"):
        read_images(path)


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma), (".bz2", bz2)])
def test_files_that_unpack_without_end(suffix: str, module: Any, tmp_path: Path) -> None:
    """A tenth of a gigabyte of zeros, which pack to a thousandth."""
    path = tmp_path / f"bomb.xyz{suffix}"
    path.write_bytes(module.compress(bytes(100 * 2**20)))
    with pytest.raises(StructureError, match="unpacks to more than 200 times its size"):
        read_images(path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2"])
def test_the_limit_can_be_set(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"water.xyz{suffix}"
    ase.io.write(path, [water()] * 20)
    assert len(read_images(path)) == 20
    monkeypatch.setenv("LESFF_MAX_INPUT_BYTES", "200")
    with pytest.raises(StructureError, match="at most 200 bytes, .* set LESFF_MAX_INPUT_BYTES"):
        read_images(path)
    for wrong in ("-1", "0", "many", "1e9"):
        monkeypatch.setenv("LESFF_MAX_INPUT_BYTES", wrong)
        with pytest.raises(ConfigError, match="must be a whole number of bytes, got"):
            read_images(path)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_damaged_packed_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"water.xyz{suffix}"
    ase.io.write(path, [water()] * 20)
    data = path.read_bytes()
    for damage in (data[:-20], b"", b"no archive at all", data[:20] + b"\xff" * 40 + data[60:]):
        path.write_bytes(damage)
        with pytest.raises(StructureError, match="cannot be read|holds no structures"):
            list(read_structures(path))


NAMES = ["water@300K.xyz", "water@0.xyz", "water@1:2.xyz", "@.xyz", "a@:.extxyz", "x@300K.xyz.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_an_at_sign_is_part_of_the_name(name: str, tmp_path: Path) -> None:
    """ASE takes what follows it for an index."""
    other = name.partition("@")[0]
    if other:
        (tmp_path / other).write_text(WATER.replace("O", "S"))
    path = tmp_path / name
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt") as stream:
        stream.write(WATER + WATER.replace("0.763", "0.8"))
    images = read_images(path)
    assert len(images) == 2
    assert str(images[0].symbols) == "OH2"
    assert images[1].positions[1, 1] == 0.8


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xyz")
    for path in (tmp_path / "pipe.xyz", Path("/dev/zero"), tmp_path):
        with pytest.raises(StructureError, match="must be a plain file"):
            read_images(path)


def test_files_of_all_kinds_are_read_as_before(tmp_path: Path) -> None:
    crystal = ase.Atoms("NaCl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    for name in ("a.cif", "a.traj", "a.json", "a.vasp", "a.xyz", "a.extxyz", "a.pdb", "a.xsf"):
        ase.io.write(tmp_path / name, crystal)
        assert [len(atoms) for atoms in read_images(tmp_path / name)] == [2], name
    # blank lines at the end, an empty molecule in the middle, and a number with a space
    (tmp_path / "a.xyz").write_text(f" {WATER}0\n\n{WATER}\n\n")
    assert [len(atoms) for atoms in read_images(tmp_path / "a.xyz")] == [3, 0, 3]
    (tmp_path / "vectors.xyz").write_text(WATER + "VEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n" + WATER)
    frames = read_images(tmp_path / "vectors.xyz")
    assert frames[0].cell.lengths().tolist() == [9.0, 9.0, 9.0]
    assert len(frames) == 2


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "claims.xyz"
    path.write_text(claiming("1000000000000"))
    result = CliRunner().invoke(main, ["predict", str(path), "-m", "off-small"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: structure file ")
    assert len(result.output.splitlines()) == 1


# arrays


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"n.npy": header((10**15,)) + bytes(8)}, "n.npy claims 8000000000000000 bytes and has 8"),
        ({"n.npy": header((10**9, 10**9))}, "n.npy claims .* bytes and has 0"),
        ({"n.npy": header((2,)) + bytes(8)}, "n.npy claims 16 bytes and has 8"),
        ({"n.npy": header((1,)) + bytes(80)}, "n.npy claims 8 bytes and has 80"),
        ({"n.npy": header((1,), "|O") + bytes(8)}, "n.npy holds objects"),
        ({"n.npy": header((-5,)) + bytes(8)}, "n.npy claims"),
        ({"n.npy": b"no array"}, "magic string is not correct"),
        ({"n.npy": b""}, "EOF|magic"),
        ({"n.npy": header((2**27,)) + bytes(2**30)}, "unpacks to .* more than is allowed"),
    ],
    ids=["huge", "overflow", "short", "long", "objects", "negative", "nonsense", "empty", "bomb"],
)
def test_arrays_that_claim_too_much(members: dict, message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "data.npz", members)
    with pytest.raises(DataError, match=f"data.npz cannot be read: .*({message})"):
        read_shard(path)


def test_npz_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, n=np.arange(1000), more=np.zeros((3, 2)))
    assert read_npz(path)["more"].shape == (3, 2)
    data = path.read_bytes()
    for damage in (b"", b"x" * 100, data[:-30], data[:100] + b"\xff" * 200 + data[300:]):
        path.write_bytes(damage)
        with pytest.raises(DataError, match="cannot be read"):
            read_shard(path)
    path.write_bytes(data)
    monkeypatch.setenv("LESFF_MAX_INPUT_BYTES", "1000")
    with pytest.raises(DataError, match="more than is allowed: .*LESFF_MAX_INPUT_BYTES"):
        read_shard(path)
