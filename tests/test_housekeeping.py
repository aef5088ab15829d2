"""The cache: list, verify, prune."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_site import NAME, Site, private_site, run
from test_offline import fill_hub_cache

from lesff.hub.resolve import resolve
from lesff.hub.sources.bundled import bundled_folder

MANIFEST = Path(__file__).parents[1] / "checkpoints_manifest"
SOURCE = bundled_folder() / "off-small" / "0.1.0"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A cache with one entry of every kind."""
    with private_site(tmp_path, monkeypatch) as site:
        shutil.copy(MANIFEST / "off-small.json", site.manifest)
        site.publish()
        resolve(NAME)
        shutil.copytree(SOURCE, site.cache / "models" / "off-small" / "0.1.0")
        shutil.copytree(SOURCE, site.cache / "models" / "forgotten" / "0.1.0")
        for file in SOURCE.iterdir():
            site.server.files[f"m/{file.name}"] = file.read_bytes()
        with pytest.warns(UserWarning, match="could not be verified"):
            resolve(site.server.url("m/"))
        fill_hub_cache(site.cache, SOURCE)
        yield site


def test_the_cache_is_listed(site: Site) -> None:
    output = run("cache", "list").output
    for text in (f"{NAME}@1.0.0", "off-small@0.1.0", "hf:lesff/some@", site.server.url("m/")):
        assert text in output
    assert f"MB in {site.cache}" in output


def test_the_cache_is_verified_and_pruned(site: Site) -> None:
    shutil.rmtree(site.cache / "models" / "forgotten")
    result = run("cache", "verify")
    assert result.exit_code == 0, result.output
    assert result.output.count("intact") == 4
    assert "0 entries" in run("cache", "prune").output
    (site.cached / "LICENSE").write_text("x")
    (site.cache / "models" / "off-small" / "0.1.0" / "config.json").unlink()
    (folder,) = (p for p in (site.cache / "web").iterdir() if p.is_dir())
    (folder / "LICENSE").write_text("x")
    result = run("cache", "verify")
    assert result.exit_code == 1
    assert "3 of 4 entries cannot be used; load them again" in result.output
    assert "3 entries" in run("cache", "prune", "--dry-run").output
    assert site.cached.is_dir()
    assert "3 entries" in run("cache", "prune").output
    assert not site.cached.is_dir()
    assert resolve(NAME).origin == "published"


def test_what_the_manifest_does_not_know_is_named(site: Site) -> None:
    assert "forgotten@0.1.0: the manifest does not know it" in run("cache", "verify").output


def test_leftovers_are_pruned_when_they_are_old(site: Site) -> None:
    shutil.rmtree(site.cache / "models" / "forgotten")
    work = site.cached.parent / ".1.0.0.abc.tmp"
    work.mkdir()
    (work / "file").write_bytes(b"x" * 1000)
    part = site.cache / "downloads" / "abc.part"
    part.write_bytes(b"x" * 1000)
    assert "0 entries" in run("cache", "prune").output
    old, ahead = time.time() - 90_000, time.time() + 10**8
    record = site.cache / "licenses" / ".off-small.json.abc.tmp"
    former = site.cache / "pins" / "abc.partial"
    for path in (record, former):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (old, old))
    os.utime(work, (old, old))
    os.utime(part, (ahead, ahead))
    assert "4 entries" in run("cache", "prune").output
    assert not any(path.exists() for path in (work, part, record, former))
