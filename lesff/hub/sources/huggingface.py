"""Repositories of a Hugging Face compatible hub: retried, verified, without credentials."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lesff.environment import cache_folder, hub_endpoint
from lesff.errors import IntegrityError, ModelNotFoundError, OfflineError
from lesff.files import git_blob_of, sha256_of
from lesff.hub.cache import DISK_ERRORS
from lesff.model_folder.layout import MODEL_FILES, OPTIONAL_FILES, model_files

T = TypeVar("T")

_ATTEMPTS = 4
_BACKOFF_S = 0.5
"""Pause before the second attempt; doubles from one attempt to the next."""
_PROBE_S = 5.0
"""A hub that does not answer a request for metadata within this time is taken to be down."""
_HUB_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
    from huggingface_hub.errors import (
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


def check_files(folder: Path, names: tuple[str, ...]) -> None:
    """Make sure that a folder has all files that it must have.

    Raises:
        IntegrityError: naming those that it lacks.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise IntegrityError(
            f"{folder} lacks {', '.join(missing)}: it is not a complete model folder; "
            "fetch or copy the model again"
        )


def fetch_repository(spec: str, *, offline: bool) -> tuple[Path, str, str | None]:
    """Model folder of a hub repository, from the cache or fetched into it.

    The bytes are compared with the digests that the hub announces for them, which huggingface_hub
    does not do.

    Args:
        spec: ``hf:org/repo`` or ``hf:org/repo@revision``.
        offline: Make no network call.

    Returns:
        The folder, ``hf:org/repo`` and the commit (or the revision if that is not known).

    Raises:
        ModelNotFoundError: if the name is malformed or the hub does not have the repository.
        IntegrityError: if it is not a model folder, or its bytes are not those announced.
        OfflineError: if a download is needed, but not allowed or not possible.
    """
    match = _HUB_SPEC.fullmatch(spec)
    if match is None:
        raise ModelNotFoundError(
            f"{spec!r} must be 'hf:organisation/name' or 'hf:organisation/name@revision'"
        )
    repo, revision = match["repo"], match["revision"]
    folder = _snapshot(repo, revision, offline=offline)
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
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
        folder = _snapshot(repo, revision, offline=False)
        check_files(folder, model_files(folder))
        altered = _drop_altered(folder)
        if altered:
            raise IntegrityError(
                f"{', '.join(altered)} of {spec} did not have the digest that the hub announces; "
                "the hub or the connection gave other bytes; try again"
            )
    version = folder.name if _COMMIT.fullmatch(folder.name) else revision
    return folder, f"hf:{repo}", version


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
        digest = {40: git_blob_of, 64: sha256_of}.get(len(blob.name))
        if path.is_symlink() and digest is not None:
            is_intact = blob.is_file() and digest(blob) == blob.name
            altered += [] if is_intact else [name]
    return altered


def _drop_altered(folder: Path) -> list[str]:
    """Remove altered files and return their names."""
    altered = find_altered(folder)
    for name in altered:
        (folder / name).resolve().unlink(missing_ok=True)
        (folder / name).unlink()
    return altered


def _snapshot(repo: str, revision: str | None, *, offline: bool) -> Path:
    """Folder with the model files of a hub repository.

    Raises:
        OfflineError: if it is not in the cache and cannot be downloaded.
        ModelNotFoundError: if the hub does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def snapshot() -> Path:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_folder() / "hf",
                allow_patterns=[*MODEL_FILES, *OPTIONAL_FILES],
                token=False,
                endpoint=hub_endpoint(),
                local_files_only=offline,
            )
        )

    what = f"hf:{repo}" + (f"@{revision}" if revision else "")
    try:
        return snapshot() if offline else retried(snapshot, what)
    except HFValidationError as error:
        raise ModelNotFoundError(f"{what!r} is not a valid repository name: {error}") from error
    except LocalEntryNotFoundError as error:
        raise OfflineError(
            f"{what} must be in the cache to be used offline, but is not; load it once with "
            "network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        ) from error
