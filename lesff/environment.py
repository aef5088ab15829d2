"""Where lesff keeps things and what it may do, from environment variables, read at each call."""

from __future__ import annotations

import math
import os
from pathlib import Path

from lesff.errors import ConfigError

_TIMEOUT_S = 60.0
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def is_offline() -> bool:
    """Whether ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` is 1, true, yes or on."""
    return any(_is_set(name) for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE"))


def always_rehash() -> bool:
    """Whether ``LESFF_REHASH`` asks for the digest of every file at every load."""
    return _is_set("LESFF_REHASH")


def keeps_memory() -> bool:
    """Whether large trajectories may keep freed memory: unless ``LESFF_KEEP_MEMORY`` says 0 or no.

    Raises:
        ConfigError: for any other value than those of yes and no.
    """
    value = os.environ.get("LESFF_KEEP_MEMORY", "").strip().lower()
    if value not in {"", *_TRUE, *_FALSE}:
        raise ConfigError(f"`LESFF_KEEP_MEMORY` must be 0 or 1, got {value!r}")
    return value not in _FALSE


def network_timeout() -> float:
    """``$LESFF_TIMEOUT``, else 60: seconds that one task may wait for the network or for a lock.

    Raises:
        ConfigError: if the value is not a positive number.
    """
    value = os.environ.get("LESFF_TIMEOUT", "").strip()
    try:
        seconds = float(value or _TIMEOUT_S)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"`LESFF_TIMEOUT` must be a positive number of seconds, got {value!r}")
    return seconds


def shows_traceback() -> bool:
    """Whether ``LESFF_TRACEBACK`` asks commands for a traceback of unexpected errors."""
    return _is_set("LESFF_TRACEBACK")


def cache_folder() -> Path:
    """``$LESFF_CACHE``, else ``$XDG_CACHE_HOME/lesff``, else ``~/.cache/lesff``.

    Models; may be shared and read-only, and is never trusted without a check.
    """
    return _folder("LESFF_CACHE", "XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """``$LESFF_STATE``, else ``$XDG_STATE_HOME/lesff``, else ``~/.local/state/lesff``.

    What this user has verified and whom this user trusts; must not be writable by others.
    """
    return _folder("LESFF_STATE", "XDG_STATE_HOME", ".local/state")


def hub_endpoint() -> str | None:
    """``$LESFF_HUB``, else ``$HF_ENDPOINT``, else None for the public hub.

    Raises:
        ConfigError: if the value is not a web address.
    """
    return own_mirror() or _address("HF_ENDPOINT")


def own_mirror() -> str | None:
    """``$LESFF_HUB``, the mirror of this site, or None.

    Raises:
        ConfigError: if the value is not a web address.
    """
    return _address("LESFF_HUB")


def _address(name: str) -> str | None:
    value = os.environ.get(name, "").strip().rstrip("/")
    if value and not value.startswith(("https://", "http://")):
        raise ConfigError(f"`{name}` must start with https:// or http://, got {value!r}")
    return value or None


def _folder(own: str, shared: str, default: str) -> Path:
    value = os.environ.get(own)
    if value:
        return Path(value).expanduser()
    base = Path(os.environ.get(shared) or "")
    return (base if base.is_absolute() else Path.home() / default) / "lesff"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _TRUE
