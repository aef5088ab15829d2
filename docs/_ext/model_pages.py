"""Pages of models, made from the manifest, the cards and their JSON before each build.

``models/NAME.md`` is what to read first: what a model is for and not for, some numbers beside other
methods, licence and citation. ``models/NAME-evaluation.md`` has all the rest of its card.
``models/index.md`` compares them. Nothing is typed twice: numbers come from
``model_cards/NAME.suite.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.data import chemical_symbols

from lesff.hub.manifest.names import installed_models

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
CARDS = DOCS.parent / "model_cards"
FIRST = ("What it is", "Use", "Not for", "Electrostatics", "Licence and citation")
"""Sections of a card that belong to its first page; the others are its evaluation."""

HEADLINES = (
    ("frames", "forces MAE, pubchem", "forces, drug-like molecules (PubChem), MAE"),
    ("frames", "forces MAE, dipeptides", "forces, dipeptides, MAE"),
    ("frames", "forces MAE, water", "forces, water clusters, MAE"),
    ("conformers", "relative energies MAE, all but water", "conformers, MAE"),
    ("s22", "MAE (", "S22 binding energies, MAE"),
    ("dipoles", "MAE (", "dipoles of molecules, MAE"),
    ("states", "proton affinities, MAE about", "proton affinities, MAE about their mean error"),
    ("water", "dimer binding", "water dimer, binding"),
    ("solids", "lattice constants, MAE", "lattice constants, MAE"),
    ("solids", "bulk moduli, MAE", "bulk moduli, MAE"),
    ("born", "NaCl, Z*(Na) x", "Born charge of Na in NaCl"),
    ("born", "MgO, Z*(Mg) x", "Born charge of Mg in MgO"),
    ("drift", "drift over", "energy drift of a run without thermostat"),
)
"""Check of the suite, beginning of a quantity's name, and what a page calls it."""


def suite(name: str) -> dict[str, Any]:
    """Results of the evaluation suite by method; that of the model comes first."""
    return json.loads((CARDS / f"{name}.suite.json").read_text(encoding="utf-8"))["results"]


def value(
    results: dict[str, Any], check: str, start: str
) -> tuple[float, str, float | None] | None:
    """A quantity of a method: value, unit, reference; None if the method does not have it."""
    for quantity in results.get(check, {}).get("quantities", []):
        if quantity["name"].startswith(start):
            return quantity["value"], quantity["unit"], quantity["reference"]
    return None


def table(name: str) -> list[str]:
    """The headline numbers of a model beside those of other methods."""
    results = suite(name)
    methods = [m for m in results if "@" not in m or m.split("@")[0] == name]
    lines = [
        "| | unit | " + " | ".join(methods) + " | reference |",
        "|---" * (len(methods) + 3) + "|",
    ]
    for check, start, label in HEADLINES:
        found = [value(results[m], check, start) for m in methods]
        known = next((row for row in found if row is not None), None)
        if known is None or found[0] is None:
            continue
        cells = ["" if row is None else f"{row[0]:.4g}" for row in found]
        reference = "" if known[2] is None else f"{known[2]:.4g}"
        lines.append(f"| {label} | {known[1]} | {' | '.join(cells)} | {reference} |")
    return lines


def sections(card: str) -> tuple[str, dict[str, str]]:
    """Introduction and sections of a card, without its front matter and title."""
    text = card.split("---\n", 2)[2]
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    intro = re.sub(r"^# .+$", "", parts[0], flags=re.MULTILINE).strip()
    return intro, dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def as_pages(name: str) -> dict[str, str]:
    """Both pages of a model by file name."""
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", card, flags=re.MULTILINE).group(1)
    intro, parts = sections(card)
    measured = next(iter(suite(name)))
    first = [
        f"# {title}", intro, "```python", f'model = lesff.load("{name}")', "```", "",
        "## In numbers", f"Measured on `{measured}` by `lesff evaluate {name} --suite standard`; "
        f"[all tables]({name}-evaluation.md).", "", *table(name), "",
    ]  # fmt: skip
    for heading in FIRST:
        if heading in parts:
            first += [f"## {heading}", parts[heading], ""]
    second = [f"# {title}: training and evaluation", f"[Back to the summary]({name}.md).", ""]
    for heading, text in parts.items():
        if heading not in FIRST:
            second += [f"## {heading}", text, ""]
    return {f"{name}.md": "\n".join(first), f"{name}-evaluation.md": "\n".join(second)}


def comparison(names: list[str]) -> str:
    """The page that compares all models."""
    lines = [
        "# Models", "",
        "Which model for what, and how far to trust it. Others' models load by the same name: "
        "[published models](../published-models.md).", "",
        "| model | for | elements | charge | multiplicity |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in installed_models():
        if entry.name not in names:
            continue
        newest = entry.newest()
        low, high = newest.total_charge
        spins = newest.spin_multiplicity
        symbols = " ".join(chemical_symbols[z] for z in entry.elements)
        lines.append(
            f"| [{entry.name}]({entry.name}.md) | {entry.description} | {symbols} | "
            f"{low:+d} to {high:+d} | {spins[0]} to {spins[1]} |"
        )
    lines += ["", "## Numbers beside each other", ""]
    rows = []
    for check, start, label in HEADLINES:
        cells = [value(next(iter(suite(n).values())), check, start) for n in names]
        known = next((row for row in cells if row is not None), None)
        if known is not None:
            texts = " | ".join("" if row is None else f"{row[0]:.4g}" for row in cells)
            reference = "" if known[2] is None else f"{known[2]:.4g}"
            rows.append(f"| {label} | {known[1]} | {texts} | {reference} |")
    lines += [f"| | unit | {' | '.join(names)} | reference |", "|---" * (len(names) + 3) + "|"]
    lines += rows
    lines += ["", "```{toctree}", ":hidden:", ""]
    for name in names:
        lines += [name, f"{name}-evaluation"]
    return "\n".join([*lines, "```", ""])


def write_pages(_: Sphinx | None = None) -> None:
    """Write ``models/*.md``; files that would not change are left alone."""
    folder = DOCS / "models"
    folder.mkdir(exist_ok=True)
    names = sorted(path.stem for path in CARDS.glob("*.md"))
    pages = {"index.md": comparison(names)}
    for name in names:
        pages |= as_pages(name)
    for file, text in pages.items():
        path = folder / file
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Write the pages when a build begins."""
    app.connect("builder-inited", write_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
