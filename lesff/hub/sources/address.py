"""Model folders at https addresses: every file verified, by a given digest or that of first use."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from lesff.environment import cache_folder
from lesff.errors import (
    CacheError,
    ConfigError,
    IntegrityError,
    ManifestError,
    ModelNotFoundError,
    OfflineError,
    UnverifiedWarning,
)
from lesff.files import FileEntry, file_damage, folder_digest, sha256_of
from lesff.hub.cache import DISK_ERRORS, Workspace, install
from lesff.hub.manifest.entries import is_safe_url
from lesff.hub.sources.download import MAX_BYTES, Download
from lesff.model_folder.layout import (
    MODEL_FILES,
    OPTIONAL_FILES,
    WEIGHTS_FILE,
    model_files,
    unlisted_file,
)
from lesff.plain_data import from_dict, read_json, write_json

RECORD_FILE = "web.json"
"""File of a fetched folder that says what it must hold."""

_FRAGMENT = re.compile(r"(?:sha256=[0-9a-f]{64})?")
_SMALL_BYTES = 25_000_000
"""Most bytes of a file that does not hold the weights."""
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
        """The folder's digest, see :func:`lesff.files.folder_digest`."""
        return folder_digest((file.path, file.sha256) for file in self.files)


def fetch_folder(spec: str, *, offline: bool) -> tuple[Path, str, bool]:
    """Model folder at an address, from the cache or fetched into it.

    Args:
        spec: ``https://host/path/`` (``http`` for loopback hosts), with ``#sha256=...`` to say
            what the folder's digest must be. Without it, the digest of the first fetch is recorded
            and later fetches must match.
        offline: Make no network call.

    Returns:
        The folder, its digest and whether it came from the cache.

    Raises:
        ModelNotFoundError: if the address cannot be one of a model folder, or lacks a file.
        IntegrityError: if the files are not those that they must be.
        OfflineError: if a download is needed, but not allowed or not possible.
        CacheError: if the cache cannot be written.
    """
    from huggingface_hub.utils import WeakFileLock

    url, wanted = _split(spec)
    key = hashlib.sha256(url.encode()).hexdigest()[:32]
    cached = cache_folder() / "web" / (key if wanted is None else f"{key}-{wanted[:16]}")
    expected = wanted or _pinned(url)
    if _damage(cached, url, expected) is None:
        return cached, _record(cached).digest, True
    if offline:
        raise OfflineError(
            f"{spec} must be in the cache to be used offline, but is not intact there; load it "
            "once with network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(cached.parent / f"{cached.name}.lock"):
            if _damage(cached, url, expected) is not None:
                _fetch(url, cached, expected)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise CacheError(
                f"the cache {cache_folder()} must be writable to hold {url} ({error.strerror}); "
                "LESFF_CACHE names another place"
            ) from error
        raise
    return cached, _record(cached).digest, False


def _split(spec: str) -> tuple[str, str | None]:
    url, _, fragment = spec.partition("#")
    if not is_safe_url(url) or not urlsplit(url).path.endswith("/") or "?" in url:
        raise ModelNotFoundError(
            f"{url!r} must be the https:// address of a model folder, ending in '/', without "
            "credentials or a query"
        )
    if not _FRAGMENT.fullmatch(fragment):
        raise ModelNotFoundError(
            f"what follows '#' in {spec!r} must be 'sha256=' and 64 lower-case hexadecimal digits"
        )
    return url, fragment.removeprefix("sha256=") or None


def _fetch(url: str, cached: Path, expected: str | None) -> None:
    with Workspace(cached) as work:
        new = work / "new"
        new.mkdir()
        for name in MODEL_FILES:
            _fetch_file(urljoin(url, name), name, url, new)
        for name in OPTIONAL_FILES:
            with contextlib.suppress(ModelNotFoundError):  # the digest says whether it belongs
                _fetch_file(urljoin(url, name), name, url, new)
        files = tuple(
            FileEntry(path=name, size=(new / name).stat().st_size, sha256=sha256_of(new / name))
            for name in model_files(new)
        )
        record = WebRecord(url=url, files=files, date=datetime.date.today().isoformat())
        if expected is not None and record.digest != expected:
            raise IntegrityError(
                f"the folder at {url} must have the digest sha256={expected}, got "
                f"{record.digest}; it was not used. Ask who gave you the address, or see "
                "docs/hub.md on how to trust what is there now"
            )
        write_json(new / RECORD_FILE, asdict(record))
        if expected is None:
            _pin(record)
        install(new, cached, work / "old", is_intact=lambda: False)


def _fetch_file(address: str, name: str, url: str, new: Path) -> None:
    limit = MAX_BYTES if name == WEIGHTS_FILE else _SMALL_BYTES
    download = Download(
        address, cache_folder() / "downloads", what=f"{name} of {url}", limit=limit, advice=_ADVICE
    )
    os.replace(download.run(), new / name)
    download.discard()


def web_address(folder: Path) -> str | None:
    """Address that a fetched folder came from, or None if its record is damaged."""
    try:
        return _record(folder).url
    except (OSError, ConfigError, ManifestError):
        return None


def find_web_damage(folder: Path) -> str | None:
    """First reason not to use a fetched folder as text, or None if there is none."""
    url = web_address(folder)
    if url is None:
        return f"{folder} has no readable record"
    _, _, beginning = folder.name.partition("-")
    digest = _record(folder).digest
    is_wanted = digest.startswith(beginning) if beginning else digest == _pinned(url)
    return _damage(folder, url, digest if is_wanted else None)


def _record(folder: Path) -> WebRecord:
    return from_dict(WebRecord, read_json(folder / RECORD_FILE), RECORD_FILE)


def _damage(folder: Path, url: str, expected: str | None) -> str | None:
    """First reason not to use a fetched folder as text, or None if there is none."""
    try:
        record = _record(folder)
    except (OSError, ConfigError, ManifestError) as error:
        return f"{folder} has no readable record: {error}"
    names = {file.path for file in record.files}
    if record.url != url or not set(MODEL_FILES) <= names <= {*MODEL_FILES, *OPTIONAL_FILES}:
        return f"{folder} is not what {url} has"
    extra = unlisted_file(folder, names)
    if extra is not None:
        return f"{folder / extra} is not in its record"
    if record.digest != expected:
        return f"{folder} has the digest {record.digest}, not {expected}"
    damages = (file_damage(folder / file.path, file) for file in record.files)
    return next((damage for damage in damages if damage is not None), None)


def _pin_path(url: str) -> Path:
    return cache_folder() / "pins" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def _pinned(url: str) -> str | None:
    """Digest recorded by the first fetch from an address, or None before it."""
    path = _pin_path(url)
    if not path.is_file():
        return None
    try:
        return from_dict(WebRecord, read_json(path), path.name).digest
    except (ConfigError, ManifestError) as error:
        raise IntegrityError(
            f"{path} must hold the digest of the first fetch: {error}; remove it to trust the "
            "next fetch"
        ) from error


def _pin(record: WebRecord) -> None:
    path = _pin_path(record.url)
    write_json(path, asdict(record))
    warnings.warn(
        f"no digest of {record.url} was given, so its bytes could not be verified; it is now "
        f"recorded in {path} and later fetches must match it. Name it in the address to be sure: "
        f"{record.url}#sha256={record.digest}",
        UnverifiedWarning,
        stacklevel=2,
    )
