"""Signed updates of the manifest: new models and versions between releases of lesff.

An update is pulled explicitly and kept in the state folder of the user, with the key that the user
trusts; its signature is checked each time it is read. It can add models and versions and deprecate
versions. It can never change what a known version is, also of an update that is long gone:
:mod:`lesff.hub.manifest.memory`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lesff.disk import replaced_folder
from lesff.environment import state_folder
from lesff.errors import ConfigError, ManifestError, SignatureError
from lesff.files import require_match
from lesff.hub.manifest.entries import DATE, ModelEntry, check_unique
from lesff.hub.manifest.memory import (
    TERMS,
    check_remembered,
    fixed,
    highest_serial,
    remember,
    remember_serial,
)
from lesff.hub.signatures import check, key_id, read_signature, sign, write_signature
from lesff.plain_data import from_dict, read_json, write_json

SIGNATURE_SUFFIX = ".sig"

_SCHEMA = 1
_UPDATE, _KEY = "manifest.json", "key.pem"


@dataclass(frozen=True, kw_only=True)
class ManifestUpdate:
    """Models and versions beyond those of the installed manifest.

    Attributes:
        serial: Grows from update to update; an older one is never installed over a newer one.
        date: Day it was made, ``"YYYY-MM-DD"``.
        models: Entries as in the manifest, with all versions.
        schema: Version of this layout.
    """

    serial: int
    date: str
    models: tuple[ModelEntry, ...]
    schema: int = _SCHEMA

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        if self.schema != _SCHEMA:
            raise ManifestError(f"`schema` must be {_SCHEMA}, got {self.schema}; update lesff")
        if self.serial < 1:
            raise ManifestError(f"`serial` must be positive, got {self.serial}")
        require_match(DATE, self.date, "date", "YYYY-MM-DD")


def update_folder() -> Path:
    """Where the update of this user is kept."""
    return state_folder() / "manifest"


def installed_update() -> ManifestUpdate | None:
    """The update that this user has pulled, its signature checked, or None.

    Raises:
        ManifestError: if it is malformed or its signature does not fit.
    """
    folder = update_folder()
    if not (folder / _UPDATE).is_file():
        return None
    try:
        return read_update(folder / _UPDATE, folder / _KEY)
    except (SignatureError, ConfigError) as error:
        raise ManifestError(
            f"the manifest update in {folder} cannot be used: {error}; pull it again, or drop it "
            "with `lesff hub update --reset`"
        ) from error


def read_update(path: Path, public_key: Path) -> ManifestUpdate:
    """Read an update after checking the signature beside it.

    Raises:
        SignatureError: if the signature does not fit.
        ManifestError: if it is malformed.
        ConfigError: if the key or the file cannot be read.
    """
    signature = read_signature(path.with_name(path.name + SIGNATURE_SUFFIX))
    data = read_json(path)
    check(_canonical(data), "manifest update", signature, public_key)
    try:
        return from_dict(ManifestUpdate, data, path.name)
    except TypeError as error:
        raise ManifestError(f"{path} is malformed: {error}") from error


def write_update(
    models: Sequence[ModelEntry], path: Path, *, serial: int, date: str, key: Path
) -> None:
    """Write an update and its signature.

    Args:
        models: Entries with all their versions.
        path: File to write; the signature goes beside it.
        serial: Larger than that of the last update.
        date: Today, ``"YYYY-MM-DD"``.
        key: Private key, PEM.

    Raises:
        ConfigError: if the key cannot be read.
        ManifestError: for a bad serial or date.
    """
    update = ManifestUpdate(serial=serial, date=date, models=tuple(models))
    data = json.loads(json.dumps(asdict(update)))
    signature = sign(_canonical(data), "manifest update", key)
    write_json(path, data)
    write_signature(path.with_name(path.name + SIGNATURE_SUFFIX), signature)


def install_update(
    path: Path, installed: Sequence[ModelEntry], *, public_key: Path | None = None
) -> ManifestUpdate:
    """Check an update and keep it for this user.

    Args:
        path: The update; its signature is beside it.
        installed: Entries of the installed manifest.
        public_key: Key to trust from now on; the one trusted so far if None.

    Raises:
        SignatureError: if no key is trusted yet, or the signature does not fit.
        ManifestError: if the update is malformed, older than any that this key has signed for this
            user, or changes what a version is that was ever known.
    """
    folder = update_folder()
    key = public_key or folder / _KEY
    if not key.is_file():
        raise SignatureError(
            "no key is trusted for manifest updates yet; give the public key of who signs them "
            "with `lesff hub update SOURCE --key FILE`"
        )
    update = read_update(path, key)
    signer = key_id(key)
    known, current = tuple(installed), _current(folder, public_key, signer)
    if current is not None:
        remember(current.models)  # of an earlier lesff, which had no memory
        known = merge(installed, current)
    newest = max(highest_serial(signer), 0 if current is None else current.serial)
    if update.serial < newest:
        raise ManifestError(
            f"the update has the serial {update.serial}, older than {newest} which is "
            "there; it was not installed"
        )
    merge(known, update)
    check_remembered(update.models)
    # the memory first: it may know more than what is installed, never less
    remember(update.models)
    remember_serial(signer, update.serial)
    with replaced_folder(folder) as new:
        new.mkdir()
        shutil.copyfile(path, new / _UPDATE)
        signature = path.with_name(path.name + SIGNATURE_SUFFIX)
        shutil.copyfile(signature, new / (_UPDATE + SIGNATURE_SUFFIX))
        shutil.copyfile(key, new / _KEY)
    return update


def _current(folder: Path, public_key: Path | None, signer: str) -> ManifestUpdate | None:
    """The update that is there, if it is by the same signer.

    A damaged one may be replaced where the key is given again; the memory outlives it.

    Raises:
        ManifestError: if it is damaged and no key is given.
    """
    try:
        same = (folder / _UPDATE).is_file() and key_id(folder / _KEY) == signer
        return installed_update() if same else None
    except (ManifestError, ConfigError):
        if public_key is None:
            raise
        return None


def remove_update() -> bool:
    """Go back to the installed manifest; False if there was no update.

    What is remembered of updates stays, see :mod:`lesff.hub.manifest.memory`.
    """
    was_there = update_folder().is_dir()
    shutil.rmtree(update_folder(), ignore_errors=True)
    return was_there


def merge(installed: Sequence[ModelEntry], update: ManifestUpdate | None) -> tuple[ModelEntry, ...]:
    """Entries with those of an update, by name.

    Raises:
        ManifestError: if the update changes what a known version is, or two models share a name
            or alias.
    """
    entries = {entry.name: entry for entry in installed}
    for entry in update.models if update is not None else ():
        known = entries.get(entry.name)
        entries[entry.name] = entry if known is None else _merge_entry(known, entry)
    merged = tuple(entries[name] for name in sorted(entries))
    check_unique([name for e in merged for name in (e.name, *e.aliases)], "names and aliases")
    return merged


def _merge_entry(known: ModelEntry, new: ModelEntry) -> ModelEntry:
    for name in TERMS:
        if getattr(new, name) != getattr(known, name):
            raise ManifestError(
                f"the update must not change `{name}` of {known.name}, got {getattr(new, name)!r}"
            )
    versions = {version.version: version for version in known.versions}
    for version in new.versions:
        old = versions.get(version.version)
        if old is not None and fixed(old) != fixed(version):
            raise ManifestError(
                f"the update must not change {known.name}@{version.version}, which is released: "
                "new bytes are a new version"
            )
        gone = sorted(set(old.caveats) - set(version.caveats)) if old is not None else []
        if gone:
            raise ManifestError(
                f"the update must keep the caveats of {known.name}@{version.version}, got none for "
                + ", ".join(gone)
            )
        versions[version.version] = version
    aliases = (*known.aliases, *(alias for alias in new.aliases if alias not in known.aliases))
    return replace(known, versions=tuple(versions.values()), aliases=aliases)


def _canonical(data: dict[str, object]) -> bytes:
    """The same bytes for the same data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
