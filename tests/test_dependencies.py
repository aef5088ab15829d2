"""``.ci/lowest.txt`` holds the lower bounds of ``pyproject.toml``."""

import re
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[1]
NOT_CHECKED = {"torch"}
"""One version only can be installed there; see ``.ci/lowest``."""


def test_the_lowest_versions_are_the_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {}
    for line in project["dependencies"]:
        name, bound = re.match(r"([a-z0-9-]+)>=([\d.]+)", line).groups()
        bounds[name] = Version(bound)
    pins = {}
    for line in (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").split():
        name, pin = line.split("==")
        pins[name] = Version(pin)
    assert pins == {name: bound for name, bound in bounds.items() if name not in NOT_CHECKED}
