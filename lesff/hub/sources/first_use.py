"""Trust on first use: what nobody vouches for must stay what it was when it was first fetched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lesff.errors import IntegrityError, UnverifiedWarning, warn
from lesff.hub.cache import read_record
from lesff.plain_data import write_json

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class Pin(Generic[T]):
    """A record of a first fetch; once written it is never replaced.

    Attributes:
        path: Its file.
        kind: Dataclass of the record.
    """

    path: Path
    kind: type[T]

    def read(self) -> T | None:
        """The record, or None before the first fetch.

        Raises:
            IntegrityError: if it is malformed, for then nothing says what to expect.
        """
        if not self.path.is_file():
            return None
        try:
            return read_record(self.kind, self.path)
        except IntegrityError as error:
            raise IntegrityError(
                f"{self.path} must hold the digest of the first fetch: {error}; remove it to trust "
                "the next fetch"
            ) from error

    def write(self, record: T, note: str) -> None:
        """Record a first fetch and warn that nothing vouched for it.

        Args:
            record: What was fetched.
            note: What the warning says.
        """
        if self.path.is_file():
            return
        write_json(self.path, asdict(record))
        warn(note, UnverifiedWarning)
