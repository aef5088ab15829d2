"""Mirrors, and a second machine that has nothing but one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published_site import DATA, DIGEST, NAME, Site, first_off_small, private_site, run

from lesff.errors import IntegrityError, LicenseError, OfflineError, UnsupportedInputError
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.server import running
from lesff.hub.mirror.store import Store
from lesff.hub.resolve import resolve
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES

SOURCE = bundled_folder() / "off-small" / "0.1.0"
TERMS = {"license_url": "https://example.org/terms", "license_terms": "Not for sale."}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("LESFF_HUB", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with private_site(tmp_path, monkeypatch) as site:
        (site.manifest / "off-small.json").write_text(json.dumps(first_off_small()))
        yield site


def hub_model(commit: str, repo: str = "lesff/off-small") -> dict[str, Any]:
    """A manifest entry of a model that is only on a hub."""
    data = first_off_small()
    version = data["versions"][0] | {"sources": {"hub": {"repo": repo, "commit": commit}}}
    return data | {"name": "off-hub", "versions": [version]}


def test_a_mirror_has_all_files_and_the_manifest(site: Site, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    result = run("hub", "mirror", mirror)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("lesff/off-small at ")
    store = Store(mirror)
    assert store.repositories() == ["lesff/off-small"]
    refs = store.references("lesff/off-small")
    assert set(refs) == {"main", "0.1.0"}
    snapshot = store.snapshot("lesff/off-small", "0.1.0")
    assert snapshot is not None
    assert {file.path for file in snapshot.files} == set(MODEL_FILES)
    entry = json.loads((mirror / "manifest" / "off-small.json").read_text())
    assert entry["versions"][0]["version"] == "0.1.0"
    assert mirror_models(["off-small@0.1.0"], mirror) == [snapshot]  # nothing new


def test_originals_of_others_are_mirrored(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    mirror = tmp_path / "mirror"
    (snapshot,) = mirror_models([NAME], mirror)
    files = {file.path: file for file in snapshot.files}
    assert set(files) == {"small.model", "README.md", "LICENSE"}
    assert files["small.model"].sha256 == DIGEST.sha256
    folder = mirror / "published" / NAME / snapshot.commit
    assert "Someone (2020)" in (folder / "README.md").read_text()
    assert site.leftovers() == []
    site.server.files.clear()
    with running(mirror) as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        assert resolve(NAME).origin == "published"
    record = json.loads((site.cached / "source.json").read_text())
    assert record["source"]["sha256"] == DIGEST.sha256


def test_a_mirror_without_the_file_leads_to_the_authors(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    mirror_models([], tmp_path / "mirror")
    with running(tmp_path / "mirror") as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        assert resolve(NAME).origin == "published"
    assert site.server.sent == [len(DATA)]
    shutil.rmtree(site.cached)
    with pytest.raises(OfflineError, match=f"cannot download small.model of {NAME}@1.0.0 from "):
        resolve(NAME)


def test_licences_decide_what_is_mirrored(site: Site, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    site.publish(license="LicenseRef-ASL", **TERMS)
    message = f"{NAME} is under LicenseRef-ASL, which is not known to allow passing on copies"
    with pytest.raises(LicenseError, match=message):
        mirror_models([NAME], mirror, accept_license=True)
    assert site.server.requests == []
    site.publish(license="CC-BY-NC-4.0", **TERMS)
    with pytest.raises(LicenseError, match="--accept-license"):
        mirror_models([NAME], mirror)
    (snapshot,) = mirror_models([NAME], mirror, accept_license=True)
    text = (mirror / "published" / NAME / snapshot.commit / "LICENSE").read_text()
    assert "CC-BY-NC-4.0" in text
    assert "https://example.org/terms" in text


def test_wrong_originals_are_not_mirrored(site: Site, tmp_path: Path) -> None:
    site.publish()
    site.server.faults = ["tampered"]
    with pytest.raises(IntegrityError, match="is not the published file"):
        mirror_models([NAME], tmp_path / "mirror")
    assert not (tmp_path / "mirror" / "published").exists()
    with pytest.raises(OfflineError, match="must be fetched, but this is offline"):
        mirror_models([NAME], tmp_path / "mirror", offline=True)
    with pytest.raises(UnsupportedInputError, match="must be a model's name, 'hf:"):
        mirror_models(["https://example.org/m/"], tmp_path / "mirror")


def test_mirrors_of_mirrors(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = mirror_models([], tmp_path / "first")
    (site.manifest / "off-hub.json").write_text(json.dumps(hub_model(first.commit)))
    with running(tmp_path / "first") as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        by_name, by_repository = mirror_models(
            ["off-hub", "hf:lesff/off-small"], tmp_path / "second"
        )
    assert by_name.files == by_repository.files == first.files
    assert by_name.commit == by_repository.commit == first.commit


SECOND = """
import sys
allowed = int(sys.argv[1])
def only_the_mirror(event, arguments):
    if event == "socket.connect" and arguments[1][:2] != ("127.0.0.1", allowed):
        raise AssertionError(f"the network was used: {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", None):
        raise AssertionError(f"a name was looked up: {arguments[0]}")
sys.addaudithook(only_the_mirror)
from pathlib import Path
import ase.build, lesff
from lesff.hub.manifest import names as registry
registry.manifest_folder = lambda: Path(sys.argv[2])
for spec in sys.argv[3:]:
    model = lesff.load(spec)
    energy = model.predict(ase.build.molecule("H2O")).energy
    print(model.source.origin, repr(energy))
"""


@pytest.mark.slow
def test_a_second_machine(site: Site, tmp_path: Path) -> None:
    """Mirror, serve, then an empty home and cache: load and predict, with no other network."""
    site.publish()
    mirror = tmp_path / "mirror"
    (own, _) = mirror_models(["off-small", NAME], mirror)
    shutil.rmtree(site.cache)
    manifest = hub_model(own.commit)
    (site.manifest / "off-hub.json").write_text(json.dumps(manifest))
    with running(mirror) as server:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(tmp_path / "home"),
            "LESFF_HUB": server.url,
            "HF_TOKEN": "hf_not_for_strangers",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        specs = ["off-hub", "hf:lesff/off-small@0.1.0", NAME]
        command = [sys.executable, "-c", SECOND, str(server.server_port), str(site.manifest)]
        done = subprocess.run(  # noqa: S603 - ours
            [*command, *specs], env=environment, capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["hub", "hub", "published"]
    assert rows[0][1] == rows[1][1]
    assert site.server.sent == [len(DATA)]  # by the first machine
