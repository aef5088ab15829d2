"""Signatures of model folders and of manifest updates."""

import base64
import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from published_site import Site, cut_network, first_off_small, private_site, run
from test_mirror import hub_model

from lesff.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    MissingDependencyError,
    OfflineError,
    SignatureError,
)
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.memory import memory_folder, version_digest
from lesff.hub.manifest.names import find_model, list_models
from lesff.hub.manifest.updates import ManifestUpdate, installed_update, merge, update_folder
from lesff.hub.resolve import resolve
from lesff.hub.signatures import check_folder, digest_of, sign_folder
from lesff.hub.sources.bundled import bundled_folder
from lesff.hub.sources.update import pull_update
from lesff.model_folder.folder import load_model, save_model
from lesff.plain_data import from_dict


class Keys:
    """A key pair in PEM files."""

    def __init__(self, folder: Path, key: Any = None) -> None:
        folder.mkdir(parents=True)
        self.private, self.public = folder / "private.pem", folder / "public.pem"
        key = key or ed25519.Ed25519PrivateKey.generate()
        pem = serialization.Encoding.PEM
        none = serialization.NoEncryption()
        pkcs8 = serialization.PrivateFormat.PKCS8
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        self.private.write_bytes(key.private_bytes(pem, pkcs8, none))
        self.public.write_bytes(key.public_key().public_bytes(pem, info))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(bundled_folder() / "off-small" / "0.1.0", tmp_path / "mine")


# model folders


def test_a_signed_folder_is_verified(folder: Path, keys: Keys) -> None:
    result = run("sign", folder, "--key", keys.private)
    assert result.exit_code == 0, result.output
    result = run("verify", folder, "--key", keys.public, "--deep")
    assert result.exit_code == 0, result.output
    assert "signed with the key " in result.output
    assert "sha256 of the folder: " in result.output
    assert resolve(folder).folder == folder
    potential = load_model(folder)
    save_model(potential, folder, card="# New", license_text="MIT", overwrite=True)
    with pytest.raises(SignatureError, match="signature.json does not exist: there is no sig"):
        check_folder(folder, keys.public)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "LICENSE"])
def test_any_change_is_found(folder: Path, keys: Keys, name: str) -> None:
    sign_folder(folder, keys.private)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SignatureError, match="does not fit it: it was changed after it was signed"):
        check_folder(folder, keys.public)
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"lacks {name}: it is not a model folder"):
        check_folder(folder, keys.public)


def test_a_signature_binds_name_and_version(folder: Path, keys: Keys) -> None:
    result = run(
        "sign", folder, "--key", keys.private, "--name", "good", "--version", "1.2.3"
    )  # fmt: skip
    assert "as good@1.2.3" in result.output
    assert "as good@1.2.3" in run("verify", folder, "--key", keys.public).output
    assert run("verify", folder, "--key", keys.public, "--as", "good@1.2.3").exit_code == 0
    for label in ("other@1.2.3", "good@1.2.4", "other"):
        result = run("verify", folder, "--key", keys.public, "--as", label)
        assert result.exit_code == 1
        assert "must bind the " in result.output
    path = folder / "signature.json"
    ours = json.loads(path.read_text())
    for change in ({"name": "other"}, {"version": "1.2.4"}, {"version": None}):
        path.write_text(json.dumps(ours | change))
        with pytest.raises(SignatureError, match="signature of the model folder does not fit"):
            check_folder(folder, keys.public)
    for change in ({"schema": 1}, {"name": None}, {"schema": 3}):
        path.write_text(json.dumps(ours | change))
        with pytest.raises(SignatureError, match="must have a name in schema 2|`schema` of"):
            check_folder(folder, keys.public)
    with pytest.raises(ConfigError, match="`version` must be 'major.minor.patch', got '1.2'"):
        sign_folder(folder, keys.private, version="1.2")


def test_a_folder_is_signed_under_its_own_name(folder: Path, keys: Keys) -> None:
    assert sign_folder(folder, keys.private).subject == "as off-small, without a version"
    (folder / "README.md").write_text("no facts")
    assert sign_folder(folder, keys.private).subject == "as mine, without a version"
    card = "---\nname: stated\nversion: 2.0.0\n---\n\ntext"
    (folder / "README.md").write_text(card)
    assert sign_folder(folder, keys.private).subject == "as stated@2.0.0"


def test_signatures_of_bytes_only_are_still_read(folder: Path, keys: Keys) -> None:
    """As lesff wrote them before names were bound."""
    key = serialization.load_pem_private_key(keys.private.read_bytes(), password=None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    made = base64.b64encode(key.sign(b"lesff model folder 1\n" + digest_of(folder).encode()))
    raw = key.public_key().public_bytes_raw()
    row = {
        "key": hashlib.sha256(raw).hexdigest()[:16],
        "signature": made.decode(),
        "algorithm": "ed25519",
        "schema": 1,
    }
    (folder / "signature.json").write_text(json.dumps(row))
    assert "neither name nor version" in run("verify", folder, "--key", keys.public).output
    with pytest.raises(SignatureError, match="must bind the name 'mine', it binds none"):
        check_folder(folder, keys.public, name="mine")


def test_other_keys_and_forged_signatures_are_refused(
    folder: Path, keys: Keys, tmp_path: Path
) -> None:
    sign_folder(folder, keys.private)
    other = Keys(tmp_path / "other")
    with pytest.raises(SignatureError, match="is signed with the key .*, not with .*public.pem"):
        check_folder(folder, other.public)
    path = folder / "signature.json"
    ours = json.loads(path.read_text())
    sign_folder(folder, other.private)
    forged = json.loads(path.read_text()) | {"key": ours["key"]}
    for signature in (forged["signature"], "", "not base64!", ours["signature"][:-8]):
        path.write_text(json.dumps(forged | {"signature": signature}))
        with pytest.raises(SignatureError, match="signature of the model folder does not fit"):
            check_folder(folder, keys.public)
    path.write_text(json.dumps(ours | {"algorithm": "none"}))
    with pytest.raises(SignatureError, match="must be a signature: .*must be 'ed25519'"):
        check_folder(folder, keys.public)


def test_keys_of_other_kinds_are_refused(folder: Path, tmp_path: Path, keys: Keys) -> None:
    rsa_keys = Keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigError, match="must be an Ed25519 private key, got another kind"):
        sign_folder(folder, rsa_keys.private)
    with pytest.raises(ConfigError, match="must be an Ed25519 private key in PEM"):
        sign_folder(folder, keys.public)
    sign_folder(folder, keys.private)
    with pytest.raises(ConfigError, match="must be an Ed25519 public key, got another kind"):
        check_folder(folder, rsa_keys.public)
    with pytest.raises(ConfigError, match="must be a PEM file with a key"):
        check_folder(folder, tmp_path / "none.pem")


def test_without_the_library(folder: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_folder(folder, keys.private)
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for action in (sign_folder, check_folder):
        with pytest.raises(MissingDependencyError, match=r'install "lesff\[sign\]"'):
            action(folder, keys.public)


# manifest updates


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with private_site(tmp_path, monkeypatch) as site:
        (site.manifest / "off-small.json").write_text(json.dumps(first_off_small()))
        yield site


def update(folder: Path, keys: Keys, *entries: dict[str, Any], serial: int = 1) -> Path:
    """A signed update with these entries."""
    source = folder / f"entries{serial}"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for entry in entries:
        (source / f"{entry['name']}.json").write_text(json.dumps(entry))
    path = folder / "manifest.json"
    result = run("hub", "sign", source, "-o", path, "--serial", serial, "--key", keys.private)
    assert result.exit_code == 0, result.output
    return path


def newer(version: str = "0.2.0", **changes: Any) -> dict[str, Any]:
    """off-small with one version more."""
    data = first_off_small()
    old = data["versions"][0]
    hub = {"hub": {"repo": "a/b", "commit": "0" * 40}}
    new = copy.deepcopy(old) | {"version": version, "sources": hub}
    return data | {"versions": [old | changes, new], "aliases": ["tiny"]}


def test_an_update_adds_and_deprecates(site: Site, tmp_path: Path, keys: Keys) -> None:
    entry = newer(status="deprecated", status_note="drifts", successor="off-small@0.2.0")
    path = update(tmp_path, keys, entry, hub_model("0" * 40))
    result = run("hub", "update", path, "--key", keys.public)
    assert result.exit_code == 0, result.output
    assert "update 1 of " in result.output
    assert [entry.name for entry in list_models()] == ["off-hub", "off-small"]
    assert find_model("tiny")[1].version == "0.2.0"
    with pytest.warns(FutureWarning, match="deprecated: drifts; use off-small@0.2.0 instead"):
        assert resolve("off-small@0.1.0").origin == "bundled"
    assert "update removed" in run("hub", "update", "--reset").output
    assert [entry.name for entry in list_models()] == ["off-small"]
    assert "there was no update" in run("hub", "update", "--reset").output


def test_an_update_comes_from_the_mirror(
    site: Site, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = update(tmp_path, keys, newer())
    site.server.files["manifest.json"] = path.read_bytes()
    site.server.files["manifest.json.sig"] = Path(f"{path}.sig").read_bytes()
    monkeypatch.setenv("LESFF_HUB", site.server.url("")[:-1])
    site.server.faults = [10, "503"]
    assert run("hub", "update", "--key", keys.public).exit_code == 0
    assert find_model("off-small")[1].version == "0.2.0"
    assert run("hub", "update").exit_code == 0  # the same again, with the trusted key
    with pytest.raises(OfflineError, match="must be fetched, but this is offline; give a file"):
        pull_update(site.server.url("manifest.json"), offline=True)
    monkeypatch.delenv("LESFF_HUB")
    assert "or set LESFF_HUB" in run("hub", "update").output
    cut_network(monkeypatch)
    assert find_model("off-small")[1].version == "0.2.0"


def changed_hash(data: dict[str, Any]) -> None:
    data["versions"][0]["files"][0]["sha256"] = "0" * 64


def changed_source(data: dict[str, Any]) -> None:
    data["versions"][0]["sources"] = {"hub": {"repo": "evil/x", "commit": "0" * 40}}


def changed_license(data: dict[str, Any]) -> None:
    data["license"] = "MIT"


@pytest.mark.parametrize("change", [changed_hash, changed_source, changed_license])
def test_an_update_never_changes_what_is_known(
    site: Site, tmp_path: Path, keys: Keys, change: Callable[[dict[str, Any]], None]
) -> None:
    data = newer()
    change(data)
    with pytest.raises(ManifestError, match=r"update must not change (off-small@0.1.0|`license`)"):
        pull_update(str(update(tmp_path, keys, data)), public_key=keys.public)
    assert installed_update() is None
    pull_update(str(update(tmp_path, keys, newer())), public_key=keys.public)
    second = newer()
    second["versions"][1]["files"][0]["sha256"] = "0" * 64
    with pytest.raises(ManifestError, match=r"must not change off-small@0.2.0, which is released"):
        pull_update(str(update(tmp_path, keys, second, serial=2)))
    taken = first_off_small() | {"name": "other", "aliases": ["off-small"]}
    with pytest.raises(ManifestError, match="names and aliases must be unique, got off-small"):
        pull_update(str(update(tmp_path, keys, taken, serial=3)))
    assert len(list_models()) == 1


def test_an_update_adds_caveats_and_removes_none(site: Site, tmp_path: Path, keys: Keys) -> None:
    known = newer(caveats={"charges": "made up"})
    pull_update(str(update(tmp_path, keys, known)), public_key=keys.public)
    assert resolve("off-small@0.1.0").caveats == {"charges": "made up"}
    both = newer(caveats={"charges": "made up", "dipole": "made of them"})
    pull_update(str(update(tmp_path, keys, both, serial=2)))
    assert sorted(resolve("off-small@0.1.0").caveats) == ["charges", "dipole"]
    without = newer(caveats={"dipole": "made of them"})
    old, new = (from_dict(ModelEntry, data, "entry") for data in (both, without))
    with pytest.raises(ManifestError, match=r"keep the caveats of off-small@0.1.0, .* charges"):
        merge([old], ManifestUpdate(serial=3, date="2026-01-01", models=(new,)))


def test_the_same_key_again_keeps_the_memory(site: Site, tmp_path: Path, keys: Keys) -> None:
    """`--key` with the key that is trusted already is no way back."""
    pull_update(str(update(tmp_path, keys, newer(), serial=5)), public_key=keys.public)
    copy_of_key = shutil.copy(keys.public, tmp_path / "same.pem")
    for key in (keys.public, Path(copy_of_key)):
        with pytest.raises(ManifestError, match="has the serial 4, older than 5 which is there"):
            pull_update(str(update(tmp_path, keys, newer("0.3.0"), serial=4)), public_key=key)
    result = run(
        "hub", "update", update(tmp_path, keys, other_bytes(newer()), serial=6),
        "--key", keys.public,
    )  # fmt: skip
    assert "must not change off-small@0.2.0, which is released" in result.output
    run("hub", "update", "--reset")
    with pytest.raises(ManifestError, match="has the serial 4, older than 5 which is there"):
        pull_update(str(update(tmp_path, keys, newer(), serial=4)), public_key=keys.public)


def other_bytes(data: dict[str, Any]) -> dict[str, Any]:
    data["versions"][1]["files"][0]["sha256"] = "0" * 64
    return data


def other_license(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"license": "MIT"}


def own_model(**changes: Any) -> dict[str, Any]:
    """A model that comes with no lesff."""
    data = newer()
    return data | {"name": "mine", "aliases": ["mine-short"]} | changes


@pytest.mark.parametrize("change", [other_bytes, other_license])
@pytest.mark.parametrize("way", ["left out", "another key", "reset"])
def test_what_was_known_once_stays(
    site: Site,
    tmp_path: Path,
    keys: Keys,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    way: str,
) -> None:
    """Bytes of a version and licence of a model, whatever happened in between."""
    pull_update(str(update(tmp_path, keys, own_model(), serial=1)), public_key=keys.public)
    signer = keys
    if way == "left out":
        pull_update(str(update(tmp_path, keys, newer(), serial=2)))
    elif way == "another key":
        signer = Keys(tmp_path / "other")
    else:
        run("hub", "update", "--reset")
    changed = update(tmp_path, signer, change(own_model()), serial=3)
    with pytest.raises(ManifestError, match=r"must not change (mine@0.2.0|`license` of mine)"):
        pull_update(str(changed), public_key=signer.public)
    same = update(tmp_path, signer, own_model(), serial=4)
    pull_update(str(same), public_key=signer.public)
    assert find_model("mine-short")[0].name == "mine"


def test_a_name_never_changes_its_model(site: Site, tmp_path: Path, keys: Keys) -> None:
    pull_update(str(update(tmp_path, keys, own_model())), public_key=keys.public)
    pull_update(str(update(tmp_path, keys, newer(), serial=2)))
    taken = own_model(name="other", aliases=["mine-short"])
    with pytest.raises(ManifestError, match="must not give the name mine-short of mine to other"):
        pull_update(str(update(tmp_path, keys, taken, serial=3)))
    taken = own_model(name="mine-short", aliases=[])
    with pytest.raises(ManifestError, match="must not give the name mine-short of mine to mine-sh"):
        pull_update(str(update(tmp_path, keys, taken, serial=3)))


def test_a_caveat_that_is_left_out_once_stays(site: Site, tmp_path: Path, keys: Keys) -> None:
    with_caveat = newer(caveats={"charges": "made up"})
    pull_update(str(update(tmp_path, keys, with_caveat)), public_key=keys.public)
    # the model is left out: its version, which came with lesff, keeps the caveat
    pull_update(str(update(tmp_path, keys, own_model(), serial=2)))
    assert resolve("off-small@0.1.0").caveats == {"charges": "made up"}
    # and an update that has it again must have the caveat
    with pytest.raises(ManifestError, match=r"keep the caveats of off-small@0.1.0, .* charges"):
        pull_update(str(update(tmp_path, keys, newer(), serial=3)))
    other = Keys(tmp_path / "other")
    with pytest.raises(ManifestError, match=r"keep the caveats of off-small@0.1.0, .* charges"):
        pull_update(str(update(tmp_path, other, newer(), serial=1)), public_key=other.public)


def test_an_update_from_before_there_was_a_memory(site: Site, tmp_path: Path, keys: Keys) -> None:
    pull_update(str(update(tmp_path, keys, own_model(), serial=5)), public_key=keys.public)
    shutil.rmtree(memory_folder())
    assert find_model("mine")[1].version == "0.2.0"
    with pytest.raises(ManifestError, match="has the serial 4, older than 5 which is there"):
        pull_update(str(update(tmp_path, keys, newer(), serial=4)), public_key=keys.public)
    pull_update(str(update(tmp_path, keys, newer(), serial=6)))
    with pytest.raises(ManifestError, match="must not change mine@0.2.0, which is released"):
        pull_update(str(update(tmp_path, keys, other_bytes(own_model()), serial=7)))


def test_a_damaged_memory_is_not_believed(site: Site, tmp_path: Path, keys: Keys) -> None:
    pull_update(str(update(tmp_path, keys, own_model())), public_key=keys.public)
    for name in ("models/mine.json", "serials/*.json"):
        path = next(memory_folder().glob(name))
        text = path.read_text()
        for damage in ("", "[]", "{}", text.replace("mine", "other"), text.replace("1", '"1"')):
            if damage == text:
                continue
            path.write_text(damage)
            with pytest.raises(ManifestError, match="is damaged: .*remove this file"):
                pull_update(str(update(tmp_path, keys, newer(), serial=2)))
        path.write_text(text)


def test_digests_of_versions_do_not_depend_on_defaults() -> None:
    """A later lesff, with more fields, must find the digest that is remembered."""
    version = from_dict(ModelEntry, newer(), "entry").versions[0]
    assert version_digest(version) == version_digest(replace(version, caveats={"charges": "x"}))

    @dataclass(frozen=True, kw_only=True)
    class Later(VersionEntry):
        more: str = ""

    later = Later(**{f.name: getattr(version, f.name) for f in fields(version)})
    assert version_digest(later) == version_digest(version)
    assert version_digest(replace(later, more="new")) != version_digest(version)


def test_updates_are_never_older(site: Site, tmp_path: Path, keys: Keys) -> None:
    pull_update(str(update(tmp_path, keys, newer(), serial=5)), public_key=keys.public)
    with pytest.raises(ManifestError, match="has the serial 4, older than 5 which is there"):
        pull_update(str(update(tmp_path, keys, newer("0.3.0"), serial=4)))
    assert find_model("off-small")[1].version == "0.2.0"


def test_unsigned_and_altered_updates_are_refused(site: Site, tmp_path: Path, keys: Keys) -> None:
    path = update(tmp_path, keys, newer())
    with pytest.raises(SignatureError, match="no key is trusted for manifest updates yet"):
        pull_update(str(path))
    with pytest.raises(SignatureError, match="is signed with the key .*, not with"):
        pull_update(str(path), public_key=Keys(tmp_path / "other").public)
    text = path.read_text()
    path.write_text(text.replace("0.2.0", "0.2.1"))
    with pytest.raises(SignatureError, match="signature of the manifest update does not fit"):
        pull_update(str(path), public_key=keys.public)
    path.write_text(text)
    pull_update(str(path), public_key=keys.public)
    kept = update_folder() / "manifest.json"
    kept.write_text(text.replace("0.2.0", "0.2.1"))
    with pytest.raises(ManifestError, match="cannot be used: .*drop it with `lesff hub update --r"):
        resolve("off-small")
    Path(f"{path}.sig").unlink()
    with pytest.raises(SignatureError, match="there is no signature"):
        pull_update(str(path), public_key=keys.public)


def test_a_signature_for_one_purpose_is_none_for_another(
    folder: Path, tmp_path: Path, keys: Keys, site: Site
) -> None:
    sign_folder(folder, keys.private)
    path = update(tmp_path, keys, newer())
    shutil.copy(folder / "signature.json", f"{path}.sig")
    with pytest.raises(SignatureError, match="signature of the manifest update does not fit"):
        pull_update(str(path), public_key=keys.public)
