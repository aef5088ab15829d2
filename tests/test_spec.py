"""Names of models: each text has one meaning, and the text of a meaning has that meaning."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesff.errors import ModelNotFoundError
from lesff.hub.spec import (
    NAME,
    VERSION_PREFIX,
    AddressSpec,
    FileAddress,
    FolderSpec,
    HubSpec,
    ModelSpec,
    RegistrySpec,
    has_model_scheme,
    parse,
    parse_file,
)

SHA256 = "0123456789abcdef" * 4
WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}"

names = st.from_regex(NAME, fullmatch=True)
versions = st.none() | st.from_regex(VERSION_PREFIX, fullmatch=True)
repositories = st.from_regex(f"{WORD}/{WORD}", fullmatch=True)
revisions = st.none() | st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9_-]{0,4}([./][A-Za-z0-9_][A-Za-z0-9_-]{0,4}){0,2}", fullmatch=True
)
addresses = st.from_regex(r"https://[a-z]{1,9}\.org(/[A-Za-z0-9_.-]{1,5}){0,3}/", fullmatch=True)
digests = st.none() | st.from_regex("[0-9a-f]{64}", fullmatch=True)
paths = st.lists(st.sampled_from(["a", "b@1", "hf:x", "~", "..", ".", "https:", "c:d", "é"]))
specs = st.one_of(
    st.builds(RegistrySpec, names, versions),
    st.builds(HubSpec, repositories, revisions),
    st.builds(AddressSpec, addresses, digests),
    st.builds(lambda parts: FolderSpec(Path(*parts)), paths),
    st.builds(lambda parts: FolderSpec(Path("/", *parts)), paths),
)


@given(specs)
def test_the_text_of_a_spec_stands_for_it(spec: ModelSpec) -> None:
    assert parse(str(spec)) == spec


@given(st.text(alphabet="ab1@:/.#~\\-_ \n", max_size=12) | st.text(max_size=8))
def test_any_text_is_refused_or_has_one_meaning(text: str) -> None:
    try:
        spec = parse(text)
    except ModelNotFoundError:
        with pytest.raises(ModelNotFoundError, match=r"must be|is not a source of models"):
            parse(text)
        return
    assert parse(str(spec)) == spec


@given(paths)
def test_a_path_is_always_a_folder(parts: list[str]) -> None:
    assert parse(Path(*parts)) == FolderSpec(Path(*parts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off-small", RegistrySpec("off-small")),
        ("off-small@0.1", RegistrySpec("off-small", "0.1")),
        ("off-small@", RegistrySpec("off-small", "")),  # the registry says that it has no such
        ("", RegistrySpec("")),
        ("hf:org/repo", HubSpec("org/repo")),
        ("hf:org/repo@v1/x", HubSpec("org/repo", "v1/x")),
        ("https://example.org/m/", AddressSpec("https://example.org/m/")),
        ("https://example.org/m/#", AddressSpec("https://example.org/m/")),
        ("http://127.0.0.1:80/", AddressSpec("http://127.0.0.1:80/")),
        (f"https://h.org/#sha256={SHA256}", AddressSpec("https://h.org/", SHA256)),
        ("./mine", FolderSpec(Path("mine"))),
        (".", FolderSpec(Path())),
        ("..", FolderSpec(Path(".."))),
        ("a@b/c", FolderSpec(Path("a@b/c"))),
    ],
)
def test_what_a_text_stands_for(text: str, expected: ModelSpec) -> None:
    assert parse(text) == expected


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("~") == FolderSpec(Path("/home/someone"))
    assert parse("~/m") == FolderSpec(Path("/home/someone/m"))
    assert parse("./~/m") == FolderSpec(Path("~/m"))


def test_a_folder_that_looks_like_an_address_is_one_if_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="'s3:bucket/m' is not a source of models; give a"):
        parse("s3:bucket/m")
    (tmp_path / "s3:bucket" / "m").mkdir(parents=True)
    assert parse("s3:bucket/m") == FolderSpec(Path("s3:bucket/m"))


HUB_FORM = "must be 'hf:organisation/name' or 'hf:organisation/name@revision'"
WEB_FORM = "must be the https:// address of a model folder, ending in '/', without credentials or"
FRAGMENT_FORM = "must be 'sha256=' and 64 lower-case hexadecimal digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:", f"'hf:' {HUB_FORM}"),
        ("hf:name", f"'hf:name' {HUB_FORM}"),
        ("hf:a/b/c", f"'hf:a/b/c' {HUB_FORM}"),
        ("hf:a/b@", f"'hf:a/b@' {HUB_FORM}"),
        ("hf:a/b@c@d", f"'hf:a/b@c@d' {HUB_FORM}"),
        ("hf:a/b\n", HUB_FORM),
        ("hf:å/b", HUB_FORM),
        ("https://example.org/m", f"'https://example.org/m' {WEB_FORM}"),
        ("https://example.org/m/?token=1", WEB_FORM),
        ("https://me:secret@example.org/m/", WEB_FORM),
        ("http://example.org/m/", WEB_FORM),
        ("https://", WEB_FORM),
        ("https://[/", WEB_FORM),
        ("https://example.org/a b/", WEB_FORM),
        ("https://h.org/#sha256=", FRAGMENT_FORM),
        ("https://h.org/#sha256=12", f"'#' in 'https://h.org/#sha256=12' {FRAGMENT_FORM}"),
        (f"https://h.org/#{SHA256}", FRAGMENT_FORM),
        (f"https://h.org/#sha256={SHA256.upper()}", FRAGMENT_FORM),
        (f"https://h.org/#sha256={SHA256}\n", FRAGMENT_FORM),
        (f"https://h.org/#sha256={SHA256}#", FRAGMENT_FORM),
        (f"https://h.org/#md5={SHA256}", FRAGMENT_FORM),
        ("ftp://h.org/m/", "'ftp://h.org/m/' is not a source of models; give a model's name ("),
        ("file:/m", "'file:/m' is not a source of models; give a model's name ("),
    ],
)
def test_malformed_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as info:  # noqa: PT011 - compared below
        parse(text)
    assert message in str(info.value)


def test_specs_cannot_be_made_or_made_malformed_by_hand() -> None:
    with pytest.raises(ModelNotFoundError, match="must be 'hf:organisation/name'"):
        HubSpec("a/b@c")
    with pytest.raises(ModelNotFoundError, match="must be the https:// address"):
        AddressSpec(f"https://h.org/#sha256={SHA256}")
    with pytest.raises(ModelNotFoundError, match="must be 'sha256=' and 64"):
        AddressSpec("https://h.org/", SHA256[:-1])
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'repo'"):
        HubSpec("a/b").repo = "../.."  # pyright: ignore[reportAttributeAccessIssue]


def test_a_spec_without_its_version() -> None:
    assert str(RegistrySpec("a", "1").unpinned) == "a"
    assert str(HubSpec("a/b", "main").unpinned) == "hf:a/b"
    assert str(AddressSpec("https://h.org/", SHA256).unpinned) == "https://h.org/"


def test_files_are_given_by_address_or_path() -> None:
    assert parse_file("https://h.org/manifest.json") == FileAddress("https://h.org/manifest.json")
    assert parse_file("http://mirror/manifest.json") == FileAddress("http://mirror/manifest.json")
    assert parse_file("manifest.json") == Path("manifest.json")
    assert parse_file(Path("https:/x")) == Path("https:/x")


def test_schemes_of_models_are_told_from_modules() -> None:
    assert all(map(has_model_scheme, ("hf:a", "hf:a/b", "http:x", "https://h.org/")))
    assert not any(map(has_model_scheme, ("tblite.ase:TBLite", "httpx:Model", "off-small")))
