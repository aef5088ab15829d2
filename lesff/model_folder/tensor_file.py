"""safetensors files whose content is known beforehand: bounded, checked, finite."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file
from torch import Tensor

from lesff.errors import IntegrityError
from lesff.model_folder.layout import CONFIG_FILE

_MAX_HEADER_BYTES = 25_000_000


_MAX_FILE_BYTES = 8 * 2**30


_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
}
"""How a safetensors header spells a type."""

METADATA = "__metadata__"
"""Row of a header that holds text instead of a tensor."""


REPLACE_ADVICE = "fetch or copy the model again"


@dataclass(frozen=True)
class Header:
    """What the beginning of a safetensors file says about the rest.

    Attributes:
        rows: Type and shape of every tensor by name, as the file spells them.
        metadata: Text by name.
        spans: First byte and byte after the last of every tensor, from the beginning of the file.
    """

    rows: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    spans: dict[str, tuple[int, int]]


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name as a safetensors file with the permissions of its folder.

    Args:
        tensors: What to write.
        path: The file.
        metadata: Text for its header. One entry at most: the library writes several in an order
            that changes from run to run.
    """
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"} if metadata is None else dict(metadata))
    path.chmod(path.parent.stat().st_mode & 0o666)  # save_file makes it private


def check_present(path: Path) -> None:
    """Raise IntegrityError if a file is not there."""
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; {REPLACE_ADVICE}")


def read_tensors(
    path: Path, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Tensors of a file that must hold exactly the expected names, types and shapes, finite.

    The header is read and compared first; only then is memory taken, as much as the tensors have.

    Raises:
        IntegrityError: if the file is missing, damaged or holds anything else.
    """
    check_present(path)
    with _opened(path) as stream:
        header = _read_header(stream, path)
        check_expected(header, expected, path)
        tensors = {}
        for name, (dtype, shape) in expected.items():
            tensors[name] = _read_tensor(stream, header.spans[name], dtype, shape, path)
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(f"{path}: {bad[0]} must be finite, but is not; {REPLACE_ADVICE}")
    return tensors


def check_expected(
    header: Header, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], path: Path
) -> None:
    """Make sure that a file says that it holds exactly these names, types and shapes.

    Raises:
        IntegrityError: naming the first difference.
    """
    found = header.rows
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"lacks {', '.join(missing[:5])}"] if missing else []
        parts += [f"has unexpected {', '.join(extra[:5])}"] if extra else []
        raise IntegrityError(
            f"{path} {' and '.join(parts)}: it does not belong to this {CONFIG_FILE}; "
            f"{REPLACE_ADVICE}"
        )
    for name, (dtype, shape) in expected.items():
        if found[name] != (_DTYPE_NAMES[dtype], shape):
            raise IntegrityError(
                f"{path}: {name} must be {_DTYPE_NAMES[dtype]} of shape {shape}, "
                f"got {found[name][0]} of shape {found[name][1]}; {REPLACE_ADVICE}"
            )


def read_header(path: Path) -> Header:
    """Header of a safetensors file, checked; refuses duplicate names, which the format allows.

    Raises:
        IntegrityError: if the file is missing or damaged, or claims more than it has.
    """
    check_present(path)
    with _opened(path) as stream:
        return _read_header(stream, path)


def _opened(path: Path) -> BinaryIO:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise IntegrityError(f"{path} cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise IntegrityError(f"{path} must be a plain file")
    return stream


def _read_header(stream: BinaryIO, path: Path) -> Header:
    size = os.fstat(stream.fileno()).st_size
    if not 8 < size <= _MAX_FILE_BYTES:
        raise IntegrityError(
            f"{path} must have 9..{_MAX_FILE_BYTES} bytes, got {size}; {REPLACE_ADVICE}"
        )
    n_header = int.from_bytes(stream.read(8), "little")
    if not 2 <= n_header < min(_MAX_HEADER_BYTES, size - 7):
        raise IntegrityError(
            f"{path} says its header has {n_header} bytes, in a file of {size} bytes: it is cut "
            f"short or damaged; {REPLACE_ADVICE}"
        )
    try:
        rows = json.loads(stream.read(n_header), object_pairs_hook=_unique)
        metadata = rows.pop(METADATA, None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata must be text")
        parsed = {name: _parse_row(row) for name, row in rows.items()}
        spans = _spans(parsed, start=8 + n_header, size=size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} has no readable header ({error}): it is cut short or damaged; {REPLACE_ADVICE}"
        ) from error
    return Header({name: row[:2] for name, row in parsed.items()}, metadata, spans)


def _parse_row(row: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape, and first byte and byte after the last of a tensor."""
    begin, end = row["data_offsets"]
    if not isinstance(row["dtype"], str):
        raise TypeError("types must be names")
    if not all(type(n) is int and 0 <= n < 2**48 for n in (*row["shape"], begin, end)):
        raise ValueError("shapes and offsets must be whole numbers")
    return row["dtype"], tuple(row["shape"]), (begin, end)


def _spans(
    rows: Mapping[str, tuple[str, tuple[int, ...], tuple[int, int]]], *, start: int, size: int
) -> dict[str, tuple[int, int]]:
    """Places of the tensors in the file; they must fill it without gap or overlap."""
    here, spans = start, {}
    for name, (_, _, (begin, end)) in sorted(rows.items(), key=lambda item: item[1][2]):
        if start + begin != here or end < begin:
            raise ValueError(f"{name} must begin at byte {here - start}, got {begin}")
        here = start + end
        spans[name] = (start + begin, here)
    if here != size:
        raise ValueError(f"tensors must end with the file at byte {size}, got {here}")
    return spans


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate name")
    return result


def _read_tensor(
    stream: BinaryIO,
    span: tuple[int, int],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    path: Path,
) -> Tensor:
    begin, end = span
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise IntegrityError(
            f"{path} is cut short or damaged: {end - begin} bytes cannot hold {shape} values; "
            f"{REPLACE_ADVICE}"
        )
    raw = torch.empty(end - begin, dtype=torch.uint8)
    stream.seek(begin)
    if raw.numel() and stream.readinto(raw.numpy()) != raw.numel():  # pyright: ignore[reportAttributeAccessIssue]
        raise IntegrityError(f"{path} is cut short or damaged; {REPLACE_ADVICE}")
    if dtype is torch.bool and bool((raw > 1).any()):
        raise IntegrityError(f"{path} is damaged: truth values must be 0 or 1; {REPLACE_ADVICE}")
    return raw.view(dtype).reshape(shape)
