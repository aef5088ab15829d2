"""Files that have not changed are not read again; files that may have changed are."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lesff import files as digests
from lesff.environment import state_folder
from lesff.files import Digest, forget, sha256_of


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were read whole."""
    names: list[str] = []
    original = hashlib.file_digest

    def counted(stream, name):
        names.append(Path(stream.name).name)
        return original(stream, name)

    monkeypatch.setattr(digests.hashlib, "file_digest", counted)
    return names


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth a record, settled."""
    monkeypatch.setattr(digests, "_SETTLED_S", 0.0)
    path = tmp_path / "weights"
    path.write_bytes(b"a" * (digests.ALWAYS_HASHED + 1))
    time.sleep(0.02)
    return path


def test_an_unchanged_file_is_read_once(large: Path, reads: list[str]) -> None:
    expected = hashlib.sha256(large.read_bytes()).hexdigest()
    assert {sha256_of(large) for _ in range(3)} == {expected}
    assert reads == ["weights"]
    assert list((state_folder() / "verified").iterdir())
    forget(large)
    assert sha256_of(large) == expected
    assert reads == ["weights"] * 2


def test_the_environment_asks_for_reading(
    large: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256_of(large)
    monkeypatch.setenv("LESFF_REHASH", "1")
    sha256_of(large)
    assert reads == ["weights"] * 2


def rewrite(path: Path) -> None:
    path.write_bytes(b"b" * path.stat().st_size)


def rewrite_with_old_times(path: Path) -> None:
    stat = path.stat()
    rewrite(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_with_old_times(path: Path) -> None:
    stat = path.stat()
    new = path.with_name("new")
    new.write_bytes(b"b" * stat.st_size)
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(path)


def lengthen(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"b")


@pytest.mark.parametrize(
    "change", [rewrite, rewrite_with_old_times, replace_with_old_times, lengthen]
)
def test_a_changed_file_is_read_again(large: Path, change: Callable[[Path], None]) -> None:
    before = sha256_of(large)
    time.sleep(0.02)
    change(large)
    assert sha256_of(large) == hashlib.sha256(large.read_bytes()).hexdigest() != before


@pytest.mark.parametrize("ahead_s", [3600, 10**9])
def test_times_ahead_of_the_clock_are_not_trusted(
    large: Path, reads: list[str], ahead_s: int
) -> None:
    os.utime(large, (time.time() + ahead_s,) * 2)
    assert sha256_of(large) == sha256_of(large)
    assert reads == ["weights"] * 2


def test_a_file_that_has_just_changed_is_not_trusted(
    large: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED_S", 100.0)
    assert sha256_of(large) == sha256_of(large)
    assert reads == ["weights"] * 2


def test_damaged_records_and_places_without_room_only_cost_time(
    large: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = sha256_of(large)
    (record,) = (state_folder() / "verified").iterdir()
    record.write_text('{"path": 1}')
    assert sha256_of(large) == expected
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LESFF_STATE", str(tmp_path / "file"))
    assert sha256_of(large) == expected
    assert reads == ["weights"] * 3


def test_the_blob_id_is_that_of_git(tmp_path: Path) -> None:
    """Known from ``echo hello | git hash-object --stdin``."""
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert Digest.of(tmp_path / "hello").git_blob == "ce013625030ba8dba906f756967f9e9ca394464a"
