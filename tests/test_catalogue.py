"""The catalogue of models as a page for a browser."""

import html.parser
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lesff.cli import main
from lesff.hub.catalogue import TABLE_ROWS, catalogue_html, write_catalogue
from lesff.hub.manifest.entries import ModelEntry
from lesff.hub.manifest.names import installed_models
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.server import running

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def rows_of(page: str) -> list[dict]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(found.group(1))


def test_every_model_is_there_with_its_digests(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["hub", "site", str(tmp_path / "site")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    models = installed_models()
    assert {row["name"] for row in rows_of(page)} == {model.name for model in models}
    assert rows_of(page)[0]["is_ours"]
    for model in models:
        for version in model.versions:
            for file in version.files:
                assert file.sha256 in page


def test_nothing_is_fetched() -> None:
    """No address of another place is followed: no src, no link, no import of a style."""
    page = catalogue_html(installed_models())

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("link", "img", "iframe", "object", "a")
            assert not {"src", "href", "action"} & {name for name, _ in attrs}

    Parser().feed(page)
    assert "@import" not in page
    assert "url(" not in page
    assert "fetch(" not in page


def test_all_elements_can_be_chosen_once() -> None:
    assert sorted(z for row in TABLE_ROWS for z in row) == list(range(1, 119))


def test_text_of_an_entry_is_no_markup() -> None:
    model = installed_models()[0]
    evil = model.__class__(
        **{**vars(model), "description": "</script><script>alert(1)</script>", "citation": "<b>"}
    )
    page = catalogue_html([evil])
    assert "<script>alert" not in page
    assert "<b>" not in page


def test_a_mirror_shows_it_to_a_browser(tmp_path: Path) -> None:
    mirror_models(["off-small"], tmp_path / "mirror")
    with running(tmp_path / "mirror", port=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", "/", headers={"Accept": "text/html,*/*"})
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/html")
        assert [row["name"] for row in rows_of(body)] == ["off-small"]
        assert f"LESFF_HUB={server.url}" in body
        connection.request("GET", "/")
        assert connection.getresponse().read().decode().startswith("A mirror of models")
        connection.close()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (
            "element=Li&element=S&license=permissive",
            lambda model: {3, 16} <= set(model.elements) and model.is_permissive,
        ),
        ("text=off-small", lambda model: "off-small" in model.name),
        ("element=Og", lambda model: 118 in model.elements),
        (
            "charge=2&spin=3",
            lambda model: (
                model.newest().total_charge[1] >= 2 and model.newest().spin_multiplicity[1] >= 3
            ),
        ),
    ],
)
def test_filters_in_a_browser(
    filters: str, fits: Callable[[ModelEntry], bool], tmp_path: Path
) -> None:
    path = write_catalogue(installed_models(), tmp_path)
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", f"file://{path}#{filters}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603
    shown = set(re.findall(r'<article data-name="([^"]+)">', done.stdout))
    hidden = set(re.findall(r'<article data-name="([^"]+)" hidden="">', done.stdout))
    models = installed_models()
    assert shown == {model.name for model in models if fits(model)}
    assert shown | hidden == {model.name for model in models}
    assert f"{len(shown)} of {len(models)} models" in done.stdout
