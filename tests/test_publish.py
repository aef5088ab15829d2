"""Publishing to a hub on this machine, and what may not be published."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import running_server
from published_site import run

import lesff
from lesff.errors import ConfigError, IntegrityError, ManifestError, OfflineError, PublishError
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
