"""A card in two parts: what to read before use, and all tables.

``README.md`` says what a model is for and not for, some numbers beside other methods, licence and
citation; ``EVALUATION.md`` has its training and every table. Both are made of one card,
``model_cards/NAME.md``, and the results of the suite beside it: nothing is typed twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lesff.errors import DataError
from lesff.model_folder.layout import EVALUATION_FILE

FIRST = ("Use", "Not for", "What it is", "Electrostatics", "Licence and citation")
"""Sections of the first part, in its order; numbers follow what the model is not for."""
NUMBERS = 8
"""Rows of the table of the first part."""


class Headline(NamedTuple):
    """A number of the first part.

    Attributes:
        check: Check of the suite.
        start: Beginning of the name of its quantity.
        label: What a reader calls it.
    """

    check: str
    start: str
    label: str


HEADLINES = tuple(
    Headline(*row)
    for row in (
        ("frames", "forces MAE, pubchem", "forces, drug-like molecules (PubChem), MAE"),
        ("frames", "forces MAE, dipeptides", "forces, dipeptides, MAE"),
        ("frames", "forces MAE, water", "forces, water clusters, MAE"),
        ("conformers", "relative energies MAE, all but water", "conformers, MAE"),
        ("s22", "MAE (", "S22 binding energies, MAE"),
        ("dipoles", "MAE (", "dipoles of molecules, MAE"),
        (
            "states",
            "proton affinities, MAE about",
            "proton affinities, MAE about their mean error",
        ),
        ("water", "dimer binding", "water dimer, binding"),
        ("solids", "lattice constants, MAE", "lattice constants, MAE"),
        ("solids", "bulk moduli, MAE", "bulk moduli, MAE"),
        ("born", "NaCl, Z*(Na) x", "Born charge of Na in NaCl"),
        ("born", "MgO, Z*(Mg) x", "Born charge of Mg in MgO"),
        ("drift", "drift over", "energy drift of a run without thermostat"),
    )
)
"""What cards show first, the most telling at the top."""


class Found(NamedTuple):
    """A quantity of the suite: value, unit, reference (None without one)."""

    value: float
    unit: str
    reference: float | None


def headline(results: Mapping[str, Any], row: Headline) -> Found | None:
    """The quantity of a method that a headline names; None if the method does not have it.

    Args:
        results: Those of one method in ``NAME.suite.json``.
        row: Which one.
    """
    for quantity in results.get(row.check, {}).get("quantities", []):
        if quantity["name"].startswith(row.start):
            return Found(quantity["value"], quantity["unit"], quantity["reference"])
    return None


def headline_table(name: str, suite: Mapping[str, Any]) -> str:
    """At most :data:`NUMBERS` headlines of a model beside those of other methods, Markdown.

    Args:
        name: Name of the model; other models of this project are left out.
        suite: Content of ``NAME.suite.json``; the model comes first among its results.

    Raises:
        DataError: for results of another model.
    """
    results = suite["results"]
    methods = [m for m in results if "@" not in m or m.split("@")[0] == name]
    if not methods or methods[0].split("@")[0] != name:
        raise DataError(
            f"the results of the suite must be of {name} first, got {', '.join(results) or 'none'}"
        )
    lines = []
    for row in HEADLINES:
        found = [headline(results[m], row) for m in methods]
        if found[0] is None:
            continue
        cells = ["" if one is None else f"{one.value:.4g}" for one in found]
        known = "" if found[0].reference is None else f"{found[0].reference:.4g}"
        lines.append(f"| {row.label} | {found[0].unit} | {' | '.join(cells)} | {known} |")
    head = [
        "| | unit | " + " | ".join(methods) + " | reference |",
        "|---" * (len(methods) + 3) + "|",
    ]
    return "\n".join([*head, *lines[:NUMBERS]])


class Card(NamedTuple):
    """Parts of a card.

    Attributes:
        front: Front matter with its lines ``---``, or nothing.
        title: Without ``#``.
        intro: Before the first section.
        sections: By heading, in order.
    """

    front: str
    title: str
    intro: str
    sections: dict[str, str]


def parts_of(card: str) -> Card:
    """Parts of a card.

    Raises:
        DataError: for a card without a title.
    """
    match = re.match(r"---\n.*?^---\n", card, flags=re.DOTALL | re.MULTILINE)
    front = match[0] if match else ""
    pieces = re.split(r"^## (.+)$", card[len(front) :], flags=re.MULTILINE)
    title = re.search(r"^# (.+)$", pieces[0], flags=re.MULTILINE)
    if title is None:
        raise DataError("a card must have a title, a line that begins with `# `")
    intro = pieces[0].replace(title[0], "", 1).strip()
    bodies = (piece.strip() for piece in pieces[2::2])
    return Card(front, title[1], intro, dict(zip(pieces[1::2], bodies, strict=True)))


def two_parts(
    card: str, name: str, suite: Mapping[str, Any], *, link: str = EVALUATION_FILE, back: str
) -> tuple[str, str]:
    """Both parts of a card, Markdown.

    Args:
        card: All of it.
        name: Name of the model.
        suite: Content of ``NAME.suite.json``.
        link: Where the second part will be, seen from the first.
        back: Where the first will be, seen from the second.

    Raises:
        DataError: for a card without a title, or results of another model.
    """
    parts = parts_of(card)
    measured = next(iter(suite["results"]), "")
    numbers = (
        f"Measured on `{measured}` by `lesff evaluate {name} --suite standard`; all tables and the "
        f"training are in [{link}]({link}).\n\n{headline_table(name, suite)}"
    )
    first = []
    for heading in FIRST:
        if heading in parts.sections:
            first.append((heading, parts.sections[heading]))
        if heading == "Not for":
            first.append(("In numbers", numbers))
    second = [row for row in parts.sections.items() if row[0] not in FIRST]
    front = f"{parts.front}\n" if parts.front else ""
    return (
        f"{front}# {parts.title}\n\n{parts.intro}\n\n{_joined(first)}",
        f"# {parts.title}: training and evaluation\n\nWhat the model is for and not for: "
        f"[{back}]({back}).\n\n{_joined(second)}",
    )


def _joined(sections: list[tuple[str, str]]) -> str:
    return "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections) + "\n"
