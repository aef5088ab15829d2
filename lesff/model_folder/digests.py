"""Digests of weights and configuration, which a model folder carries itself.

They stand in the header of the golden values, so that a folder has no file more and older versions
of lesff read it. Golden values do not feel every bit of the weights; a digest does. It finds
accidents: against somebody who writes folders on purpose, there are manifests and signatures.

Folders released before have no digests inside, and their bytes never change: ``released.json``
lists the weights that belong to their golden values and configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lesff.errors import IntegrityError
from lesff.files import sha256_of
from lesff.model_folder.layout import CONFIG_FILE, PARITY_FILE, UNCERTAINTY_FILE, WEIGHTS_FILE
from lesff.model_folder.tensor_file import REPLACE_ADVICE, read_header
from lesff.plain_data import read_json

COVERED = (CONFIG_FILE, WEIGHTS_FILE, UNCERTAINTY_FILE)
"""Files that decide what a model predicts. Card and licence may be edited; golden values are
replayed."""

RELEASED = Path(__file__).with_name("released.json")
"""sha256 of golden values -> sha256 of the files beside them, of bundled models without digests."""

_KEY = "sha256"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_metadata(folder: Path) -> dict[str, str]:
    """Text for the header of the golden values: the digests of the files beside them."""
    found = {name: sha256_of(folder / name) for name in COVERED if (folder / name).is_file()}
    return {_KEY: json.dumps(found, sort_keys=True)}


def known_digests(folder: Path) -> dict[str, str] | None:
    """sha256 that weights and configuration of a folder must have, by file; None if not known.

    Raises:
        IntegrityError: if the header of the golden values is damaged.
    """
    path = folder / PARITY_FILE
    if not path.is_file():
        return None
    text = read_header(path).metadata.get(_KEY)
    if text is None:
        return _released(folder)
    try:
        data = json.loads(text)
        good = all(key in COVERED and _DIGEST.fullmatch(value) for key, value in data.items())
    except (ValueError, TypeError, AttributeError, RecursionError):
        data, good = {}, False
    if not good or not {CONFIG_FILE, WEIGHTS_FILE} <= set(data):
        raise IntegrityError(f"{path} must hold the digests of its model; {REPLACE_ADVICE}")
    return data


def _released(folder: Path) -> dict[str, str] | None:
    """Digests of a bundled model, if golden values and configuration are those of one."""
    known = released_digests().get(sha256_of(folder / PARITY_FILE))
    config = folder / CONFIG_FILE
    is_one = known is not None and config.is_file() and sha256_of(config) == known[CONFIG_FILE]
    return known if is_one else None


def folder_damage(folder: Path) -> str | None:
    """First difference between a folder and the digests that it carries as text, or None.

    Raises:
        IntegrityError: if the header of the golden values is damaged.
    """
    known = known_digests(folder)
    if known is None:
        return None
    for name in COVERED:
        path = folder / name
        found = sha256_of(path) if path.is_file() else "nothing"
        wanted = known.get(name, "nothing")
        if found != wanted:
            return (
                f"{path} is not the one that was saved with the golden values beside it: its "
                f"sha256 must be {wanted}, got {found}"
            )
    return None


def check_digests(folder: Path) -> None:
    """Make sure that a folder has the digests that it carries.

    Raises:
        IntegrityError: naming the file that has not.
    """
    damage = folder_damage(folder)
    if damage is not None:
        raise IntegrityError(f"{damage}; {REPLACE_ADVICE}, or save it anew with lesff")


@cache
def released_digests() -> Mapping[str, dict[str, str]]:
    """Content of :data:`RELEASED`."""
    return read_json(RELEASED)
