"""What a model can be given as: a frozen type for each kind, parsed once where it comes in.

No other module looks into the text of a name. Names that cannot be right are refused here; whether
a right one leads to a model is found out in :mod:`lesff.hub.resolve`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from lesff.errors import ModelNotFoundError
from lesff.files import SHA256

NAME = re.compile(r"[a-z0-9]+(?:[-._][a-z0-9]+)*")
"""Name of a model in a manifest."""
VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
"""``major.minor.patch``"""
VERSION_PREFIX = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){0,2}")
"""``major``, ``major.minor`` or ``major.minor.patch``."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``organisation/name`` in manifests and mirrors."""

# names become folders and parts of addresses: no step of them may be "." or ".."
_ASKED_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_HUB_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)
_FRAGMENT = re.compile(f"sha256=({SHA256.pattern})")
_OTHER_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:/|[^\\/])")
_HUB, _WEB = "hf:", ("https://", "http://")

ACCEPTED_SOURCES = (
    "a model's name ('off-small'), name and version ('off-small@0.1.0'), a hub repository "
    "('hf:organisation/name' or 'hf:organisation/name@revision'), the https:// address of a model "
    "folder ('https://host/path/' or 'https://host/path/#sha256=...') or the path of a model "
    "folder, with a separator ('./my-model')"
)
"""What a model can be given as, for messages."""


@dataclass(frozen=True)
class RegistrySpec:
    """A model of the manifest; the manifest says whether there is one of this name.

    Attributes:
        name: Its name or an alias.
        version: Its version or the beginning of one; the newest if None.
    """

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> RegistrySpec:
        """Parts of ``name`` or ``name@version``."""
        name, separator, version = text.partition("@")
        return cls(name, version if separator else None)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def unpinned(self) -> RegistrySpec:
        """The same without a version."""
        return replace(self, version=None)


@dataclass(frozen=True)
class HubSpec:
    """A repository of a Hugging Face compatible hub.

    Attributes:
        repo: ``"organisation/name"``.
        revision: Branch, tag or commit, of letters, digits and - . _ /; the main branch if None.
    """

    repo: str
    revision: str | None = None

    def __post_init__(self) -> None:
        """Check the fields; raises ModelNotFoundError."""
        is_good = _ASKED_REPOSITORY.fullmatch(self.repo) is not None
        if not is_good or (self.revision is not None and not _REVISION.fullmatch(self.revision)):
            raise ModelNotFoundError(
                f"{str(self)!r} must be 'hf:organisation/name' or 'hf:organisation/name@revision'"
            )
        if not all(_HUB_NAME.fullmatch(part) for part in self.repo.split("/")):
            raise ModelNotFoundError(
                f"{str(self)!r} is not a valid repository name: its parts must begin with a "
                "letter, digit or _"
            )

    @classmethod
    def parse(cls, text: str) -> HubSpec:
        """Parts of ``hf:organisation/name`` or ``hf:organisation/name@revision``.

        Raises:
            ModelNotFoundError: if it is malformed.
        """
        repo, separator, revision = text.removeprefix(_HUB).partition("@")
        return cls(repo, revision if separator else None)

    def __str__(self) -> str:
        return f"{_HUB}{self.repo}" + ("" if self.revision is None else f"@{self.revision}")

    @property
    def unpinned(self) -> HubSpec:
        """The same without a revision."""
        return replace(self, revision=None)


@dataclass(frozen=True)
class AddressSpec:
    """A model folder on the web.

    Attributes:
        url: ``https://host/path/`` (``http`` for loopback hosts), without credentials or a query.
        sha256: What the digest of the folder must be, see :attr:`lesff.files.FileSet.digest`; that
            of the first fetch if None.
    """

    url: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Check the fields; raises ModelNotFoundError."""
        url = self.url
        if not is_safe_url(url) or not urlsplit(url).path.endswith("/") or "?" in url or "#" in url:
            raise ModelNotFoundError(
                f"{url!r} must be the https:// address of a model folder, ending in '/', without "
                "credentials or a query"
            )
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise _bad_fragment(str(self))

    @classmethod
    def parse(cls, text: str) -> AddressSpec:
        """Parts of ``https://host/path/`` or ``https://host/path/#sha256=...``.

        Raises:
            ModelNotFoundError: if it is malformed.
        """
        url, _, fragment = text.partition("#")
        spec = cls(url)
        if not fragment:
            return spec
        match = _FRAGMENT.fullmatch(fragment)
        if match is None:
            raise _bad_fragment(text)
        return replace(spec, sha256=match[1])

    def __str__(self) -> str:
        return self.url if self.sha256 is None else f"{self.url}#sha256={self.sha256}"

    @property
    def unpinned(self) -> AddressSpec:
        """The same without a digest."""
        return replace(self, sha256=None)


@dataclass(frozen=True)
class FolderSpec:
    """A model folder on this machine, taken as it is.

    Attributes:
        path: The folder.
    """

    path: Path

    def __str__(self) -> str:
        # in a form that is taken for a path again: a bare name is never one
        is_plain = not self.path.is_absolute() and self.path.parts[:1] not in ((), ("..",))
        return f"./{self.path}" if is_plain else str(self.path)


PublicSpec = RegistrySpec | HubSpec | AddressSpec
"""What means the same on every machine."""

ModelSpec = PublicSpec | FolderSpec
"""Any of them."""


@dataclass(frozen=True)
class FileAddress:
    """A file on the web.

    Attributes:
        url: ``https://`` or ``http://`` address; something else must vouch for the bytes.
    """

    url: str


def parse(given: str | Path) -> ModelSpec:
    """What a text or path stands for.

    Args:
        given: Name, ``name@version``, ``hf:org/repo[@revision]``, ``https://host/path/`` with or
            without ``#sha256=...``, or the path of a folder (a ``Path``, or a string with a
            separator). A bare name is never taken for a path.

    Raises:
        ModelNotFoundError: if it is malformed, or an address of another kind.
    """
    if isinstance(given, Path):
        return FolderSpec(given)
    if given.startswith(_HUB):
        return HubSpec.parse(given)
    if given.startswith(_WEB):
        return AddressSpec.parse(given)
    if _OTHER_SCHEME.match(given) and not os.path.exists(given):
        raise ModelNotFoundError(f"{given!r} is not a source of models; give {ACCEPTED_SOURCES}")
    separators = {"/", os.sep, os.altsep or os.sep}
    if given in {".", "..", "~"} or any(mark in given for mark in separators):
        return FolderSpec(Path(os.path.expanduser(given)))
    return RegistrySpec.parse(given)


def parse_file(given: str | Path) -> FileAddress | Path:
    """What a text or path of a single file, such as an update of the manifest, stands for."""
    if isinstance(given, str) and given.startswith(_WEB):
        return FileAddress(given)
    return Path(given)


def has_model_scheme(text: str) -> bool:
    """Whether a text can only be a hub repository or an address, be it right or malformed."""
    return text.startswith((_HUB, *(scheme.removesuffix("//") for scheme in _WEB)))


def is_safe_url(url: str) -> bool:
    """Whether a web address is ``https`` (``http`` for loopback hosts) and has no credentials."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None or url.split() != [url]:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bad_fragment(text: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"what follows '#' in {text!r} must be 'sha256=' and 64 lower-case hexadecimal digits"
    )
