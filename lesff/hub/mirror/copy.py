"""Mirrors: a folder with all files of chosen models, for ``lesff hub serve`` and for copying."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lesff.errors import IntegrityError, LicenseError, ManifestError, UnsupportedInputError
from lesff.files import GIT_ID, FileSet
from lesff.hub.licenses import check_policy, require_license
from lesff.hub.manifest.entries import (
    ModelEntry,
    VersionEntry,
    is_permissive_license,
    version_numbers,
)
from lesff.hub.manifest.names import find_model, list_models
from lesff.hub.mirror.store import RepositorySnapshot, Store
from lesff.hub.resolve import resolve
from lesff.hub.sources.foreign import attribution_of, fetch_original
from lesff.hub.spec import NAME, VERSION, FolderSpec, HubSpec, RegistrySpec, parse
from lesff.model_folder.layout import model_files
from lesff.plain_data import write_json

if TYPE_CHECKING:
    from lesff.hub.publish import Publication

LOCAL_ORGANISATION = "local"
"""Where a mirror puts model folders: they load as ``hf:local/NAME``."""

FIRST_VERSION = "0.1.0"
"""Version of a folder whose card says none."""

OWN_ORGANISATION = "lesff"
"""Where a mirror puts models that come with the package and have no repository."""

SHARE_ALIKE = frozenset(
    {"CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"}
)
"""Licences that are not free for any use, but allow unchanged copies that name them."""


def mirror_models(
    specs: Sequence[str],
    folder: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    offline: bool | None = None,
    accept_license: bool = False,
) -> list[RepositorySnapshot]:
    """Copy models into a mirror; what is there already and intact stays.

    A model folder, finetuned or private, becomes ``local/NAME`` with its version as a tag and is
    loaded as ``hf:local/NAME`` or ``hf:local/NAME@VERSION``; it is checked as for publishing first.

    Of models that others publish, the original file is copied, with their licence and the works to
    cite beside it, and only if the licence allows copies.

    Args:
        specs: Names, with or without version, hub repositories and paths of model folders; if
            empty, all models of lesff itself.
        folder: The mirror; made if need be.
        name: Name of the one model folder; the ``name`` of its card if None, else the folder's.
        version: Its ``"major.minor.patch"``; the ``version`` of its card if None, else 0.1.0.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.
        accept_license: Accept the licences of models that are not free for any use; for a model
            folder: it may be passed on, whatever its card says.

    Returns:
        What was copied.

    Raises:
        LicenseError: for a model whose licence does not allow copies, or has not been accepted.
        PublishError: for a model folder that lacks what publishing asks for.
        IntegrityError: for a version that the mirror has with other bytes.
        UnsupportedInputError: for an address, and for a name or version without a model folder.
        LesffError: as :func:`lesff.hub.resolve.resolve` does.
    """
    chosen = list(specs) or [e.name for e in list_models() if not e.is_published]
    parsed = [parse(text) for text in chosen]
    folders = [spec for spec in parsed if isinstance(spec, FolderSpec)]
    if (name or version) and len(folders) != 1:
        raise UnsupportedInputError(
            f"`name` and `version` are for one model folder, got {len(folders)} in {chosen}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    snapshots = []
    for spec in parsed:
        if isinstance(spec, HubSpec):
            snapshots.append(_mirror_repository(spec, store, offline=offline))
        elif isinstance(spec, FolderSpec):
            snapshots.append(
                _mirror_folder(spec.path, store, name, version, accept_license=accept_license)
            )
        elif isinstance(spec, RegistrySpec):
            entry, release = find_model(spec)
            if release.sources.published is not None:
                require_license(entry, accept=accept_license)
                snapshots.append(_mirror_original(entry, release, store, offline=offline))
            else:
                snapshots.append(_mirror_own(entry, release, store, offline=offline))
            write_json(folder / "manifest" / f"{entry.name}.json", asdict(entry))
        else:
            raise UnsupportedInputError(
                f"{spec} must be a model's name, 'hf:organisation/name' or the path of a model "
                "folder to be mirrored"
            )
    return snapshots


def refuse_copies(entry: ModelEntry) -> None:
    """Make sure that the licence of a model allows to pass on unchanged copies.

    Raises:
        LicenseError: with the licence.
    """
    if entry.is_permissive or entry.license in SHARE_ALIKE:
        return
    raise LicenseError(
        f"{entry.name} is under {entry.license}, which is not known to allow passing on copies: "
        f"{entry.license_terms} Each machine must fetch it from its authors, or be given the file "
        f"by `lesff pull {entry.name} --from FILE`; see {entry.license_url}"
    )


def _mirror_own(
    entry: ModelEntry, version: VersionEntry, store: Store, *, offline: bool | None
) -> RepositorySnapshot:
    found = resolve(RegistrySpec(entry.name, version.version), offline=offline)
    hub = version.sources.hub
    newest = entry.newest()
    refs = (version.version, "main") if newest == version else (version.version,)
    return store.add(
        f"{OWN_ORGANISATION}/{entry.name}" if hub is None else hub.repo,
        {file.path: found.folder / file.path for file in version.files},
        refs=refs,
        date=version.date,
        commit=None if hub is None else hub.commit,
    )


def _mirror_folder(
    folder: Path, store: Store, name: str | None, version: str | None, *, accept_license: bool
) -> RepositorySnapshot:
    """Copy a model folder after the checks of a publication."""
    from lesff.hub.publish import check_publication  # start-up: imports torch, 2 s of CPU

    publication = check_publication(folder)
    facts = publication.facts
    name = name or facts.get("name") or folder.resolve().name.lower()
    version = version or facts.get("version") or FIRST_VERSION
    if not NAME.fullmatch(name):
        raise ManifestError(
            f"`name` of {folder} must be lower-case letters and digits with single '-', '.' or '_' "
            f"between them, got {name!r}; give --name"
        )
    if not VERSION.fullmatch(version):
        raise ManifestError(
            f"`version` of {folder} must be 'major.minor.patch', got {version!r}; give --version"
        )
    check_policy(publication.license, f"the card of {folder}", None)
    _refuse_copies_of_folder(publication, accept_license=accept_license)
    repo = f"{LOCAL_ORGANISATION}/{name}"
    commit = FileSet(publication.files).digest[:40]
    known = store.references(repo) if repo in store.repositories() else {}
    if known.get(version, commit) != commit:
        raise IntegrityError(
            f"{repo} has version {version} with other bytes in the mirror {store.folder}: give "
            "another --version"
        )
    # the newest version is what the name alone loads
    versions = [version_numbers(tag) for tag in known if VERSION.fullmatch(tag)]
    is_newest = all(version_numbers(version) >= other for other in versions)
    return store.add(
        repo,
        {file.path: folder / file.path for file in publication.files},
        refs=(version, "main") if is_newest else (version,),
        date=datetime.date.today().isoformat(),
        commit=commit,
    )


def _refuse_copies_of_folder(publication: Publication, *, accept_license: bool) -> None:
    """Make sure that a model folder may be passed on, by its card and by that of its base model.

    Raises:
        LicenseError: with the licence.
    """
    if is_permissive_license(publication.license, ignore_case=True):
        return
    # a finetuned model is a copy of its base, whose licence this user cannot give
    base = parse(publication.facts.get("base_model") or "-")
    for entry in list_models():
        if isinstance(base, RegistrySpec) and base.name in (entry.name, *entry.aliases):
            refuse_copies(entry)
    if not accept_license:
        raise LicenseError(
            f"{publication.folder} is under {publication.license}, which is not known to be free "
            "for any use; if you may pass it on, say --accept-license (accept_license=True)"
        )


def _mirror_original(
    entry: ModelEntry, version: VersionEntry, store: Store, *, offline: bool | None
) -> RepositorySnapshot:
    refuse_copies(entry)
    attribution = attribution_of(entry, version)
    with tempfile.TemporaryDirectory(dir=store.folder, prefix=".") as work:
        original = Path(work) / attribution.filename
        fetch_original(entry, version, original, offline=offline)
        card, text = Path(work) / "README.md", Path(work) / "LICENSE"
        card.write_text(f"# {entry.name}\n\n{attribution.facts()}\n", encoding="utf-8")
        text.write_text(attribution.license_text(), encoding="utf-8")
        return store.add(
            f"published/{entry.name}",
            {path.name: path for path in (original, card, text)},
            refs=(version.version, "main"),
            date=version.date,
        )


def _mirror_repository(spec: HubSpec, store: Store, *, offline: bool | None) -> RepositorySnapshot:
    found = resolve(spec, offline=offline)
    revision = spec.revision or "main"
    if found.version is None or not GIT_ID.fullmatch(found.version):
        raise UnsupportedInputError(f"the commit of {spec} is not known; load it online once")
    return store.add(
        HubSpec.parse(found.name).repo,
        {name: found.folder / name for name in model_files(found.folder)},
        refs=() if revision == found.version else (revision,),
        date=datetime.date.today().isoformat(),
        commit=found.version,
    )
