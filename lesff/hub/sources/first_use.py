"""Trust on first use: what nobody vouches for must stay what it was when it was first fetched.

The records are in the state folder of the user. What lies in the cache vouches for nothing: another
user may have put it there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lesff.disk import is_kept
from lesff.environment import state_folder
from lesff.errors import CacheError, IntegrityError, UnverifiedWarning, warn
from lesff.hub.cache import read_record
from lesff.plain_data import write_json

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class Pin(Generic[T]):
    """A record of a first fetch; once written it is not replaced.

    Attributes:
        path: Its file, in the state folder.
        kind: Dataclass of the record.
    """

    path: Path
    kind: type[T]

    @classmethod
    def of(cls, kind: type[T], *steps: str) -> Pin[T]:
        """The record at a path of plain names below the state folder."""
        return cls(state_folder().joinpath(*steps), kind)

    def read(self) -> T | None:
        """The record, or None before the first fetch.

        Raises:
            IntegrityError: if it is malformed, or others can write it, for then nothing says what
                to expect.
        """
        if not self.path.is_file():
            return None
        if not is_kept(state_folder(), self.path):
            raise IntegrityError(
                f"{self.path} and the folders of it up to {state_folder()} must belong to this "
                "user and not be writable by everybody, or what was first fetched is not known; "
                "correct that, or name another place with LESFF_STATE"
            )
        try:
            return read_record(self.kind, self.path)
        except IntegrityError as error:
            raise IntegrityError(
                f"{self.path} must hold the digest of the first fetch: {error}; remove it to trust "
                "the next fetch"
            ) from error

    def write(self, record: T, note: str | None = None) -> None:
        """Record a first fetch; a record that is there stays.

        Args:
            record: What was fetched.
            note: What the warning that nothing vouched for it says; no warning if None.

        Raises:
            CacheError: if the state folder cannot be written.
        """
        if self.path.is_file():
            return
        self.replace(record)
        if note is not None:
            warn(note, UnverifiedWarning)

    def replace(self, record: T) -> None:
        """Write a record in the place of what is there.

        Raises:
            CacheError: if the state folder cannot be written.
        """
        try:
            write_json(self.path, asdict(record))
        except OSError as error:
            raise CacheError(
                f"the state folder {state_folder()} must be writable to record what was fetched "
                f"({error.strerror}); LESFF_STATE names another place"
            ) from error


def place_key(folder: Path) -> str:
    """A plain name for a place on this machine."""
    return hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:32]
