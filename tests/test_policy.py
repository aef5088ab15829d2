"""What a user or site allows: licences of a kind, locked versions and bytes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_site import NAME, Site, first_off_small, private_site, run
from test_hub import COMMIT

import lesff
from lesff.errors import (
    ConfigError,
    IntegrityError,
    LicenseError,
    ModelNotFoundError,
    UnsupportedInputError,
)
from lesff.hub.lockfile import read_lock
from lesff.hub.resolve import lock_models, resolve
from lesff.hub.sources.bundled import bundled_folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("LESFF_LICENSES", "LESFF_LOCK"):
        monkeypatch.delenv(name, raising=False)
    with private_site(tmp_path, monkeypatch) as site:
        (site.manifest / "off-small.json").write_text(json.dumps(first_off_small()))
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(bundled_folder() / "off-small" / "0.1.0", tmp_path / "mine")


def with_license(folder: Path, text: str) -> None:
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: Apache-2.0\n", text))


# licences


def test_a_policy_refuses_what_is_not_free(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = {"license_url": "https://example.org/terms", "license_terms": "Not for sale."}
    site.publish(license="CC-BY-NC-4.0", **terms)
    message = "others-small is under CC-BY-NC-4.0, which is not free for any use, and `licenses`"
    with pytest.raises(LicenseError, match=message):
        lesff.load(NAME, licenses="permissive", accept_license=True)
    monkeypatch.setenv("LESFF_LICENSES", "permissive")
    with pytest.raises(LicenseError, match="and LESFF_LICENSES allows 'permissive' licences only"):
        lesff.load(NAME, accept_license=True)
    assert site.server.requests == []
    assert lesff.load("off-small").source.origin == "bundled"
    assert resolve(NAME, licenses="any", accept_license=True).origin == "published"
    monkeypatch.setenv("LESFF_LICENSES", "free")
    with pytest.raises(ConfigError, match="must be 'any' or 'permissive', got 'free'"):
        lesff.load("off-small")


def test_a_policy_reads_the_card_of_other_models(folder: Path) -> None:
    assert resolve(folder, licenses="permissive").folder == folder
    with_license(folder, "license: mit\n")
    assert resolve(folder, licenses="permissive").folder == folder
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: mit", "license: cc-by-nc-4.0"))
    with pytest.raises(LicenseError, match="card of mine is under cc-by-nc-4.0, which is not"):
        resolve(folder, licenses="permissive")
    (folder / "README.md").write_text("# No top\n")
    with pytest.raises(LicenseError, match="card of mine does not say that it is free"):
        resolve(folder, licenses="permissive")
    assert resolve(folder).folder == folder


# lockfiles


def test_a_lockfile_decides(
    site: Site, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    path = tmp_path / "lesff.lock"
    assert run("hub", "lock", "off-small", "others", "-o", path).exit_code == 0
    assert {key: m.spec for key, m in read_lock(path).models.items()} == {
        "off-small": "off-small@0.1.0",
        NAME: f"{NAME}@1.0.0",
    }
    assert lesff.load("off-small@0.1", lock=path).name == "off-small@0.1.0"
    monkeypatch.setenv("LESFF_LOCK", str(path))
    assert lesff.load("others").name == f"{NAME}@1.0.0"
    assert resolve(folder).origin == "folder"
    data = json.loads(path.read_text())
    data["models"]["off-small"]["spec"] = "off-small@0.2.0"
    path.write_text(json.dumps(data))
    with pytest.raises(ModelNotFoundError, match=r"contradicts the lockfile .*has off-small@0.2.0"):
        resolve("off-small@0.1.0")
    with pytest.raises(ModelNotFoundError, match="no version '0.2.0'"):
        resolve("off-small")
    del data["models"]["off-small"]
    path.write_text(json.dumps(data))
    with pytest.raises(ModelNotFoundError, match="off-small is not in the lockfile .*hub lock off"):
        resolve("off-small")


def test_other_bytes_than_the_locked_are_refused(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "lesff.lock"
    lock_models(["off-small"], path)
    data = json.loads(path.read_text())
    data["models"]["off-small"]["files"][1]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    with pytest.raises(IntegrityError, match="not what the lockfile .*model.safetensors must have"):
        resolve("off-small", lock=path)
    del data["models"]["off-small"]["files"][1]
    path.write_text(json.dumps(data))
    with pytest.raises(IntegrityError, match="off-small@0.1.0 is not .*: it must list model.safet"):
        resolve("off-small", lock=path)


def test_repositories_and_addresses_are_locked(
    site: Site, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_offline import fill_hub_cache

    repository = fill_hub_cache(site.cache, folder)
    for file in folder.iterdir():
        site.server.files[f"m/{file.name}"] = file.read_bytes()
    address = site.server.url("m/")
    path = tmp_path / "lesff.lock"
    with pytest.warns(UserWarning, match="could not be verified"):
        lock_models([address], path)
    lock_models([repository], path, offline=True)
    locked = {key: model.spec for key, model in read_lock(path).models.items()}
    assert locked[repository] == f"{repository}@{COMMIT}"
    assert locked[address].startswith(f"{address}#sha256=")
    monkeypatch.setenv("LESFF_LOCK", str(path))
    assert resolve(repository, offline=True).version == COMMIT
    assert resolve(address).origin == "web"
    assert resolve(locked[address]).origin == "cache"
    with pytest.raises(ModelNotFoundError, match="contradicts the lockfile"):
        resolve(f"{repository}@main", offline=True)


def test_malformed_lockfiles_are_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "lesff.lock"
    with pytest.raises(ModelNotFoundError, match="does not exist; make it with `lesff hub lock"):
        resolve("off-small", lock=path)
    path.write_text('{"models": {"a": {"spec": "a", "files": [{"path": "..", "size": 1}]}}}')
    with pytest.raises(ConfigError, match="lacks the key"):
        resolve("off-small", lock=path)
    path.write_text('{"models": {}, "schema": 2}')
    with pytest.raises(ConfigError, match="`schema` of .* must be 1, got 2"):
        resolve("off-small", lock=path)
    with pytest.raises(UnsupportedInputError, match="must be a name or an address to be locked"):
        lock_models([str(folder)], tmp_path / "new.lock")
