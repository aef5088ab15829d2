"""From a name to a checked model folder: folder, cache, bundled weights or hub, in this order."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lesff.environment import is_offline
from lesff.errors import (
    ManifestError,
    ModelNotFoundError,
    OfflineError,
    UnsupportedInputError,
    warn,
)
from lesff.files import FileSet
from lesff.hub.cache import cached_folder, find_damage
from lesff.hub.licenses import (
    LicensePolicy,
    check_policy,
    require_license,
    stated_license,
)
from lesff.hub.lockfile import (
    Lockfile,
    check_locked,
    find_locked,
    lock_key,
    lock_path,
    locked_model,
    read_lock,
    write_lock,
)
from lesff.hub.manifest.entries import ModelEntry, VersionEntry, version_numbers
from lesff.hub.manifest.names import find_model
from lesff.hub.sources.address import fetch_folder
from lesff.hub.sources.bundled import bundled_version, ready_bundled
from lesff.hub.sources.foreign import (
    adopt_published,
    find_published_damage,
    make_published,
)
from lesff.hub.sources.huggingface import fetch_repository, fetch_version
from lesff.hub.spec import (
    ACCEPTED_SOURCES,
    AddressSpec,
    FolderSpec,
    HubSpec,
    ModelSpec,
    RegistrySpec,
    parse,
)
from lesff.model_folder.card import read_card
from lesff.model_folder.layout import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILES,
    WEIGHTS_FILE,
    check_files,
    model_files,
)

Origin = Literal["folder", "bundled", "cache", "hub", "published", "web"]


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model folder and what it is.

    Attributes:
        folder: Where the files are.
        name: Name in the manifest, ``"hf:organisation/name"``, address or the folder's name.
        version: Version in the manifest, commit of the hub repository, beginning of the digest of
            what is at an address, or None for a folder.
        origin: Where the files came from.
        caveats: Quantities that are not to be trusted, and why, from the manifest.
    """

    folder: Path
    name: str
    version: str | None
    origin: Origin
    caveats: dict[str, str] = field(default_factory=dict)


def resolve(
    spec: str | Path | ModelSpec,
    *,
    offline: bool | None = None,
    accept_license: bool = False,
    licenses: LicensePolicy | None = None,
    lock: Path | None = None,
) -> ResolvedModel:
    """Find, check and if need be download the files of a model.

    Files of the manifest's models are compared with its sizes and sha256 digests every time, files
    of a converted model with those of the conversion, files from an address with its digest, files
    of a hub repository with those of this user's first fetch; large files that have not changed
    since, and that only this user and root can change, are not read again. A damaged cache entry is
    replaced from the bundled copy, the hub, the address or the site of its authors.

    Args:
        spec: Name, ``name@version``, ``hf:org/repo[@revision]``, ``https://host/path/`` with or
            without ``#sha256=...``, or the path of a folder (a ``Path``, or a string with a
            separator), or one of these parsed. A bare name is never taken for a path.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.
        accept_license: Accept the licence of a model that is not free for any use.
        licenses: ``"permissive"`` refuses models that are not free for any use; from
            ``LESFF_LICENSES`` if None. Cards say the licence of models outside the manifest.
        lock: Lockfile that the name must be in; from ``LESFF_LOCK`` if None. Folders are taken as
            they are.

    Raises:
        LicenseError: if the licence must be accepted first, or the policy refuses it.
        ModelNotFoundError: if there is no such model, version, repository or folder, it needs
            a newer lesff, or the lockfile does not have it.
        IntegrityError: if files are missing or differ from the manifest or the lockfile and cannot
            be replaced.
        OfflineError: if a download is needed, but not allowed or not possible.
        ManifestError: if the manifest is malformed.
    """
    offline = is_offline() if offline is None else offline
    path = lock_path(lock)
    spec = parse(spec) if isinstance(spec, (str, Path)) else spec
    if path is None or isinstance(spec, FolderSpec):
        return _resolve(spec, offline=offline, accept_license=accept_license, licenses=licenses)
    locked = find_locked(read_lock(path), spec, path)
    found = _resolve(
        parse(locked.spec), offline=offline, accept_license=accept_license, licenses=licenses
    )
    check_locked(found.folder, locked, path)
    return found


def lock_models(
    specs: Sequence[str],
    path: Path,
    *,
    offline: bool | None = None,
    accept_license: bool = False,
) -> Lockfile:
    """Add models to a lockfile, or replace them there; they are fetched if need be.

    Args:
        specs: Names, hub repositories and addresses, as for :func:`resolve`.
        path: The lockfile.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.
        accept_license: Accept the licences of models that are not free for any use.

    Raises:
        UnsupportedInputError: for a folder, which has no name to lock.
        LesffError: as :func:`resolve` does.
    """
    offline = is_offline() if offline is None else offline
    models = dict(read_lock(path).models) if path.exists() else {}
    for text in specs:
        spec = parse(text)
        if isinstance(spec, FolderSpec):
            raise UnsupportedInputError(f"{text} must be a name or an address to be locked")
        found = _resolve(spec, offline=offline, accept_license=accept_license, licenses=None)
        if isinstance(spec, AddressSpec):
            digest = FileSet.of(found.folder, model_files(found.folder)).digest
            full = str(AddressSpec(spec.url, digest))
        else:
            full = f"{found.name}@{found.version}"
        models[lock_key(spec)] = locked_model(found.folder, full)
    lock = Lockfile(models=dict(sorted(models.items())))
    write_lock(path, lock)
    return lock


def _resolve(
    spec: ModelSpec, *, offline: bool, accept_license: bool, licenses: LicensePolicy | None
) -> ResolvedModel:
    match spec:
        case RegistrySpec():
            entry, version = find_model(spec)
            check_policy(entry.license, entry.name, licenses)
            require_license(entry, accept=accept_license)
            return _resolve_entry(entry, version, offline=offline)
        case HubSpec():
            found = _resolve_repository(spec, offline=offline)
        case AddressSpec():
            found = _resolve_address(spec, offline=offline)
        case FolderSpec():
            found = _resolve_folder(spec.path)
    has_card = (found.folder / CARD_FILE).is_file()
    stated = stated_license(read_card(found.folder)) if has_card else ""
    check_policy(stated, f"the card of {found.name}", licenses)
    return found


def pull(
    spec: str,
    *,
    checkpoint: Path | None = None,
    offline: bool | None = None,
    accept_license: bool = False,
) -> ResolvedModel:
    """Fetch a model of the manifest into the cache, so that it loads offline.

    Args:
        spec: Name or ``name@version``.
        checkpoint: File to use instead of a download, for models that others publish.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.
        accept_license: Accept the licence of a model that is not free for any use.

    Raises:
        UnsupportedInputError: if a file is given for a model that is not converted from one.
        LesffError: as :func:`resolve` does.
    """
    if checkpoint is None:
        return resolve(spec, offline=offline, accept_license=accept_license)
    entry, version = find_model(spec)
    if version.sources.published is None:
        raise UnsupportedInputError(
            f"`--from` is for models that others publish, {entry.name} comes from "
            f"{'the package' if version.sources.bundled else 'the hub'}; leave it out"
        )
    check_policy(entry.license, entry.name, None)
    require_license(entry, accept=accept_license)
    _check_version(entry, version)
    cached = cached_folder(entry, version)
    make_published(entry, version, cached, checkpoint=checkpoint)
    return ResolvedModel(
        folder=cached, name=entry.name, version=version.version, origin="published"
    )


def is_here(entry: ModelEntry, version: VersionEntry) -> bool:
    """Whether the files of a version are on this machine, so that loading fetches nothing."""
    if version.sources.published is not None:
        return find_published_damage(cached_folder(entry, version), entry, version) is None
    places = (cached_folder(entry, version), bundled_version(entry, version))
    return any(find_damage(place, version) is None for place in places)


def _resolve_folder(folder: Path) -> ResolvedModel:
    if not folder.is_dir():
        raise ModelNotFoundError(f"model folder {folder} does not exist; give {ACCEPTED_SOURCES}")
    check_files(folder, (CONFIG_FILE, WEIGHTS_FILE))
    return ResolvedModel(folder=folder, name=folder.resolve().name, version=None, origin="folder")


def _resolve_entry(entry: ModelEntry, version: VersionEntry, *, offline: bool) -> ResolvedModel:
    _check_version(entry, version)
    cached, bundled = cached_folder(entry, version), bundled_version(entry, version)

    def found(folder: Path, origin: Origin) -> ResolvedModel:
        return ResolvedModel(
            folder=folder,
            name=entry.name,
            version=version.version,
            origin=origin,
            caveats=version.caveats,
        )

    is_published = version.sources.published is not None
    damage = None
    if is_published:
        adopt_published(cached, entry, version)
    if cached.is_dir():
        damage = (
            find_published_damage(cached, entry, version)
            if is_published
            else find_damage(cached, version)
        )
    if cached.is_dir() and damage is None:
        return found(cached, "cache")
    if version.sources.bundled and (bundled.is_dir() or version.sources.hub is None):
        folder = ready_bundled(entry, version, cached, is_damaged=damage is not None)
        return found(folder, "cache" if folder == cached else "bundled")
    label = f"{entry.name}@{version.version}"
    if offline:
        state = f"its copy in the cache is damaged ({damage})" if damage else "it is not there"
        raise OfflineError(
            f"{label} must be in the cache to be used offline, but {state}; load it once with "
            "network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset, or "
            + (
                f"run `lesff pull {entry.name} --from FILE` with a copy of its checkpoint, or load "
                "a copy of its folder by its path"
                if is_published
                else f"copy its folder from another machine to {cached}"
            )
        )
    if is_published:
        make_published(entry, version, cached)
        return found(cached, "published")
    hub = version.sources.hub
    if hub is None:
        raise ManifestError(f"{label} must have a source in the manifest, got none")
    fetch_version(hub, version, cached, label)
    return found(cached, "hub")


def _check_version(entry: ModelEntry, version: VersionEntry) -> None:
    label = f"{entry.name}@{version.version}"
    installed = importlib.metadata.version("lesff")
    here = re.match(r"\d+(?:\.\d+)*", installed)
    if here and version_numbers(here[0]) < version_numbers(version.min_lesff):
        raise ModelNotFoundError(
            f"{label} needs lesff {version.min_lesff} or newer, this is {installed}; "
            "upgrade lesff or ask for an older version of the model"
        )
    absent = sorted(set(MODEL_FILES) - {file.path for file in version.files})
    if absent and version.sources.published is None:
        raise ManifestError(f"manifest of {label} must list {', '.join(absent)} among its files")
    if version.status == "deprecated":
        note = f": {version.status_note}" if version.status_note else ""
        note += f"; use {version.successor} instead" if version.successor else ""
        warn(f"{label} is deprecated{note}", FutureWarning)


def _resolve_repository(spec: HubSpec, *, offline: bool) -> ResolvedModel:
    folder, name, version, is_cached = fetch_repository(spec, offline=offline)
    origin: Origin = "cache" if is_cached else "hub"
    return ResolvedModel(folder=folder, name=name, version=version, origin=origin)


def _resolve_address(spec: AddressSpec, *, offline: bool) -> ResolvedModel:
    folder, digest, is_cached = fetch_folder(spec, offline=offline)
    origin: Origin = "cache" if is_cached else "web"
    return ResolvedModel(
        folder=folder, name=spec.url, version=f"sha256={digest[:12]}", origin=origin
    )
