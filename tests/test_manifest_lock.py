"""The manifest: its schema, and released versions that never change."""

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lesff.errors import ConfigError, ManifestError
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.names import list_models
from lesff.plain_data import from_dict

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "manifest.schema.json").read_text("utf-8"))
FILES = sorted((ROOT / "checkpoints_manifest").glob("*.json"))
RELEASED = json.loads((ROOT / "tests" / "released.json").read_text("utf-8"))


def identity(version: VersionEntry) -> dict[str, str | None]:
    """What the bytes of a version are known by."""
    source = version.sources.published
    if source is None:
        return {file.path: file.sha256 for file in version.files}
    names = ("url", "git_blob", "sha256", "member")
    pairs = {name: getattr(source, name) for name in names}
    return {key: value for key, value in pairs.items() if value is not None}


def test_the_schema_is_that_of_the_dataclasses() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "manifest_schema.py"))
    assert tool["schema"]() == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_follow_the_schema(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text("utf-8")), SCHEMA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), "Off Small"),
        (("aliases",), ["../x"]),
        (("license",), "Apache 2"),
        (("elements",), []),
        (("elements",), [119]),
        (("versions",), []),
        (("versions", 0, "version"), "1.0"),
        (("versions", 0, "date"), "yesterday"),
        (("versions", 0, "status"), "gone"),
        (("versions", 0, "files", 0, "path"), "../config.json"),
        (("versions", 0, "files", 0, "sha256"), "0" * 63),
        (("versions", 0, "files", 0, "size"), 0),
        (("versions", 0, "total_charge"), [0, 1, 2]),
        (("versions", 0, "sources", "hub"), {"repo": "a/b", "commit": "main"}),
        (("surprise",), 1),
        (("schema",), 2),
    ],
)
def test_schema_and_dataclasses_refuse_the_same(place: tuple[Any, ...], value: Any) -> None:
    data = json.loads((ROOT / "checkpoints_manifest" / "off-small.json").read_text("utf-8"))
    changed = copy.deepcopy(data)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):  # noqa: PT011 - the message is not ours
        jsonschema.validate(changed, SCHEMA)
    with pytest.raises((ConfigError, ManifestError), match=r"must|unknown key"):
        from_dict(ModelEntry, changed, "entry")


def test_released_bytes_never_change() -> None:
    """Only ever add lines to released.json: a release that must change is a new version."""
    now = {f"{e.name}@{v.version}": identity(v) for e in list_models() for v in e.versions}
    changed = sorted(label for label, known in RELEASED.items() if now.get(label) != known)
    assert changed == [], f"released versions changed or vanished: {changed}"
    new = sorted(set(now) - set(RELEASED))
    assert new == [], f"add the hashes of {new} to tests/released.json"


def test_names_that_windows_cannot_hold_are_refused() -> None:
    data = json.loads((ROOT / "checkpoints_manifest" / "off-small.json").read_text("utf-8"))
    with pytest.raises(ManifestError, match="names that Windows can hold, got 'nul'"):
        from_dict(ModelEntry, data | {"name": "nul"}, "entry")
    files = data["versions"][0]["files"]
    twin = files[0] | {"path": "CONFIG.JSON"}
    version = data["versions"][0] | {"files": [*files, twin]}
    with pytest.raises(ManifestError, match="must be unique, got config.json more than once"):
        from_dict(VersionEntry, version, "version")
    version["files"] = [files[0] | {"path": "con.json"}]
    with pytest.raises(ManifestError, match="Windows can hold, got 'con.json'"):
        from_dict(VersionEntry, version, "version")
