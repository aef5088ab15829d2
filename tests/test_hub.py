"""Resolving names: order of sources, healing, pinned downloads, offline."""

import errno
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lesff import disk as atomic
from lesff import environment
from lesff.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    ModelNotFoundError,
    OfflineError,
)
from lesff.hub import resolve as hub
from lesff.hub.cache import find_damage
from lesff.hub.manifest import names as registry
from lesff.hub.resolve import lock_models, pull, resolve
from lesff.hub.sources import bundled, download
from lesff.hub.sources import huggingface as repositories
from lesff.model_folder.layout import MODEL_FILES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "lesff-org/off-small"
CONTENT = {name: f"content of {name}".encode() * 20 for name in MODEL_FILES}


def write_files(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def file_entries(names: tuple[str, ...] = MODEL_FILES) -> list[dict[str, Any]]:
    return [
        {
            "path": name,
            "size": len(CONTENT[name]),
            "sha256": hashlib.sha256(CONTENT[name]).hexdigest(),
        }
        for name in names
    ]


class Site:
    """Folders and manifest of a private installation."""

    def __init__(self, root: Path) -> None:
        self.manifest = root / "manifest"
        self.manifest.mkdir()
        self.cache = root / "cache"
        self.bundled = root / "weights" / "off-small" / "0.1.0"
        self.cached = self.cache / "models" / "off-small" / "0.1.0"

    def publish(self, *, bundled: bool = False, hub: bool = False, **changes: Any) -> None:
        source = {"repo": REPO, "commit": COMMIT} if hub else None
        version = {
            "version": "0.1.0",
            "date": "2026-11-20",
            "files": file_entries(),
            "sources": {"bundled": bundled, "hub": source},
            "min_lesff": "0.1.0",
            "level_of_theory": "none",
        }
        entry = {
            "name": "off-small",
            "aliases": ["small"],
            "description": "A model.",
            "license": "Apache-2.0",
            "elements": [1, 8],
            "citation": "none",
            "versions": [version | changes],
        }
        (self.manifest / "off-small.json").write_text(json.dumps(entry))

    def leftovers(self) -> list[str]:
        folder = self.cached.parent
        return [p.name for p in folder.iterdir() if p != self.cached] if folder.exists() else []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "LESFF_HUB", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LESFF_CACHE", str(site.cache))
    monkeypatch.setattr(registry, "manifest_folder", lambda: site.manifest)
    monkeypatch.setattr(bundled, "bundled_folder", lambda: tmp_path / "weights")
    monkeypatch.setattr(repositories, "_BACKOFF_S", 0.0)
    monkeypatch.setattr(download, "_BACKOFF_S", 0.0)
    return site


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def scripted(monkeypatch: pytest.MonkeyPatch, script: Callable[[str, int], bytes]) -> Counter[str]:
    """Replace the download function by ``script(path, attempt)``; returns calls by file."""
    calls: Counter[str] = Counter()

    def download(repo: str, commit: str, path: str, folder: Path, **_options: Any) -> Path:
        assert (repo, commit) == (REPO, COMMIT)
        calls[path] += 1
        data = script(path, calls[path])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        return folder / path

    monkeypatch.setattr(repositories, "download_file", download)
    return calls


@pytest.mark.usefixtures("no_network")
def test_folders_are_taken_as_they_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(site.cache.parent / "mine")
    for spec in (folder, str(folder)):
        found = resolve(spec)
        assert (found.folder, found.name, found.version) == (folder, "mine", None)
        assert found.origin == "folder"
    monkeypatch.chdir(folder.parent)
    assert resolve("./mine").name == "mine"
    assert resolve(Path("mine")).name == "mine"
    monkeypatch.chdir(folder)
    assert resolve(".").name == "mine"


@pytest.mark.usefixtures("no_network")
def test_bad_folders_are_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist; give a model's name"):
        resolve(tmp_path / "nowhere")
    write_files(tmp_path / "part", {"config.json": b"{}"})
    with pytest.raises(IntegrityError, match="part lacks model.safetensors: it is not a complete"):
        resolve(tmp_path / "part")


@pytest.mark.usefixtures("no_network")
def test_a_bare_name_is_never_a_path(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(bundled=True)
    write_files(site.bundled)
    write_files(site.cache.parent / "off-smal")
    monkeypatch.chdir(site.cache.parent)
    with pytest.raises(ModelNotFoundError, match=r"did you mean off-small.*such as \./off-smal"):
        resolve("off-smal")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("spec", ["ftp://example.org/m/", "file:/m", "s3:bucket"])
def test_other_sources_are_refused(site: Site, spec: str) -> None:
    message = "is not a source of models; give a model's name.*hf:organisation/name.*model folder"
    with pytest.raises(ModelNotFoundError, match=message):
        resolve(spec)


@pytest.mark.usefixtures("no_network")
def test_bundled_weights_need_no_cache_and_no_network(site: Site) -> None:
    site.publish(bundled=True, hub=True)
    write_files(site.bundled)
    for spec in ("off-small", "small@0.1", "off-small@0.1.0"):
        found = resolve(spec)
        assert (found.folder, found.name, found.version) == (site.bundled, "off-small", "0.1.0")
        assert found.origin == "bundled"
    assert not site.cache.exists()


@pytest.mark.usefixtures("no_network")
def test_the_cache_comes_before_bundled_weights(site: Site) -> None:
    site.publish(bundled=True)
    write_files(site.bundled)
    write_files(site.cached)
    found = resolve("off-small")
    assert (found.folder, found.origin) == (site.cached, "cache")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("damage", [b"", b"short", CONTENT["model.safetensors"][:-1] + b"X", None])
def test_a_damaged_cache_is_healed_from_bundled_weights(site: Site, damage: bytes | None) -> None:
    site.publish(bundled=True)
    write_files(site.bundled)
    write_files(site.cached)
    path = site.cached / "model.safetensors"
    path.unlink() if damage is None else path.write_bytes(damage)
    found = resolve("off-small", offline=True)
    assert (found.folder, found.origin) == (site.cached, "cache")
    assert path.read_bytes() == CONTENT["model.safetensors"]
    assert site.leftovers() == []


@pytest.mark.usefixtures("no_network")
def test_a_cache_that_cannot_be_healed_is_passed_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_args: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    site.publish(bundled=True)
    write_files(site.bundled)
    write_files(site.cached, CONTENT | {"config.json": b"{}"})
    monkeypatch.setattr(atomic, "_install", read_only)
    found = resolve("off-small")
    assert (found.folder, found.origin) == (site.bundled, "bundled")
    assert site.leftovers() == []


@pytest.mark.usefixtures("no_network")
def test_damaged_bundled_weights_ask_for_a_new_install(site: Site) -> None:
    site.publish(bundled=True)
    with pytest.raises(IntegrityError, match="bundled weights are damaged: .*config.json is miss"):
        resolve("off-small")
    write_files(site.bundled, CONTENT | {"LICENSE": b"x" * len(CONTENT["LICENSE"])})
    with pytest.raises(IntegrityError, match="LICENSE must have sha256 .*; install lesff again"):
        resolve("off-small")


def test_a_download_fills_the_cache_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(hub=True)
    calls = scripted(monkeypatch, lambda path, _: CONTENT[path])
    found = resolve("off-small")
    assert (found.folder, found.version, found.origin) == (site.cached, "0.1.0", "hub")
    assert sorted(path.name for path in site.cached.iterdir()) == sorted(MODEL_FILES)
    assert calls == Counter(MODEL_FILES)
    assert resolve("off-small", offline=True).origin == "cache"
    assert calls == Counter(MODEL_FILES)
    assert site.leftovers() == []


def test_a_damaged_cache_is_healed_from_the_hub(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish(bundled=True, hub=True)  # bundled, but the files did not come along
    write_files(site.cached, CONTENT | {"model.safetensors": b"broken"})
    scripted(monkeypatch, lambda path, _: CONTENT[path])
    assert resolve("off-small").origin == "hub"
    assert (site.cached / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert site.leftovers() == []


def test_downloads_are_retried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(path: str, attempt: int) -> bytes:
        if attempt < 3:
            raise ConnectionResetError("reset by peer")
        return CONTENT[path] if attempt == 4 else CONTENT[path][:-1]

    site.publish(hub=True)
    calls = scripted(monkeypatch, script)
    assert resolve("off-small").origin == "hub"
    assert set(calls.values()) == {4}


def test_wrong_bytes_never_reach_the_cache(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(hub=True)
    name = "model.safetensors"
    tampered = CONTENT | {name: b"x" * len(CONTENT[name])}
    calls = scripted(monkeypatch, lambda path, _: tampered[path])
    with pytest.raises(IntegrityError, match="model.safetensors must have sha256 .* other bytes"):
        resolve("off-small")
    assert calls[name] == 4
    assert not site.cached.exists()
    assert site.leftovers() == []


def test_a_dead_network_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(path: str, attempt: int) -> bytes:
        raise TimeoutError("no answer")

    site.publish(hub=True)
    calls = scripted(monkeypatch, script)
    message = r"cannot download config.json of off-small@0.1.0.*no answer.*LESFF_HUB to a mirror"
    with pytest.raises(OfflineError, match=message):
        resolve("off-small")
    assert calls == {"config.json": 4}
    assert site.leftovers() == []


def test_an_interrupted_download_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(path: str, attempt: int) -> bytes:
        if path == "model.safetensors":
            raise KeyboardInterrupt("stop")
        return CONTENT[path]

    site.publish(hub=True)
    scripted(monkeypatch, script)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        resolve("off-small")
    assert not site.cached.exists()
    assert site.leftovers() == []


def test_a_full_disk_is_not_retried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(path: str, attempt: int) -> bytes:
        raise OSError(errno.ENOSPC, "no space left")

    site.publish(hub=True)
    calls = scripted(monkeypatch, script)
    with pytest.raises(OSError, match="no space left") as info:
        resolve("off-small")
    assert "LESFF_CACHE names another place" in info.value.__notes__[0]
    assert calls == {"config.json": 1}


def test_a_faster_process_wins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(path: str, attempt: int) -> bytes:
        write_files(site.cached)
        return CONTENT[path]

    site.publish(hub=True)
    scripted(monkeypatch, script)
    assert find_damage(resolve("off-small").folder, registry.find_model("small")[1]) is None
    assert site.leftovers() == []


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variable", ["LESFF_OFFLINE", "HF_HUB_OFFLINE", None])
@pytest.mark.parametrize("value", ["1", "true", "Yes", "ON"])
def test_offline_makes_no_call(
    site: Site, monkeypatch: pytest.MonkeyPatch, variable: str | None, value: str
) -> None:
    site.publish(hub=True)
    if variable is not None:
        monkeypatch.setenv(variable, value)
    offline = True if variable is None else None
    message = "off-small@0.1.0 must be in the cache.*it is not there; load it once.*copy its folder"
    with pytest.raises(OfflineError, match=message):
        resolve("off-small", offline=offline)
    write_files(site.cached, CONTENT | {"config.json": b"{}"})
    with pytest.raises(OfflineError, match="copy in the cache is damaged .*config.json must have"):
        resolve("off-small", offline=offline)
    with pytest.raises(OfflineError, match="hf:a/b@main must be in the cache.*load it once with"):
        resolve("hf:a/b@main", offline=offline)


def test_offline_is_read_at_call_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not environment.is_offline()
    monkeypatch.setenv("LESFF_OFFLINE", "0")
    assert not environment.is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert environment.is_offline()


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LESFF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert environment.cache_folder() == tmp_path / ".cache" / "lesff"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert environment.cache_folder() == tmp_path / ".cache" / "lesff"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environment.cache_folder() == tmp_path / "xdg" / "lesff"
    monkeypatch.setenv("LESFF_CACHE", "~/own")
    assert environment.cache_folder() == tmp_path / "own"


def test_the_endpoint_follows_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.hub_endpoint() is None
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert environment.hub_endpoint() == "https://mirror.example"
    monkeypatch.setenv("LESFF_HUB", "http://localhost:1")
    assert environment.hub_endpoint() == "http://localhost:1"
    monkeypatch.setenv("LESFF_HUB", "file:///x")
    with pytest.raises(ConfigError, match="`LESFF_HUB` must start with https://"):
        environment.hub_endpoint()


@pytest.mark.usefixtures("no_network")
def test_the_manifest_must_fit_this_lesff(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(site.bundled)
    site.publish(bundled=True, min_lesff="99.0.0")
    with pytest.raises(ModelNotFoundError, match="off-small@0.1.0 needs lesff 99.0.0 or newer"):
        resolve("off-small")
    monkeypatch.setattr(hub.importlib.metadata, "version", lambda _: "99.0.0.dev1")
    assert resolve("off-small").origin == "bundled"
    site.publish(bundled=True, files=file_entries(("config.json", "LICENSE")))
    with pytest.raises(ManifestError, match="must list README.md, model.safetensors, parity"):
        resolve("off-small")
    site.publish(bundled=True, status="deprecated", status_note="drifts", successor="off-medium")
    message = "0.1.0 is deprecated: drifts; use off-medium instead"
    for call in (resolve, pull, lambda name: lock_models([name], site.cache / "lock")):
        with pytest.warns(FutureWarning, match=message) as caught:
            call("off-small")
        assert caught[0].filename == __file__  # however deep the call


class FakeHub(ThreadingHTTPServer):
    """Serves one commit of one repository; faults are popped one per GET of a file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.content = dict(CONTENT)
        self.faults: list[str] = []
        self.headers_seen: list[dict[str, str]] = []


class FakeHubHandler(BaseHTTPRequestHandler):
    server: FakeHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.headers_seen.append(dict(self.headers))
        path = self.path.split("?")[0]
        content = self.server.content
        if path == f"/api/models/{REPO}/revision/main" or path.endswith(f"revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in content]
            self.reply(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                for name, data in content.items()
            ]
            self.reply(json.dumps(rows).encode())
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/") and path.split("/")[-1] in content:
            self.reply_file(content[path.split("/")[-1]])
        else:
            self.reply(b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})

    def reply_file(self, data: bytes) -> None:
        fault = self.server.faults.pop(0) if self.command == "GET" and self.server.faults else ""
        if fault == "503":
            self.reply(b"busy", status=503)
            return
        body = b"x" * len(data) if fault == "tampered" else data
        self.reply(body, headers={"ETag": f'"{digest(data)}"', "X-Repo-Commit": COMMIT})

    def reply(self, body: bytes, *, status: int = 200, headers: Any = ()) -> None:
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def fake_hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("LESFF_HUB", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_strangers")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_delivers_the_pinned_commit(site: Site, fake_hub: FakeHub) -> None:
    site.publish(hub=True)
    fake_hub.faults = ["503", "tampered"]
    assert resolve("off-small").origin == "hub"
    assert fake_hub.faults == []
    assert {p.name: p.read_bytes() for p in site.cached.iterdir()} == CONTENT
    assert site.leftovers() == []
    assert not any("authorization" in map(str.lower, seen) for seen in fake_hub.headers_seen)


def test_a_hub_without_the_repository_is_not_retried(site: Site, fake_hub: FakeHub) -> None:
    site.publish(hub=True)
    fake_hub.content = {}
    with pytest.raises(ModelNotFoundError, match="the hub has no public config.json of off-small"):
        resolve("off-small")
    with pytest.raises(ModelNotFoundError, match="the hub has no public hf:nobody/nothing"):
        resolve("hf:nobody/nothing")


def test_hub_repositories_are_loaded_by_name(
    site: Site, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.content["pickled.bin"] = b"not wanted"
    found = resolve(f"hf:{REPO}")
    assert (found.name, found.version, found.origin) == (f"hf:{REPO}", COMMIT, "hub")
    assert {path.name for path in found.folder.iterdir()} == set(MODEL_FILES)
    assert site.cache in found.folder.parents
    fake_hub.shutdown()
    again = resolve(f"hf:{REPO}@{COMMIT}", offline=True)
    assert (again.folder, again.origin) == (found.folder, "cache")
    (found.folder / "LICENSE").unlink()
    with pytest.raises(OfflineError, match=r"(LICENSE must be downloaded|must be in the cache)"):
        resolve(f"hf:{REPO}", offline=True)


@pytest.mark.parametrize("scheme", ["sha256", "git"])
def test_altered_files_of_hub_repositories_are_fetched_again(
    site: Site, fake_hub: FakeHub, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == "git":
        monkeypatch.setitem(globals(), "digest", git_digest)
    fake_hub.faults = ["tampered"]
    found = resolve(f"hf:{REPO}")
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == CONTENT
    (found.folder / "LICENSE").resolve().write_bytes(b"x" * len(CONTENT["LICENSE"]))
    with pytest.raises(OfflineError, match="in the cache is damaged, it must be downloaded again"):
        resolve(f"hf:{REPO}", offline=True)
    assert (resolve(f"hf:{REPO}").folder / "LICENSE").read_bytes() == CONTENT["LICENSE"]
    fake_hub.faults = ["tampered"] * 99
    (found.folder / "LICENSE").resolve().unlink()
    with pytest.raises(IntegrityError, match="LICENSE of hf:.* did not have the digest that the"):
        resolve(f"hf:{REPO}")
    fake_hub.faults = []
    assert (resolve(f"hf:{REPO}").folder / "LICENSE").read_bytes() == CONTENT["LICENSE"]


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def test_names_in_a_listing_lead_nowhere(site: Site, fake_hub: FakeHub) -> None:
    for name in ("../../../escape", "/etc/escape", "a/../../LICENSE", "..\\escape"):
        fake_hub.content[name] = b"out"
    found = resolve(f"hf:{REPO}")
    assert {path.name for path in found.folder.iterdir()} == set(MODEL_FILES)
    outside = [path for path in site.cache.parent.rglob("*escape*")]
    assert outside == []


def test_hub_repositories_must_be_complete(site: Site, fake_hub: FakeHub) -> None:
    del fake_hub.content["LICENSE"]
    with pytest.raises(IntegrityError, match="lacks LICENSE: it is not a complete model folder"):
        resolve(f"hf:{REPO}")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("spec", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:../x y"])
def test_malformed_repository_names_are_refused(site: Site, spec: str) -> None:
    with pytest.raises(ModelNotFoundError, match="must be 'hf:organisation/name'"):
        resolve(spec)
    with pytest.raises(ModelNotFoundError, match="is not a valid repository name"):
        resolve("hf:a--b/-c")
