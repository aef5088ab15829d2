"""``config.json`` of an earlier layout becomes that of today when it is read.

A change of the layout raises ``FORMAT_VERSION`` by one and adds a row to ``UPGRADES``: a function
from the plain data of the version before to those of the next. Files on disk stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lesff.errors import ConfigError
from lesff.potential.config import FORMAT_VERSION

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

UPGRADES: dict[int, Upgrade] = {}
"""Version -> function that makes the next one of it; empty, as version 1 was the first."""

_UNSTATED = 1
"""Version of a configuration that names none: the only one in which it was optional."""


def upgraded(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Plain data of ``config.json`` in the layout of this lesff.

    Args:
        data: As read; not modified.
        where: Name of the file, for messages.

    Raises:
        ConfigError: for a version that is no number, newer than this lesff or too old for it.
    """
    version = data.get("format_version", _UNSTATED)
    if type(version) is not int:
        raise ConfigError(f"`{where}.format_version` must be an integer, got {version!r}")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"`{where}.format_version` must be at most {FORMAT_VERSION}, got {version}: the model "
            "was made with a newer lesff; update lesff"
        )
    new = dict(data)
    while version < FORMAT_VERSION:
        if version not in UPGRADES:
            raise ConfigError(
                f"`{where}.format_version` must be one of {sorted({*UPGRADES, FORMAT_VERSION})}, "
                f"got {version}: no lesff has written it; check where the folder comes from"
            )
        new = UPGRADES[version](new)
        version += 1
        new["format_version"] = version
    return new
