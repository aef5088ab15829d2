"""``docs/theory.md``: the code and the tests that it names exist, and no number is left out."""

import ast
import importlib
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "theory.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (T\d+) \| .* \| (.*) \|$", TEXT, re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", TEXT)))
CODE = sorted(set(re.findall(r"`(lesff[\w.]*):(\w+)`", TEXT)))
WITHOUT_TEST = {"T43"}
"""Needs a data set that is not here."""


def test_every_number_of_the_list_has_a_test():
    assert [name for name, _ in ROWS] == [f"T{i}" for i in range(1, 48)]
    assert {name for name, tests in ROWS if "::" not in tests} == WITHOUT_TEST


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_named_tests_exist(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {test for name, test in NAMED if name == file} <= found


def test_named_code_exists():
    assert len(CODE) > 30
    missing = [f"{m}:{n}" for m, n in CODE if not hasattr(importlib.import_module(m), n)]
    assert missing == []


def test_every_equation_has_code_and_a_test():
    """Rows of the tables above the list of what is refused."""
    head = TEXT.split("## What is refused")[0]
    rows = [line for line in head.splitlines() if line.startswith("| ") and "| what |" not in line]
    assert len(rows) > 30
    for row in rows:
        assert re.search(r"`lesff[\w.]*:\w+`", row), row
        assert re.search(r"`test_\w+\.py::\w+`", row), row
