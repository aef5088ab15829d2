"""Model cards: the ``key: value`` lines at their top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lesff.errors import IntegrityError
from lesff.model_folder.layout import CARD_FILE, EVALUATION_FILE

_MAX_BYTES = 1_000_000


def read_card(folder: Path) -> str:
    """Text of the card of a model folder.

    Raises:
        IntegrityError: if there is none, or it is not UTF-8 text of at most 1 MB.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: a model folder must have a card")
    return _text(path)


def read_evaluation(folder: Path) -> str | None:
    """Second part of the card of a model folder; None where the card has one part.

    Raises:
        IntegrityError: if it is not UTF-8 text of at most 1 MB.
    """
    path = folder / EVALUATION_FILE
    return _text(path) if path.is_file() else None


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise IntegrityError(
            f"{path} must have at most {_MAX_BYTES} bytes, got {path.stat().st_size}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} must be UTF-8 text: {error}") from error


def front_matter(card: str) -> dict[str, str]:
    """``key: value`` lines between the ``---`` lines at the top of a card; empty without them."""
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    lines = [line for line in parts[1].splitlines() if ":" in line and not line.startswith(" ")]
    pairs = (line.split(":", 1) for line in lines)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def license_of(card: str) -> str:
    """``license`` in the front matter of a card; ``unknown`` if there is none."""
    return front_matter(card).get("license") or "unknown"


def with_front_matter(facts: Mapping[str, str], text: str) -> str:
    """A card: ``key: value`` lines between ``---`` lines, then the text.

    Args:
        facts: Keys that :func:`front_matter` gives back; values that hold a colon or a comma are
            quoted.
        text: Markdown.
    """
    lines = [f'{key}: "{v}"' if {":", ","} & set(v) else f"{key}: {v}" for key, v in facts.items()]
    return "\n".join(["---", *lines, "---", "", text])


def with_section(card: str, title: str, text: str) -> str:
    """The card with a section at its end, in the place of an earlier one of the same title."""
    heading = f"## {title}"
    rest = re.sub(rf"\n*{re.escape(heading)}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    return f"{rest.rstrip()}\n\n{heading}\n\n{text.strip()}\n"
