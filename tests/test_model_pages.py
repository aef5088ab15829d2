"""Cards in two parts and the pictures of the comparison: bound to the results they show."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from helpers import tiny_potential

import lesff
from lesff.errors import DataError
from lesff.evaluation.card_pages import (
    FIRST,
    HEADLINES,
    NUMBERS,
    headline,
    headline_table,
    parts_of,
    two_parts,
)
from lesff.files import FileSet
from lesff.model_folder.card import front_matter, read_evaluation
from lesff.model_folder.folder import save_model
from lesff.model_folder.layout import CARD_FILE, EVALUATION_FILE, model_files
from lesff.model_folder.verify import verify_parity

ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "model_cards").glob("*.md"))


def parts(path: Path) -> tuple[str, str]:
    suite = json.loads(path.with_suffix(".suite.json").read_text(encoding="utf-8"))
    return two_parts(path.read_text(encoding="utf-8"), path.stem, suite, back=CARD_FILE)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_both_parts_are_the_whole_card(path):
    card = path.read_text(encoding="utf-8")
    readme, evaluation = parts(path)
    # every line of the card is in one of the parts, and in one only
    old = re.sub(r"^## In numbers\n.*?(?=^## )", "", readme, flags=re.DOTALL | re.MULTILINE)
    both = [line for text in (old, evaluation) for line in text.splitlines()]
    title = f"# {parts_of(card).title}"
    for line in filter(None, set(card.splitlines()) - {title, "---"}):
        assert both.count(line) == card.splitlines().count(line), line
    assert front_matter(readme) == front_matter(card)
    headings = [line[3:] for line in readme.splitlines() if line.startswith("## ")]
    assert headings == [
        "Use", "Not for", "In numbers", "What it is", "Electrostatics", "Licence and citation",
    ]  # fmt: skip
    assert f"]({EVALUATION_FILE})" in readme
    assert f"]({CARD_FILE})" in evaluation
    for key in ("Training", "Evaluation suite"):
        assert f"\n## {key}\n" in evaluation


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_numbers_of_the_first_part_are_those_of_the_results(path):
    results = json.loads(path.with_suffix(".suite.json").read_text(encoding="utf-8"))["results"]
    table = re.search(r"^## In numbers\n.*?(\| \| unit .*?)\n\n", parts(path)[0], re.S | re.M)
    assert table is not None
    head, _, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in table[1].splitlines()
    ]
    methods = head[2:-1]
    assert methods[0].split("@")[0] == path.stem
    assert 4 <= len(rows) <= NUMBERS
    labels = {row.label: row for row in HEADLINES}
    for label, unit, *cells, reference in rows:
        row = labels[label]
        for method, cell in zip(methods, cells, strict=True):
            quantities = [
                q
                for q in results[method].get(row.check, {}).get("quantities", [])
                if q["name"].startswith(row.start)
            ]
            assert cell == (f"{quantities[0]['value']:.4g}" if quantities else "")
            if quantities and method == methods[0]:
                known = quantities[0]["reference"]
                assert (unit, reference) == (
                    quantities[0]["unit"],
                    "" if known is None else f"{known:.4g}",
                )


def test_cards_that_are_none_are_refused():
    with pytest.raises(DataError, match="a card must have a title"):
        parts_of("No heading\n")
    with pytest.raises(DataError, match="must be of off-small first, got gfn2-xtb"):
        headline_table("off-small", {"results": {"gfn2-xtb": {}}})
    with pytest.raises(DataError, match="must be of off-small first, got none"):
        headline_table("off-small", {"results": {}})
    assert headline({}, HEADLINES[0]) is None
    assert parts_of("# A\n\nIntro.\n").sections == {}
    assert "Training" not in FIRST


def test_a_folder_of_two_parts_counts_and_keeps_both(tmp_path):
    base = tiny_potential()
    card = "---\nlicense: mit\n---\n\n# Tiny\n"
    folder = tmp_path / "tiny"
    save_model(base, folder, card=card, license_text="Yours.\n", evaluation="# Tables\n")
    assert EVALUATION_FILE in model_files(folder)
    assert verify_parity(folder).ok
    model = lesff.load(str(folder))
    assert model.evaluation == "# Tables\n"
    # it travels with the model, and another text is another folder
    model.save(tmp_path / "copy")
    assert read_evaluation(tmp_path / "copy") == "# Tables\n"
    before = FileSet.of(folder, model_files(folder)).digest
    (folder / EVALUATION_FILE).write_text("# Other tables\n", encoding="utf-8")
    assert FileSet.of(folder, model_files(folder)).digest != before
    one = tmp_path / "one"
    save_model(base, one, card=card, license_text="Yours.\n")
    assert EVALUATION_FILE not in model_files(one)
    assert lesff.load(str(one)).evaluation is None


def test_pictures_have_a_bar_for_every_number(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    for name in ("model_plots", "model_pages"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    plots = runpy.run_path(str(ROOT / "docs" / "_ext" / "model_plots.py"))
    names = ["off-medium", "off-small"]
    suites = {
        name: json.loads((ROOT / "model_cards" / f"{name}.suite.json").read_text(encoding="utf-8"))
        for name in names
    }
    rows = plots["panels"](suites)
    assert len(rows) >= NUMBERS
    figure = plots["draw"](rows, names)
    for row, axes in zip(rows, figure.axes, strict=True):
        kind = next(h for h in HEADLINES if h.label == row.label)
        bars = [bar.get_width() for bar in axes.patches]
        shown = [text.get_text() for text in axes.get_yticklabels()]
        assert shown[:2] == names
        for name, bar in zip(shown, bars, strict=True):
            owner = name if name in suites else names[0]
            method = next(iter(suites[owner]["results"])) if name in suites else name
            quantities = suites[owner]["results"][method][kind.check]["quantities"]
            assert bar == next(q["value"] for q in quantities if q["name"].startswith(kind.start))
        assert axes.get_title(loc="left").replace("\n", " ") == f"{row.label} ({row.unit})"
    svg = plots["picture"](rows, names)
    assert svg == plots["picture"](rows, names)  # builds do not differ
    assert "<svg" in svg
