"""Mirrors: a folder with all files of chosen models, for ``lesff hub serve`` and for copying."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lesff.errors import LicenseError, UnsupportedInputError
from lesff.files import GIT_ID
from lesff.hub.licenses import require_license
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.names import find_model, list_models
from lesff.hub.mirror.store import RepositorySnapshot, Store
from lesff.hub.resolve import resolve
from lesff.hub.sources.foreign import attribution_of, fetch_original
from lesff.hub.spec import HubSpec, RegistrySpec, parse
from lesff.model_folder.layout import model_files
from lesff.plain_data import write_json

OWN_ORGANISATION = "lesff"
"""Where a mirror puts models that come with the package and have no repository."""

SHARE_ALIKE = frozenset(
    {"CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"}
)
"""Licences that are not free for any use, but allow unchanged copies that name them."""


def mirror_models(
    specs: Sequence[str], folder: Path, *, offline: bool | None = None, accept_license: bool = False
) -> list[RepositorySnapshot]:
    """Copy models into a mirror; what is there already and intact stays.

    Of models that others publish, the original file is copied, with their licence and the works to
    cite beside it, and only if the licence allows copies.

    Args:
        specs: Names, with or without version, and hub repositories; if empty, all models of lesff
            itself.
        folder: The mirror; made if need be.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.
        accept_license: Accept the licences of models that are not free for any use.

    Returns:
        What was copied.

    Raises:
        LicenseError: for a model whose licence does not allow copies, or has not been accepted.
        UnsupportedInputError: for an address or a folder.
        LesffError: as :func:`lesff.hub.resolve.resolve` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    names = list(specs) or [e.name for e in list_models() if not e.is_published]
    snapshots = []
    for name in names:
        spec = parse(name)
        if isinstance(spec, HubSpec):
            snapshots.append(_mirror_repository(spec, store, offline=offline))
        elif isinstance(spec, RegistrySpec):
            entry, version = find_model(spec)
            if version.sources.published is not None:
                require_license(entry, accept=accept_license)
                snapshots.append(_mirror_original(entry, version, store, offline=offline))
            else:
                snapshots.append(_mirror_own(entry, version, store, offline=offline))
            write_json(folder / "manifest" / f"{entry.name}.json", asdict(entry))
        else:
            raise UnsupportedInputError(
                f"{spec} must be a model's name or 'hf:organisation/name' to be mirrored"
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
