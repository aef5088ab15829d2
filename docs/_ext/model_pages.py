"""Pages of models, made from the manifest, the cards and their JSON before each build.

``models/NAME.md`` is what to read first: what a model is for and not for, some numbers beside other
methods, licence and citation. ``models/NAME-evaluation.md`` has all the rest of its card.
``models/index.md`` compares them, with pictures. Nothing is typed twice: numbers come from
``model_cards/NAME.suite.json``, and the parts of a card are those of a released folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.data import chemical_symbols
from model_plots import panels, picture

from lesff.evaluation.card_pages import HEADLINES, headline, parts_of, two_parts
from lesff.hub.manifest.names import installed_models

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
CARDS = DOCS.parent / "model_cards"


def suite(name: str) -> dict[str, Any]:
    """Content of the results of the evaluation suite; those of the model come first."""
    return json.loads((CARDS / f"{name}.suite.json").read_text(encoding="utf-8"))


def own(name: str) -> dict[str, Any]:
    """Results of a model itself."""
    return next(iter(suite(name)["results"].values()))


def as_pages(name: str) -> dict[str, str]:
    """Both pages of a model by file name."""
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    card = card.removeprefix(parts_of(card).front)
    files = f"{name}.md", f"{name}-evaluation.md"
    texts = two_parts(card, name, suite(name), link=files[1], back=files[0])
    return dict(zip(files, texts, strict=True))


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
    for group, members in groups(names).items():
        lines += [
            f"![Bars of the errors of {', '.join(members)} and other methods: the numbers are in "
            f"the table below and on the pages of the models](comparison-{group}.svg)", "",
        ]  # fmt: skip
    rows = []
    for row in HEADLINES:
        cells = [headline(own(name), row) for name in names]
        known = next((one for one in cells if one is not None), None)
        if known is not None:
            texts = " | ".join("" if one is None else f"{one.value:.4g}" for one in cells)
            reference = "" if known.reference is None else f"{known.reference:.4g}"
            rows.append(f"| {row.label} | {known.unit} | {texts} | {reference} |")
    lines += [f"| | unit | {' | '.join(names)} | reference |", "|---" * (len(names) + 3) + "|"]
    lines += rows
    lines += ["", "```{toctree}", ":hidden:", ""]
    for name in names:
        lines += [name, f"{name}-evaluation"]
    return "\n".join([*lines, "```", ""])


def groups(names: list[str]) -> dict[str, list[str]]:
    """Models of one kind, which are measured alike, by the beginning of their names."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.split("-")[0], []).append(name)
    return found


def write_pages(_: Sphinx | None = None) -> None:
    """Write ``models/*.md``; files that would not change are left alone."""
    folder = DOCS / "models"
    folder.mkdir(exist_ok=True)
    names = sorted(path.stem for path in CARDS.glob("*.md"))
    pages = {"index.md": comparison(names)}
    for name in names:
        pages |= as_pages(name)
    for group, members in groups(names).items():
        pages[f"comparison-{group}.svg"] = picture(
            panels({name: suite(name) for name in members}), list(members)
        )
    for file, text in pages.items():
        path = folder / file
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Write the pages when a build begins."""
    app.connect("builder-inited", write_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
