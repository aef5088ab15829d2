"""``docs/hub.md`` and ``SECURITY.md``: every promise names its tests, and these exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HUB = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TABLE = HUB.split("## What is promised, against whom")[1].split("\n\n")[1].splitlines()[2:]
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", HUB)))
SHORT = sorted(set(re.findall(r"`(\w+)::(test_\w+?)(?:\[\w+\])?`", HUB)))


def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", TABLE, ids=range(len(TABLE)))
def test_every_promise_has_a_test(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)
    assert re.fullmatch(r"(`test_\w+\.py::test_\w+`(, )?)+", cells[3]), cells[3]


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_named_tests_exist(file):
    assert {test for name, test in NAMED if name == file} <= functions(file)


@pytest.mark.parametrize("file", sorted({file for file, _ in SHORT}))
def test_tests_named_in_short_exist(file):
    assert {test for name, test in SHORT if name == file} <= functions(f"test_{file}.py")


def test_security_names_test_files_that_exist():
    names = re.findall(r"`(test_\w+)`", SECURITY)
    assert len(names) > 8
    assert [name for name in names if not (TESTS / f"{name}.py").is_file()] == []
