"""Which files a model folder has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lesff.errors import IntegrityError
from lesff.files import FileSet

CONFIG_FILE = "config.json"


WEIGHTS_FILE = "model.safetensors"


CARD_FILE = "README.md"


PARITY_FILE = "parity.safetensors"


LICENSE_FILE = "LICENSE"


MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, PARITY_FILE, LICENSE_FILE)
"""Files that every model folder has."""


UNCERTAINTY_FILE = "uncertainty.safetensors"


EVALUATION_FILE = "EVALUATION.md"
"""Second part of the card, all tables; folders of before 2026-12 have one part."""


OPTIONAL_FILES = (UNCERTAINTY_FILE, EVALUATION_FILE)
"""Files of a model folder that count like the others where they are there."""


SIGNATURE_FILE = "signature.json"
"""Signature of a model folder, if it has one."""


def model_files(folder: Path) -> tuple[str, ...]:
    """Files of a model folder that count: all required ones, optional ones that are there."""
    return MODEL_FILES + tuple(name for name in OPTIONAL_FILES if (folder / name).is_file())


def missing_files(folder: Path, names: Iterable[str] = MODEL_FILES) -> list[str]:
    """Those of the named files that a folder lacks."""
    return [name for name in names if not (folder / name).is_file()]


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Make sure that a folder has all files that it must have.

    Raises:
        IntegrityError: naming those that it lacks.
    """
    missing = missing_files(folder, names)
    if missing:
        raise IntegrityError(
            f"{folder} lacks {', '.join(missing)}: it is not a complete model folder; "
            "fetch or copy the model again"
        )


def model_damage(files: FileSet, folder: Path, record: str) -> str | None:
    """First reason not to take a folder for the model that a record describes, or None.

    The record must list every file that a model must have, the folder must have no optional file
    that it does not list, and what it lists must be there with the same bytes.

    Args:
        files: What the record lists.
        folder: The model folder.
        record: What it is called, for messages.
    """
    absent = sorted(set(MODEL_FILES) - set(files.names))
    if absent:
        return f"{record} must list {', '.join(absent)}"
    extra = sorted(set(model_files(folder)) - {*MODEL_FILES, *files.names})
    if extra:
        return f"{folder / extra[0]} is not in {record}"
    return files.damage(folder)
