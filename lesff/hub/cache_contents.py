"""What is in the cache: listing, verification and removal of what is of no use."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lesff.atomic import UNFINISHED
from lesff.environment import cache_folder
from lesff.errors import ModelNotFoundError
from lesff.files import forget
from lesff.hub.cache import find_damage
from lesff.hub.manifest.names import find_model
from lesff.hub.sources.address import find_web_damage, web_address
from lesff.hub.sources.foreign import find_published_damage
from lesff.hub.sources.huggingface import find_altered
from lesff.hub.spec import HubSpec, RegistrySpec

LEFTOVER_AGE_S = 24 * 3600.0
"""Unfinished work is left alone for so long: another process may be at it."""

_LEFTOVERS = (
    f"*/.*{UNFINISHED}",  # records, folders from addresses
    f"models/*/.*{UNFINISHED}",
    "downloads/*.part",
    "hf/*/blobs/*.incomplete",  # of huggingface_hub
    "*/*.partial",  # of older versions of lesff
)
"""Where unfinished work lies in the cache."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Something in the cache.

    Attributes:
        kind: ``"model"``, ``"address"``, ``"repository"`` or ``"leftover"`` of unfinished work.
        label: Name and version, address, repository and commit, or name of the file.
        path: Where it is.
        size: Bytes.
    """

    kind: Literal["model", "address", "repository", "leftover"]
    label: str
    path: Path
    size: int


def list_cache() -> list[CacheEntry]:
    """Everything in the cache, by kind and label."""
    root = cache_folder()
    rows = [
        *(
            _entry("model", str(RegistrySpec(p.parent.name, p.name)), p)
            for p in _folders(root, "models/*/*")
        ),
        *(_entry("address", web_address(p) or p.name, p) for p in _folders(root, "web/*")),
        *(_entry("repository", _repository(p), p) for p in _folders(root, "hf/*/snapshots/*")),
        *(_entry("leftover", p.name, p) for p in _leftovers(root)),
    ]
    return sorted(rows, key=lambda row: (row.kind, row.label))


def find_cache_damage(entry: CacheEntry) -> str | None:
    """First reason not to use an entry as text, or None; every file is read.

    Models that the manifest does not know (any more) cannot be checked and are named so.
    """
    for path in entry.path.rglob("*"):
        if path.is_file():
            forget(path)
    if entry.kind == "address":
        return find_web_damage(entry.path)
    if entry.kind == "repository":
        altered = find_altered(entry.path)
        return f"{', '.join(altered)} changed since the download" if altered else None
    if entry.kind == "leftover":
        return None
    try:
        model, version = find_model(entry.label)
    except ModelNotFoundError:
        return "the manifest does not know it"
    if version.sources.published is not None:
        return find_published_damage(entry.path, model, version)
    return find_damage(entry.path, version)


def prune_cache(*, dry_run: bool = False) -> list[CacheEntry]:
    """Remove damaged entries, and leftovers of unfinished work that are a day old.

    Args:
        dry_run: Only say what would be removed.

    Returns:
        What was removed.
    """
    removed = []
    for entry in list_cache():
        if entry.kind == "leftover":
            # a time ahead of the clock is no proof that someone is at work
            is_useless = abs(time.time() - entry.path.lstat().st_mtime) > LEFTOVER_AGE_S
        else:
            is_useless = find_cache_damage(entry) is not None
        if not is_useless:
            continue
        removed.append(entry)
        if not dry_run and entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        elif not dry_run:
            entry.path.unlink()
    return removed


def _folders(root: Path, pattern: str) -> Iterator[Path]:
    for path in root.glob(pattern):
        if path.is_dir() and not path.name.startswith("."):
            yield path


def _leftovers(root: Path) -> Iterator[Path]:
    for pattern in _LEFTOVERS:
        yield from root.glob(pattern)


def _entry(
    kind: Literal["model", "address", "repository", "leftover"], label: str, path: Path
) -> CacheEntry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return CacheEntry(kind=kind, label=label, path=path, size=sum(f.stat().st_size for f in files))


def _repository(snapshot: Path) -> str:
    name = snapshot.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    try:
        return str(HubSpec(name, snapshot.name))
    except ModelNotFoundError:  # a folder that no download has made
        return f"{name} at {snapshot.name}"
