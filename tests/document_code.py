"""Code blocks of Markdown pages: run as a reader would, or checked where they cannot run.

A block runs unless the line before it says why not: ``<!-- not run: REASON -->``. The blocks of a
page share one Python namespace and one folder, which begins with ``docs/examples``. An ``output``
block says what the block before it prints: numbers may differ by 2 %, ``...`` stands for anything.
A page for a program that is not everywhere says so at its top, ``<!-- needs: MODULE -->``.

    python tests/document_code.py docs/tutorials/molecule.md   # write those blocks anew
"""

import ast
import contextlib
import importlib
import io
import itertools
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from lesff.cli import main
from lesff.errors import MissingDependencyError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REASON = re.compile(r"<!-- not run: ([^>]+) -->\n$")
_NEEDS = re.compile(r"<!-- needs: ([\w.]+) -->\n")
_NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
RUNNABLE = ("python", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: Its info string.
        code: Its text.
        line: Where it begins.
        reason: Why it is not run; None if it is.
        output: What it prints; None if the page does not say.
    """

    language: str
    code: str
    line: int
    reason: str | None
    output: str | None


def blocks(page: Path) -> list[Block]:
    """Blocks of a page that hold code, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    result = []
    for match, following in itertools.zip_longest(found, found[1:]):
        if match[1] not in RUNNABLE:
            continue
        before = _REASON.search(text[: match.start()])
        output = None
        if following is not None and following[1] == "output":
            assert not text[match.end() : following.start()].strip(), (
                f"{page}: an output of nothing"
            )
            output = following[2]
        line = text.count("\n", 0, match.start()) + 1
        result.append(Block(match[1], match[2], line, before and before[1], output))
    return result


def needed(page: Path) -> list[str]:
    """Modules without which a page cannot run."""
    return _NEEDS.findall(page.read_text(encoding="utf-8"))


def run(page: Path) -> None:
    """Run the blocks of a page in the current folder and compare what they print."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.reason is not None:
            check(block, where)
            continue
        text = printed_by(block, names, where)
        if block.output is not None:
            compare(text, block.output, where)


def update(page: Path) -> None:
    """Write what the blocks of a page print into its ``output`` blocks."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason is not None:
            continue
        printed = printed_by(block, names, page.name)
        if block.output is not None and "..." not in block.output:
            old = f"```{block.language}\n{block.code}```\n\n```output\n{block.output}```"
            text = text.replace(
                old, old.replace(f"```output\n{block.output}", f"```output\n{printed}")
            )
    page.write_text(text, encoding="utf-8")


def printed_by(block: Block, names: dict[str, Any], where: str) -> str:
    """Run a block; what it prints."""
    if block.language == "bash":
        return "".join(run_command(line, where) for line in commands(block.code))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, where, "exec"), names)  # noqa: S102 - ours
    return printed.getvalue()


def commands(code: str) -> list[list[str]]:
    """Words of each line of a shell block, comments and continuations resolved."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words: list[str], where: str) -> str:
    """Output of a line of a shell block, which must be a command of lesff that succeeds."""
    assert words[0] == "lesff", f"{where}: only `lesff` runs here, got {words[0]}"
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, (
        f"{where}: {shlex.join(words)}\n{result.output}{result.exception!r}"
    )
    return result.output


def check(block: Block, where: str) -> None:
    """Without running: commands and options exist, Python compiles and names of lesff exist."""
    if block.language == "python":
        for node in ast.walk(ast.parse(block.code, where)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesff"):
                with contextlib.suppress(MissingDependencyError):
                    module = importlib.import_module(str(node.module))
                    for alias in node.names:
                        if not hasattr(module, alias.name):
                            importlib.import_module(f"{node.module}.{alias.name}")
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        check_line(line, where)


def check_line(line: str, where: str) -> None:
    """Commands of lesff in a line of a shell have the options that are given."""
    found = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    found.commenters, found.whitespace_split = "#", True
    try:
        tokens = list(found)
    except ValueError:  # a quotation that goes on in the next line
        assert not line.lstrip().startswith("lesff"), f"{where}: {line}"
        return
    for is_end, group in itertools.groupby(tokens, lambda word: set(word) <= set("|;&")):
        words = [] if is_end else list(group)
        while words and "=" in words[0]:
            words.pop(0)
        if words and words[0] == "lesff":
            parse(words[1:], where)


def parse(words: list[str], where: str) -> None:
    """Parse the arguments of `lesff` as click does, and run nothing."""
    command: click.Command = main
    context = click.Context(main, info_name="lesff")
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"{where}: no command {name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word) and not re.fullmatch(r"-\d.*", word):
            assert word.split("=")[0] in options, f"{where}: `lesff {command.name}` has no {word}"


def compare(text: str, expected: str, where: str) -> None:
    """Raise AssertionError if a text is not the expected one, numbers to 2 %."""
    got, want = text.split(), expected.split()
    message = f"{where} prints\n{text}\nand the page says\n{expected}"
    while want:
        word = want.pop(0)
        if word == "...":
            rest = next((i for i, w in enumerate(got) if want and alike(w, want[0])), len(got))
            got = got[rest:]
            continue
        assert got, message
        assert alike(got.pop(0), word), message
    assert not got, message


def alike(got: str, want: str) -> bool:
    """Whether two words are the same, their numbers nearly."""
    if _NUMBER.sub("", got) != _NUMBER.sub("", want):
        return False
    pairs = zip(_NUMBER.findall(got), _NUMBER.findall(want), strict=False)
    return all(abs(float(a) - float(b)) <= 0.02 * abs(float(b)) + 5e-3 for a, b in pairs)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            shutil.copytree(DOCS / "examples", Path("docs/examples"))
            update(target)
