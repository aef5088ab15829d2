"""Entries of the manifest: models with their versions, bytes, sources and terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lesff.errors import ManifestError
from lesff.files import GIT_ID, PATH, SHA256, FileEntry, check_portable, require_match
from lesff.hub.spdx import PERMISSIVE_LICENSES as PERMISSIVE_LICENSES
from lesff.hub.spdx import is_permissive_license
from lesff.hub.spec import NAME, REPOSITORY, VERSION, is_safe_url
from lesff.quantities import QUANTITIES

SCHEMA = 1
"""Version of the manifest layout."""

DATE = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")
_SUCCESSOR = re.compile(f"{NAME.pattern}(?:@{VERSION.pattern})?")
_SPDX = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
_PACKAGE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_CITATION_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:-]*")


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
        require_match(REPOSITORY, self.repo, "repo", "'organisation/name'")
        require_match(GIT_ID, self.commit, "commit", "40 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class PublishedSource:
    """A checkpoint file that its authors publish, fetched from their site and converted here.

    Attributes:
        url: ``https://`` address of the file; ``http://`` for loopback hosts only.
        filename: What the authors call the file.
        home: Web page of the model.
        url_from: Where the address is written down.
        size: Bytes, if known.
        git_blob: Git's id of the file, if known: sha1 of "blob", its size, a zero byte, its bytes.
        sha256: Lower-case hexadecimal digest, if known.
        head: Which output head to convert, for files with several.
        member: Name of the checkpoint inside of the file, for zip archives such as wheels.
    """

    url: str
    filename: str
    home: str
    url_from: str
    size: int | None = None
    git_blob: str | None = None
    sha256: str | None = None
    head: str | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        for name in ("url", "home"):
            if not is_safe_url(getattr(self, name)):
                raise ManifestError(
                    f"`{name}` must be an https:// address without credentials, "
                    f"got {getattr(self, name)!r}"
                )
        require_match(_FILENAME, self.filename, "filename", "a plain file name")
        if self.size is not None and self.size < 1:
            raise ManifestError(f"`size` of {self.filename} must be positive, got {self.size}")
        if self.git_blob is not None:
            require_match(GIT_ID, self.git_blob, "git_blob", "40 lower-case hexadecimal digits")
        if self.sha256 is not None:
            require_match(SHA256, self.sha256, "sha256", "64 lower-case hexadecimal digits")
        if self.head is not None and not self.head:
            raise ManifestError("`head` must be the name of a head or null, got ''")
        if self.member is not None:
            require_match(PATH, self.member, "member", "a path of plain names")

    @property
    def checkpoint(self) -> str:
        """What the authors call the checkpoint, inside of an archive or not."""
        return self.filename if self.member is None else self.member.rsplit("/", 1)[-1]

    @property
    def has_hash(self) -> bool:
        """Whether a fetched file can be compared with a published digest."""
        return self.git_blob is not None or self.sha256 is not None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the files of a version can be had.

    Attributes:
        bundled: Whether they come with an installed package: lesff, or ``package``.
        package: Distribution that has them, of versions that are too large to come with lesff; None
            for lesff itself.
        hub: Where to download them, or None.
        published: Checkpoint of others to fetch and convert, or None.
    """

    bundled: bool = False
    package: str | None = None
    hub: HubSource | None = None
    published: PublishedSource | None = None

    def __post_init__(self) -> None:
        """Check that there is a source; raises ManifestError."""
        if self.package is not None:
            require_match(_PACKAGE, self.package, "package", "lower-case words joined by -")
            if not self.bundled:
                raise ManifestError(
                    f"`sources.package` ({self.package}) must come with `bundled` true, got false"
                )
        ours = self.bundled or self.hub is not None
        if ours == (self.published is not None):
            got = "both" if ours else "neither"
            raise ManifestError(
                f"`sources` must have `bundled` true or a `hub`, or else `published`, got {got}"
            )


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """One measured number.

    Attributes:
        dataset: What it was measured on, e.g. ``"SPICE 2.0.1 test"``.
        quantity: Name from :data:`lesff.quantities.QUANTITIES`, e.g. ``"forces"``.
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
        files: All files of the model folder; none if it is converted here.
        sources: Where to get them.
        min_lesff: Oldest lesff that can load it, ``"major.minor.patch"``.
        status: Names without a full version prefer active versions over deprecated ones.
        status_note: Why it is deprecated.
        successor: Name, with or without a version, of what to use instead.
        level_of_theory: Reference method.
        total_charge: Lowest and highest trained total charge in e.
        spin_multiplicity: Lowest and highest trained multiplicity.
        metrics: Measured accuracy.
        caveats: Quantities that it gives but that are not to be trusted, by name, and why; asking
            for one warns.
    """

    version: str
    date: str
    sources: Sources
    min_lesff: str
    level_of_theory: str
    files: tuple[FileEntry, ...] = ()
    status: Literal["active", "deprecated"] = "active"
    status_note: str = ""
    successor: str | None = None
    total_charge: tuple[int, int] = (0, 0)
    spin_multiplicity: tuple[int, int] = (1, 1)
    metrics: tuple[MetricEntry, ...] = ()
    caveats: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        require_match(VERSION, self.version, "version", "'major.minor.patch'")
        require_match(VERSION, self.min_lesff, "min_lesff", "'major.minor.patch'")
        require_match(DATE, self.date, "date", "YYYY-MM-DD")
        if self.successor is not None:
            require_match(
                _SUCCESSOR, self.successor, "successor", "'name' or 'name@major.minor.patch'"
            )
            if self.status != "deprecated":
                raise ManifestError(f"`successor` of active version {self.version} must be null")
        if bool(self.files) == (self.sources.published is not None):
            expected = "be empty for a published source" if self.files else "not be empty"
            raise ManifestError(f"`files` of version {self.version} must {expected}")
        # lower case: on some systems names that differ in case only are one file
        check_unique([file.path.lower() for file in self.files], f"files of {self.version}")
        unknown = sorted(set(self.caveats) - set(QUANTITIES))
        if unknown or not all(self.caveats.values()):
            raise ManifestError(
                f"`caveats` of version {self.version} must map quantities to reasons, got "
                + (", ".join(unknown) or "an empty reason")
            )
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
        license: SPDX expression for the weights; ``LicenseRef-...`` where SPDX has no id.
        elements: Atomic numbers covered, ascending.
        citation: What to cite, for readers.
        versions: All versions ever released.
        license_url: Where the licence is written down.
        license_terms: What it asks for, in one plain sentence.
        bibtex: Keys of the works to cite in ``citations.bib`` of the manifest.
        aliases: Other names; they never change meaning.
        schema: Version of this layout.
    """

    name: str
    description: str
    license: str
    elements: tuple[int, ...]
    citation: str
    versions: tuple[VersionEntry, ...]
    license_url: str = ""
    license_terms: str = ""
    bibtex: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check the fields; raises ManifestError."""
        if self.schema != SCHEMA:
            raise ManifestError(f"`schema` must be {SCHEMA}, got {self.schema}; update lesff")
        for name in (self.name, *self.aliases):
            require_match(NAME, name, "name", "lower-case letters and digits joined by - . _")
            check_portable(name)
        require_match(_SPDX, self.license, "license", "an SPDX expression")
        z = self.elements
        if not z or list(z) != sorted(set(z)) or z[0] < 1 or z[-1] > 118:
            raise ManifestError(f"`elements` must be ascending atomic numbers 1..118, got {z}")
        if not self.versions:
            raise ManifestError(f"`versions` of {self.name} must not be empty")
        check_unique([entry.version for entry in self.versions], f"versions of {self.name}")
        for key in self.bibtex:
            require_match(_CITATION_KEY, key, "bibtex", "keys of citations.bib")
        check_unique(self.bibtex, f"bibtex keys of {self.name}")
        if self.license_url and not is_safe_url(self.license_url):
            raise ManifestError(f"`license_url` must be an https:// address: {self.license_url!r}")
        required = {"bibtex"} if self.is_published else set()
        required |= set() if self.is_permissive else {"license_url", "license_terms"}
        absent = sorted(name for name in required if not getattr(self, name))
        if absent:
            raise ManifestError(f"{self.name} must have {', '.join(absent)}")

    @property
    def is_permissive(self) -> bool:
        """Whether the licence allows any use; unknown licences do not."""
        return is_permissive_license(self.license)

    @property
    def is_published(self) -> bool:
        """Whether others publish the model and lesff only converts it."""
        return any(version.sources.published is not None for version in self.versions)

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain data, with what follows from it."""
        derived = {"is_permissive": self.is_permissive, "is_published": self.is_published}
        return asdict(self) | derived

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


def check_unique(names: Sequence[str], what: str) -> None:
    """Make sure that no name stands twice.

    Raises:
        ManifestError: naming those that do.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"{what} must be unique, got {', '.join(twice)} more than once")
