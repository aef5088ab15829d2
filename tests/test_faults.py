"""Every fault ends with a correct model or a clear error, and never with a poisoned cache."""

import errno
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published_site import DATA, NAME, first_off_small, private_site
from published_site import Site as PublishedSite

import lesff
from lesff.convert import checkpoint
from lesff.errors import (
    CacheError,
    ConfigError,
    IntegrityError,
    LesffError,
    ModelNotFoundError,
    OfflineError,
)
from lesff.hub.cache import find_damage
from lesff.hub.manifest import names as registry
from lesff.hub.manifest.names import find_model
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.server import HubHandler, HubServer, running
from lesff.hub.resolve import resolve
from lesff.hub.sources import download
from lesff.hub.sources import huggingface as repositories
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.folder import load_model
from lesff.model_folder.layout import MODEL_FILES

SOURCE = bundled_folder() / "off-small" / "0.1.0"
SIZE = (SOURCE / "model.safetensors").stat().st_size
FORKS = multiprocessing.get_context("forkserver")


class FaultyHub(HubServer):
    """A hub whose faults are popped one per GET of the weights.

    A fault is a number (break the connection after so many bytes), an HTTP status, ``"tampered"``,
    ``"short"`` (fewer bytes, consistently), ``"stall"``, ``"hang"`` (half of the bytes, then none)
    or ``"loop"``.
    """

    faults: list[int | str]
    seen: list[dict[str, str]]
    sent: int


class FaultyHandler(HubHandler):
    server: FaultyHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.note()
        if self.server.faults[:1] in (["stall"], ["loop"]) and "resolve" in self.path:
            self.break_down(self.server.faults[0])
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        self.note()
        is_weights = self.path.endswith("model.safetensors")
        if is_weights and self.server.faults:
            self.break_down(self.server.faults.pop(0))
        else:
            self.server.sent += is_weights
            super().do_GET()

    def note(self) -> None:
        self.server.seen.append({key.lower(): value for key, value in self.headers.items()})

    def break_down(self, fault: int | str) -> None:
        self.close_connection = True
        data = (SOURCE / "model.safetensors").read_bytes()
        tag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": "0" * 40}
        if isinstance(fault, int):
            self._send_headers(200, tag, len(data))
            self.wfile.write(data[:fault])
            if fault % 2:  # reset instead of an orderly end
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fault == "stall":
            time.sleep(0.6)
        elif fault == "hang":
            self._send_headers(200, tag, len(data))
            self.wfile.write(data[: len(data) // 2])
            self.server.sent = -1
            self.connection.recv(1)  # until the client is gone
        elif fault == "loop":
            self._send_headers(302, {"Location": self.path}, 0)
        elif fault.isdigit():
            self._send_headers(int(fault), {"Retry-After": "0"}, 0)
        else:
            body = b"x" * len(data) if fault == "tampered" else data[: len(data) // 2]
            self._send_headers(200, tag, len(body))
            self.wfile.write(body)


class Site:
    """A model that is on a faulty hub only, with a cache and manifest of its own."""

    def __init__(self, root: Path, server: FaultyHub, commit: str) -> None:
        self.manifest, self.cache, self.server, self.commit = (
            root / "manifest", root / "cache", server, commit,
        )  # fmt: skip
        self.manifest.mkdir()
        self.publish()

    def publish(self, *, sha256: str | None = None, versions: tuple[str, ...] = ("1.0.0",)) -> None:
        data = first_off_small()
        old = data["versions"][0]
        if sha256 is not None:
            old["files"][1]["sha256"] = sha256
        source = {"hub": {"repo": "lesff/off-small", "commit": self.commit}}
        rows = [old | {"version": version, "sources": source} for version in versions]
        entry = data | {"name": "off-hub", "versions": rows}
        (self.manifest / "off-hub.json").write_text(json.dumps(entry))

    def check(self) -> None:
        """Whatever is in the cache under a version is whole."""
        _, version = find_model("off-hub")
        for path in (self.cache / "models" / "off-hub").glob("[0-9]*"):
            assert find_damage(path, version) is None


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (snapshot,) = mirror_models(["off-small@0.1.0"], tmp_path / "mirror")
    with running(tmp_path / "mirror", handler=FaultyHandler, server=FaultyHub) as server:
        server.faults, server.seen, server.sent = [], [], 0
        site = Site(tmp_path, server, snapshot.commit)
        monkeypatch.setenv("LESFF_CACHE", str(site.cache))
        monkeypatch.setenv("LESFF_HUB", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "hf_not_for_strangers")
        monkeypatch.setattr(registry, "manifest_folder", lambda: site.manifest)
        monkeypatch.setattr(repositories, "_BACKOFF_S", 0.0)
        monkeypatch.setattr(download, "_BACKOFF_S", 0.0)
        yield site
        site.check()
        assert not any("authorization" in headers for headers in server.seen)


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishedSite]:
    """A model of others on a faulty server."""
    with private_site(tmp_path, monkeypatch) as site:
        site.publish()
        yield site


# the network


OFFSETS = random.Random(7).sample(range(SIZE), 10)  # noqa: S311 - not a secret


@pytest.mark.parametrize("offset", OFFSETS)
def test_dropped_connections(site: Site, offset: int) -> None:
    site.server.faults = [offset]
    assert resolve("off-hub").origin == "hub"
    assert resolve("off-hub", offline=True).origin == "cache"


def test_dropped_connections_of_models_of_others(others: PublishedSite) -> None:
    others.server.faults = random.Random(7).sample(range(len(DATA) // 10), 10)  # noqa: S311
    assert resolve(NAME).origin == "published"
    assert sum(others.server.sent) == len(DATA)


@pytest.mark.parametrize("fault", ["short", "tampered", "429", "500", "503"])
def test_faults_that_pass(site: Site, fault: str) -> None:
    site.server.faults = [fault]
    assert resolve("off-hub").origin == "hub"
    assert site.server.faults == []


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("short", LesffError, r"model.safetensors"),
        ("tampered", IntegrityError, "must have sha256 .*gave other bytes; try again"),
        ("500", OfflineError, "cannot download model.safetensors of off-hub@1.0.0"),
        ("404", ModelNotFoundError, "the hub has no public model.safetensors|cannot download"),
        ("loop", IntegrityError, "model.safetensors leads on more than 5 times"),
    ],
)
def test_faults_that_stay(site: Site, fault: str, error: type[LesffError], message: str) -> None:
    site.server.faults = [fault] * 200
    with pytest.raises((error, OfflineError), match=message):
        resolve("off-hub")
    site.server.faults = []
    assert resolve("off-hub").origin == "hub"


def test_a_server_that_stalls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESFF_TIMEOUT", "0.4")
    site.server.faults = ["stall"] * 20
    start = time.monotonic()
    message = "127.0.0.1.* too slow or silent: cannot download model.safetensors of off-hub@1.0.0"
    with pytest.raises(OfflineError, match=message):
        resolve("off-hub")
    assert time.monotonic() - start < 30


def test_a_wrong_digest_in_the_manifest(site: Site) -> None:
    site.publish(sha256="0" * 64)
    with pytest.raises(IntegrityError, match=f"must have sha256 {'0' * 64}, got"):
        resolve("off-hub")
    assert not (site.cache / "models" / "off-hub" / "1.0.0").exists()
    site.publish()
    assert resolve("off-hub").origin == "hub"


def test_two_versions_side_by_side(site: Site) -> None:
    site.publish(versions=("1.0.0", "2.0.0"))
    first, second = resolve("off-hub@1"), resolve("off-hub@2")
    assert (first.version, second.version) == ("1.0.0", "2.0.0")
    assert first.folder != second.folder
    assert resolve("off-hub@1").origin == resolve("off-hub@2").origin == "cache"


def test_a_corrupt_cache_entry_is_replaced(site: Site) -> None:
    folder = resolve("off-hub").folder
    for name in ("model.safetensors", "config.json"):
        path = folder / name
        path.write_bytes(b"x" * path.stat().st_size)
        assert resolve("off-hub").origin == "hub"
        assert path.read_bytes() == (SOURCE / name).read_bytes()
    os.truncate(folder / "model.safetensors", 0)
    assert resolve("off-hub").origin == "hub"


def test_proxies_are_used_and_a_dead_one_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    close_session()
    with pytest.raises(OfflineError, match="cannot download config.json.*refused"):
        resolve("off-hub")
    assert lesff.load(SOURCE).source.origin == "folder"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    close_session()
    assert resolve("off-hub").origin == "hub"
    close_session()


# processes


def _load(environment: dict[str, str], manifest: Path, queue: Any) -> None:
    """Load in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    registry.manifest_folder = lambda: manifest
    queue.put(resolve(find_model(sorted(manifest.glob("*.json"))[0].stem)[0].name).origin)


@pytest.fixture(scope="module", autouse=True)
def _preloaded() -> None:
    FORKS.set_forkserver_preload(["lesff", "huggingface_hub", "lesff.hub.sources.foreign"])


@pytest.mark.slow
def test_eight_processes_at_once(site: Site) -> None:
    queue = FORKS.Queue()
    processes = [
        FORKS.Process(target=_load, args=(dict(os.environ), site.manifest, queue)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    origins = [queue.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(origins) <= {"hub", "cache"}
    assert resolve("off-hub").origin == "cache"
    assert [p.name for p in (site.cache / "models" / "off-hub").iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_killed_during_the_download(site: Site) -> None:
    site.server.faults = ["hang"]
    queue = FORKS.Queue()
    process = FORKS.Process(target=_load, args=(dict(os.environ), site.manifest, queue))
    process.start()
    deadline = time.monotonic() + 60
    while not site.server.sent and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not (site.cache / "models" / "off-hub" / "1.0.0").exists()
    assert resolve("off-hub").origin == "hub"


def _convert_for_ever(environment: dict[str, str], manifest: Path, begun: Path) -> None:
    os.environ.clear()
    os.environ.clear()
    os.environ.update(environment)
    registry.manifest_folder = lambda: manifest
    original = checkpoint.convert_checkpoint

    def convert(source: Path, target: Path, **options: Any) -> Any:
        original(source, target, **options)  # the folder is there, its record is not
        begun.write_text("")
        time.sleep(100)

    checkpoint.convert_checkpoint = convert
    resolve(NAME)


@pytest.mark.slow
def test_killed_during_the_conversion(others: PublishedSite, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    process = FORKS.Process(
        target=_convert_for_ever, args=(dict(os.environ), others.manifest, begun)
    )
    process.start()
    deadline = time.monotonic() + 60
    while not begun.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not others.cached.exists()
    assert resolve(NAME).origin == "published"
    assert resolve(NAME, offline=True).origin == "cache"
    assert others.server.sent == [len(DATA)]  # the download was kept


# the disk


@pytest.fixture
def small_disk(site: Site, tmp_path: Path) -> Iterator[Path]:
    """A file system that is too small for the weights."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607


def test_a_full_disk(site: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESFF_CACHE", str(small_disk))
    with pytest.raises(OSError, match=r"[Nn]o space left") as info:
        resolve("off-hub")
    assert "LESFF_CACHE names another place" in info.value.__notes__[0]
    models = small_disk / "models" / "off-hub"
    assert list(models.iterdir()) == []
    monkeypatch.setenv("LESFF_CACHE", str(site.cache))
    assert resolve("off-hub").origin == "hub"


def test_a_read_only_cache(site: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remount = ["mount", "-o", "remount,size=4m", str(small_disk)]
    subprocess.run(remount, check=True)  # noqa: S603
    monkeypatch.setenv("LESFF_CACHE", str(small_disk))
    site.publish(versions=("1.0.0", "2.0.0"))
    assert resolve("off-hub@1").origin == "hub"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: S603, S607
    assert lesff.load("off-hub@1").source.origin == "cache"
    with pytest.raises(OSError, match="[Rr]ead-only") as info:
        resolve("off-hub@2")
    assert "LESFF_CACHE names another place" in info.value.__notes__[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_errors_of_models_of_others(
    others: PublishedSite, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint, "convert_checkpoint", fail)
    with pytest.raises(CacheError, match=f"must be writable to hold {NAME}@1.0.0"):
        resolve(NAME)
    monkeypatch.undo()
    assert not others.cached.exists()


def test_times_ahead_of_the_clock(site: Site) -> None:
    folder = resolve("off-hub").folder
    ahead = time.time() + 10**8
    for path in (*folder.iterdir(), folder):
        os.utime(path, (ahead, ahead))
    assert resolve("off-hub", offline=True).origin == "cache"
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    os.utime(folder / "model.safetensors", (ahead, ahead))
    assert resolve("off-hub").origin == "hub"


# what files claim


def test_a_configuration_of_a_gigabyte(tmp_path: Path) -> None:
    folder = shutil.copytree(SOURCE, tmp_path / "mine")
    os.truncate(folder / "config.json", 2**30)
    with pytest.raises(ConfigError, match="must be at most 1000000 bytes, got 1073741824"):
        lesff.load(folder)
    os.truncate(folder / "README.md", 2**30)
    with pytest.raises(IntegrityError, match="must have at most 1000000 bytes, got 1073741824"):
        resolve(folder)


@pytest.mark.parametrize("n_header", [2**60, 2**64 - 1, 2**31, 0])
def test_headers_that_claim_too_much(tmp_path: Path, n_header: int) -> None:
    folder = shutil.copytree(SOURCE, tmp_path / "mine")
    for name in ("model.safetensors", "parity.safetensors"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(struct.pack("<Q", n_header) + data[8:])
    with pytest.raises(IntegrityError, match=f"says its header has {n_header} bytes"):
        load_model(folder)


def test_a_mirror_that_is_asked_for_nonsense(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.server.server_port, timeout=10)
    for path in ("//", "/api/models/%00/x", "/" + "a" * 60_000, "/api/models/a/b/tree/x/y/z"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    connection.close()
    assert set(MODEL_FILES) == {path.name for path in resolve("off-hub").folder.iterdir()}
