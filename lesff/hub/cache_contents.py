"""What is in the cache: listing, verification and removal of what is of no use.

Links are listed, never followed; what another user owns is never removed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lesff.disk import UNFINISHED, first_link, remove_below
from lesff.environment import cache_folder
from lesff.errors import CacheError, ModelNotFoundError
from lesff.files import GIT_ID, forget
from lesff.hub.cache import find_damage
from lesff.hub.manifest.names import find_model
from lesff.hub.sources.address import find_web_damage, web_address
from lesff.hub.sources.foreign import find_published_damage
from lesff.hub.sources.huggingface import find_repository_damage
from lesff.hub.spec import HubSpec, RegistrySpec

LEFTOVER_AGE_S = 24 * 3600.0
"""Unfinished work is left alone for so long: another process may be at it."""

Kind = Literal["model", "address", "repository", "leftover", "link"]

_LEFTOVERS = (
    f"*/.*{UNFINISHED}",  # records, folders from addresses
    f"models/*/.*{UNFINISHED}",
    f"repositories/*/*/.*{UNFINISHED}",
    "downloads/*.part",
    "hf/*",  # of older versions of lesff
    "*/*.partial",  # of older versions of lesff
)
"""Where unfinished work lies in the cache."""

_ENTRIES: dict[Kind, str] = {
    "model": "models/*/*",
    "address": "web/*",
    "repository": "repositories/*/*/*",
}


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Something in the cache.

    Attributes:
        kind: ``"model"``, ``"address"``, ``"repository"``, ``"leftover"`` of unfinished work or
            of older versions, or ``"link"``, which nothing of lesff makes or follows.
        label: Name and version, address, repository and commit, or name of the file.
        path: Where it is.
        size: Bytes.
    """

    kind: Kind
    label: str
    path: Path
    size: int


def list_cache() -> list[CacheEntry]:
    """Everything in the cache, by kind and label."""
    root = cache_folder()
    links = set(_links(root))
    rows = [_entry("link", str(path.relative_to(root)), path) for path in links]
    for kind, pattern in _ENTRIES.items():
        rows += [_entry(kind, _label(kind, path), path) for path in _folders(root, pattern)]
    leftovers = {path for pattern in _LEFTOVERS for path in root.glob(pattern)} - links
    rows += [_entry("leftover", p.name, p) for p in leftovers if first_link(root, p) is None]
    return sorted(rows, key=lambda row: (row.kind, row.label))


def find_cache_damage(entry: CacheEntry) -> str | None:
    """First reason not to use an entry as text, or None; every file is read.

    Models that the manifest does not know (any more) cannot be checked and are named so, as are
    those that this user has no record of.
    """
    if entry.kind == "leftover":
        return None
    if entry.kind == "link":
        return "is a symbolic link, which nothing in the cache may be"
    for path in _files(entry.path):
        forget(path)
    if entry.kind == "address":
        return find_web_damage(entry.path)
    if entry.kind == "repository":
        *_, organisation, name, commit = entry.path.parts
        return find_repository_damage(f"{organisation}/{name}", commit, entry.path)
    try:
        model, version = find_model(entry.label)
    except ModelNotFoundError:
        return "the manifest does not know it"
    if version.sources.published is not None:
        return find_published_damage(entry.path, model, version)
    return find_damage(entry.path, version)


def prune_cache(*, dry_run: bool = False) -> list[CacheEntry]:
    """Remove damaged entries, links, and leftovers of unfinished work that are a day old.

    What belongs to another user stays, and so does what a link leads to.

    Args:
        dry_run: Only say what would be removed.

    Returns:
        What was removed.

    Raises:
        CacheError: if something cannot be removed.
    """
    root, removed = cache_folder(), []
    for entry in list_cache():
        found = entry.path.lstat()
        if not _is_of_this_user(found):
            continue
        if entry.kind == "leftover":
            # a time ahead of the clock is no proof that someone is at work
            is_useless = abs(time.time() - found.st_mtime) > LEFTOVER_AGE_S
        else:
            is_useless = find_cache_damage(entry) is not None
        if not is_useless:
            continue
        removed.append(entry)
        if not dry_run:
            try:
                remove_below(root, entry.path)
            except OSError as error:
                raise CacheError(
                    f"{entry.path} must be writable to be removed ({error.strerror})"
                ) from error
    return removed


def _is_of_this_user(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def _folders(root: Path, pattern: str) -> Iterator[Path]:
    for path in root.glob(pattern):
        is_entry = path.is_dir() and not path.name.startswith(".")
        if is_entry and first_link(root, path) is None:
            yield path


def _links(root: Path) -> Iterator[Path]:
    """All links below a folder, whatever they lead to."""
    for folder, folders, files in os.walk(root, followlinks=False):
        places = (Path(folder, name) for name in (*folders, *files))
        # the old layout of huggingface_hub is made of links
        yield from (p for p in places if p.is_symlink() and p.relative_to(root).parts[0] != "hf")


def _files(path: Path) -> Iterator[Path]:
    """All plain files of a folder, or the file itself; no link is followed."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        yield path
        return
    for folder, _, names in os.walk(path, followlinks=False):
        places = (Path(folder, name) for name in names)
        yield from (place for place in places if stat.S_ISREG(place.lstat().st_mode))


def _entry(kind: Kind, label: str, path: Path) -> CacheEntry:
    size = sum(file.lstat().st_size for file in _files(path))
    return CacheEntry(kind=kind, label=label, path=path, size=size)


def _label(kind: Kind, path: Path) -> str:
    if kind == "model":
        return str(RegistrySpec(path.parent.name, path.name))
    if kind == "address":
        return web_address(path) or path.name
    *_, organisation, name, commit = path.parts
    try:
        if GIT_ID.fullmatch(commit):
            return str(HubSpec(f"{organisation}/{name}", commit))
    except ModelNotFoundError:  # a folder that no download has made
        pass
    return f"{organisation}/{name} at {commit}"
