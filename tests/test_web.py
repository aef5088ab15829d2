"""Model folders at web addresses: verified, pinned, offline."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_server import FileServer, running_server
from published_site import cut_network

import lesff
from lesff.environment import state_folder
from lesff.errors import (
    CacheError,
    IntegrityError,
    ModelNotFoundError,
    OfflineError,
    UnverifiedWarning,
)
from lesff.files import FileEntry, FileSet, sha256_of
from lesff.hub.resolve import resolve
from lesff.hub.sources import address, download
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES, UNCERTAINTY_FILE

BUNDLED = bundled_folder() / "off-small" / "0.1.0"
DIGEST = FileSet.of(BUNDLED, MODEL_FILES).digest


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_strangers")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_BACKOFF_S", 0.0)
    with running_server() as server:
        for name in MODEL_FILES:
            server.files[f"m/{name}"] = (BUNDLED / name).read_bytes()
        yield server


def test_a_folder_at_an_address(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = [0, 100, "503"]
    spec = f"{server.url('m/')}#sha256={DIGEST}"
    model = lesff.load(spec)
    assert model.source.origin == "web"
    assert model.name == f"{server.url('m/')}@sha256={DIGEST[:12]}"
    assert not any("authorization" in headers for headers in server.requests)
    cut_network(monkeypatch)
    assert lesff.load(spec).source.origin == "cache"
    assert lesff.load(spec, offline=True).source.origin == "cache"
    (model.source.folder / "LICENSE").write_bytes(b"x")
    with pytest.raises(OfflineError, match="must be in the cache.*not intact there"):
        resolve(spec, offline=True)


def test_the_digest_is_that_of_sha256sum() -> None:
    lines = [f"{sha256_of(BUNDLED / name)}  {name}\n" for name in sorted(MODEL_FILES)]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == DIGEST


def test_an_optional_file_counts_in_the_digest(server: FileServer) -> None:
    extra = b"uncertainty"
    server.files[f"m/{UNCERTAINTY_FILE}"] = extra
    sha256 = hashlib.sha256(extra).hexdigest()
    added = FileEntry(path=UNCERTAINTY_FILE, size=len(extra), sha256=sha256)
    files = FileSet((*FileSet.of(BUNDLED, MODEL_FILES).entries, added))
    found = resolve(f"{server.url('m/')}#sha256={files.digest}")
    assert (found.folder / UNCERTAINTY_FILE).read_bytes() == extra
    with pytest.raises(IntegrityError, match=f"digest sha256={DIGEST}, got .*was not used"):
        resolve(f"{server.url('m/')}#sha256={DIGEST}")


def test_a_file_that_nobody_vouches_for_is_refused(server: FileServer) -> None:
    spec = f"{server.url('m/')}#sha256={DIGEST}"
    (resolve(spec).folder / UNCERTAINTY_FILE).write_bytes(b"slipped in")
    with pytest.raises(OfflineError, match="not intact there"):
        resolve(spec, offline=True)


def test_another_folder_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.files["m/LICENSE"] = b"another"
    with pytest.raises(IntegrityError, match=f"digest sha256={DIGEST}, got .*was not used"):
        resolve(f"{server.url('m/')}#sha256={DIGEST}")
    assert [p.suffix for p in (tmp_path / "cache" / "web").iterdir()] == [".lock"]


def test_the_first_fetch_is_recorded(server: FileServer, tmp_path: Path) -> None:
    with pytest.warns(UnverifiedWarning, match=f"to be sure: .*/m/#sha256={DIGEST}"):
        found = resolve(server.url("m/"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(server.url("m/")).origin == "cache"
        (found.folder / "LICENSE").write_bytes(b"x")
        assert resolve(server.url("m/")).origin == "web"
        server.files["m/LICENSE"] = b"another"
        (found.folder / "LICENSE").write_bytes(b"x")
        with pytest.raises(IntegrityError, match=f"must have the digest sha256={DIGEST}, got"):
            resolve(server.url("m/"))
    (pin,) = (state_folder() / "pins").iterdir()
    pin.write_text(json.dumps({"url": 1}))
    with pytest.raises(IntegrityError, match="must hold the digest of the first fetch"):
        resolve(server.url("m/"))


def test_two_first_fetches_trust_the_same_bytes(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waited for another one's first fetch takes what that one recorded."""
    locked = address.locked

    @contextmanager
    def after_another_process(lock: Path, what: str) -> Iterator[None]:
        monkeypatch.setattr(address, "locked", locked)
        with pytest.warns(UnverifiedWarning, match="could not be verified"):
            resolve(server.url("m/"))
        server.files["m/LICENSE"] = b"another"
        with locked(lock, what):
            yield

    monkeypatch.setattr(address, "locked", after_another_process)
    found = resolve(server.url("m/"))
    assert FileSet.of(found.folder, MODEL_FILES).digest == DIGEST


def test_missing_and_oversized_files(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lesff.hub.sources.address.SMALL_BYTES", 1000)
    with pytest.raises(IntegrityError, match="config.json of .* must have at most 1000 bytes"):
        resolve(server.url("m/"))
    del server.files["m/config.json"]
    with pytest.raises(ModelNotFoundError, match=r"does not give config.json .*status 404"):
        resolve(server.url("m/"))


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match="cache must be writable to hold .*LESFF_CACHE names"):
        resolve(server.url("m/"))


@pytest.mark.parametrize(
    "spec",
    [
        "https://example.org/m",
        "http://example.org/m/",
        "https://user:secret@example.org/m/",
        "https://example.org/m/?token=1",
        "https://example.org/m/#sha256=12",
        "https://example.org/m/#md5=12",
    ],
)
def test_malformed_addresses_are_refused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_network(monkeypatch)
    with pytest.raises(ModelNotFoundError, match=r"must be (the https:// address|'sha256=')"):
        resolve(spec)
