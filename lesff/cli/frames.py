"""Labels of frames, as they are named on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from lesff.errors import ConfigError


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """``energy=REF_energy`` as ``{"energy": "REF_energy"}``.

    Raises:
        ConfigError: for text without ``=``.
    """
    found = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not equals:
            raise ConfigError(f"`--label` must be NAME=KEY, got {pair!r}")
        found[name] = key
    return found
