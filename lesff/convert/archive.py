"""Zip archive of a checkpoint: checked members, tensors over bounds-checked storages."""

from __future__ import annotations

import math
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lesff.convert.record import RESAVE, Record, RefusedError, shown

MAX_FILE_BYTES = 4 * 2**30
"""Size of the file, and of all its tensors written out in full."""
MAX_PICKLE_BYTES = 64 * 2**20
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_MEMBERS = 100_000
_MAX_RANK = 64
_MAX_EXTENT = 2**40
_MAX_REPEATED = 2**24
_MAX_SMALL_MEMBER = 64
_MEMBER = re.compile(
    r"[^/\\\x00-\x1f]{1,255}/(data\.pkl|byteorder|version|data/[0-9]{1,9}"
    r"|\.data/(?:serialization_id|version)|\.format_version|\.storage_alignment"
    r"|constants\.pkl|constants/[0-9]{1,9})"
)
_UNREAD = re.compile(r"[^/\\\x00-\x1f]{1,255}/((?:code|extra)/[^\\\x00-\x1f]{1,1024})")
"""Members of a TorchScript archive that are never read: code, its debug data, notes of its author.
"""
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What zipfile raises on damaged archives."""


def check_ends(handle: BinaryIO) -> None:
    """Refuse other formats, and directories too large to be parsed, before zipfile sees them."""
    size = handle.seek(0, 2)
    if size > MAX_FILE_BYTES:
        raise RefusedError(f"it has {size} bytes, more than {MAX_FILE_BYTES}", "use a smaller one")
    handle.seek(0)
    if handle.read(4) != b"PK\x03\x04":
        raise RefusedError("it is no zip checkpoint (older torch format, or not torch)", RESAVE)
    handle.seek(max(size - 98, 0))
    tail = handle.read().rjust(98, b"\0")  # zip64 record 56, its locator 20, end record 22
    if tail[76:80] != b"PK\x05\x06":
        raise RefusedError("it is cut off or has bytes after the zip archive")
    directory = int.from_bytes(tail[88:92], "little")
    if tail[56:60] == b"PK\x06\x07":
        directory = int.from_bytes(tail[40:48], "little")
    if directory > MAX_DIRECTORY_BYTES:
        raise RefusedError(f"its zip directory has {directory} bytes")


def check_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by their name below the one folder of the archive."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise RefusedError(f"it has {len(infos)} members, more than {MAX_MEMBERS}")
    total = 0
    folders = set()
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = _check_member(info)
        folders.add(info.filename.split("/")[0])
        if name in members:
            raise RefusedError(f"it has two members {info.filename!r}")
        members[name] = info
        total += info.compress_size if is_unread(info) else info.file_size
    if archive.fp is None or total > archive.fp.seek(0, 2):
        raise RefusedError("its members are together larger than the file")
    if "data.pkl" not in members or len(folders) != 1:
        raise RefusedError("it has no single folder with data.pkl, so it is no torch checkpoint")
    for name in ("data.pkl", "constants.pkl"):
        if name in members and members[name].file_size > MAX_PICKLE_BYTES:
            raise RefusedError(f"its {name} has more than {MAX_PICKLE_BYTES} bytes")
    return members


def is_unread(info: zipfile.ZipInfo) -> bool:
    """Whether a member is code or a note of a TorchScript archive, which is never read."""
    return _UNREAD.fullmatch(info.filename) is not None


def _check_member(info: zipfile.ZipInfo) -> str:
    shown = repr(info.orig_filename[:80])
    match = _MEMBER.fullmatch(info.filename) or _UNREAD.fullmatch(info.filename)
    if (
        match is None
        or info.orig_filename != info.filename
        or info.filename.startswith(("./", "../"))
    ):
        raise RefusedError(f"its member {shown} is not one of a torch checkpoint")
    is_stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not (is_stored or is_unread(info)):
        raise RefusedError(f"its member {shown} is compressed", RESAVE)
    if info.flag_bits & 0x1:
        raise RefusedError(f"its member {shown} is encrypted", RESAVE)
    return match.group(1)


def byte_order(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> bytes:
    """Byte order of the storages; versions of torch before 2.1 wrote none and meant little."""
    info = members.get("byteorder")
    if info is None:
        return b"little"
    return read_member(archive, info) if info.file_size < _MAX_SMALL_MEMBER else b""


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Contents of a member, checked against its CRC."""
    try:
        return archive.read(info)
    except ZIP_ERRORS as error:
        raise RefusedError(f"its member {info.filename!r} is damaged ({error})") from None


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Reference to a storage: its whole contents as a 1-D tensor."""

    values: Tensor


class Storages:
    """Storages of one archive, each read once, so that views keep sharing memory.

    Args:
        archive: The archive.
        members: Its members by their names below its one folder.
        folder: Folder of the storages: ``"data"``, or ``"constants"`` of a TorchScript archive.
    """

    def __init__(
        self,
        archive: zipfile.ZipFile,
        members: dict[str, zipfile.ZipInfo],
        folder: str = "data",
    ) -> None:
        self.archive = archive
        self.members = members
        self.folder = folder
        self.loaded: dict[str, Storage] = {}
        self.written_out = 0

    def load(self, reference: Any) -> Storage:
        """Storage of a persistent id ('storage', type, key, location, number of elements)."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise RefusedError("it refers to an outside object that is no storage")
        _, kind, key, location, count = reference
        path = kind.path if isinstance(kind, Record) and kind.args is None else shown(kind)
        if path not in _STORAGES:
            raise RefusedError(f"it has a storage of unsupported type {path}", RESAVE)
        if not isinstance(key, str) or not isinstance(location, str) or not is_count(count):
            raise RefusedError(f"it has a malformed reference to a {path}")
        storage = self.loaded.get(key)
        if storage is None:
            storage = self.loaded[key] = Storage(self._read(key, _STORAGES[path], count))
        if storage.values.dtype != _STORAGES[path] or len(storage.values) != count:
            raise RefusedError(f"it uses storage {key} with two types or sizes")
        return storage

    def _read(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        info = self.members.get(f"{self.folder}/{key}")
        if info is None or info.file_size != count * dtype.itemsize:
            raise RefusedError(f"its storage {key[:20]!r} is missing or not of {count} elements")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        raw = bytearray(read_member(self.archive, info))
        if dtype is torch.bool and max(raw) > 1:
            raise RefusedError(f"its storage {key} has booleans other than 0 and 1")
        return torch.frombuffer(raw, dtype=dtype)

    def view(self, storage: Storage, offset: int, size: tuple, stride: tuple) -> Tensor:
        """Tensor over a storage, after checking that it stays inside."""
        if len(size) != len(stride) or len(size) > _MAX_RANK:
            raise RefusedError("it has a tensor with malformed size or stride")
        if not all(map(is_count, (offset, *size, *stride))):
            raise RefusedError("it has a tensor with malformed size, stride or offset")
        if math.prod(max(n, 1) for n in size) > _MAX_EXTENT:
            raise RefusedError(f"it has a tensor of size {size}")
        available = len(storage.values)
        count = math.prod(size)
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if offset + (reach if count else 0) > available:
            raise RefusedError(f"its tensor of size {size} reaches beyond its storage")
        self.written_out += count * storage.values.itemsize
        if count > max(available, _MAX_REPEATED) or self.written_out > MAX_FILE_BYTES:
            raise RefusedError(f"its tensor of size {size} repeats its storage too often")
        return storage.values.as_strided(size, stride, offset)


def is_count(value: Any) -> bool:
    """Whether a value can be a size, a stride or an offset."""
    return type(value) is int and 0 <= value <= _MAX_EXTENT
