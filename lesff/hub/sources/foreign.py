"""Models that others publish: fetched from their site, verified, converted once, kept."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lesff.disk import is_administered, replaced_folder
from lesff.environment import cache_folder, is_offline, own_mirror
from lesff.errors import IntegrityError, ManifestError, ModelNotFoundError, OfflineError
from lesff.files import Digest, FileEntry, FileSet
from lesff.hub.cache import check_no_links, find_difference, locked, read_record
from lesff.hub.manifest.entries import ModelEntry, PublishedSource, VersionEntry
from lesff.hub.sources.download import Download
from lesff.hub.sources.first_use import Pin, place_key
from lesff.hub.sources.inside import take_member
from lesff.hub.time_limit import TimeLimit
from lesff.model_folder.layout import MODEL_FILES, model_files
from lesff.plain_data import write_json

if TYPE_CHECKING:
    from lesff.convert.checkpoint import Attribution

RECORD_FILE = "source.json"
"""File of a converted folder that says what it was made from, for readers: nothing believes it."""

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
    """First reason not to use a converted folder as text, or None if there is none.

    What it must hold is in the state folder of the user who converted it, or first used it.
    """
    try:
        record = _conversion(entry, version, folder).read()
    except IntegrityError as error:
        return str(error)
    if record is None:
        return f"this user has no record of the conversion in {folder}"
    return _record_damage(record, folder, entry, version)


def adopt_published(folder: Path, entry: ModelEntry, version: VersionEntry) -> None:
    """Record a conversion in a read-only cache that an administrator has filled, at first use.

    Folders that this user could write anew, or that a third one can write, are left alone, as are
    those that are not what the manifest says.

    Args:
        folder: The converted folder in the cache.
        entry: The model.
        version: Its version; must have a published source.
    """
    pin = _conversion(entry, version, folder)
    if pin.path.exists() or not is_administered(folder, (*model_files(folder), RECORD_FILE)):
        return
    try:
        record = read_record(SourceRecord, folder / RECORD_FILE)
    except IntegrityError:
        return
    if _record_damage(record, folder, entry, version) is None:
        label = f"{entry.name}@{version.version}"
        pin.write(
            record,
            f"{label} in {folder} was converted by whoever filled this cache, so its bytes could "
            f"not be verified; their digests are now recorded in {pin.path}. To be sure, set "
            f"LESFF_CACHE to a folder of yours and run `lesff pull {label}`",
        )


def _record_damage(
    record: SourceRecord, folder: Path, entry: ModelEntry, version: VersionEntry
) -> str | None:
    source = _source(version)
    if record.schema != _SCHEMA or record.head != source.head:
        return f"{folder} is of another conversion"
    difference = _difference(record.source, source, _pinned(entry, version))
    if difference is not None:
        return f"{folder} is of another checkpoint: {difference}"
    return find_difference(FileSet(record.files), folder, "the record of its conversion")


def _conversion(entry: ModelEntry, version: VersionEntry, folder: Path) -> Pin[SourceRecord]:
    label = f"{entry.name}@{version.version}"
    return Pin.of(SourceRecord, "conversions", label, f"{place_key(folder)}.json")


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
    label = f"{entry.name}@{version.version}"
    downloads = _downloads(entry, version)
    if checkpoint is not None and not checkpoint.is_file():
        raise ModelNotFoundError(f"checkpoint {checkpoint} does not exist; check the path")
    with locked(downloads[-1].lock_path, label):
        check_no_links(cached)
        if checkpoint is not None:
            _convert_given(checkpoint, entry, version, cached)
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
        download, digest = _fetch(downloads, _source(version), _pinned(entry, version), target)
        _record_pin(entry, version, digest)
        download.discard()


def attribution_of(entry: ModelEntry, version: VersionEntry) -> Attribution:
    """Whose model it is."""
    # here, because it takes seconds that models which are in the cache need not spend
    from lesff.convert.checkpoint import Attribution

    source = _source(version)
    return Attribution(
        title=entry.name,
        filename=source.checkpoint,
        url=source.url if source.member is None else f"{source.url} ({source.member})",
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
    folder, limit = cache_folder() / "downloads", TimeLimit()
    return [
        Download(address, folder, what=what, size=source.size, time_limit=limit)
        for address in addresses
    ]


def _source(version: VersionEntry) -> PublishedSource:
    if version.sources.published is None:
        raise ManifestError(f"version {version.version} must have a published source, got none")
    return version.sources.published


def _fetch(
    downloads: Sequence[Download], source: PublishedSource, pin: Digest | None, target: Path
) -> tuple[Download, Digest]:
    """A verified copy, from the first place that has the file."""
    for download in downloads[:-1]:
        with contextlib.suppress(ModelNotFoundError):  # then the authors have it
            return download, _fetch_one(download, source, pin, target)
    return downloads[-1], _fetch_one(downloads[-1], source, pin, target)


def _fetch_one(
    download: Download, source: PublishedSource, pin: Digest | None, target: Path
) -> Digest:
    """A file that was put together from parts gets a second chance in one piece."""
    while True:
        path = download.run()
        try:
            what = f"{source.filename} from {download.url}"
            return _verified_copy(path, target, source, pin, what, own=True)
        except IntegrityError:
            download.discard()
            if not download.resumed:
                raise


def _verified_copy(
    path: Path,
    target: Path,
    source: PublishedSource,
    pin: Digest | None,
    what: str,
    *,
    own: bool = False,
) -> Digest:
    """Digests of a copy of a file, which is read once: what was verified is what is used."""
    target.unlink(missing_ok=True)
    digest = Digest.copied(path, target, own=own)
    _verify(digest, source, pin, what)
    return digest


def _fetch_and_convert(
    downloads: Sequence[Download], entry: ModelEntry, version: VersionEntry, cached: Path
) -> None:
    source = _source(version)
    with _workspace(cached, source) as (new, original):
        download, digest = _fetch(downloads, source, _pinned(entry, version), original)
        try:
            _convert(original, digest, entry, version, cached, new)
        except IntegrityError as error:  # other errors keep the verified file, for a newer lesff
            download.discard()
            raise IntegrityError(
                f"{source.filename} from {download.url} is no use: {error}"
            ) from error
    download.discard()


def _convert_given(
    checkpoint: Path, entry: ModelEntry, version: VersionEntry, cached: Path
) -> None:
    source, what = _source(version), f"{checkpoint} for {entry.name}@{version.version}"
    with _workspace(cached, source) as (new, original):
        digest = _verified_copy(checkpoint, original, source, _pinned(entry, version), what)
        _convert(original, digest, entry, version, cached, new)


@contextlib.contextmanager
def _workspace(cached: Path, source: PublishedSource) -> Iterator[tuple[Path, Path]]:
    """Places that no other user can enter: the folder that replaces the cached one, a checkpoint.

    What is verified and converted is this copy, not what lies under the name that it came from.
    """
    with replaced_folder(cached) as new:
        folder = new.with_name("original")
        folder.mkdir()
        yield new, folder / source.filename


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
    return Pin.of(Digest, "published", f"{entry.name}@{version.version}.json")


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
    original: Path,
    digest: Digest,
    entry: ModelEntry,
    version: VersionEntry,
    cached: Path,
    new: Path,
) -> None:
    # here, because it takes seconds that models which are in the cache need not spend
    from lesff.convert.checkpoint import convert_checkpoint

    source, attribution = _source(version), attribution_of(entry, version)
    checkpoint = original
    if source.member is not None:
        checkpoint = original.with_name("member")
        take_member(original, source.member, checkpoint)
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
    _conversion(entry, version, cached).replace(record)
    _record_pin(entry, version, digest)
