"""Model folders at https addresses: every file verified, by a given digest or that of first use."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin

from lesff.disk import is_administered, is_own, replaced_folder
from lesff.environment import cache_folder
from lesff.errors import IntegrityError, ModelNotFoundError, OfflineError
from lesff.files import FileEntry, FileSet
from lesff.hub.cache import check_no_links, find_difference, locked, read_record
from lesff.hub.sources.download import MAX_BYTES, SMALL_BYTES, Download
from lesff.hub.sources.first_use import Pin
from lesff.hub.spec import AddressSpec
from lesff.hub.time_limit import TimeLimit
from lesff.model_folder.layout import (
    MODEL_FILES,
    OPTIONAL_FILES,
    WEIGHTS_FILE,
    model_files,
)
from lesff.plain_data import write_json

RECORD_FILE = "web.json"
"""File of a fetched folder that says what it must hold."""

_ADVICE = "copy the model folder by other means and load it by its path"


@dataclass(frozen=True, kw_only=True)
class WebRecord:
    """What was fetched from an address.

    Attributes:
        url: Address of the folder.
        files: Size and sha256 of every file.
        date: Day of the fetch.
    """

    url: str
    files: tuple[FileEntry, ...]
    date: str

    @property
    def digest(self) -> str:
        """The folder's digest, see :attr:`lesff.files.FileSet.digest`."""
        return FileSet(self.files).digest


def fetch_folder(spec: AddressSpec, *, offline: bool) -> tuple[Path, str, bool]:
    """Model folder at an address, from the cache or fetched into it.

    Processes that want the same folder wait for each other; the ones that waited find it done.

    Args:
        spec: The address. Without a digest, that of the first fetch is recorded and later fetches
            must match.
        offline: Make no network call.

    Returns:
        The folder, its digest and whether it came from the cache.

    Raises:
        ModelNotFoundError: if the address lacks a file.
        IntegrityError: if the files are not those that they must be.
        OfflineError: if a download is needed, but not allowed or not possible.
        CacheError: if the cache cannot be written.
    """
    key, url = _key(spec.url), spec.url
    name = key if spec.sha256 is None else f"{key}-{spec.sha256[:16]}"
    cached = cache_folder() / "web" / name
    if spec.sha256 is None:
        _adopt(cached, url)
    if _damage(cached, url, spec.sha256 or _pinned(url)) is None:
        return cached, _record(cached).digest, True
    if offline:
        raise OfflineError(
            f"{spec} must be in the cache to be used offline, but is not intact there; load it "
            "once with network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        )
    with locked(cached.parent / f"{cached.name}.lock", url):
        check_no_links(cached)
        # again: another process may have been the first to fetch it meanwhile
        expected = spec.sha256 or _pinned(url)
        if _damage(cached, url, expected) is not None:
            _fetch(url, cached, expected)
    return cached, _record(cached).digest, False


def _fetch(url: str, cached: Path, expected: str | None) -> None:
    limit = TimeLimit()
    with replaced_folder(cached) as new:
        new.mkdir()
        for name in MODEL_FILES:
            _fetch_file(urljoin(url, name), name, url, new, limit)
        for name in OPTIONAL_FILES:
            with contextlib.suppress(ModelNotFoundError):  # the digest says whether it belongs
                _fetch_file(urljoin(url, name), name, url, new, limit)
        files = FileSet.of(new, model_files(new))
        if expected is not None and files.digest != expected:
            raise IntegrityError(
                f"the folder at {url} must have the digest sha256={expected}, got "
                f"{files.digest}; it was not used. Ask who gave you the address, or see "
                "docs/hub.md on how to trust what is there now"
            )
        record = WebRecord(url=url, files=files.entries, date=datetime.date.today().isoformat())
        write_json(new / RECORD_FILE, asdict(record))
        if expected is None:
            pin = _pin(url)
            pin.write(
                record,
                f"no digest of {url} was given, so its bytes could not be verified; it is now "
                f"recorded in {pin.path} and later fetches must match it. Name it in the address "
                f"to be sure: {AddressSpec(url, record.digest)}",
            )


def _fetch_file(address: str, name: str, url: str, new: Path, time_limit: TimeLimit) -> None:
    folder = cache_folder() / "downloads"
    check_no_links(folder)
    download = Download(
        address, folder, what=f"{name} of {url}",
        limit=MAX_BYTES if name == WEIGHTS_FILE else SMALL_BYTES, advice=_ADVICE,
        time_limit=time_limit,
    )  # fmt: skip
    os.replace(download.run(), new / name)
    if not is_own((new / name).lstat()):  # exchanged by somebody who can write into the cache
        raise IntegrityError(f"{name} of {url} was not what had been fetched; try again")
    download.discard()


def _adopt(cached: Path, url: str) -> None:
    """Record what a read-only cache that an administrator has filled holds, at first use."""
    pin = _pin(url)
    if pin.path.exists() or not is_administered(cached, (*model_files(cached), RECORD_FILE)):
        return
    with contextlib.suppress(IntegrityError):
        record = _record(cached)
        if _damage(cached, url, record.digest) is None:
            pin.write(
                record,
                f"{cached} was filled by whoever keeps this cache, so its bytes could not be "
                f"verified; their digest is now recorded in {pin.path}. Name it in the address to "
                f"be sure: {AddressSpec(url, record.digest)}",
            )


def web_address(folder: Path) -> str | None:
    """Address that a fetched folder came from, or None if its record is damaged."""
    try:
        return _record(folder).url
    except IntegrityError:
        return None


def find_web_damage(folder: Path) -> str | None:
    """First reason not to use a fetched folder as text, or None if there is none."""
    try:
        record = _record(folder)
    except IntegrityError as error:
        return str(error)
    # the name of the folder says whether a digest was asked for, see `fetch_folder`
    _, _, beginning = folder.name.partition("-")
    digest = record.digest
    is_wanted = digest.startswith(beginning) if beginning else digest == _pinned(record.url)
    return _damage(folder, record.url, digest if is_wanted else None)


def _damage(folder: Path, url: str, expected: str | None) -> str | None:
    """First reason not to use a fetched folder as text, or None if there is none."""
    try:
        record = _record(folder)
    except IntegrityError as error:
        return str(error)
    files = FileSet(record.files)
    if record.url != url or not set(files.names) <= {*MODEL_FILES, *OPTIONAL_FILES}:
        return f"{folder} is not what {url} has"
    if files.digest != expected:
        return f"{folder} has the digest {files.digest}, not {expected}"
    return find_difference(files, folder, "its record")


def _record(folder: Path) -> WebRecord:
    return read_record(WebRecord, folder / RECORD_FILE)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _pin(url: str) -> Pin[WebRecord]:
    return Pin.of(WebRecord, "pins", f"{_key(url)}.json")


def _pinned(url: str) -> str | None:
    """Digest recorded by the first fetch from an address, or None before it."""
    record = _pin(url).read()
    return None if record is None else record.digest
