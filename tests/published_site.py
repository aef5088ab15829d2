"""A private cache and manifest with one model of others, served on this machine."""

import json
import lzma
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from file_server import FileServer, running_server

from lesff.cli import main
from lesff.environment import state_folder
from lesff.files import Digest
from lesff.hub.manifest import names as registry
from lesff.hub.sources import download
from lesff.hub.sources import foreign as published

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "docs" / "examples" / "acetamide_water.xyz"


def checkpoint(name: str) -> bytes:
    """A file of the references."""
    return lzma.decompress((HERE / "references" / f"{name}.model.xz").read_bytes())


def digest_of(data: bytes) -> Digest:
    """Digests of a file with these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        return Digest.of(path)


DATA = checkpoint("residual_l1")
DIGEST = digest_of(DATA)
NAME = "others-small"


def first_off_small() -> dict[str, Any]:
    """The manifest entry of off-small as it was with its first version, 0.1.0."""
    path = HERE.parent / "checkpoints_manifest" / "off-small.json"
    entry = json.loads(path.read_text(encoding="utf-8"))
    return entry | {"versions": entry["versions"][:1]}


class Site:
    """A private cache and manifest with one model of others."""

    def __init__(self, root: Path, server: FileServer) -> None:
        self.manifest, self.cache, self.server = root / "manifest", root / "cache", server
        self.manifest.mkdir()
        self.cached = self.cache / "models" / NAME / "1.0.0"
        self.pin = state_folder() / "published" / f"{NAME}@1.0.0.json"
        server.files["small.model"] = DATA

    def publish(self, *, elements: tuple[int, ...] = (1, 6, 7, 8), **changes: Any) -> None:
        """Write the manifest; `changes` go to the entry or to the source."""
        source = {
            "url": self.server.url("small.model"),
            "filename": "small.model",
            "home": "https://example.org/small",
            "url_from": "a test",
            "git_blob": DIGEST.git_blob,
        }
        entry = {
            "name": NAME,
            "aliases": ["others"],
            "description": "A model.",
            "license": "MIT",
            "elements": list(elements),
            "citation": "Someone (2020)",
            "bibtex": ["Someone2020"],
        }
        for key, value in changes.items():
            (source if key in published.PublishedSource.__annotations__ else entry)[key] = value
        version = {
            "version": "1.0.0",
            "date": "2026-11-23",
            "sources": {"published": source},
            "min_lesff": "0.1.0",
            "level_of_theory": "PBE",
        }
        entry["versions"] = [version]
        (self.manifest / f"{NAME}.json").write_text(json.dumps(entry))
        bib = "@article{Someone2020,\n  title = {Some {M}odel}\n}\n"
        (self.manifest / "citations.bib").write_text(bib)

    def leftovers(self) -> list[str]:
        """Files that should be gone."""
        folders = (self.cached.parent, self.cache / "downloads")
        return sorted(
            path.name
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
            if path != self.cached and path.suffix != ".lock"
        )


@contextmanager
def private_site(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose cache and manifest are the ones in use."""
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "LESFF_ACCEPT_LICENSE", "LESFF_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_strangers")
    monkeypatch.setenv("LESFF_CACHE", str(root / "cache"))
    monkeypatch.setattr(registry, "manifest_folder", lambda: root / "manifest")
    monkeypatch.setattr("lesff.hub.manifest.citations.manifest_folder", lambda: root / "manifest")
    monkeypatch.setattr(download, "_BACKOFF_S", 0.0)
    with running_server() as server:
        yield Site(root, server)


def run(*arguments: object) -> Any:
    """Call ``lesff`` with arguments, in process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def cut_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def cut_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("the model was converted again")

    monkeypatch.setattr("lesff.convert.checkpoint.convert_checkpoint", refuse)
