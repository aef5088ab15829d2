"""Lockfiles: which version and which bytes every name of a project stands for."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lesff.errors import ConfigError, IntegrityError, ManifestError, ModelNotFoundError
from lesff.files import FileEntry, FileSet
from lesff.hub.manifest.names import find_model
from lesff.hub.spec import PublicSpec, RegistrySpec
from lesff.model_folder.layout import model_damage, model_files
from lesff.plain_data import from_dict, read_json, write_json

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class LockedModel:
    """What a name stands for.

    Attributes:
        spec: What to load, with a full version or commit.
        files: Size and sha256 of the files of the model folder.
    """

    spec: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Lockfile:
    """All names of a project.

    Attributes:
        models: By name without version, ``hf:org/repo`` or address.
        schema: Version of this layout.
    """

    models: dict[str, LockedModel]
    schema: int = _SCHEMA


def lock_path(path: Path | None) -> Path | None:
    """``path``, else ``$LESFF_LOCK``, else None: a lockfile is never found by accident."""
    value = os.environ.get("LESFF_LOCK", "").strip()
    return path if path is not None else Path(value).expanduser() if value else None


def read_lock(path: Path) -> Lockfile:
    """Read a lockfile.

    Raises:
        ModelNotFoundError: if there is none.
        ConfigError: if it is malformed.
    """
    if not path.is_file():
        raise ModelNotFoundError(
            f"lockfile {path} does not exist; make it with `lesff hub lock NAMES`, or unset "
            "LESFF_LOCK"
        )
    try:
        lock = from_dict(Lockfile, read_json(path), path.name)
    except ManifestError as error:
        raise ConfigError(f"lockfile {path} is malformed: {error}") from error
    if lock.schema != _SCHEMA:
        raise ConfigError(f"`schema` of {path} must be {_SCHEMA}, got {lock.schema}; update lesff")
    return lock


def write_lock(path: Path, lock: Lockfile) -> None:
    """Write a lockfile; it appears complete or not at all."""
    write_json(path, asdict(lock))


def lock_key(spec: PublicSpec) -> str:
    """What a name is listed under, whatever version it asks for."""
    if isinstance(spec, RegistrySpec):
        return find_model(spec)[0].name
    return str(spec.unpinned)


def find_locked(lock: Lockfile, spec: PublicSpec, path: Path) -> LockedModel:
    """What a name stands for.

    Raises:
        ModelNotFoundError: if it is not in the lockfile, or there in another version.
    """
    key = lock_key(spec)
    locked = lock.models.get(key)
    if locked is None:
        raise ModelNotFoundError(
            f"{spec} is not in the lockfile {path}; add it with `lesff hub lock {key} -o {path}`"
        )
    asked = spec
    if isinstance(spec, RegistrySpec):  # an alias, or the beginning of a version
        asked = RegistrySpec(key, find_model(spec)[1].version)
    if spec != spec.unpinned and str(asked) != locked.spec:
        raise ModelNotFoundError(
            f"{spec} contradicts the lockfile {path}, which has {locked.spec}; leave out the "
            "version, or lock another one"
        )
    return locked


def locked_model(folder: Path, spec: str) -> LockedModel:
    """What a model folder holds, for a lockfile."""
    return LockedModel(spec=spec, files=FileSet.of(folder, model_files(folder)).entries)


def check_locked(folder: Path, locked: LockedModel, path: Path) -> None:
    """Make sure that a model folder is the locked one.

    Raises:
        IntegrityError: naming the first file that differs.
    """
    damage = model_damage(FileSet(locked.files), folder, "it")
    if damage is not None:
        raise IntegrityError(
            f"{locked.spec} is not what the lockfile {path} says: {damage}; if the change is "
            "meant, lock it again"
        )
