"""A folder of mirrored repositories: ``ORGANISATION/NAME/COMMIT/...`` with indexes of digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from lesff.disk import replaced_folder
from lesff.errors import ConfigError, IntegrityError, ManifestError, ModelNotFoundError
from lesff.files import GIT_ID, FileEntry, FileSet
from lesff.hub.spec import REPOSITORY
from lesff.plain_data import from_dict, read_json, write_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RepositorySnapshot:
    """The files of a repository at a commit.

    Attributes:
        repo: ``"organisation/name"``.
        commit: 40 hexadecimal digits.
        date: Day it was made, ``"YYYY-MM-DD"``.
        files: Size and sha256 of every file.
    """

    repo: str
    commit: str
    date: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class References:
    """Names of commits.

    Attributes:
        refs: Commit by branch or tag.
    """

    refs: dict[str, str]


class Store:
    """Reads and writes mirrored repositories; what is read is compared with the index first.

    Only names that stand in an index are ever opened, and never through a symbolic link.

    Args:
        folder: Root of the repositories.

    Raises:
        ModelNotFoundError: if the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ModelNotFoundError(
                f"mirror {folder} does not exist; make it with `lesff hub mirror {folder}`"
            )
        self.folder = folder.resolve()
        self._verified: dict[Path, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def repositories(self) -> list[str]:
        """Names of all repositories."""
        found = (path.parent for path in self.folder.glob("*/*/refs.json"))
        names = (f"{path.parent.name}/{path.name}" for path in found)
        return sorted(name for name in names if REPOSITORY.fullmatch(name))

    def references(self, repo: str) -> dict[str, str]:
        """Commit by branch or tag.

        Raises:
            ModelNotFoundError: if there is no such repository.
            IntegrityError: if its list of references is damaged.
        """
        path = self._repository(repo) / "refs.json"
        if not REPOSITORY.fullmatch(repo) or not self._is_plain(path):
            raise ModelNotFoundError(f"this mirror has no repository {repo}")
        refs = _read(References, path).refs
        if not all(GIT_ID.fullmatch(commit) for commit in refs.values()):
            raise IntegrityError(f"{path} must hold commits of 40 hexadecimal digits")
        return refs

    def snapshot(self, repo: str, revision: str) -> RepositorySnapshot | None:
        """Files of a repository at a branch, tag or commit, or None if it has no such revision.

        Raises:
            ModelNotFoundError: if there is no such repository.
            IntegrityError: if its index is damaged.
        """
        refs = self.references(repo)
        commit = refs.get(revision, revision)
        path = self._repository(repo) / f"{commit}.json"
        if not GIT_ID.fullmatch(commit) or not self._is_plain(path):
            return None
        snapshot = _read(RepositorySnapshot, path)
        if (snapshot.repo, snapshot.commit) != (repo, commit):
            raise IntegrityError(f"{path} must be the index of {repo} at {commit}")
        return snapshot

    def open(self, snapshot: RepositorySnapshot, file: FileEntry) -> BinaryIO:
        """A file that has been compared with the index.

        Raises:
            IntegrityError: if it is missing, damaged or reached through a symbolic link.
        """
        path = self._repository(snapshot.repo) / snapshot.commit / file.path
        if not self._is_plain(path):
            raise IntegrityError(f"{path} must be a plain file of the mirror")
        try:
            descriptor = os.open(path, os.O_RDONLY | _flag("O_NOFOLLOW") | _flag("O_BINARY"))
        except OSError as error:
            raise IntegrityError(f"{path} cannot be opened: {error.strerror}") from error
        stream = os.fdopen(descriptor, "rb")
        state = _state(descriptor)
        with self._lock:
            is_known = self._verified.get(path) == state
        if not is_known:
            # the open file is hashed, not what the path may lead to by now
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if (state[0], digest) != (file.size, file.sha256) or _state(descriptor) != state:
                stream.close()
                raise IntegrityError(
                    f"the mirror is damaged: {path} must have {file.size} bytes and sha256 "
                    f"{file.sha256}, got {state[0]} bytes and {digest}"
                )
            with self._lock:
                self._verified[path] = state
        return stream

    def add(
        self,
        repo: str,
        files: Mapping[str, Path],
        *,
        refs: tuple[str, ...],
        date: str,
        commit: str | None = None,
    ) -> RepositorySnapshot:
        """Copy files into the store; a commit that is there and intact stays as it is.

        Args:
            repo: ``"organisation/name"``.
            files: Where each file comes from, by its path in the repository.
            refs: Branches and tags that shall stand for the commit.
            date: Day of the commit.
            commit: Its id; from the digest of the files if None.

        Raises:
            ManifestError: for a malformed name.
            IntegrityError: if the commit is there with other bytes, or a file is empty.
        """
        wanted = FileSet(tuple(FileEntry.of(path, name) for name, path in sorted(files.items())))
        commit = commit or wanted.digest[:40]
        if not REPOSITORY.fullmatch(repo) or not GIT_ID.fullmatch(commit):
            raise ManifestError(f"a mirror cannot hold the repository {repo!r} at {commit!r}")
        home = self._repository(repo)
        index, target = home / f"{commit}.json", home / commit
        snapshot = RepositorySnapshot(repo=repo, commit=commit, date=date, files=wanted.entries)
        if index.is_file() and _read(RepositorySnapshot, index).files != wanted.entries:
            raise IntegrityError(
                f"{repo} at {commit} is in the mirror {self.folder} with other bytes; remove "
                f"{target} and {index.name} if they are the wrong ones"
            )
        if wanted.damage(target) is not None:
            with replaced_folder(target) as new:
                for name, path in files.items():
                    copy = new / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    copy.chmod(0o644)
        write_json(index, asdict(snapshot))
        known = self.references(repo) if (home / "refs.json").is_file() else {}
        write_json(home / "refs.json", {"refs": known | dict.fromkeys(refs, commit)})
        return snapshot

    def _repository(self, repo: str) -> Path:
        return self.folder.joinpath(*repo.split("/"))

    def _is_plain(self, path: Path) -> bool:
        """Whether a path below the root is a file, without a symbolic link on the way."""
        steps = path.relative_to(self.folder).parts
        places = [self.folder.joinpath(*steps[: i + 1]) for i in range(len(steps))]
        return not any(place.is_symlink() for place in places) and path.is_file()


def _read(cls: type[T], path: Path) -> T:
    try:
        return from_dict(cls, read_json(path), path.name)
    except (ConfigError, ManifestError) as error:
        raise IntegrityError(f"the mirror is damaged: {error}") from error


def _flag(name: str) -> int:
    return vars(os).get(name, 0)  # not on every system


def _state(descriptor: int) -> tuple[int, ...]:
    stat = os.fstat(descriptor)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
