"""safetensors files whose content is known beforehand: bounded, checked, finite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
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


REPLACE_ADVICE = "fetch or copy the model again"


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name as a safetensors file with the permissions of its folder."""
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # save_file makes it private


def check_present(path: Path) -> None:
    """Raise IntegrityError if a file is not there."""
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; {REPLACE_ADVICE}")


def read_tensors(
    path: Path, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Tensors of a file that must hold exactly the expected names, types and shapes, finite."""
    data = read_checked_bytes(path)
    found = {
        name: (row["dtype"], tuple(row["shape"])) for name, row in read_header(data, path).items()
    }
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
    tensors = _parse(data, path)
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(f"{path}: {bad[0]} must be finite, but is not; {REPLACE_ADVICE}")
    return tensors


def read_checked_bytes(path: Path) -> bytes:
    """Content of a safetensors file whose size and header length make sense."""
    check_present(path)
    size = path.stat().st_size
    if not 8 < size <= _MAX_FILE_BYTES:
        raise IntegrityError(
            f"{path} must have 9..{_MAX_FILE_BYTES} bytes, got {size}; {REPLACE_ADVICE}"
        )
    with path.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
    if not 2 <= n_header < min(_MAX_HEADER_BYTES, size - 7):
        raise IntegrityError(
            f"{path} says its header has {n_header} bytes, in a file of {size} bytes: it is cut "
            f"short or damaged; {REPLACE_ADVICE}"
        )
    return path.read_bytes()


def read_header(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Types and shapes by tensor name; refuses duplicate names, which the format allows."""
    n_header = int.from_bytes(data[:8], "little")
    try:
        rows = json.loads(data[8 : 8 + n_header], object_pairs_hook=_unique)
        rows.pop("__metadata__", None)
        if not all(
            isinstance(row["dtype"], str) and all(type(n) is int and n >= 0 for n in row["shape"])
            for row in rows.values()
        ):
            raise ValueError("types must be names and shapes whole numbers")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} has no readable header ({error}): it is damaged; {REPLACE_ADVICE}"
        ) from error
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate name")
    return result


def _parse(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return {name: value.clone() for name, value in parse_safetensors(data).items()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{path} is cut short or damaged ({error}); {REPLACE_ADVICE}"
        ) from error
