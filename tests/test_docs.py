"""Code on the pages of the documentation runs, or is checked and says why it does not."""

import re
import shutil
from pathlib import Path

import document_code
import pytest
from document_code import DOCS, ROOT

PAGES = sorted(
    str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent.name != "models"
)
QUICK = ("getting-started.md",)
_IPI_LEAVES_FILES_OPEN = (
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)


def marked(name: str) -> object:
    """A page as a parameter, with what its test needs to be told."""
    marks = [] if name in QUICK else [pytest.mark.slow]
    marks += _IPI_LEAVES_FILES_OPEN if name == "tutorials/ipi.md" else ()
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(page) for page in PAGES])
def test_code_of_a_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in document_code.needed(DOCS / name):
        pytest.importorskip(module, reason=f"{name} runs {module}, which is not installed")
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    document_code.run(DOCS / name)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    """Links of pages to files beside them; those to sections are checked when the site is built."""
    page = DOCS / name
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target.startswith("models/") or "/models/" in target:
            continue  # made when the site is built
        assert (page.parent / target).exists(), f"{name}: {target}"


def test_what_is_not_run_is_found(tmp_path: Path) -> None:
    """The checks of this file see faults."""
    page = tmp_path / "page.md"
    for code, message in (
        ("```bash\nlesff predict x.xyz --temperture 3\n```", "has no --temperture"),
        ("```bash\nlesff predikt x.xyz\n```", "no command predikt"),
        ("```python\nfrom lesff.model import loud\n```", "loud"),
    ):
        page.write_text(f"<!-- not run: takes a file -->\n{code}\n", encoding="utf-8")
        with pytest.raises((AssertionError, ImportError), match=message):
            document_code.run(page)
    page.write_text("```python\nprint(1.5)\n```\n\n```output\n1.7\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="and the page says"):
        document_code.run(page)


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {"index.md"}
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    listed.add(str((page.parent / f"{line.strip()}.md").resolve()))
    inside = {str((DOCS / name).resolve()) for name in PAGES if name != "index.md"}
    assert inside <= listed, sorted(inside - listed)
    assert (ROOT / "docs" / "index.md").is_file()
