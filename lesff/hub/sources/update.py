"""Fetching of signed manifest updates."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lesff.environment import is_offline
from lesff.errors import ModelNotFoundError, OfflineError
from lesff.hub.manifest.names import installed_models
from lesff.hub.manifest.updates import SIGNATURE_SUFFIX, ManifestUpdate, install_update
from lesff.hub.sources.download import Download
from lesff.hub.spec import FileAddress, parse_file
from lesff.hub.time_limit import TimeLimit

_MAX_BYTES = 1_000_000


def pull_update(
    source: str | Path, *, public_key: Path | None = None, offline: bool | None = None
) -> ManifestUpdate:
    """Fetch, check and keep a signed update of the manifest.

    Args:
        source: Address or file of the update; its signature has ``.sig`` appended.
        public_key: Key to trust from now on; the one trusted so far if None.
        offline: Make no network call; from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if None.

    Raises:
        OfflineError: if it must be fetched, but the session is offline or nobody answers.
        ModelNotFoundError: if there is no such file.
        SignatureError: if no key is trusted yet or the signature does not fit.
        ManifestError: if the update is malformed, older than the one that is there, or changes
            what a known version is.
    """
    place = parse_file(source)
    if isinstance(place, FileAddress):
        return _fetch_update(place, public_key, offline=offline)
    if not place.is_file():
        raise ModelNotFoundError(f"manifest update {place} does not exist; check the path")
    return install_update(place, installed_models(), public_key=public_key)


def _fetch_update(
    address: FileAddress, public_key: Path | None, *, offline: bool | None
) -> ManifestUpdate:
    if is_offline() if offline is None else offline:
        raise OfflineError(f"{address.url} must be fetched, but this is offline; give a file")
    with tempfile.TemporaryDirectory() as work:
        path, limit = Path(work) / "manifest.json", TimeLimit()
        for suffix in ("", SIGNATURE_SUFFIX):
            download = Download(
                address.url + suffix, Path(work), what="the manifest update", limit=_MAX_BYTES,
                advice="give it as a file", time_limit=limit,
            )  # fmt: skip
            os.replace(download.run(), path.with_name(path.name + suffix))
        return install_update(path, installed_models(), public_key=public_key)
