"""The bytes that a recipe trains on: ``data.lock.toml`` has a row for each file.

A row says the name, size, sha256, origin and licence. A file that was made by a tool of the
repository and was not kept has ``sha256 = "unknown"`` and says how it is made.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lesff.errors import ConfigError, DataError, IntegrityError
from lesff.files import sha256_of
from lesff.plain_data import from_dict

LOCK_FILE = "data.lock.toml"
UNKNOWN = "unknown"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class LockedFile:
    """One file that a recipe trains on, or that such a file is made from.

    Attributes:
        name: Path relative to the data folder, with forward slashes.
        sha256: Lower-case hexadecimal digest, or ``"unknown"``.
        origin: Where it comes from, one line.
        license: Its licence, one line.
        bytes: Size; None where the digest is unknown.
        made_by: Command that makes it; None if it is taken as it is.
    """

    name: str
    sha256: str
    origin: str
    license: str
    bytes: int | None = None
    made_by: str | None = None

    def __post_init__(self) -> None:
        """Check the digest and what must stand beside it; raises ConfigError."""
        is_known = self.sha256 != UNKNOWN
        if is_known and not _SHA256.fullmatch(self.sha256):
            raise ConfigError(
                f"`sha256` of {self.name} must be 64 lower-case hexadecimal digits or "
                f'"{UNKNOWN}", got {self.sha256!r}'
            )
        if is_known != (self.bytes is not None):
            raise ConfigError(f"{self.name} must have `bytes` if and only if its sha256 is known")
        if not is_known and self.made_by is None:
            raise ConfigError(f"{self.name} has no known sha256 and must say `made_by`")


@dataclass(frozen=True, kw_only=True)
class _Lock:
    """Content of the file."""

    file: tuple[LockedFile, ...]


def read_data_lock(path: Path) -> dict[str, LockedFile]:
    """Rows of a lock by the name of the file.

    Raises:
        ConfigError: if it is missing, not TOML, names a file twice, or has unknown or bad values.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: it must say the sha256 of every file; --unlocked trains without it"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = from_dict(_Lock, data, "lock").file
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: each file must have one row, got several of {', '.join(twice)}")
    return dict(zip(names, rows, strict=True))


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """What comparing files with a lock found.

    Attributes:
        sha256: Digest of every file, by name.
        differing: For each file that differs from its row or has none, a line that says so.
        unverifiable: Files whose digest the lock does not know.
    """

    sha256: dict[str, str]
    differing: dict[str, str]
    unverifiable: list[str]


def check_data(names: Iterable[str], folder: Path, lock: dict[str, LockedFile]) -> CheckedData:
    """Compare files with their rows.

    Args:
        names: Files, relative to ``folder``.
        folder: Data folder.
        lock: Rows by name; rows of other files do not matter.

    Raises:
        DataError: if a file is not there.
    """
    digests: dict[str, str] = {}
    differing: dict[str, str] = {}
    unverifiable: list[str] = []
    for name in dict.fromkeys(names):
        path, row = folder / name, lock.get(name)
        if not path.is_file():
            raise DataError(f"{path} does not exist; {_how_to_get(row)}")
        size, digest = path.stat().st_size, sha256_of(path)
        digests[name] = digest
        if row is None:
            differing[name] = (
                f"{path} must have a row in the lock, got none; found {size} bytes, sha256 {digest}"
            )
        elif row.sha256 == UNKNOWN:
            unverifiable.append(name)
        elif digest != row.sha256:
            differing[name] = (
                f"{path} must have sha256 {row.sha256} ({row.bytes} bytes), got {digest} "
                f"({size} bytes)"
            )
    return CheckedData(sha256=digests, differing=differing, unverifiable=unverifiable)


def require_locked(checked: CheckedData, where: Path) -> None:
    """Refuse data that differ from their lock.

    Raises:
        IntegrityError: naming every file with what was expected and found.
    """
    if checked.differing:
        rows = "\n".join(checked.differing.values())
        raise IntegrityError(
            f"{rows}\nthe data must be those of {where}; use those files, or train on these with "
            "--unlocked"
        )


def _how_to_get(row: LockedFile | None) -> str:
    if row is None:
        return "put it there, or remove it from the recipe"
    if row.made_by is not None:
        return f"it is made by: {row.made_by}"
    return f"it comes from: {row.origin}"
