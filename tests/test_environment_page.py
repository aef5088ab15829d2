"""``docs/environment.md`` names the variables that the package reads, all and no others."""

import re
from pathlib import Path

import pytest

import lesff

PACKAGE = Path(lesff.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "environment.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
NAME = re.compile(r"\b(?:LESFF|HF|XDG)_[A-Z]+(?:_[A-Z]+)*\b")


def names_in_the_package():
    return {
        name
        for path in PACKAGE.rglob("*.py")
        for name in NAME.findall(path.read_text(encoding="utf-8"))
    }


def test_every_variable_of_the_package_is_on_the_page():
    on_page = [row[0].strip("`") for row in ROWS]
    assert len(on_page) == len(set(on_page))
    assert {name for name in on_page if NAME.fullmatch(name)} == names_in_the_package()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_a_variable_is_read_where_the_page_says(row):
    name, meaning, default, where = row
    assert meaning
    assert default
    assert name.strip("`") in (PACKAGE / where.strip("`")).read_text(encoding="utf-8")


def test_pages_name_no_variable_that_nobody_reads():
    """README and the other pages, too."""
    root = Path(__file__).parents[1]
    known = names_in_the_package()
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        unknown = set(NAME.findall(path.read_text(encoding="utf-8"))) - known
        assert not unknown, f"{path.name}: {sorted(unknown)}"
