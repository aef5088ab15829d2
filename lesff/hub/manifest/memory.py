"""What updates of the manifest have ever said, kept in the state folder of the user.

An update replaces the one before, and leaves out what it likes. This memory outlives both, and the
key that they were signed with: a version that was known once keeps its bytes and its caveats, a
model its licence, a name its model, and no key goes back to an older serial. To forget, remove the
folder by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from lesff.environment import state_folder
from lesff.errors import ConfigError, ManifestError
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.plain_data import from_dict, read_json, write_json

TERMS = ("license", "license_url", "license_terms")
"""Fields of a model that no update changes."""


@dataclass(frozen=True, kw_only=True)
class RememberedVersion:
    """A version as an update had it.

    Attributes:
        sha256: Digest of all that never changes, see :func:`version_digest`.
        caveats: All caveats that it ever had.
    """

    sha256: str
    caveats: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RememberedModel:
    """A model as updates had it.

    Attributes:
        name: Its name.
        terms: Its licence, as :data:`TERMS`.
        aliases: Its other names.
        versions: Its versions.
    """

    name: str
    terms: dict[str, str]
    aliases: tuple[str, ...] = ()
    versions: dict[str, RememberedVersion] = field(default_factory=dict)


def memory_folder() -> Path:
    """Where the memory of this user is kept."""
    return state_folder() / "remembered"


def check_remembered(models: Sequence[ModelEntry]) -> None:
    """Make sure that models contradict nothing that an update has ever said.

    Raises:
        ManifestError: naming the first contradiction, or if the memory is damaged.
    """
    known = _read_models()
    owner = {name: m.name for m in known.values() for name in (m.name, *m.aliases)}
    for model in models:
        for name in (model.name, *model.aliases):
            if owner.get(name, model.name) != model.name:
                raise ManifestError(
                    f"the update must not give the name {name} of {owner[name]} to {model.name}"
                )
        if model.name in known:
            _check_model(known[model.name], model)


def remember(models: Iterable[ModelEntry]) -> None:
    """Add models to the memory; what it has of them stays.

    Raises:
        ManifestError: if the memory is damaged.
        OSError: if it cannot be written.
    """
    known = _read_models()
    for model in models:
        old = known.get(model.name)
        versions = {} if old is None else dict(old.versions)
        for version in model.versions:
            before = versions.get(version.version)
            caveats = ({} if before is None else before.caveats) | version.caveats
            digest = version_digest(version) if before is None else before.sha256
            versions[version.version] = RememberedVersion(sha256=digest, caveats=caveats)
        aliases = dict.fromkeys((*(() if old is None else old.aliases), *model.aliases))
        terms = {name: getattr(model, name) for name in TERMS} if old is None else old.terms
        new = RememberedModel(
            name=model.name, terms=terms, aliases=tuple(aliases), versions=versions
        )
        if new != old:
            write_json(memory_folder() / "models" / f"{model.name}.json", asdict(new))


def with_remembered_caveats(models: Sequence[ModelEntry]) -> tuple[ModelEntry, ...]:
    """Models with every caveat that their versions ever had.

    Raises:
        ManifestError: if the memory is damaged.
    """
    known = _read_models()

    def recalled(model: ModelEntry, version: VersionEntry) -> VersionEntry:
        old = known[model.name].versions.get(version.version)
        return version if old is None else replace(version, caveats=old.caveats | version.caveats)

    return tuple(
        model
        if model.name not in known
        else replace(model, versions=tuple(recalled(model, v) for v in model.versions))
        for model in models
    )


def highest_serial(key: str) -> int:
    """Largest serial of the updates that a key has signed for this user; 0 for a new key.

    Args:
        key: Whatever tells keys apart.

    Raises:
        ManifestError: if the memory is damaged.
    """
    path = _serial_path(key)
    if not path.exists():
        return 0
    serial = _read(path).get("serial")
    if type(serial) is not int:
        raise _damaged(path, "it must hold a serial")
    return serial


def remember_serial(key: str, serial: int) -> None:
    """Write down the serial of an update.

    Raises:
        OSError: if it cannot be written.
    """
    write_json(_serial_path(key), {"serial": max(serial, highest_serial(key))})


def version_digest(version: VersionEntry) -> str:
    """sha256 of what never changes about a version: all but its status and caveats.

    Fields at their defaults do not count, so that a later lesff with more fields finds the same.
    """
    data = json.dumps(_essence(fixed(version)), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(data.encode()).hexdigest()


def fixed(version: VersionEntry) -> VersionEntry:
    """A version without what may change after its release."""
    return replace(version, status="active", status_note="", successor=None, caveats={})


def _check_model(known: RememberedModel, model: ModelEntry) -> None:
    for name in TERMS:
        if getattr(model, name) != known.terms.get(name):
            raise ManifestError(
                f"the update must not change `{name}` of {model.name}, got {getattr(model, name)!r}"
            )
    for version in model.versions:
        old, label = known.versions.get(version.version), f"{model.name}@{version.version}"
        if old is None:
            continue
        if old.sha256 != version_digest(version):
            raise ManifestError(
                f"the update must not change {label}, which is released: new bytes are a new "
                "version"
            )
        gone = sorted(set(old.caveats) - set(version.caveats))
        if gone:
            raise ManifestError(
                f"the update must keep the caveats of {label}, got none for {', '.join(gone)}"
            )


def _read_models() -> dict[str, RememberedModel]:
    found = {}
    for path in sorted((memory_folder() / "models").glob("*.json")):
        try:
            model = from_dict(RememberedModel, _read(path), path.name)
        except ConfigError as error:
            raise _damaged(path, error) from error
        if model.name != path.stem:
            raise _damaged(path, f"it must describe {path.stem}")
        found[model.name] = model
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (ConfigError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> ManifestError:
    return ManifestError(
        f"what is remembered of manifest updates is damaged: {path}: {why}; remove this file to "
        "trust what the next update says"
    )


def _serial_path(key: str) -> Path:
    return memory_folder() / "serials" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _essence(value: Any) -> Any:
    """Plain data without fields at their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _essence(getattr(value, f.name))
            for f in fields(value)
            if f.default is MISSING or getattr(value, f.name) != f.default
            if f.default_factory is MISSING or getattr(value, f.name) != f.default_factory()
        }
    if isinstance(value, (list, tuple)):
        return [_essence(item) for item in value]
    return value
