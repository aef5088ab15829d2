"""Offline means offline: a process in which every socket call fails loads every kind of source."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from file_server import running_server
from published_site import DATA, DIGEST, NAME, Site, private_site
from test_hub import COMMIT

from lesff.environment import state_folder
from lesff.files import FileSet
from lesff.hub.licenses import require_license
from lesff.hub.manifest.names import find_model
from lesff.hub.resolve import resolve
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES
from lesff.plain_data import write_json

MANIFEST = Path(__file__).parents[1] / "checkpoints_manifest"
SCRIPT = """
import json, sys
calls = []
def forbid(event, arguments):
    if event.startswith("socket."):
        calls.append(event)
        raise AssertionError(f"the network was used: {event}")
sys.addaudithook(forbid)
import ase.build
import lesff
from pathlib import Path
from lesff.hub.manifest import names as registry
manifest, specs = Path(sys.argv[1]), sys.argv[2:]
registry.manifest_folder = lambda: manifest
water = ase.build.molecule("H2O")
for spec in specs:
    model = lesff.load(spec)
    assert model.predict(water).energy < 0
    print(model.source.origin, end=" ")
for spec in ("hf:nobody/nothing", "https://example.org/nothing/", "absent"):
    try:
        lesff.load(spec)
    except lesff.errors.OfflineError:
        print("refused", end=" ")
assert calls == []
"""


def fill_hub_cache(cache: Path, source: Path) -> str:
    """A repository as a download leaves it, and what this user has recorded of it."""
    folder = cache / "repositories" / "lesff" / "some" / COMMIT
    folder.mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, folder / name)
    files = [asdict(file) for file in FileSet.of(folder, MODEL_FILES).entries]
    record = {"repo": "lesff/some", "commit": COMMIT, "date": "2026-11-23", "files": files}
    state = state_folder() / "repositories" / "lesff" / "some"
    write_json(state / f"{COMMIT}.json", record)
    write_json(state / "refs.json", {"refs": {"main": COMMIT}})
    return "hf:lesff/some"


def absent_model() -> dict[str, Any]:
    """A manifest entry of a model that must be downloaded."""
    data = json.loads(
        (Path(__file__).parents[1] / "checkpoints_manifest/off-small.json").read_text()
    )
    version = data["versions"][0] | {"sources": {"hub": {"repo": "a/b", "commit": COMMIT}}}
    return data | {"name": "absent", "versions": [version]}


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["LESFF_OFFLINE", "HF_HUB_OFFLINE"])
def test_no_call_is_made(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bundled_folder() / "off-small" / "0.1.0"
    folder = shutil.copytree(source, tmp_path / "mine")
    with private_site(tmp_path, monkeypatch) as site, running_server() as server:
        prepare(site)
        for name in MODEL_FILES:
            server.files[f"m/{name}"] = (source / name).read_bytes()
        with pytest.warns(UserWarning, match="could not be verified"):
            resolve(server.url("m/"))
        resolve(NAME)
    specs = ["off-small", "cached", NAME, str(folder), server.url("m/")]
    specs.append(fill_hub_cache(site.cache, source))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(tmp_path / "home"),
        "LESFF_CACHE": str(site.cache),
        "LESFF_STATE": str(state_folder()),
        "HF_TOKEN": "hf_not_for_strangers",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        variable: "1",
    }
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT, str(site.manifest), *specs],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = ["bundled", "cache", "cache", "folder", "cache", "cache", *["refused"] * 3]
    assert done.stdout.split() == expected


def prepare(site: Site) -> None:
    """A bundled model, one in the cache, one of others and one that is not here."""
    site.publish(sha256=DIGEST.sha256, size=len(DATA))
    data = json.loads((MANIFEST / "off-small.json").read_text())
    (site.manifest / "off-small.json").write_text(json.dumps(data))
    (site.manifest / "absent.json").write_text(json.dumps(absent_model()))
    cached = absent_model() | {"name": "cached"}
    (site.manifest / "cached.json").write_text(json.dumps(cached))
    target = site.cache / "models" / "cached" / "0.1.0"
    shutil.copytree(bundled_folder() / "off-small" / "0.1.0", target)
    require_license(find_model(NAME)[0])
