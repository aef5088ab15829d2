"""The manifest: which models have a name, in which versions, with which bytes and terms."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lesff.config import from_dict, read_json
from lesff.errors import ConfigError, ManifestError, ModelNotFoundError

SCHEMA = 1
"""Version of the manifest layout."""

_NAME = re.compile(r"[a-z0-9]+(?:[-._][a-z0-9]+)*")
_VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
_VERSION_PREFIX = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){0,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DATE = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")
_SPDX = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a version.

    Attributes:
        path: Relative to the model folder, with forward slashes.
        size: Bytes.
        sha256: Lower-case hexadecimal digest.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        _match(_PATH, self.path, "path", "a relative path of plain names")
        _match(_SHA256, self.sha256, "sha256", "64 lower-case hexadecimal digits")
        if self.size < 1:
            raise ManifestError(f"`size` of {self.path} must be positive, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository of a Hugging Face compatible hub, pinned.

    Attributes:
        repo: ``"organisation/name"``.
        commit: Full commit hash.
    """

    repo: str
    commit: str

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        _match(_REPO, self.repo, "repo", "'organisation/name'")
        _match(_COMMIT, self.commit, "commit", "40 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the files of a version can be had.

    Attributes:
        bundled: Whether they come with the installed package.
        hub: Where to download them, or None.
    """

    bundled: bool = False
    hub: HubSource | None = None

    def __post_init__(self) -> None:
        """Check that there is a source; raises ManifestError."""
        if not self.bundled and self.hub is None:
            raise ManifestError("`sources` must have `bundled` true or a `hub`, got neither")


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """One measured number.

    Attributes:
        dataset: What it was measured on, e.g. ``"SPICE 2.0.1 test"``.
        quantity: Name from :data:`lesff.keys.QUANTITIES`, e.g. ``"forces"``.
        metric: E.g. ``"mae"``.
        unit: Unit of ``value``.
        value: The number.
        n_structures: Size of the data set, if known.
    """

    dataset: str
    quantity: str
    metric: str
    unit: str
    value: float
    n_structures: int | None = None


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """One version of a model: one set of bytes for ever.

    Attributes:
        version: ``"major.minor.patch"``.
        date: Day of release, ``"YYYY-MM-DD"``.
        files: All files of the model folder.
        sources: Where to get them.
        min_lesff: Oldest lesff that can load it, ``"major.minor.patch"``.
        status: Names without a full version prefer active versions over deprecated ones.
        status_note: Why it is deprecated and what replaces it.
        level_of_theory: Reference method.
        total_charge: Lowest and highest trained total charge in e.
        spin_multiplicity: Lowest and highest trained multiplicity.
        metrics: Measured accuracy.
    """

    version: str
    date: str
    files: tuple[FileEntry, ...]
    sources: Sources
    min_lesff: str
    level_of_theory: str
    status: Literal["active", "deprecated"] = "active"
    status_note: str = ""
    total_charge: tuple[int, int] = (0, 0)
    spin_multiplicity: tuple[int, int] = (1, 1)
    metrics: tuple[MetricEntry, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        _match(_VERSION, self.version, "version", "'major.minor.patch'")
        _match(_VERSION, self.min_lesff, "min_lesff", "'major.minor.patch'")
        _match(_DATE, self.date, "date", "YYYY-MM-DD")
        if not self.files:
            raise ManifestError(f"`files` of version {self.version} must not be empty")
        _check_unique([file.path for file in self.files], f"files of version {self.version}")
        for name in ("total_charge", "spin_multiplicity"):
            low, high = getattr(self, name)
            if low > high:
                raise ManifestError(f"`{name}` must be [lowest, highest], got {[low, high]}")

    @property
    def order(self) -> tuple[int, ...]:
        """Sort key: a newer version has a larger one."""
        return version_numbers(self.version)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One named model; file ``<name>.json`` of the manifest.

    Attributes:
        name: What users type.
        description: One sentence.
        license: SPDX expression for the weights.
        elements: Atomic numbers covered, ascending.
        citation: What to cite.
        versions: All versions ever released.
        aliases: Other names; they never change meaning.
        schema: Version of this layout.
    """

    name: str
    description: str
    license: str
    elements: tuple[int, ...]
    citation: str
    versions: tuple[VersionEntry, ...]
    aliases: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        if self.schema != SCHEMA:
            raise ManifestError(f"`schema` must be {SCHEMA}, got {self.schema}; update lesff")
        for name in (self.name, *self.aliases):
            _match(_NAME, name, "name", "lower-case letters and digits joined by - . _")
        _match(_SPDX, self.license, "license", "an SPDX expression")
        z = self.elements
        if not z or list(z) != sorted(set(z)) or z[0] < 1 or z[-1] > 118:
            raise ManifestError(f"`elements` must be ascending atomic numbers 1..118, got {z}")
        if not self.versions:
            raise ManifestError(f"`versions` of {self.name} must not be empty")
        _check_unique([entry.version for entry in self.versions], f"versions of {self.name}")

    def newest(self, prefix: str | None = None) -> VersionEntry | None:
        """Newest version whose number starts with ``prefix``, active ones first, or None.

        Args:
            prefix: ``"1"``, ``"1.2"`` or ``"1.2.3"``; None for any version.
        """
        start = () if prefix is None else version_numbers(prefix)
        matching = [entry for entry in self.versions if entry.order[: len(start)] == start]
        return max(matching, key=lambda e: (e.status == "active", e.order), default=None)


def version_numbers(text: str) -> tuple[int, ...]:
    """Numbers of a dotted version."""
    return tuple(int(part) for part in text.split("."))


def package_folder() -> Path:
    """Folder of the imported package."""
    return Path(__file__).parent


def manifest_folder() -> Path:
    """Folder of the manifest files: in the installed package, else in the source tree."""
    package = package_folder()
    installed = package / "checkpoints_manifest"
    return installed if installed.is_dir() else package.parent / "checkpoints_manifest"


def list_models() -> tuple[ModelEntry, ...]:
    """All models of the manifest, by name.

    Raises:
        ManifestError: if a file is malformed, or two models share a name or alias.
    """
    folder = manifest_folder()
    if not folder.is_dir():
        raise ManifestError(f"manifest folder {folder} does not exist; install lesff again")
    entries = tuple(_read_entry(path) for path in sorted(folder.glob("*.json")))
    _check_unique([name for e in entries for name in (e.name, *e.aliases)], "names and aliases")
    return entries


def find_model(spec: str) -> tuple[ModelEntry, VersionEntry]:
    """Model and version that a name stands for.

    Args:
        spec: ``"off-small"`` (newest active version), ``"off-small@0.1"`` (newest 0.1.x) or
            ``"off-small@0.1.0"``; an alias may stand for the name.

    Raises:
        ModelNotFoundError: for a name or version that the manifest does not have.
        ManifestError: if the manifest is malformed.
    """
    name, separator, wanted = spec.partition("@")
    entries = list_models()
    entry = next((e for e in entries if name == e.name or name in e.aliases), None)
    if entry is None:
        raise ModelNotFoundError(_unknown_name(name, entries))
    if separator and not _VERSION_PREFIX.fullmatch(wanted):
        version = None
    else:
        version = entry.newest(wanted if separator else None)
    if version is None:
        known = ", ".join(e.version for e in sorted(entry.versions, key=lambda e: e.order))
        raise ModelNotFoundError(f"{entry.name} has no version {wanted!r}; its versions: {known}")
    return entry, version


def _read_entry(path: Path) -> ModelEntry:
    try:
        entry = from_dict(ModelEntry, read_json(path), path.name)
    except (ConfigError, ManifestError, TypeError) as error:
        raise ManifestError(f"manifest file {path} is malformed: {error}") from error
    if entry.name != path.stem:
        raise ManifestError(f"manifest file {path} must describe {path.stem}, got {entry.name!r}")
    return entry


def _unknown_name(name: str, entries: Sequence[ModelEntry]) -> str:
    names = [known for entry in entries for known in (entry.name, *entry.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    known = ", ".join(entry.name for entry in entries) or "none"
    return (
        f"no model is called {name!r}{hint} Known models: {known}. "
        f"A folder is given as a path with a separator, such as ./{name}"
    )


def _match(pattern: re.Pattern[str], value: str, name: str, expected: str) -> None:
    if not pattern.fullmatch(value):
        raise ManifestError(f"`{name}` must be {expected}, got {value!r}")


def _check_unique(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"{what} must be unique, got {', '.join(twice)} more than once")
