"""The command that runs the suite of physical and chemical checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesff.errors import DataError
from lesff.evaluation.tables import blocks, number


def _check_card(card: Path | None) -> None:
    """Refuse a card that the table has no place in, before anything is computed."""
    if card is None:
        return
    if not card.is_file():
        raise DataError(f"card {card} does not exist")
    if "suite" not in blocks(card.read_text(encoding="utf-8")):
        raise DataError(
            f"{card} has no place for the table: put the lines <!-- begin suite --> and "
            "<!-- end suite --> where it should be"
        )


def _beside(card: Path | None, name: str) -> Path:
    if card is not None:
        return card.with_name(f"{card.stem}.suite.json")
    return Path(f"{Path(name.split('@')[0]).name}.suite.json")


def _summary(result: dict[str, Any]) -> str:
    if result["status"] != "done":
        return f": not covered ({result['reason']})"
    lines = []
    for q in result["quantities"]:
        reference = "" if q["reference"] is None else f"  (reference {number(q['reference'])})"
        lines.append(f"\n  {q['name']}: {number(q['value'])} {q['unit']}{reference}")
    left_out = len(result["left_out"])
    return "".join(lines) + (f"\n  {left_out} items left out" if left_out else "")
