"""The README's examples run as printed."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from lesff.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_first_python_example_runs():
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    scope: dict = {}
    exec(compile(code.replace("print(p)", ""), "README.md", "exec"), scope)  # noqa: S102 - ours
    assert set(scope["p"]) == {"energy", "forces", "charges", "dipole"}


def test_first_command_predicts_the_example(monkeypatch):
    monkeypatch.chdir(ROOT)
    command = next(line for line in README.splitlines() if "bin/lesff predict" in line)
    arguments = shlex.split(command.split("bin/lesff ")[1])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    for text in ("energy (eV)", "forces (eV/A)", "charges (e)", "dipole (e*A)"):
        assert text in result.output


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "info",
        "pull",
        "cite",
        "predict",
        "evaluate",
        "train",
        "convert",
        "hub",
        "publish",
        "cache",
    ],
)
def test_commands_of_the_readme_exist(command):
    assert f"lesff {command}" in README
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
