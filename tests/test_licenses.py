"""Licences asked for once, citations, lists, and the manifest entries of models of others."""

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published_site import DIGEST, EXAMPLE, NAME, Site, private_site, run

import lesff
from lesff.environment import state_folder
from lesff.errors import LicenseError, ManifestError
from lesff.hub.manifest import names as registry
from lesff.hub.resolve import resolve


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with private_site(tmp_path, monkeypatch) as site:
        yield site


# licences


NOT_FREE = {
    "license": "CC-BY-NC-4.0",
    "license_url": "https://example.org/terms",
    "license_terms": "Not for sale.",
}


def test_a_licence_is_asked_for_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(**NOT_FREE)
    message = (
        f"{NAME} is under the licence CC-BY-NC-4.0: Not for sale. Read it at https://example.org/"
        f"terms; if you accept it, run `lesff pull {NAME} --accept-license`, or use lesff.load"
    )
    with pytest.raises(LicenseError) as caught:  # noqa: PT011 - compared below, to the letter
        lesff.load(NAME)
    assert str(caught.value).startswith(message)
    assert "accept_license=True" in str(caught.value)
    assert f"LESFF_ACCEPT_LICENSE={NAME}" in str(caught.value)
    assert site.server.requests == []
    lesff.load(NAME, accept_license=True)
    record = json.loads((state_folder() / "licenses" / f"{NAME}.json").read_text())
    assert (record["license"], record["license_url"]) == ("CC-BY-NC-4.0", NOT_FREE["license_url"])
    assert lesff.load(NAME).source.origin == "cache"
    site.publish(**NOT_FREE | {"license": "LicenseRef-ASL"})
    with pytest.raises(LicenseError, match="is under the licence LicenseRef-ASL"):
        lesff.load(NAME)
    monkeypatch.setenv("LESFF_ACCEPT_LICENSE", f"another, {NAME}")
    assert lesff.load(NAME).source.origin == "cache"
    monkeypatch.delenv("LESFF_ACCEPT_LICENSE")
    assert lesff.load(NAME).source.origin == "cache"
    (state_folder() / "licenses" / f"{NAME}.json").write_text("{")
    with pytest.raises(LicenseError, match="is under the licence"):
        lesff.load(NAME)


def test_commands_take_the_acceptance(site: Site) -> None:
    site.publish(**NOT_FREE)
    for arguments in (
        ["predict", EXAMPLE, "-m", NAME],
        ["evaluate", NAME, EXAMPLE],
        ["pull", NAME],
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "is under the licence CC-BY-NC-4.0: Not for sale." in result.output
        assert len(result.output.strip().splitlines()) == 1
    result = run("predict", EXAMPLE, "-m", NAME, "-p", "energy", "--accept-license")
    assert result.exit_code == 0, result.output
    result = run("predict", EXAMPLE, "-m", NAME, "-p", "energy")
    assert "energy (eV)" in result.output
    assert "# others-small" in run("info", NAME, "--accept-license").output


def test_a_cache_without_room_for_the_acceptance(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    site.publish(**NOT_FREE)
    resolve(NAME, accept_license=True)
    shutil.rmtree(state_folder() / "licenses")
    monkeypatch.setattr("lesff.hub.licenses.write_json", read_only)
    assert resolve(NAME, accept_license=True).origin == "cache"
    with pytest.raises(LicenseError, match="is under the licence"):
        resolve(NAME)


@pytest.mark.parametrize(
    ("expression", "is_permissive"),
    [
        ("MIT", True), ("Apache-2.0", True), ("CC-BY-4.0", True), ("MIT OR GPL-3.0-only", True),
        ("MIT AND Apache-2.0", True), ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT AND CC-BY-NC-4.0", False), ("CC-BY-NC-4.0", False), ("LicenseRef-ASL", False),
        ("GPL-3.0-or-later", False), ("mit", False),
    ],
)  # fmt: skip
def test_permissive_licences(site: Site, expression: str, is_permissive: bool) -> None:
    site.publish(**NOT_FREE | {"license": expression})
    assert registry.find_model(NAME)[0].is_permissive is is_permissive


# command line


def test_list_shows_who_and_under_what_terms(site: Site) -> None:
    site.publish(**NOT_FREE, size=1_500_000)
    lines = run("list").output.splitlines()
    assert " ".join(lines[0].split()) == "model by licence elements size level of theory"
    assert " ".join(lines[1].split()) == f"{NAME}@1.0.0 others CC-BY-NC-4.0 4 1.5 MB PBE"
    assert len(run("list", "--license", "permissive").output.splitlines()) == 1
    entry = json.loads(run("list", "--json").output)[0]
    assert (entry["is_permissive"], entry["is_published"]) == (False, True)
    assert json.loads(run("list", "--json", "--license", "permissive").output) == []


def test_info_of_a_model_that_is_not_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(**NOT_FREE)
    monkeypatch.setenv("LESFF_OFFLINE", "1")
    output = run("info", NAME).output
    for text in (
        "not on this machine; `lesff pull", "Not for sale.", "PBE", "H C N O", "unknown",
        "https://example.org/small", f"git blob {DIGEST.git_blob}", "Someone (2020)",
    ):  # fmt: skip
        assert text in output
    assert json.loads(run("info", NAME, "--json").output)["name"] == NAME
    assert site.server.requests == []
    assert not site.cache.exists()


def test_cite_prints_bibtex(site: Site) -> None:
    site.publish()
    assert run("cite", "others").output == "@article{Someone2020,\n  title = {Some {M}odel}\n}\n"
    site.publish(bibtex=["Nobody"])
    assert "citations.bib must have Nobody for others-small" in run("cite", NAME).output
    (site.manifest / "citations.bib").unlink()
    assert "citations.bib does not exist; install lesff again" in run("cite", NAME).output


# manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://example.org/x"}, "`url` must be an https:// address without credentials"),
        ({"url": "https://me:you@example.org/x"}, "`url` must be an https:// address without"),
        ({"url": "ftp://example.org/x"}, "`url` must be an https://"),
        ({"url": "https:///x"}, "`url` must be an https://"),
        ({"home": "nowhere"}, "`home` must be an https:// address"),
        ({"filename": "../x"}, "`filename` must be a plain file name"),
        ({"size": 0}, "`size` of small.model must be positive"),
        ({"git_blob": "E" * 40}, "`git_blob` must be 40 lower-case"),
        ({"sha256": "0"}, "`sha256` must be 64 lower-case"),
        ({"head": ""}, "`head` must be the name of a head or null"),
        ({"license": "CC-BY-NC-4.0"}, "must have license_terms, license_url"),
        ({"license_url": "http://example.org"}, "`license_url` must be an https:// address"),
        ({"bibtex": []}, "others-small must have bibtex"),
        ({"bibtex": ["a b"]}, "`bibtex` must be keys of citations.bib"),
        ({"bibtex": ["a", "a"]}, "bibtex keys of others-small must be unique"),
    ],
)
def test_malformed_sources_are_refused(site: Site, changes: dict[str, Any], message: str) -> None:
    site.publish(**changes)
    with pytest.raises(ManifestError, match=message):
        registry.list_models()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": [{"path": "x", "size": 1, "sha256": "0" * 64}]}, "must be empty for a publ"),
        ({"sources": {"bundled": True, "published": None}}, "`files` of version 1.0.0 must not"),
        ({"sources": {}}, "or else `published`, got neither"),
    ],
)
def test_sources_are_ours_or_published(site: Site, changes: dict[str, Any], message: str) -> None:
    site.publish()
    path = site.manifest / f"{NAME}.json"
    entry = json.loads(path.read_text())
    entry["versions"][0] |= changes
    path.write_text(json.dumps(entry))
    with pytest.raises(ManifestError, match=message):
        registry.list_models()
    entry["versions"][0]["sources"] = {
        "bundled": True, "published": {"url": "https://a.b/c", "filename": "c", "url_from": "d",
                                       "home": "https://a.b"},
    }  # fmt: skip
    path.write_text(json.dumps(entry))
    with pytest.raises(ManifestError, match="or else `published`, got both"):
        registry.list_models()
