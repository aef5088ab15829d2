"""Repositories of a Hugging Face compatible hub: retried, verified, without credentials."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lesff.atomic import replaced_folder
from lesff.environment import cache_folder, hub_endpoint
from lesff.errors import IntegrityError, ModelNotFoundError, OfflineError
from lesff.files import GIT_ID, Digest, FileEntry, sha256_of
from lesff.hub.cache import DISK_ERRORS, find_damage
from lesff.hub.manifest.entries import HubSource, VersionEntry
from lesff.hub.spec import HubSpec
from lesff.model_folder.layout import (
    MODEL_FILES,
    OPTIONAL_FILES,
    check_files,
    missing_files,
    model_files,
)

T = TypeVar("T")

_ATTEMPTS = 4
_BACKOFF_S = 0.5
"""Pause before the second attempt; doubles from one attempt to the next."""
_PROBE_S = 5.0
"""A hub that does not answer a request for metadata within this time is taken to be down."""


def download_file(repo: str, commit: str, path: str, folder: Path) -> Path:
    """Download one file of a hub repository, without credentials; the only place that does.

    Args:
        repo: ``"organisation/name"``.
        commit: Full commit hash.
        path: File in the repository.
        folder: Where to write it.

    Returns:
        Where the file is.
    """
    # start-up: 0.3 s of CPU
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    endpoint = hub_endpoint()
    # without this probe a network that swallows packets keeps the download waiting for minutes
    url = hf_hub_url(repo, path, revision=commit, endpoint=endpoint)
    get_hf_file_metadata(url, token=False, timeout=_PROBE_S, endpoint=endpoint)
    return Path(
        hf_hub_download(
            repo, path, revision=commit, local_dir=folder, token=False, endpoint=endpoint
        )
    )


def retried(action: Callable[[], T], what: str) -> T:
    """Run a download up to four times.

    Raises:
        ModelNotFoundError: if the hub says that it does not have the file.
        IntegrityError: if the bytes are wrong each time.
        OfflineError: if the hub cannot be reached.
    """
    from huggingface_hub.errors import (  # start-up: 0.3 s of CPU
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2, by version
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    last: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_BACKOFF_S * 2 ** (attempt - 1))
        try:
            return action()
        except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError) as error:
            raise ModelNotFoundError(
                f"the hub has no public {what}; check name, revision and LESFF_HUB"
            ) from error
        except (OSError, HTTPError) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            last = error
    if isinstance(last, IntegrityError):
        raise last
    raise OfflineError(
        f"cannot download {what} ({_ATTEMPTS} attempts, last error: {last}); check the network, "
        "or set LESFF_HUB to a mirror"
    ) from last


def fetch_version(source: HubSource, version: VersionEntry, cached: Path, label: str) -> None:
    """Download all files of a version, check them, then move them into the cache at once.

    Args:
        source: The repository, pinned.
        version: What its files must be.
        cached: Model folder to write.
        label: Name and version of the model, for messages.

    Raises:
        ModelNotFoundError: if the hub does not have a file.
        IntegrityError: if the bytes are wrong each time.
        OfflineError: if the hub cannot be reached.
        OSError: if the cache cannot be written.
    """
    try:
        with replaced_folder(cached, is_intact=lambda: find_damage(cached, version) is None) as new:
            for file in version.files:
                retried(
                    lambda file=file: _fetch_file(source, file, new),
                    f"{file.path} of {label} from {source.repo}",
                )
    except OSError as error:
        if error.errno in DISK_ERRORS:
            error.add_note(f"{cached.parent} must be writable; LESFF_CACHE names another place")
        raise


def _fetch_file(source: HubSource, file: FileEntry, new: Path) -> None:
    path = download_file(source.repo, source.commit, file.path, new.with_name("download"))
    damage = file.damage(path)
    if damage is not None:
        path.unlink(missing_ok=True)
        raise IntegrityError(f"{damage}: the hub or the connection gave other bytes; try again")
    target = new / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def fetch_repository(spec: HubSpec, *, offline: bool) -> tuple[Path, str, str | None]:
    """Model folder of a hub repository, from the cache or fetched into it.

    The bytes are compared with the digests that the hub announces for them, which huggingface_hub
    does not do.

    Args:
        spec: The repository, and which revision of it.
        offline: Make no network call.

    Returns:
        The folder, ``hf:org/repo`` and the commit (or the revision if that is not known).

    Raises:
        ModelNotFoundError: if the hub does not have the repository, or cannot by its name.
        IntegrityError: if it is not a model folder, or its bytes are not those announced.
        OfflineError: if a download is needed, but not allowed or not possible.
    """
    folder = _snapshot(spec, offline=offline)
    missing = missing_files(folder)
    if missing and offline:
        raise OfflineError(
            f"{spec} is only partly in the cache, {', '.join(missing)} must be downloaded; "
            "load it once with network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        )
    check_files(folder, model_files(folder))
    if _drop_altered(folder):
        if offline:
            raise OfflineError(
                f"the copy of {spec} in the cache is damaged, it must be downloaded again; load it "
                "once with network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
            )
        folder = _snapshot(spec, offline=False)
        check_files(folder, model_files(folder))
        altered = _drop_altered(folder)
        if altered:
            raise IntegrityError(
                f"{', '.join(altered)} of {spec} did not have the digest that the hub announces; "
                "the hub or the connection gave other bytes; try again"
            )
    version = folder.name if GIT_ID.fullmatch(folder.name) else spec.revision
    return folder, str(spec.unpinned), version


def find_altered(folder: Path) -> list[str]:
    """Model files of a snapshot that are not what the hub announced.

    The cache of huggingface_hub names a file after its entity tag, which is its sha256 or git blob
    id, but never compares them.

    Args:
        folder: Snapshot in the cache of huggingface_hub.
    """
    altered = []
    for name in model_files(folder):
        path = folder / name
        blob = path.resolve()
        digest = {40: _git_blob_of, 64: sha256_of}.get(len(blob.name))
        if path.is_symlink() and digest is not None:
            is_intact = blob.is_file() and digest(blob) == blob.name
            altered += [] if is_intact else [name]
    return altered


def _git_blob_of(path: Path) -> str:
    return Digest.of(path).git_blob


def _drop_altered(folder: Path) -> list[str]:
    """Remove altered files and return their names."""
    altered = find_altered(folder)
    for name in altered:
        (folder / name).resolve().unlink(missing_ok=True)
        (folder / name).unlink()
    return altered


def _snapshot(spec: HubSpec, *, offline: bool) -> Path:
    """Folder with the model files of a hub repository.

    Raises:
        OfflineError: if it is not in the cache and cannot be downloaded.
        ModelNotFoundError: if the hub does not have it.
    """
    from huggingface_hub import snapshot_download  # start-up: 0.3 s of CPU
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def snapshot() -> Path:
        return Path(
            snapshot_download(
                spec.repo,
                revision=spec.revision,
                cache_dir=cache_folder() / "hf",
                allow_patterns=[*MODEL_FILES, *OPTIONAL_FILES],
                token=False,
                endpoint=hub_endpoint(),
                local_files_only=offline,
            )
        )

    try:
        return snapshot() if offline else retried(snapshot, str(spec))
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"{str(spec)!r} is not a valid repository name: {error}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise OfflineError(
            f"{spec} must be in the cache to be used offline, but is not; load it once with "
            "network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        ) from error
