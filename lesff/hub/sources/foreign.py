"""Models that others publish: fetched from their site, verified, converted once, kept."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lesff.atomic import replaced_folder
from lesff.environment import cache_folder, is_offline, own_mirror
from lesff.errors import IntegrityError, ManifestError, ModelNotFoundError, OfflineError
from lesff.files import Digest, FileEntry, FileSet
from lesff.hub.cache import locked, read_record
from lesff.hub.manifest.entries import ModelEntry, PublishedSource, VersionEntry
from lesff.hub.sources.download import Download
from lesff.hub.sources.first_use import Pin
from lesff.model_folder.layout import MODEL_FILES, model_damage
from lesff.plain_data import write_json

if TYPE_CHECKING:
    from lesff.convert.checkpoint import Attribution

RECORD_FILE = "source.json"
"""File of a converted folder that says what it was made from."""

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """What a converted folder was made from, and what it must hold since.

    Attributes:
        url: Where the checkpoint came from, or its manifest address if it was given as a file.
        filename: What its authors call it.
        head: Which head was converted, if it has several.
        source: Digests of the checkpoint.
        lesff: Version that converted it.
        date: Day of the conversion.
        files: Size and sha256 of every file of the folder.
        schema: Version of this layout.
    """

    url: str
    filename: str
    head: str | None
    source: Digest
    lesff: str
    date: str
    files: tuple[FileEntry, ...]
    schema: int = _SCHEMA


def find_published_damage(folder: Path, entry: ModelEntry, version: VersionEntry) -> str | None:
    """First reason not to use a converted folder as text, or None if there is none."""
    path, source = folder / RECORD_FILE, _source(version)
    try:
        record = read_record(SourceRecord, path)
    except IntegrityError as error:
        return str(error)
    if record.schema != _SCHEMA or record.head != source.head:
        return f"{path} is of another conversion"
    difference = _difference(record.source, source, _pinned(entry, version))
    if difference is not None:
        return f"{path} is of another checkpoint: {difference}"
    return model_damage(FileSet(record.files), folder, str(path))


def make_published(
    entry: ModelEntry, version: VersionEntry, cached: Path, *, checkpoint: Path | None = None
) -> None:
    """Fetch (or take), verify and convert a published checkpoint, and put it into the cache.

    Processes that want the same file wait for each other; the ones that waited find it done.

    Args:
        entry: The model.
        version: Its version; must have a published source.
        cached: Model folder to write.
        checkpoint: File to take instead of fetching it.

    Raises:
        IntegrityError: if the bytes are not those that the manifest or an earlier fetch names, or
            the file covers other elements than the manifest says.
        ModelNotFoundError: if the file does not exist, here or there.
        OfflineError: if the site cannot be reached.
        UnsupportedInputError: if this version cannot represent the checkpoint.
        CacheError: if the cache cannot be written.
    """
    source = _source(version)
    label = f"{entry.name}@{version.version}"
    downloads = _downloads(entry, version)
    if checkpoint is not None and not checkpoint.is_file():
        raise ModelNotFoundError(f"checkpoint {checkpoint} does not exist; check the path")
    with locked(downloads[-1].lock_path, label):
        if checkpoint is not None:
            digest = Digest.of(checkpoint)
            _verify(digest, source, _pinned(entry, version), f"{checkpoint} for {label}")
            _convert(checkpoint, digest, entry, version, cached)
        elif find_published_damage(cached, entry, version) is not None:
            _fetch_and_convert(downloads, entry, version, cached)


def fetch_original(
    entry: ModelEntry, version: VersionEntry, target: Path, *, offline: bool | None = None
) -> None:
    """Fetch and verify a published checkpoint as it is, without converting it.

    Args:
        entry: The model.
        version: Its version; must have a published source.
        target: File to write.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.

    Raises:
        OfflineError: if the session is offline.
        LesffError: as :func:`make_published` does.
    """
    label = f"{entry.name}@{version.version}"
    if is_offline() if offline is None else offline:
        raise OfflineError(f"the original file of {label} must be fetched, but this is offline")
    downloads = _downloads(entry, version)
    with locked(downloads[-1].lock_path, label):
        download, digest = _fetch(downloads, _source(version), _pinned(entry, version))
        _record_pin(entry, version, digest)
        shutil.copyfile(download.path, target)
        download.discard()


def attribution_of(entry: ModelEntry, version: VersionEntry) -> Attribution:
    """Whose model it is."""
    # here, because it takes seconds that models which are in the cache need not spend
    from lesff.convert.checkpoint import Attribution

    source = _source(version)
    return Attribution(
        title=entry.name,
        filename=source.filename,
        url=source.url,
        home=source.home,
        level_of_theory=version.level_of_theory,
        license=entry.license,
        license_terms=entry.license_terms,
        license_url=entry.license_url,
        citation=entry.citation,
    )


def _downloads(entry: ModelEntry, version: VersionEntry) -> list[Download]:
    """Where to ask for the file: the mirror of this site if there is one, then its authors."""
    source, mirror = _source(version), own_mirror()
    addresses = [source.url]
    if mirror is not None:
        path = f"published/{entry.name}/resolve/{version.version}/{source.filename}"
        addresses.insert(0, f"{mirror}/{path}")
    what = f"{source.filename} of {entry.name}@{version.version}"
    folder = cache_folder() / "downloads"
    return [Download(address, folder, what=what, size=source.size) for address in addresses]


def _source(version: VersionEntry) -> PublishedSource:
    if version.sources.published is None:
        raise ManifestError(f"version {version.version} must have a published source, got none")
    return version.sources.published


def _fetch(
    downloads: Sequence[Download], source: PublishedSource, pin: Digest | None
) -> tuple[Download, Digest]:
    """A verified file, from the first place that has it."""
    for download in downloads[:-1]:
        with contextlib.suppress(ModelNotFoundError):  # then the authors have it
            return _fetch_one(download, source, pin)
    return _fetch_one(downloads[-1], source, pin)


def _fetch_one(
    download: Download, source: PublishedSource, pin: Digest | None
) -> tuple[Download, Digest]:
    """A file that was put together from parts gets a second chance in one piece."""
    while True:
        path = download.run()
        digest = Digest.of(path)
        try:
            _verify(digest, source, pin, f"{source.filename} from {download.url}")
        except IntegrityError:
            download.discard()
            if not download.resumed:
                raise
        else:
            return download, digest


def _fetch_and_convert(
    downloads: Sequence[Download], entry: ModelEntry, version: VersionEntry, cached: Path
) -> None:
    download, digest = _fetch(downloads, _source(version), _pinned(entry, version))
    try:
        _convert(download.path, digest, entry, version, cached)
    except IntegrityError as error:  # other errors keep the verified file, for a newer lesff
        download.discard()
        name = _source(version).filename
        raise IntegrityError(f"{name} from {download.url} is no use: {error}") from error
    download.discard()


def _difference(digest: Digest, source: PublishedSource, pin: Digest | None) -> str | None:
    """How a digest differs from the ones that are known, as text, or None."""
    expected = [
        ("size", source.size, "the manifest"),
        ("git_blob", source.git_blob, "the manifest"),
        ("sha256", source.sha256, "the manifest"),
        ("sha256", None if pin is None else pin.sha256, "the first fetch"),
    ]
    for name, wanted, origin in expected:
        found = getattr(digest, name)
        if wanted is not None and found != wanted:
            return f"its {name} must be {wanted} ({origin}), got {found}"
    return None


def _verify(digest: Digest, source: PublishedSource, pin: Digest | None, what: str) -> None:
    difference = _difference(digest, source, pin)
    if difference is not None:
        raise IntegrityError(
            f"{what} is not the published file: {difference}; it was not used. Try again, or ask "
            f"the authors at {source.home}"
        )


def _pin(entry: ModelEntry, version: VersionEntry) -> Pin[Digest]:
    return Pin(cache_folder() / "published" / f"{entry.name}@{version.version}.json", Digest)


def _pinned(entry: ModelEntry, version: VersionEntry) -> Digest | None:
    """Digest recorded by the first fetch of a file that the manifest has no hash for."""
    return None if _source(version).has_hash else _pin(entry, version).read()


def _record_pin(entry: ModelEntry, version: VersionEntry, digest: Digest) -> None:
    source, pin = _source(version), _pin(entry, version)
    if not source.has_hash:
        pin.write(
            digest,
            f"no hash of {source.filename} ({entry.name}@{version.version}) is known, so its bytes "
            f"could not be verified; their sha256 {digest.sha256} is now recorded in {pin.path} "
            "and later fetches must match it",
        )


def _convert(
    checkpoint: Path, digest: Digest, entry: ModelEntry, version: VersionEntry, cached: Path
) -> None:
    # here, because it takes seconds that models which are in the cache need not spend
    from lesff.convert.checkpoint import convert_checkpoint

    source, attribution = _source(version), attribution_of(entry, version)
    with replaced_folder(cached) as new:
        config = convert_checkpoint(checkpoint, new, head=source.head, attribution=attribution)
        if sorted(config.elements) != list(entry.elements):
            raise IntegrityError(
                f"{source.filename} must cover the elements {list(entry.elements)} of "
                f"{entry.name}, got {sorted(config.elements)}; it was not used"
            )
        record = SourceRecord(
            url=source.url,
            filename=source.filename,
            head=source.head,
            source=digest,
            lesff=importlib.metadata.version("lesff"),
            date=datetime.date.today().isoformat(),
            files=FileSet.of(new, MODEL_FILES).entries,
        )
        write_json(new / RECORD_FILE, asdict(record))
        _record_pin(entry, version, digest)
