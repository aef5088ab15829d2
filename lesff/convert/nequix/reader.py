"""Inert reader of ``.nqx`` files: a line of JSON, then arrays in numpy's format.

Nequix writes its configuration as one line and the leaves of its model with equinox, one ``.npy``
block after the other (NEP 1 of numpy). Nothing is pickled, and objects are refused.
"""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lesff.convert.record import RefusedError
from lesff.errors import IntegrityError, ModelNotFoundError

_MAX_LINE = 1 << 20
_MAX_HEADER = 1 << 12
_MAX_ARRAYS = 4096
_MAX_RANK = 8
_MAGIC = b"\x93NUMPY"
_TYPES = {"<f4": np.float32, "<f8": np.float64}
"""Numbers that weights come in."""


@dataclass(frozen=True)
class NqxFile:
    """Content of a file.

    Attributes:
        config: The line of JSON.
        arrays: Arrays in the order of the file.
    """

    config: dict[str, Any]
    arrays: tuple[Tensor, ...]


def is_nqx(path: Path) -> bool:
    """Whether a file begins like one of Nequix: with a JSON object."""
    with path.open("rb") as handle:
        return handle.read(1) == b"{"


def read_nqx(path: Path) -> NqxFile:
    """Configuration and arrays of a file.

    Args:
        path: File that Nequix wrote.

    Raises:
        ModelNotFoundError: `path` is no file.
        IntegrityError: The file is damaged or of another format.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path} is not a file; check the path of the checkpoint")
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            config = _read_config(handle)
            arrays = []
            while handle.tell() < size:
                if len(arrays) == _MAX_ARRAYS:
                    raise RefusedError(f"it has more than {_MAX_ARRAYS} arrays")
                arrays.append(_read_array(handle, size))
    except RefusedError as error:
        raise IntegrityError(f"{path} is refused: {error}") from None
    return NqxFile(config, tuple(arrays))


def _read_config(handle: BinaryIO) -> dict[str, Any]:
    line = handle.readline(_MAX_LINE + 1)
    if len(line) > _MAX_LINE or not line.endswith(b"\n"):
        raise RefusedError(f"its first line must be JSON of at most {_MAX_LINE} bytes")
    try:
        config = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"its first line is no JSON ({error})") from None
    if not isinstance(config, dict):
        raise RefusedError("its first line must be a JSON object")
    return config


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _read_array(handle: BinaryIO, size: int) -> Tensor:
    """The next array; its header says type, order and shape as a literal dict."""
    start = handle.read(8)
    if len(start) < 8 or start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise RefusedError("an array does not begin as one of numpy")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(handle.read(width), "little")
    if length > _MAX_HEADER:
        raise RefusedError(f"the header of an array must have at most {_MAX_HEADER} bytes")
    dtype, shape = _header(handle.read(length))
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes > size - handle.tell():
        raise RefusedError(f"an array of shape {shape} goes beyond the end of the file")
    values = np.frombuffer(handle.read(n_bytes), dtype=dtype).reshape(shape)
    if not np.isfinite(values).all():
        raise RefusedError(f"an array of shape {shape} has values that are not finite")
    return torch.from_numpy(values.copy())


def _header(text: bytes) -> tuple[type, tuple[int, ...]]:
    try:
        found = ast.literal_eval(text.decode("latin-1").strip())
        kind, is_fortran, shape = (found[k] for k in ("descr", "fortran_order", "shape"))
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise RefusedError("the header of an array is damaged") from None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise RefusedError(f"numbers must be {' or '.join(_TYPES)}, got {str(kind)[:40]!r}")
    is_shape = isinstance(shape, tuple) and len(shape) <= _MAX_RANK
    if not is_shape or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise RefusedError("the shape of an array is none")
    # a scalar or a row has both orders
    if is_fortran is not False and len(shape) > 1:
        raise RefusedError("arrays must be in C order")
    return _TYPES[kind], shape
