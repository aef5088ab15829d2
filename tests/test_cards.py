"""Model cards: every number of their tables is the one in the JSON file beside them."""

import json
import runpy
from pathlib import Path

import jsonschema
import pytest
from huggingface_hub import ModelCard

from lesff.errors import DataError
from lesff.evaluation.tables import blocks, error_markdown, filled, suite_markdown, table_of
from lesff.model_folder.card import front_matter
from lesff.train.stages import read_stages

ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "model_cards").glob("*.md"))
TRAINING = runpy.run_path(str(ROOT / "tools" / "card_training.py"))
SECTIONS = (
    "What it is",
    "Use",
    "Training",
    "Evaluation suite",
    "Electrostatics",
    "Not for",
    "Licence and citation",
)
"""Headings of a card, in this order, others between them."""


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_tables_are_those_of_the_results(path):
    card = path.read_text(encoding="utf-8")
    assert blocks(card), "a card must have tables of results"
    assert filled(card, path.stem, path.parent) == card
    for key in blocks(card):
        data = json.loads((path.parent / f"{path.stem}.{key}.json").read_text(encoding="utf-8"))
        name = data["model"].split("@")[0]  # another model's table says so in its key
        assert name == path.stem or key.endswith(f"-{name}")
    assert front_matter(card)["name"] == path.stem


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_front_matter_and_sections_are_complete(path):
    """The front matter is YAML as the Hub reads it; every section that a reader needs is there."""
    text = path.read_text(encoding="utf-8")
    data = ModelCard(text).data.to_dict()
    jsonschema.validate(data, json.loads((path.parent / "schema.json").read_text("utf-8")))
    assert data["name"] == path.stem
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert [h for h in headings if h in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("license: apache-2.0", "license: Apache-2.0"),
        ("license: apache-2.0\n", ""),
        ("tags: [", "labels: ["),
    ],
)
def test_a_bad_front_matter_is_noticed(before, after):
    folder = ROOT / "model_cards"
    text = (folder / "off-small.md").read_text(encoding="utf-8")
    assert before in text
    schema = json.loads((folder / "schema.json").read_text("utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ModelCard(text.replace(before, after)).data.to_dict(), schema)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_table_row_is_between_marks(path):
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("<!-- begin "):
            inside = True
        elif line.startswith("<!-- end "):
            inside = False
        assert inside or not line.startswith("|"), line


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_training_tables_are_those_of_the_recipe(path):
    card = path.read_text(encoding="utf-8")
    assert f"<!-- begin training: recipes/{path.stem}" in card
    assert TRAINING["with_training"](card) == card, "run tools/card_training.py"


def test_a_changed_training_table_is_noticed():
    card = (ROOT / "model_cards" / "off-small.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| 02-dipoles |"))
    assert "energy 5, forces 1, dipole 5, total_charge 1" in row
    changed = card.replace(row, row.replace("energy 5", "energy 6"))
    assert TRAINING["with_training"](changed) == card


def test_every_released_version_has_a_stage():
    """Of our own models; what others publish has no recipe here.

    Versions of the same weights, which differ in how crystals are summed, share a stage.
    """
    stages = [s for path in (ROOT / "recipes").glob("*/stages") for s in read_stages(path.parent)]
    results = [stage.notes.released for stage in stages if stage.notes.released is not None]
    assert len(set(results)) == len(results)
    released = json.loads((ROOT / "tests" / "released.json").read_text("utf-8"))
    trained = {}
    weights = [
        *(ROOT / "lesff" / "weights").glob("*/*/"),
        *(ROOT / "older_weights" / "lesff_older_weights").glob("*/*/"),
    ]
    for folder in sorted(weights):
        name = f"{folder.parent.name}@{folder.name}"
        trained.setdefault(released[name]["model.safetensors"], []).append(name)
    for versions in trained.values():
        assert len(set(versions) & set(results)) == 1, versions
    assert set(results) <= {version for versions in trained.values() for version in versions}


def _result(value, reference=None, **more):
    quantity = {"name": "MAE", "unit": "eV", "value": value, "reference": reference}
    return {"status": "done", "quantities": [quantity], "left_out": {}, "sources": ["A"]} | more


def test_suite_table_has_a_column_for_each_subject():
    results = {
        "ours": {"one": _result(0.12345, 1.0), "two": {"status": "not covered", "reason": "why"}},
        "xtb": {"one": _result(-23.456, 1.0, left_out={"a": "no C", "b": "no C"})},
    }
    lines = suite_markdown({"results": results}).splitlines()
    assert lines[0] == "| check | quantity | unit | ours | xtb | reference |"
    assert lines[2] == "| one | MAE | eV | 0.123 | -23.46 | 1.000 |"
    assert "- ours, two: why" in lines
    assert "- xtb, one: a, b: no C" in lines
    assert lines.count("- A") == 1


def test_a_value_that_only_the_second_subject_has():
    other = _result(2.0)
    other["quantities"][0]["name"] = "RMSE"
    table = suite_markdown({"results": {"ours": {"one": _result(1.0)}, "xtb": {"one": other}}})
    assert "| one | RMSE | eV |  | 2.000 |  |" in table


def test_a_changed_number_is_noticed(tmp_path):
    row = dict.fromkeys(("energy_mae", "energy_rmse", "forces_mae", "forces_rmse"), 1.04)
    errors = {
        "model": "m",
        "errors": {"all": {"n_frames": 3, **row}, "water": {"n_frames": 3, **row}},
    }
    (tmp_path / "m.evaluation.json").write_text(json.dumps(errors))
    card = filled("<!-- begin evaluation -->\n<!-- end evaluation -->", "m", tmp_path)
    assert "| water | 3 | 1.0 | 1.0 | 1.0 | 1.0 |" in card
    assert filled(card.replace("1.0", "1.1", 1), "m", tmp_path) == card


def test_stress_has_a_column_where_it_has_labels():
    row = dict.fromkeys(("energy_mae", "energy_rmse", "forces_mae", "forces_rmse"), 1.0)
    errors = {"a": {"n_frames": 1, **row, "stress_rmse": 2.0}}
    assert error_markdown(errors).splitlines() == [
        "| subset | frames | E MAE | E RMSE | F MAE | F RMSE | S RMSE |",
        "|---|---|---|---|---|---|---|",
        "| a | 1 | 1.0 | 1.0 | 1.0 | 1.0 | 2.0 |",
        "| mean over subsets | | 1.0 | | 1.0 | | |",
    ]
    errors["a"]["stress_rmse"] = float("nan")
    assert "S RMSE" not in error_markdown(errors)


def test_errors_of_born_charges_have_a_table(tmp_path):
    row = {"n_crystals": 3, "n_atoms": 9, "relative_rms": 21.36, "by_symmetry": 21.7}
    row |= {"median": 10.04, "element_mean": 48.4}
    data = {"born": {"all": row}, "by_element": {"O": 15.5}, "worst": [[128.3, "AuCsI3"]]}
    (tmp_path / "m.born.json").write_text(json.dumps(data))
    lines = table_of(tmp_path / "m.born.json").splitlines()
    assert lines[2] == "| all | 3 | 9 | 21.4 | 21.7 | 10.0 | 48.4 |"
    assert lines[4:] == ["By element, %: O 16.", "", "Largest, %: AuCsI3 128."]


def test_tables_without_results_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"m\.suite\.json is missing"):
        filled("<!-- begin suite -->\n<!-- end suite -->", "m", tmp_path)
    (tmp_path / "m.suite.json").write_text("{}")
    with pytest.raises(DataError, match="no errors, fragments or results"):
        table_of(tmp_path / "m.suite.json")
