"""Ed25519 signatures, made and checked with the cryptography library (extra ``lesff[sign]``).

Keys are PEM files as OpenSSL writes them: ``openssl genpkey -algorithm ed25519 -out private.pem``
and ``openssl pkey -in private.pem -pubout -out public.pem``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lesff.errors import ConfigError, IntegrityError, MissingDependencyError, SignatureError
from lesff.files import FileSet
from lesff.hub.spec import VERSION
from lesff.model_folder.card import front_matter, read_card
from lesff.model_folder.layout import SIGNATURE_FILE, missing_files, model_files
from lesff.plain_data import from_dict, read_json, write_json

_SCHEMA = 1
_NAMED_SCHEMA = 2
"""Of signatures that bind name and version as well as bytes."""
_MAX_KEY_BYTES = 10_000

Purpose = Literal["model folder", "manifest update"]
"""What is signed; a signature for one purpose is none for another."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature and what it was made with.

    Attributes:
        key: Beginning of the sha256 of the public key, to tell keys apart.
        signature: Base64.
        algorithm: Always Ed25519.
        name: Name that it binds, or None.
        version: Version that it binds, or None.
        schema: Version of this layout: 1 binds bytes only, 2 name and version too.
    """

    key: str
    signature: str
    algorithm: Literal["ed25519"] = "ed25519"
    name: str | None = None
    version: str | None = None
    schema: int = _SCHEMA

    @property
    def subject(self) -> str:
        """What is bound beside the bytes, for people."""
        if self.schema == _SCHEMA:
            return "binds its bytes only, neither name nor version: sign it anew to bind them"
        label = self.name if self.version is None else f"{self.name}@{self.version}"
        return f"as {label}" + ("" if self.version else ", without a version")


def sign(
    data: bytes,
    purpose: Purpose,
    private_key: Path,
    *,
    name: str | None = None,
    version: str | None = None,
) -> Signature:
    """Sign data.

    Args:
        data: What to sign.
        purpose: What it is.
        private_key: PEM file, without a password.
        name: Name to bind to it.
        version: Version to bind to it, for what has a name.

    Raises:
        ConfigError: if the key cannot be read.
        MissingDependencyError: without the cryptography library.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(_read_key(private_key), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{private_key} must be an Ed25519 private key in PEM, without a password: {error}"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{private_key} must be an Ed25519 private key, got another kind of key")
    unsigned = Signature(
        key=_key_id(key.public_key()),
        signature="",
        name=name,
        version=version,
        schema=_SCHEMA if name is None else _NAMED_SCHEMA,
    )
    made = key.sign(_message(data, purpose, unsigned))
    return replace(unsigned, signature=base64.b64encode(made).decode("ascii"))


def check(data: bytes, purpose: Purpose, signature: Signature, public_key: Path) -> None:
    """Make sure that a signature is of these data and by this key.

    Raises:
        SignatureError: if it is not.
        ConfigError: if the key cannot be read.
        MissingDependencyError: without the cryptography library.
    """
    key = _load_public(public_key)
    from cryptography.exceptions import InvalidSignature  # of the extra `sign`

    if signature.key != _key_id(key):
        raise SignatureError(
            f"the {purpose} is signed with the key {signature.key}, not with {public_key} "
            f"(key {_key_id(key)}); it is not trusted"
        )
    message = _message(data, purpose, signature)
    try:
        key.verify(base64.b64decode(signature.signature, validate=True), message)
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise SignatureError(
            f"the signature of the {purpose} does not fit it: it was changed after it was signed, "
            "or the signature was; it is not trusted"
        ) from error


def read_signature(path: Path) -> Signature:
    """Read a signature file.

    Raises:
        SignatureError: if there is none or it is malformed.
    """
    if not path.is_file():
        raise SignatureError(f"{path} does not exist: there is no signature")
    try:
        signature = from_dict(Signature, read_json(path), path.name)
    except ConfigError as error:
        raise SignatureError(f"{path} must be a signature: {error}") from error
    if signature.schema not in (_SCHEMA, _NAMED_SCHEMA):
        raise SignatureError(
            f"`schema` of {path} must be {_SCHEMA} or {_NAMED_SCHEMA}, got {signature.schema}; "
            "update lesff"
        )
    if (signature.schema == _NAMED_SCHEMA) != (signature.name is not None) or (
        signature.name is None and signature.version is not None
    ):
        raise SignatureError(f"{path} must have a name in schema {_NAMED_SCHEMA} only")
    return signature


def write_signature(path: Path, signature: Signature) -> None:
    """Write a signature file; it appears complete or not at all."""
    # without what it does not have, as earlier versions of lesff read it
    write_json(path, {key: value for key, value in asdict(signature).items() if value is not None})


def _message(data: bytes, purpose: Purpose, signature: Signature) -> bytes:
    head = f"lesff {purpose} {signature.schema}\n".encode()
    if signature.schema == _SCHEMA:
        return head + data
    # JSON keeps name and version apart from each other and from the data, whatever they hold
    names = json.dumps({"name": signature.name, "version": signature.version}, sort_keys=True)
    return head + names.encode() + b"\n" + data


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # of the extra `sign`
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependencyError(
            'signatures need the cryptography library; install it with `pip install "lesff[sign]"`'
        ) from error
    return serialization, ed25519


def _read_key(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > _MAX_KEY_BYTES:
        raise ConfigError(
            f"{path} must be a PEM file with a key, of at most {_MAX_KEY_BYTES} bytes"
        )
    return path.read_bytes()


def _load_public(path: Path) -> Any:
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_public_key(_read_key(path))
    except ValueError as error:
        raise ConfigError(f"{path} must be an Ed25519 public key in PEM: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError(f"{path} must be an Ed25519 public key, got another kind of key")
    return key


def key_id(public_key: Path) -> str:
    """Beginning of the sha256 of a public key, to tell keys apart.

    Raises:
        ConfigError: if the key cannot be read.
        MissingDependencyError: without the cryptography library.
    """
    return _key_id(_load_public(public_key))


def _key_id(public_key: Any) -> str:
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def digest_of(folder: Path) -> str:
    """Digest of the files of a model folder, see :attr:`lesff.files.FileSet.digest`.

    Raises:
        IntegrityError: if one is missing or empty.
    """
    missing = missing_files(folder)
    if missing:
        raise IntegrityError(f"{folder} lacks {', '.join(missing)}: it is not a model folder")
    return FileSet.of(folder, model_files(folder)).digest


def sign_folder(
    folder: Path, private_key: Path, *, name: str | None = None, version: str | None = None
) -> Signature:
    """Sign a model folder, its name and its version; writes ``signature.json`` into it.

    Args:
        folder: The folder.
        private_key: PEM file, without a password.
        name: What the model is called; ``name`` at the top of its card if None, else the name of
            the folder.
        version: ``"major.minor.patch"``; ``version`` at the top of its card if None, else none is
            bound.

    Raises:
        IntegrityError: if it is not a model folder.
        ConfigError: if the key cannot be read, or for a malformed version.
    """
    digest = digest_of(folder)
    facts = front_matter(read_card(folder))
    version = version or facts.get("version") or None
    if version is not None and not VERSION.fullmatch(version):
        raise ConfigError(f"`version` must be 'major.minor.patch', got {version!r}")
    signature = sign(
        digest.encode(),
        "model folder",
        private_key,
        name=name or facts.get("name") or folder.resolve().name,
        version=version,
    )
    write_signature(folder / SIGNATURE_FILE, signature)
    return signature


def check_folder(
    folder: Path, public_key: Path, *, name: str | None = None, version: str | None = None
) -> Signature:
    """Make sure that a model folder is signed with a key and unchanged since.

    Args:
        folder: The folder.
        public_key: PEM file.
        name: Name that must be bound by the signature, if any must.
        version: Likewise its version.

    Raises:
        SignatureError: if it is not, or binds another name or version. Signatures of earlier
            versions of lesff bind neither, see :attr:`Signature.subject`.
        IntegrityError: if it is not a model folder.
        ConfigError: if the key cannot be read.
    """
    signature = read_signature(folder / SIGNATURE_FILE)
    check(digest_of(folder).encode(), "model folder", signature, public_key)
    for what, wanted, bound in (
        ("name", name, signature.name),
        ("version", version, signature.version),
    ):
        if wanted is not None and wanted != bound:
            raise SignatureError(
                f"the signature of {folder} must bind the {what} {wanted!r}, it binds "
                f"{'none' if bound is None else repr(bound)}; it is not trusted as that"
            )
    return signature
