"""Files that must be exactly these, and files that appear complete or not at all."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from lesff import disk as atomic
from lesff.disk import UNFINISHED, replaced_folder, write_atomically, written_atomically
from lesff.errors import IntegrityError, ManifestError
from lesff.files import Digest, FileEntry, FileSet
from lesff.model_folder.layout import MODEL_FILES, UNCERTAINTY_FILE, model_damage
from lesff.plain_data import finite, write_json

CONTENT = {"b": b"second", "a": b"first", "sub/c": b"third"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in CONTENT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_set_of_files_is_what_is_there(folder: Path) -> None:
    files = FileSet.of(folder, CONTENT)
    assert files.names == ("b", "a", "sub/c")
    assert files.size == len(b"secondfirstthird")
    assert [file.sha256 for file in files.entries] == [
        hashlib.sha256(data).hexdigest() for data in CONTENT.values()
    ]
    assert files.damage(folder) is None
    (folder / "more").write_bytes(b"x")
    assert files.damage(folder) is None


def test_the_digest_is_that_of_the_shell(folder: Path) -> None:
    command = "LC_ALL=C sha256sum a b sub/c | sha256sum"
    shell = ["sh", "-c", command]
    done = subprocess.run(shell, cwd=folder, capture_output=True, check=True)  # noqa: S603
    digest = done.stdout.decode().split()[0]
    assert FileSet.of(folder, CONTENT).digest == digest
    assert FileSet.of(folder, sorted(CONTENT)).digest == digest


def test_the_first_difference_is_named(folder: Path) -> None:
    files = FileSet.of(folder, CONTENT)
    sha256 = hashlib.sha256(b"third").hexdigest()
    (folder / "sub" / "c").write_bytes(b"THIRD")
    message = f"{folder / 'sub/c'} must have sha256 {sha256}, got "
    assert (files.damage(folder) or "").startswith(message)
    (folder / "a").write_bytes(b"longer")
    assert files.damage(folder) == f"{folder / 'a'} must have 5 bytes, got 6"
    (folder / "b").unlink()
    assert files.damage(folder) == f"{folder / 'b'} is missing"
    (folder / "b").mkdir()
    assert files.damage(folder) == f"{folder / 'b'} is missing"


def test_empty_files_and_paths_that_lead_out_are_refused(folder: Path) -> None:
    (folder / "empty").write_bytes(b"")
    with pytest.raises(IntegrityError, match="empty must not be empty; fetch or copy it again"):
        FileSet.of(folder, ["empty"])
    for name in ("../out", "/etc/passwd", ".hidden", "a/../b", "nul"):
        with pytest.raises(ManifestError, match="`path` must be"):
            FileEntry(path=name, size=1, sha256="0" * 64)


def test_a_model_folder_is_compared_with_what_a_record_lists(tmp_path: Path) -> None:
    for name in (*MODEL_FILES, "web.json"):
        (tmp_path / name).write_bytes(name.encode())
    files = FileSet.of(tmp_path, MODEL_FILES)
    assert model_damage(files, tmp_path, "it") is None
    fewer = FileSet(files.entries[1:])
    assert model_damage(fewer, tmp_path, "the list") == f"the list must list {MODEL_FILES[0]}"
    (tmp_path / UNCERTAINTY_FILE).write_bytes(b"slipped in")
    extra = tmp_path / UNCERTAINTY_FILE
    assert model_damage(files, tmp_path, "the list") == f"{extra} is not in the list"
    assert model_damage(FileSet.of(tmp_path, (*MODEL_FILES, extra.name)), tmp_path, "") is None


def test_both_digests_of_a_file_come_from_one_reading(tmp_path: Path) -> None:
    """The git id is known from ``echo hello | git hash-object --stdin``."""
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert Digest.of(tmp_path / "hello") == Digest(
        size=6,
        sha256=hashlib.sha256(b"hello\n").hexdigest(),
        git_blob="ce013625030ba8dba906f756967f9e9ca394464a",
    )


# complete or not at all


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "one\n")
    with written_atomically(path) as new:
        new.write_bytes(b"two\n")
        assert path.read_bytes() == b"one\n"
        assert new.parent == path.parent
        assert new.name.startswith(".file.")
        assert new.name.endswith(UNFINISHED)
    assert path.read_bytes() == b"two\n"
    assert os.listdir(tmp_path) == ["file"]


def write_half(path: Path) -> None:
    with written_atomically(path) as new:
        new.write_bytes(b"half")
        raise OSError(28, "no room")


def make_half(folder: Path) -> None:
    with replaced_folder(folder) as new:
        fill(new, "half")
        raise OSError(28, "no room")


def test_a_file_stays_as_it_was_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    with pytest.raises(OSError, match="no room"):
        write_half(path)
    assert path.read_bytes() == b"one"
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


def fill(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def test_a_folder_is_replaced_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    for text in ("one", "two"):
        with replaced_folder(folder) as new:
            fill(new, text)
            (new.parent / "beside").write_text("scratch")
        assert (folder / "file").read_text() == text
    assert os.listdir(folder.parent) == ["folder"]


def test_a_folder_stays_as_it_was_if_making_one_fails(tmp_path: Path) -> None:
    folder = fill(tmp_path / "folder", "one")
    with pytest.raises(OSError, match="no room"):
        make_half(folder)
    with pytest.raises(FileNotFoundError, match="new"), replaced_folder(folder):
        pass  # nothing was made
    assert (folder / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_of_a_faster_process_may_stay(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with replaced_folder(folder, is_intact=lambda: True) as new:
        fill(new, "slow")
        fill(folder, "fast")
    assert (folder / "file").read_text() == "fast"
    with replaced_folder(folder, is_intact=lambda: False) as new:
        fill(new, "slow")
    assert (folder / "file").read_text() == "slow"


def test_a_folder_is_put_back_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "folder", "one")
    replace, calls = os.replace, []

    def second_move_of_new_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if Path(source).name == "new" and len(calls) > 1:
            raise OSError(5, "broken disk")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", second_move_of_new_fails)
    with pytest.raises(OSError, match="broken disk"), replaced_folder(folder) as new:
        fill(new, "two")
    assert (folder / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["folder"]


def test_plain_data_for_json() -> None:
    numpy = pytest.importorskip("numpy")
    data = {
        "a": (1, 2.5, float("nan"), float("-inf")),
        "b": [numpy.float32(0.5), numpy.float64("nan"), numpy.int64(3), True, None, "x"],
    }
    assert finite(data) == {"a": [1, 2.5, None, None], "b": [0.5, None, 3, True, None, "x"]}
    assert {type(value) for value in finite(data)["b"][:3]} == {float, type(None), int}
    assert finite(data)["b"][3] is True
