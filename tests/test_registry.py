"""The manifest: strict parsing, version selection, no guessing."""

import json
from pathlib import Path
from typing import Any

import pytest

from lesff.errors import ManifestError, ModelNotFoundError
from lesff.hub.manifest import names as registry
from lesff.hub.manifest.names import find_model, list_models

SHA = "0123456789abcdef" * 4


def version_entry(version: str, **changes: Any) -> dict[str, Any]:
    entry = {
        "version": version,
        "date": "2026-11-20",
        "files": [{"path": "config.json", "size": 10, "sha256": SHA}],
        "sources": {"bundled": True},
        "min_lesff": "0.1.0",
        "level_of_theory": "wB97M-D3(BJ)/def2-TZVPPD",
        "metrics": [
            {"dataset": "d", "quantity": "forces", "metric": "mae", "unit": "eV/A", "value": 0.02}
        ],
    }
    return entry | changes


def model_entry(name: str, *versions: str, **changes: Any) -> dict[str, Any]:
    entry = {
        "name": name,
        "description": "A model.",
        "license": "Apache-2.0",
        "elements": [1, 6, 7, 8],
        "citation": "A paper",
        "versions": [version_entry(version) for version in versions],
    }
    return entry | changes


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "manifest_folder", lambda: tmp_path)
    small = model_entry("off-small", "0.1.0", "0.1.2", "0.2.0", "0.10.0", aliases=["small"])
    small["versions"].append(version_entry("0.11.0", status="deprecated", status_note="wrong"))
    write(tmp_path, small)
    write(tmp_path, model_entry("off-medium", "1.0.0", elements=[1, 8]))
    return tmp_path


def write(folder: Path, entry: dict[str, Any], stem: str | None = None) -> None:
    (folder / f"{stem or entry['name']}.json").write_text(json.dumps(entry), encoding="utf-8")


def test_models_are_listed_by_name(manifest: Path) -> None:
    medium, small = list_models()
    assert (medium.name, small.name) == ("off-medium", "off-small")
    assert medium.elements == (1, 8)
    assert small.versions[0].metrics[0].value == 0.02
    assert small.versions[0].files[0].sha256 == SHA


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("off-small", "0.10.0"),
        ("small", "0.10.0"),
        ("off-small@0", "0.10.0"),
        ("off-small@0.1", "0.1.2"),
        ("off-small@0.1.0", "0.1.0"),
        ("small@0.2", "0.2.0"),
        ("off-small@0.11", "0.11.0"),
        ("off-small@0.11.0", "0.11.0"),
    ],
)
def test_versions_are_selected(manifest: Path, spec: str, expected: str) -> None:
    entry, version = find_model(spec)
    assert (entry.name, version.version) == ("off-small", expected)


@pytest.mark.parametrize("wanted", ["0.3", "0.1.1", "1", "", "latest", "0.1.0.0", "v0.1.0", "00"])
def test_unknown_versions_list_the_known_ones(manifest: Path, wanted: str) -> None:
    known = "0.1.0, 0.1.2, 0.2.0, 0.10.0, 0.11.0"
    with pytest.raises(ModelNotFoundError, match=f"off-small has no version '{wanted}'.*{known}"):
        find_model(f"off-small@{wanted}")


def test_unknown_names_get_suggestions(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "off-smal").mkdir()  # a folder of this name changes nothing
    message = r"no model is called 'off-smal'; did you mean off-small.*Known models: off-medium"
    with pytest.raises(ModelNotFoundError, match=message):
        find_model("off-smal")
    with pytest.raises(ModelNotFoundError, match="'zzz'. Known models: off-medium, off-small"):
        find_model("zzz")
    with pytest.raises(ModelNotFoundError, match="did you mean off-medium"):
        find_model("OFF-Medium@1.0.0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown key\(s\) colour"),
        ({"schema": 2}, "`schema` must be 1, got 2; update lesff"),
        ({"name": "Off"}, "`name` must be lower-case"),
        ({"aliases": ["../x"]}, "`name` must be lower-case"),
        ({"license": ""}, "`license` must be an SPDX expression"),
        ({"elements": [8, 1]}, "`elements` must be ascending"),
        ({"versions": []}, "`versions` of off-large must not be empty"),
        ({"versions": [version_entry("1.0.0")] * 2}, "must be unique, got 1.0.0 more than once"),
        ({"versions": [version_entry("1.0")]}, "`version` must be 'major.minor.patch'"),
        ({"versions": [version_entry("1.0.0", min_lesff="1")]}, "`min_lesff` must be"),
        ({"versions": [version_entry("1.0.0", date="today")]}, "`date` must be YYYY-MM-DD"),
        ({"versions": [version_entry("1.0.0", status="old")]}, "status` must be .*'active'"),
        ({"versions": [version_entry("1.0.0", files=[])]}, "`files` of version 1.0.0"),
        ({"versions": [version_entry("1.0.0", total_charge=[1, 0])]}, "`total_charge` must be"),
        (
            {"versions": [version_entry("1.0.0", caveats={"charge": "why"})]},
            "`caveats` of .* charge",
        ),
        ({"versions": [version_entry("1.0.0", caveats={"charges": ""})]}, "an empty reason"),
        ({"versions": [version_entry("1.0.0", sources={})]}, "`sources` must have"),
        (
            {"versions": [version_entry("1.0.0", sources={"hub": {"repo": "a/b", "commit": "x"}})]},
            "`commit` must be 40",
        ),
        (
            {"versions": [version_entry("1.0.0", sources={"hub": {"repo": "a", "commit": SHA}})]},
            "`repo` must be 'organisation/name'",
        ),
    ],
)
def test_malformed_manifests_are_refused(
    manifest: Path, changes: dict[str, Any], message: str
) -> None:
    write(manifest, model_entry("off-large", "1.0.0") | changes, stem="off-large")
    with pytest.raises(ManifestError, match=f"off-large.json is malformed: .*{message}"):
        list_models()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../config.json"}, "`path` must be a relative path"),
        ({"path": "/etc/passwd"}, "`path` must be a relative path"),
        ({"path": "a/../b"}, "`path` must be a relative path"),
        ({"sha256": SHA.upper()}, "`sha256` must be 64"),
        ({"size": 0}, "`size` of config.json must be positive"),
        ({"size": "10"}, "size` must be int"),
    ],
)
def test_malformed_file_entries_are_refused(
    manifest: Path, changes: dict[str, Any], message: str
) -> None:
    files = [{"path": "config.json", "size": 10, "sha256": SHA} | changes]
    versions = [version_entry("1.0.0", files=files)]
    write(manifest, model_entry("off-large") | {"versions": versions})
    with pytest.raises(ManifestError, match=message):
        list_models()


def test_names_are_unique_and_match_the_file(manifest: Path) -> None:
    write(manifest, model_entry("off-large", "1.0.0", aliases=["small"]))
    with pytest.raises(ManifestError, match="must be unique, got small more than once"):
        find_model("small")
    write(manifest, model_entry("other", "1.0.0"), stem="off-large")
    with pytest.raises(ManifestError, match="must describe off-large, got 'other'"):
        list_models()
    (manifest / "off-large.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match="off-large.json is malformed"):
        list_models()


def test_the_manifest_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lesff"
    package.mkdir()
    monkeypatch.setattr(registry, "package_folder", lambda: package)
    assert registry.manifest_folder() == tmp_path / "checkpoints_manifest"
    with pytest.raises(ManifestError, match="checkpoints_manifest does not exist"):
        list_models()
    (package / "checkpoints_manifest").mkdir()
    assert registry.manifest_folder() == package / "checkpoints_manifest"
    assert list_models() == ()
