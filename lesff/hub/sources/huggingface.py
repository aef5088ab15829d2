"""Repositories of a Hugging Face compatible hub: retried, verified, without credentials.

What the hub says is data: a commit must look like one, files have the names that model folders
have, and no header becomes a path.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lesff.disk import first_link, is_administered, replaced_folder
from lesff.environment import cache_folder, hub_endpoint
from lesff.errors import (
    IntegrityError,
    ModelNotFoundError,
    OfflineError,
    UnverifiedWarning,
    warn,
)
from lesff.files import GIT_ID, SHA256, Digest, FileEntry, FileSet
from lesff.hub.cache import (
    DISK_ERRORS,
    check_no_links,
    find_damage,
    find_difference,
    locked,
    read_record,
)
from lesff.hub.manifest.entries import HubSource, VersionEntry
from lesff.hub.sources.download import MAX_BYTES, SMALL_BYTES, Download, fetch_bytes
from lesff.hub.sources.first_use import Pin
from lesff.hub.spec import HubSpec
from lesff.hub.time_limit import TimeLimit
from lesff.model_folder.layout import MODEL_FILES, OPTIONAL_FILES, WEIGHTS_FILE, model_files
from lesff.plain_data import write_json

T = TypeVar("T")

PUBLIC_HUB = "https://huggingface.co"

_ATTEMPTS = 4
_BACKOFF_S = 0.5
"""Pause before the second attempt; doubles from one attempt to the next."""
_ADVICE = "check the network, or set LESFF_HUB to a mirror"
_ANSWER_BYTES = 5_000_000
"""Most bytes of an answer of the hub that is not a file."""
_REFS_FILE = "refs.json"


@dataclass(frozen=True, kw_only=True)
class RepositoryRecord:
    """What a repository held at a commit when this user first fetched it.

    Attributes:
        repo: ``"organisation/name"``.
        commit: 40 hexadecimal digits.
        date: Day of the fetch.
        files: Size and sha256 of every file.
    """

    repo: str
    commit: str
    date: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Revisions:
    """Which commits branches and tags stood for when the hub was last asked.

    Attributes:
        refs: Commit by branch or tag.
    """

    refs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A file as the hub lists it.

    Attributes:
        path: Its name.
        size: Bytes.
        sha256: Its digest, if the hub gives one.
        git_blob: Git's id of it, if the hub gives one.
    """

    path: str
    size: int
    sha256: str | None
    git_blob: str | None

    def damage(self, path: Path) -> str | None:
        """How a file differs from what the hub announces as text, or None."""
        try:
            digest = Digest.of(path)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        for name in ("size", "sha256", "git_blob"):
            wanted, found = getattr(self, name), getattr(digest, name)
            if wanted is not None and wanted != found:
                return f"{path.name} must have the {name} {wanted}, got {found}"
        return None


def download_file(
    repo: str,
    commit: str,
    path: str,
    folder: Path,
    *,
    what: str,
    size: int | None = None,
    time_limit: TimeLimit | None = None,
) -> Path:
    """Download one file of a hub repository, without credentials; the only place that does.

    Args:
        repo: ``"organisation/name"``.
        commit: Full commit hash.
        path: File in the repository.
        folder: Where to write it, under a name of ours.
        what: Name of the file for messages.
        size: Bytes, if known.
        time_limit: How long the task that it is part of may wait.

    Returns:
        Where the file is.
    """
    return Download(
        f"{_endpoint()}/{repo}/resolve/{commit}/{quote(path)}", folder, what=what, size=size,
        limit=MAX_BYTES if path == WEIGHTS_FILE else SMALL_BYTES, advice=_ADVICE,
        time_limit=time_limit,
    ).run()  # fmt: skip


def retried(action: Callable[[], T], what: str) -> T:
    """Run a download up to four times.

    Raises:
        ModelNotFoundError: if the hub says that it does not have the file.
        IntegrityError: if the bytes are wrong each time.
        OfflineError: if the hub cannot be reached.
    """
    last: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_BACKOFF_S * 2 ** (attempt - 1))
        try:
            return action()
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"the hub has no public {what}; check name, revision and LESFF_HUB ({error})"
            ) from error
        except OfflineError:  # after attempts of its own
            raise
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            last = error
    if isinstance(last, IntegrityError):
        raise last
    raise OfflineError(
        f"cannot download {what} ({_ATTEMPTS} attempts, last error: {last}); {_ADVICE}"
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
        CacheError: if a link is in the way.
        OSError: if the cache cannot be written.
    """
    check_no_links(cached)
    limit = TimeLimit()
    try:
        with replaced_folder(cached, is_intact=lambda: find_damage(cached, version) is None) as new:
            for file in version.files:
                what = f"{file.path} of {label}"
                retried(
                    lambda file=file, what=what: _fetch_file(source, file, new, what, limit),
                    f"{what} from {source.repo}",
                )
    except OSError as error:
        if error.errno in DISK_ERRORS:
            error.add_note(f"{cached.parent} must be writable; LESFF_CACHE names another place")
        raise


def _fetch_file(source: HubSource, file: FileEntry, new: Path, what: str, limit: TimeLimit) -> None:
    path = download_file(
        source.repo, source.commit, file.path, new.with_name("download"),
        what=what, size=file.size, time_limit=limit,
    )  # fmt: skip
    target = new / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    damage = file.damage(target)
    if damage is not None:
        target.unlink()
        raise IntegrityError(f"{damage}: the hub or the connection gave other bytes; try again")


def fetch_repository(spec: HubSpec, *, offline: bool) -> tuple[Path, str, str, bool]:
    """Model folder of a hub repository, from the cache or fetched into it.

    The bytes are compared with the digests that the hub announces for the files of the commit, and
    later with those of this user's first fetch.

    Args:
        spec: The repository, and which revision of it.
        offline: Make no network call.

    Returns:
        The folder, ``hf:org/repo``, the commit and whether the folder came from the cache.

    Raises:
        ModelNotFoundError: if the hub does not have the repository.
        IntegrityError: if it is not a model folder, or its bytes are not those announced or those
            of the first fetch.
        OfflineError: if a download is needed, but not allowed or not possible.
        CacheError: if the cache cannot be written.
    """
    limit = TimeLimit()
    commit = _commit(spec, offline=offline, limit=limit)
    cached, name = repository_folder(spec.repo, commit), str(spec.unpinned)
    _adopt(spec.repo, commit, cached)
    damage = find_repository_damage(spec.repo, commit, cached)
    if damage is None:
        return cached, name, commit, True
    if offline:
        state = "it is not there"
        if cached.is_dir():
            state = f"its copy in the cache is damaged, it must be downloaded again ({damage})"
        raise OfflineError(
            f"{spec} must be in the cache to be used offline, but {state}; load it once with "
            "network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
        )
    lock = cache_folder() / "downloads" / f"{'--'.join(spec.repo.split('/'))}.lock"
    with locked(lock, str(spec)):
        # again: another process may have been the first to fetch it meanwhile
        if find_repository_damage(spec.repo, commit, cached) is not None:
            check_no_links(cached)
            _fetch(spec, commit, cached, limit)
    return cached, name, commit, False


def repository_folder(repo: str, commit: str) -> Path:
    """Where the cache has a repository at a commit, if it has it."""
    return cache_folder().joinpath("repositories", *repo.split("/"), commit)


def find_repository_damage(repo: str, commit: str, folder: Path) -> str | None:
    """First reason not to use a fetched repository as text, or None if there is none.

    What it must hold is in the state folder of the user who fetched it, or first used it.
    """
    try:
        record = _pin(repo, commit).read()
    except IntegrityError as error:
        return str(error)
    if record is None:
        return f"this user has no record of {repo} at {commit}"
    return _record_damage(record, repo, commit, folder)


def _record_damage(record: RepositoryRecord, repo: str, commit: str, folder: Path) -> str | None:
    if (record.repo, record.commit) != (repo, commit):
        return f"the record of {repo} at {commit} is of another repository"
    if not set(FileSet(record.files).names) <= {*MODEL_FILES, *OPTIONAL_FILES}:
        return f"the record of {repo} at {commit} has files that no model has"
    return find_difference(FileSet(record.files), folder, "the record of its first fetch")


def _adopt(repo: str, commit: str, cached: Path) -> None:
    """Record what a read-only cache that an administrator has filled holds, at first use."""
    pin = _pin(repo, commit)
    if pin.path.exists() or not is_administered(cached, model_files(cached)):
        return
    files = FileSet.of(cached, model_files(cached)).entries
    record = RepositoryRecord(repo=repo, commit=commit, date=_today(), files=files)
    if _record_damage(record, repo, commit, cached) is None:
        pin.write(
            record,
            f"hf:{repo} in {cached} was filled by whoever keeps this cache, so its bytes could not "
            f"be verified; their digests are now recorded in {pin.path}. Set LESFF_CACHE to a "
            "folder of yours to fetch it anew",
        )


def _pin(repo: str, commit: str) -> Pin[RepositoryRecord]:
    return Pin.of(RepositoryRecord, "repositories", *repo.split("/"), f"{commit}.json")


def _today() -> str:
    return datetime.date.today().isoformat()


# which commit


def _commit(spec: HubSpec, *, offline: bool, limit: TimeLimit) -> str:
    """The commit that a revision stands for: asked for, or what it was when it was last asked for.

    Raises:
        OfflineError: if it is not known and cannot be asked for.
    """
    revision = spec.revision or "main"
    if GIT_ID.fullmatch(revision):
        return revision
    known = _known_commit(spec.repo, revision)
    if offline:
        if known is None:
            raise OfflineError(
                f"{spec} must be in the cache to be used offline, but is not; load it once with "
                "network access and LESFF_OFFLINE and HF_HUB_OFFLINE unset"
            )
        return known
    try:
        commit = _ask_commit(spec, revision, limit)
    except OfflineError as error:
        if known is None:
            raise
        warn(
            f"the commit of {spec} could not be asked for, so {known} is used, which it was when "
            f"the hub was last asked ({error})",
            UnverifiedWarning,
        )
        return known
    refs = _refs(spec.repo)
    before = refs.read()
    if before is None or before.refs.get(revision) != commit:
        refs.replace(Revisions(refs={**(before.refs if before else {}), revision: commit}))
    return commit


def _ask_commit(spec: HubSpec, revision: str, limit: TimeLimit) -> str:
    place = f"{_endpoint()}/api/models/{spec.repo}/revision/{quote(revision, safe='')}"
    answer = retried(lambda: _ask(place, str(spec), limit), str(spec))
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not GIT_ID.fullmatch(commit):
        raise IntegrityError(
            f"the commit of {spec} must be 40 lower-case hexadecimal digits, but the hub "
            f"{_endpoint()} says {str(commit)[:80]!r}; it was not used"
        )
    return commit


def _known_commit(repo: str, revision: str) -> str | None:
    record = _refs(repo).read()
    if record is None:  # a read-only cache that an administrator has filled says it, too
        home = repository_folder(repo, _REFS_FILE).parent
        if not is_administered(home, (_REFS_FILE,)):
            return None
        try:
            record = read_record(Revisions, home / _REFS_FILE)
        except IntegrityError:
            return None
    commit = record.refs.get(revision)
    return commit if commit is not None and GIT_ID.fullmatch(commit) else None


def _refs(repo: str) -> Pin[Revisions]:
    return Pin.of(Revisions, "repositories", *repo.split("/"), _REFS_FILE)


# its files


def _fetch(spec: HubSpec, commit: str, cached: Path, limit: TimeLimit) -> None:
    """Download what the hub lists for a commit, check it, and move it into the cache at once."""
    rows = _listing(spec, commit, limit)
    lacking = sorted(set(MODEL_FILES) - {row.path for row in rows})
    if lacking:
        raise IntegrityError(
            f"{spec} lacks {', '.join(lacking)}: it is not a complete model folder; ask its authors"
        )
    unverified = [row.path for row in rows if row.sha256 is None and row.git_blob is None]
    with replaced_folder(cached) as new:
        new.mkdir()
        for row in rows:
            if row.path in unverified or not _take_cached(row, cached, new):
                what = f"{row.path} of {spec}"
                retried(
                    lambda row=row, what=what: _fetch_listed(spec, commit, row, new, what, limit),
                    what,
                )
        files = FileSet.of(new, [row.path for row in rows])
        pin = _pin(spec.repo, commit)
        known = pin.read()
        if known is not None and FileSet(known.files).digest != files.digest:
            raise IntegrityError(
                f"{spec} at {commit} must be what this user first fetched, but the hub "
                f"{_endpoint()} has other files for that commit now; it was not used. Remove "
                f"{pin.path} to trust what is there now"
            )
        note = None
        if unverified:
            note = (
                f"the hub {_endpoint()} gives no digest of {', '.join(unverified)} of {spec}, so "
                f"the bytes could not be verified; their sha256 is now recorded in {pin.path} and "
                "later fetches must match it"
            )
        record = RepositoryRecord(repo=spec.repo, commit=commit, date=_today(), files=files.entries)
        pin.write(record, note)
    refs = _refs(spec.repo).read()
    if refs is not None:  # for those whom an administrator fills this cache for
        write_json(cached.with_name(_REFS_FILE), asdict(refs))


def _take_cached(row: _Listed, cached: Path, new: Path) -> bool:
    """Copy a file that the cache has already, as the hub announces it, if it does."""
    path = cached / row.path
    if first_link(cache_folder(), path) is not None or not path.is_file():
        return False
    if path.stat().st_size != row.size:
        return False
    try:
        Digest.copied(path, new / row.path)
    except OSError:
        (new / row.path).unlink(missing_ok=True)
        return False
    if row.damage(new / row.path) is None:
        return True
    (new / row.path).unlink()
    return False


def _fetch_listed(
    spec: HubSpec, commit: str, row: _Listed, new: Path, what: str, limit: TimeLimit
) -> None:
    path = download_file(
        spec.repo, commit, row.path, new.with_name("download"), what=what, size=row.size,
        time_limit=limit,
    )  # fmt: skip
    target = new / row.path
    os.replace(path, target)
    damage = row.damage(target)
    if damage is not None:
        target.unlink()
        raise IntegrityError(
            f"{row.path} of {spec} did not have the digest that the hub announces ({damage}); "
            "the hub or the connection gave other bytes; try again"
        )


def _listing(spec: HubSpec, commit: str, limit: TimeLimit) -> list[_Listed]:
    """The files of a commit that belong to a model folder."""
    address = f"{_endpoint()}/api/models/{spec.repo}/tree/{commit}"
    answer = retried(lambda: _ask(address, f"list of files of {spec}", limit), str(spec))
    rows: dict[str, _Listed] = {}
    for item in answer if isinstance(answer, list) else [None]:
        if not isinstance(item, dict):
            raise IntegrityError(f"{address} must be a list of files; the hub gave something else")
        path = item.get("path")
        if path not in (*MODEL_FILES, *OPTIONAL_FILES) or item.get("type") != "file":
            continue
        if path in rows:
            raise IntegrityError(f"{address} must list {path} once; the hub lists it twice")
        rows[path] = _listed(item, address)
    return [rows[name] for name in (*MODEL_FILES, *OPTIONAL_FILES) if name in rows]


def _listed(item: dict[str, Any], address: str) -> _Listed:
    path, large = item["path"], item.get("lfs")
    large = large if isinstance(large, dict) else {}
    size = large.get("size", item.get("size"))
    most = MAX_BYTES if path == WEIGHTS_FILE else SMALL_BYTES
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= most:
        raise IntegrityError(
            f"{address} must say that {path} has 1 to {most} bytes, got {str(size)[:40]}"
        )
    # the id of a large file's row is that of its pointer, not of its content
    digests = (large.get("sha256"), large.get("oid")) if large else (item.get("oid"),)
    texts = [text for text in digests if isinstance(text, str)]
    return _Listed(
        path=path,
        size=size,
        sha256=next((text for text in texts if SHA256.fullmatch(text)), None),
        git_blob=next((text for text in texts if not large and GIT_ID.fullmatch(text)), None),
    )


def _ask(address: str, what: str, limit: TimeLimit) -> Any:
    """Answer of the hub's interface, plain data.

    Raises:
        IntegrityError: if it is not JSON.
    """
    data = fetch_bytes(address, what=what, limit=_ANSWER_BYTES, advice=_ADVICE, time_limit=limit)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{address} must give JSON, but the hub gave something else"
        ) from error


def _endpoint() -> str:
    return hub_endpoint() or PUBLIC_HUB
