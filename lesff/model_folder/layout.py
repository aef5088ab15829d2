"""Which files a model folder has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CONFIG_FILE = "config.json"


WEIGHTS_FILE = "model.safetensors"


CARD_FILE = "README.md"


PARITY_FILE = "parity.safetensors"


LICENSE_FILE = "LICENSE"


MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, PARITY_FILE, LICENSE_FILE)
"""Files that every model folder has."""


UNCERTAINTY_FILE = "uncertainty.safetensors"


OPTIONAL_FILES = (UNCERTAINTY_FILE,)
"""Files of a model folder that count like the others where they are there."""


SIGNATURE_FILE = "signature.json"
"""Signature of a model folder, if it has one."""


def model_files(folder: Path) -> tuple[str, ...]:
    """Files of a model folder that count: all required ones, optional ones that are there."""
    return MODEL_FILES + tuple(name for name in OPTIONAL_FILES if (folder / name).is_file())


def unlisted_file(folder: Path, listed: Iterable[str]) -> str | None:
    """An optional file of a model folder that nobody vouches for, or None."""
    extra = sorted(set(model_files(folder)) - {*MODEL_FILES, *listed})
    return extra[0] if extra else None
