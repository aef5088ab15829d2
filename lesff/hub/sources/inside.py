"""A checkpoint inside of a zip archive that others publish, such as a wheel."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from lesff.errors import IntegrityError

MAX_BYTES = 4 * 2**30
"""Size of a member, written out."""
_CHUNK = 2**20


def take_member(archive: Path, member: str, target: Path) -> None:
    """Write one member of an archive to a file; nothing else of the archive is unpacked.

    Args:
        archive: The zip file, as a rule of known bytes.
        member: Name of the member in it.
        target: File to write, in a folder that is there.

    Raises:
        IntegrityError: if the archive or the member is missing, damaged or too large.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            info = source.getinfo(member)
            if info.file_size > MAX_BYTES:
                raise IntegrityError(f"{member} has {info.file_size} bytes, more than {MAX_BYTES}")
            with source.open(info) as stream, target.open("xb") as out:
                # no more than the directory says, whatever the stream holds
                while chunk := stream.read(_CHUNK):
                    out.write(chunk)
    except KeyError:
        raise IntegrityError(f"it has no member {member}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise IntegrityError(f"{member} cannot be taken out of it: {error}") from error
