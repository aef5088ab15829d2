"""Signatures of model folders: who vouches for the files of a model."""

from __future__ import annotations

from pathlib import Path

from lesff.errors import IntegrityError
from lesff.files import folder_digest, sha256_of
from lesff.hub.signatures import Signature, check, read_signature, sign, write_signature
from lesff.model_folder.folder import MODEL_FILES, SIGNATURE_FILE, model_files


def digest_of(folder: Path) -> str:
    """Digest of the files of a model folder, see :func:`lesff.files.folder_digest`.

    Raises:
        IntegrityError: if one is missing.
    """
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise IntegrityError(f"{folder} lacks {', '.join(missing)}: it is not a model folder")
    return folder_digest((name, sha256_of(folder / name)) for name in model_files(folder))


def sign_folder(folder: Path, private_key: Path) -> Signature:
    """Sign a model folder; writes ``signature.json`` into it.

    Raises:
        IntegrityError: if it is not a model folder.
        ConfigError: if the key cannot be read.
    """
    signature = sign(digest_of(folder).encode(), "model folder", private_key)
    write_signature(folder / SIGNATURE_FILE, signature)
    return signature


def check_folder(folder: Path, public_key: Path) -> Signature:
    """Make sure that a model folder is signed with a key and unchanged since.

    Raises:
        SignatureError: if it is not.
        IntegrityError: if it is not a model folder.
        ConfigError: if the key cannot be read.
    """
    signature = read_signature(folder / SIGNATURE_FILE)
    check(digest_of(folder).encode(), "model folder", signature, public_key)
    return signature
