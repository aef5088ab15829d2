"""Strict reading and writing of configuration: plain data, unknown keys raise, nothing executes."""

from __future__ import annotations

import json
import math
import os
import stat
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lesff.disk import write_atomically
from lesff.errors import ConfigError

T = TypeVar("T")

_MAX_BYTES = 1_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object from a file of at most 1 MB; no NaN or infinity, no duplicate keys.

    Raises:
        ConfigError: naming the file and the cause.
        FileNotFoundError: if there is no such file.
    """
    try:
        data = json.loads(
            _read_bounded(path).decode("utf-8"),
            parse_constant=_reject_constant,
            parse_float=_finite_float,
            object_pairs_hook=_reject_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be a JSON object: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a JSON object, got {type(data).__name__}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object; the file appears complete or not at all, its folder is made if need be.

    Args:
        path: The file.
        data: Plain data; see :func:`finite` for numbers that JSON cannot hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def finite(data: Any) -> Any:
    """Plain data that JSON can hold: numbers of numpy become Python's, NaN and infinity None."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    if isinstance(data, bool) or not isinstance(data, Real):
        return data
    if isinstance(data, Integral):
        return int(data)
    return float(data) if math.isfinite(data) else None


def _read_bounded(path: Path) -> bytes:
    """Content of a plain file of at most :data:`_MAX_BYTES`; never waits and never reads on."""
    try:
        # a pipe would be waited for
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} must be a plain file")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} must be at most {_MAX_BYTES} bytes, got {max(size, len(data))}")
    return data


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"duplicate key among {[key for key, _ in pairs]}")
    return result


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build a (nested) dataclass from plain data.

    Args:
        cls: Dataclass to build.
        data: Mapping of its fields.
        where: Name of the place, for messages.

    Raises:
        ConfigError: for an unknown key, a missing key or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"`{where}` must be a table of keys, got {type(data).__name__}")
    hints = _hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ConfigError(
            f"`{where}` has unknown key(s) {', '.join(unknown)}; known keys: "
            f"{', '.join(sorted(known))}"
        )
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"`{where}` lacks the key(s) {', '.join(missing)}")
    return cls(
        **{key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields; evaluating them takes longer than all the rest."""
    return get_type_hints(cls)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` says, or ConfigError."""
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        # of a number or a list of them the one that the value looks like
        inner = [arg for arg in args if arg is not type(None)]
        is_list = isinstance(value, (list, tuple))
        fitting = (arg for arg in inner if (get_origin(arg) is tuple) is is_list)
        return _convert(next(fitting, inner[0]), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _convert_tuple(args, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any or (origin is Literal and value in args) or _is_scalar(hint, value):
        return _as_float(value, where) if hint is float else value
    expected = (
        " or ".join(map(repr, args)) if origin is Literal else getattr(hint, "__name__", hint)
    )
    raise ConfigError(f"`{where}` must be {expected}, got {value!r}")


def _as_float(value: Any, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"`{where}` must be a number below 1e308 in size") from error


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(hints) != len(value):
        raise ConfigError(f"`{where}` must have {len(hints)} values, got {len(value)}")
    pairs = enumerate(zip(hints, value, strict=True))
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in pairs)


def _is_scalar(hint: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return (hint is float and isinstance(value, (int, float))) or (
        hint in (int, str) and isinstance(value, hint)
    )
