"""Tables of model cards, made from the JSON files beside them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesff.errors import DataError

_BLOCK = re.compile(r"<!-- begin ([\w-]+) -->\n(.*?)<!-- end \1 -->", re.S)


def filled(card: str, name: str, folder: Path) -> str:
    """A card with its tables made anew.

    The text between ``<!-- begin KEY -->`` and ``<!-- end KEY -->`` becomes the table of
    ``NAME.KEY.json``: errors on labelled frames, or results of the suite.

    Args:
        card: The card as text.
        name: Name of the card's file without ``.md``.
        folder: Where the JSON files are.

    Raises:
        DataError: if a file is missing, or is neither of the two.
    """

    def block(match: re.Match[str]) -> str:
        key = match[1]
        return (
            f"<!-- begin {key} -->\n{table_of(folder / f'{name}.{key}.json')}\n<!-- end {key} -->"
        )

    return _BLOCK.sub(block, card)


def blocks(card: str) -> list[str]:
    """Keys of the tables of a card."""
    return [match[1] for match in _BLOCK.finditer(card)]


def table_of(path: Path) -> str:
    """Markdown of a result file.

    Raises:
        DataError: if it is missing, or neither of ``lesff evaluate``, nor of ``--suite``, nor of
            ``tools/born_errors.py``.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: a table of the card is made from it")
    data = json.loads(path.read_text(encoding="utf-8"))
    if "errors" in data:
        return error_markdown(data["errors"])
    if "born" in data:
        return born_markdown(data)
    if "fragments" in data:
        return fragment_markdown(data["fragments"])
    if "results" in data:
        return suite_markdown(data)
    raise DataError(
        f"{path} must be written by `lesff evaluate`: it has no errors, fragments or results"
    )


def error_markdown(errors: dict[str, dict[str, Any]]) -> str:
    """Errors per subset: meV/atom, meV/A and, where stress has labels, meV/A^3; one digit."""
    columns = {
        "energy_mae": "E MAE", "energy_rmse": "E RMSE", "forces_mae": "F MAE",
        "forces_rmse": "F RMSE",
    }  # fmt: skip
    stress = [row.get("stress_rmse") for row in errors.values()]
    if any(value is not None and not math.isnan(value) for value in stress):
        columns["stress_rmse"] = "S RMSE"
    lines = [
        "| subset | frames | " + " | ".join(columns.values()) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for subset, row in errors.items():
        cells = [subset, str(row["n_frames"]), *(f"{row[key]:.1f}" for key in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    parts = [row for subset, row in errors.items() if subset != "all"]
    mean = {k: sum(row[k] for row in parts) / len(parts) for k in ("energy_mae", "forces_mae")}
    lines.append(
        f"| mean over subsets | | {mean['energy_mae']:.1f} | | {mean['forces_mae']:.1f} |"
        + " |" * (len(columns) - 3)
    )
    return "\n".join(lines)


def fragment_markdown(fragments: dict[str, dict[str, Any]]) -> str:
    """Errors of the forces between molecules, meV/A, with one digit."""
    lines = [
        "| frames of several molecules | frames | net force on a molecule | its error | F MAE |",
        "|---|---|---|---|---|",
    ]
    for name, row in fragments.items():
        values = [row[k] for k in ("net_force", "net_force_error", "forces_mae")]
        cells = [name, str(row["n_frames"]), *(f"{value:.1f}" for value in values)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def born_markdown(data: dict[str, Any]) -> str:
    """Errors of Born effective charges, percent of their root mean square.

    Args:
        data: "born", errors of every set of crystals; "by_element" and "worst", errors of all
            crystals by element and of those with the largest.
    """
    lines = [
        "| held out | crystals | atoms | all components | by symmetry | median | mean of element |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in data["born"].items():
        keys = ("relative_rms", "by_symmetry", "median", "element_mean")
        values = [row[key] for key in keys]
        cells = [name, str(row["n_crystals"]), str(row["n_atoms"])]
        lines.append("| " + " | ".join([*cells, *(f"{value:.1f}" for value in values)]) + " |")
    elements = ", ".join(f"{symbol} {value:.0f}" for symbol, value in data["by_element"].items())
    worst = ", ".join(f"{formula} {value:.0f}" for value, formula in data["worst"])
    return "\n".join([*lines, "", f"By element, %: {elements}.", "", f"Largest, %: {worst}."])


def suite_markdown(data: dict[str, Any]) -> str:
    """Results of the suite: one row per quantity, one column per subject; then what is left out.

    The last column is the reference value or, in the chapter of robustness, the pass mark.
    """
    results = data["results"]
    subjects = list(results)
    checks = list(dict.fromkeys(check for part in results.values() for check in part))
    lines = [
        "| check | quantity | unit | " + " | ".join(subjects) + " | reference |",
        "|---" * (4 + len(subjects)) + "|",
    ]
    for check in checks:
        lines += _rows(check, [results[name].get(check, {}) for name in subjects])
    notes = [note for name in subjects for note in _notes(name, results[name])]
    if notes:
        lines += ["", "Not covered, or without result:", "", *notes]
    sources = dict.fromkeys(
        source
        for part in results.values()
        for result in part.values()
        for source in result.get("sources", ())
    )
    return "\n".join([*lines, "", "Sources:", "", *(f"- {source}" for source in sources)])


def significant(value: float | None) -> str:
    """A number as in the tables: three digits or so."""
    if value is None:
        return ""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def limit_text(limits: Sequence[float | None] | None) -> str:
    """A pass mark as text, such as "<= 0.05" or "0.8 to 1"; empty without one."""
    low, high = limits or (None, None)
    if low is None and high is None:
        return ""
    if low is None:
        return f"<= {high:g}"
    return f">= {low:g}" if high is None else f"{low:g} to {high:g}"


def _rows(check: str, columns: list[dict[str, Any]]) -> list[str]:
    quantities = [{q["name"]: q for q in column.get("quantities", ())} for column in columns]
    names = list(dict.fromkeys(name for column in quantities for name in column))
    lines = []
    for name in names:
        first = next(column[name] for column in quantities if name in column)
        values = [
            significant(column[name]["value"]) if name in column else "" for column in quantities
        ]
        aim = significant(first["reference"]) or limit_text(first.get("limits"))
        cells = [check, name, first["unit"], *values, aim]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _notes(subject: str, results: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for check, result in results.items():
        if result["status"] != "done":
            notes.append(f"- {subject}, {check}: {result['reason']}")
            continue
        reasons: dict[str, list[str]] = {}
        for item, why in result["left_out"].items():
            reasons.setdefault(why, []).append(item)
        notes += [f"- {subject}, {check}: {', '.join(i)}: {why}" for why, i in reasons.items()]
    return notes
