"""Publishing to a hub on this machine, and what may not be published."""

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from file_server import running_server
from published_site import run

import lesff
from lesff.errors import ConfigError, IntegrityError, ManifestError, OfflineError, PublishError
from lesff.hub import publish
from lesff.hub.mirror.server import HubHandler, HubServer, running
from lesff.hub.publish import check_publication, publish_folder
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES

SOURCE = bundled_folder() / "off-small" / "0.1.0"
TOKEN = "hf_test"  # noqa: S105 - of no one
REPO = "someone/my-model"


class UploadHandler(HubHandler):
    """Takes repositories, commits and tags as a hub does, for one token."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Unauthorized", "no token")
            return
        store, path = self.server.store, self.path
        home = store.folder / REPO
        if path == "/api/repos/create":
            home.mkdir(parents=True, exist_ok=True)
            if not (home / "refs.json").exists():
                (home / "refs.json").write_text('{"refs": {}}')
            self._send_json({"url": f"{self.server.url}/{REPO}"})
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif path.startswith(f"/api/models/{REPO}/preupload/"):
            files = [
                {"path": row["path"], "uploadMode": "regular", "shouldIgnore": False}
                for row in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif path.startswith(f"/api/models/{REPO}/commit/"):
            self._send_json(self._commit(body))
        elif path.startswith(f"/api/models/{REPO}/tag/"):
            refs = json.loads((home / "refs.json").read_text())
            refs["refs"][json.loads(body)["tag"]] = path.split("/")[-1]
            (home / "refs.json").write_text(json.dumps(refs))
            self._send_json({})
        else:
            self._refuse(404, "EntryNotFound", path)

    def _commit(self, body: bytes) -> dict[str, Any]:
        store = self.server.store
        upload = store.folder / "upload"
        shutil.rmtree(upload, ignore_errors=True)
        upload.mkdir()
        files = {}
        for row in map(json.loads, body.splitlines()):
            if row["key"] == "file":
                files[row["value"]["path"]] = upload / row["value"]["path"]
                content = base64.b64decode(row["value"]["content"])
                (upload / row["value"]["path"]).write_bytes(content)
        commit = store.add(REPO, files, refs=("main",), date="2026-11-23").commit
        return {"commitUrl": f"{self.server.url}/{REPO}/commit/{commit}", "commitOid": commit}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    with running(tmp_path / "store", handler=UploadHandler) as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(SOURCE, tmp_path / "mine")


def test_a_folder_is_published_and_loaded(
    server: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    output = tmp_path / "entry.json"
    result = run("publish", folder, "--repo", REPO, "--version", "1.0.0", "-o", output)
    assert result.exit_code == 0, result.output
    entry = json.loads(output.read_text())
    commit = entry["versions"][0]["sources"]["hub"]["commit"]
    assert f"lesff.load('hf:{REPO}@{commit}')" in result.output
    assert (entry["name"], entry["license"]) == ("off-small", "Apache-2.0")
    model = lesff.load(f"hf:{REPO}@1.0.0")
    for name in MODEL_FILES:
        assert (model.source.folder / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(PublishError, match="has version 1.0.0, whose bytes never change"):
        publish_folder(folder, REPO, version="1.0.0")


def test_a_model_is_pushed(server: HubServer) -> None:
    model = lesff.load("off-small")
    card = model.card.replace("name: off-small", "name: my-model")
    entry = model.push_to_hub(REPO, version="0.2.0", card=card, token=TOKEN)
    assert (entry.name, entry.versions[0].version) == ("my-model", "0.2.0")
    assert lesff.load(f"hf:{REPO}@0.2.0").card == card


def test_the_hub_refuses_other_tokens(server: HubServer, folder: Path) -> None:
    with pytest.raises(PublishError, match=f"the hub did not take {REPO}: .*401"):
        publish_folder(folder, REPO, version="1.0.0", token="hf_other")  # noqa: S106
    with pytest.raises(ManifestError, match="`repo` must be 'organisation/name', got 'not a name"):
        publish_folder(folder, "not a name/x", version="1.0.0", token=TOKEN)


def test_a_token_goes_to_the_hub_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub that leads elsewhere does not get the token carried there."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as elsewhere, running_server() as hub:
        monkeypatch.setenv("LESFF_HUB", hub.url("")[:-1])
        hub.faults = [f"moved:http://localhost:{elsewhere.server_port}/x"] * 9
        with pytest.raises(PublishError, match="the hub did not take"):
            publish_folder(folder, REPO, version="1.0.0", token=TOKEN)
        assert not any("authorization" in headers for headers in elsewhere.requests)
    monkeypatch.setenv("LESFF_HUB", "http://mirror.example")
    with pytest.raises(ConfigError, match="token must not be sent to http://mirror.example"):
        publish_folder(folder, REPO, version="1.0.0", token=TOKEN)
    monkeypatch.setenv("LESFF_OFFLINE", "1")
    with pytest.raises(OfflineError, match="publishing needs the network"):
        publish_folder(folder, REPO, version="1.0.0", token=TOKEN)


class OddHandler(UploadHandler):
    """Answers as usual, but for one call, whose answer is odd."""

    odd_path = ""
    odd_answer = b""

    def _is_odd(self) -> bool:
        if not self.path.startswith(self.odd_path):
            return False
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self._send_bytes(self.odd_answer, "application/json")
        return True

    def do_POST(self) -> None:
        if not self._is_odd():
            super().do_POST()

    def do_GET(self) -> None:
        if not self._is_odd():
            super().do_GET()


CALLS = {
    "create": "/api/repos/create",
    "refs": f"/api/models/{REPO}/refs",
    "preupload": f"/api/models/{REPO}/preupload/",
    "commit": f"/api/models/{REPO}/commit/",
}
ANSWERS = {
    "nothing": b"",
    "no JSON": b"<html>",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "number": b"7",
    "deep": b"[" * 100_000,
    "odd commit": json.dumps(
        {"commitUrl": f"https://x/{REPO}/commit/../../x", "commitOid": "../../x"}
    ).encode(),
    "odd types": json.dumps(
        {"url": 7, "branches": 7, "tags": [7], "files": [7], "commitUrl": 7, "commitOid": 7}
    ).encode(),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("call", CALLS)
def test_odd_answers_are_one_error(
    call: str, answer: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(OddHandler, "odd_path", CALLS[call])
    monkeypatch.setattr(OddHandler, "odd_answer", ANSWERS[answer])
    with running(tmp_path / "store", handler=OddHandler) as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        result = run("publish", folder, "--repo", REPO, "--version", "1.0.0")
    # an answer that says nothing wrong may do: nobody reads that of a repository that is there
    if result.exit_code:
        assert result.exit_code == 1, result.output
        assert result.output.startswith("Error: the hub "), result.output
        assert len(result.output.strip().splitlines()) == 1
    else:
        assert (call, answer) == ("create", "object") or call == "create"


class VerifyingHandler(UploadHandler):
    """Has every file uploaded in the manner of large files, and verified at another host."""

    elsewhere = ""

    def do_POST(self) -> None:
        if "/preupload/" in self.path:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = [
                {"path": row["path"], "uploadMode": "lfs", "shouldIgnore": False}
                for row in body["files"]
            ]
            self._send_json({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            actions = {
                "upload": {"href": f"{self.elsewhere}upload"},
                "verify": {"href": f"{self.elsewhere}verify"},
            }
            rows = [row | {"actions": actions} for row in body["objects"]]
            self._send_json({"transfer": "basic", "objects": rows})
        else:
            super().do_POST()


class Elsewhere(BaseHTTPRequestHandler):
    """Takes everything; keeps what it was told."""

    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base
        pass

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "Transfer-Encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub
def test_verification_elsewhere_never_sees_the_token(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(Elsewhere, "seen", [])
    other = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    monkeypatch.setattr(VerifyingHandler, "elsewhere", f"http://localhost:{other.server_port}/")
    try:
        with running(tmp_path / "store", handler=VerifyingHandler) as server:
            monkeypatch.setenv("LESFF_HUB", server.url)
            publish_folder(folder, REPO, version="1.0.0", token=TOKEN)
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    assert {path for path, _ in Elsewhere.seen} == {"/upload", "/verify"}
    assert not any("authorization" in headers for _, headers in Elsewhere.seen)
    assert not any(TOKEN in str(headers) for _, headers in Elsewhere.seen)


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_file_that_changes_after_the_check_is_not_uploaded(
    name: str, server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check = publish.verify_parity

    def changing(path: Path) -> Any:
        report = check(path)
        data = bytearray((folder / name).read_bytes())
        data[-5] ^= 1
        (folder / name).write_bytes(data)
        return report

    monkeypatch.setattr(publish, "verify_parity", changing)
    with pytest.raises(PublishError, match=f"has changed while it was checked.*{name}"):
        publish_folder(folder, REPO, version="1.0.0")
    assert not (server.store.folder / REPO).exists()


def test_a_file_that_changes_during_the_upload_is_uploaded_as_checked(
    server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    card, upload = (folder / "README.md").read_bytes(), publish._upload

    def changing(*args: Any, **options: Any) -> str:
        (folder / "README.md").write_text("changed")
        return upload(*args, **options)

    monkeypatch.setattr(publish, "_upload", changing)
    publish_folder(folder, REPO, version="1.0.0")
    assert (lesff.load(f"hf:{REPO}@1.0.0").source.folder / "README.md").read_bytes() == card


def test_a_signature_for_another_version_is_not_published(server: HubServer, folder: Path) -> None:
    row = {"key": "0" * 16, "signature": "", "name": "x", "version": "2.0.0", "schema": 2}
    (folder / "signature.json").write_text(json.dumps(row))
    with pytest.raises(PublishError, match="binds the version 2.0.0, not 1.0.0"):
        publish_folder(folder, REPO, version="1.0.0", token=TOKEN)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(card.replace(f"\n{key}: ", "\nx: "))

    return change


def link(folder: Path) -> None:
    (folder / "LICENSE").rename(folder.parent / "LICENSE")
    (folder / "LICENSE").symlink_to(folder.parent / "LICENSE")


def short_card(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: MIT\ndescription: a\ncitation: b\n---\n")


def other_energies(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["reference_energies"][0] += 1.0
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("LICENSE"), "must have LICENSE to be published"),
        (remove("README.md"), "must have README.md to be published"),
        (remove("parity.safetensors"), "must have parity.safetensors to be published"),
        (write("LICENSE", "MIT"), "must be the full text of the licence"),
        (write("model.pkl", "x"), "got model.pkl; model.pkl can hold code, which a model never"),
        (write("notes.txt", "x"), "must hold nothing but a model, got notes.txt"),
        (without("license"), "must state license between the --- lines"),
        (without("citation"), "must state citation between the --- lines"),
        (short_card, "must say what the model is for and how accurate"),
        (link, "LICENSE must be a plain file"),
        (other_energies, "must reproduce its golden values, got errors of"),
        (write("config.json", "{}"), "lacks the key"),
        (write("model.safetensors", "x" * 100), "model.safetensors says its header has"),
    ],
)
def test_what_may_not_be_published(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    assert run("publish", folder, "--check").exit_code == 0
    change(folder)
    with pytest.raises((PublishError, ConfigError, IntegrityError), match=message):
        check_publication(folder)
    assert run("publish", folder, "--check").exit_code == 1


def test_names_and_versions_are_checked_before_the_upload(folder: Path) -> None:
    with pytest.raises(ConfigError, match="must be 'major.minor.patch', got 'v1'"):
        publish_folder(folder, REPO, version="v1", token=TOKEN)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("name: off-small", "name: Off Small"))
    with pytest.raises(ManifestError, match="`name` must be lower-case letters"):
        publish_folder(folder, REPO, version="1.0.0", token=TOKEN)
    assert "give --repo and --version" in run("publish", folder).output
