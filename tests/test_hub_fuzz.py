"""Random answers of a hub: the right model or one clear error, and never a file anywhere else."""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from published_site import first_off_small

from lesff.errors import LesffError, UnverifiedWarning
from lesff.files import FileSet
from lesff.hub.manifest import names as registry
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.server import HubHandler, HubServer, running
from lesff.hub.resolve import resolve
from lesff.hub.sources import huggingface as repositories
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES

EXAMPLES = int(os.environ.get("HUB_FUZZ_EXAMPLES", "25"))
"""Drawn answers per test; more by hand."""
TRUTH = FileSet.of(bundled_folder() / "off-small" / "0.1.0", MODEL_FILES)

NASTY = (
    "../../../outside", "/outside", "..", "%2e%2e%2foutside", "x" * 5000, "\x1b[31mred", "-1",
    "99999999999999999999", "nan", '"', "W/", "http://127.0.0.1:9/", "file:///outside", "",
)  # fmt: skip
HEADERS = (
    "ETag", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "Location",
    "Content-Type", "Content-Range", "Content-Encoding", "Transfer-Encoding", "Set-Cookie",
)  # fmt: skip


class FuzzHub(HubServer):
    """A hub that changes the bytes of its answers as it is told to, one change per request."""

    changes: list[tuple]


class FuzzHandler(HubHandler):
    server: FuzzHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.changed(super().do_HEAD)

    def do_GET(self) -> None:
        self.changed(super().do_GET)

    def changed(self, answer) -> None:
        change = self.server.changes.pop(0) if self.server.changes else None
        if change is None:
            answer()
            return
        real, self.wfile = self.wfile, io.BytesIO()
        try:
            answer()
            data = self.wfile.getvalue()
        finally:
            self.wfile = real
        self.close_connection = True
        self.wfile.write(apply(change, data))


def apply(change: tuple, data: bytes) -> bytes:
    """An answer, head and body, after a change."""
    kind, *rest = change
    head, blank, body = data.partition(b"\r\n\r\n")
    if kind == "cut":
        return data[: int(rest[0] * len(data))]
    if kind == "flip":
        place = min(int(rest[0] * len(data)), len(data) - 1)
        return data[:place] + bytes([data[place] ^ (1 << rest[1])]) + data[place + 1 :]
    if kind == "status":
        first, _, others = head.partition(b"\r\n")
        return b"HTTP/1.1 %d odd\r\n" % rest[0] + others + blank + body
    if kind == "header":
        name, value = rest
        lines = [x for x in head.split(b"\r\n") if not x.lower().startswith(name.lower().encode())]
        text = value.replace("\r", "").replace("\n", "").encode("latin-1", "replace")
        return b"\r\n".join([*lines, name.encode() + b": " + text]) + blank + body
    # the whole body is something else, of the length that the head now says
    new = rest[0]
    lines = [x for x in head.split(b"\r\n") if not x.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(new)]) + blank + new


SHARE = st.floats(0.0, 1.0)
CHANGES = st.one_of(
    st.none(),
    st.tuples(st.just("cut"), SHARE),
    st.tuples(st.just("flip"), SHARE, st.integers(0, 7)),
    st.tuples(st.just("status"), st.sampled_from([100, 204, 206, 301, 304, 401, 403, 404, 416,
                                                  429, 500, 503, 999])),
    st.tuples(st.just("header"), st.sampled_from(HEADERS), st.sampled_from(NASTY)),
    st.tuples(st.just("body"), st.sampled_from([b"", b"{}", b"[]", b"null", b"[" * 3000, b"\0" * 9,
                                                b'{"sha": "../../outside", "siblings": 3}'])),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FuzzHub]]:
    """A folder with a mirror, and its hub."""
    root = tmp_path_factory.mktemp("fuzz")
    (snapshot,) = mirror_models(["off-small@0.1.0"], root / "mirror")
    old = first_off_small()
    source = {"hub": {"repo": "lesff/off-small", "commit": snapshot.commit}}
    version = old["versions"][0] | {"version": "1.0.0", "sources": source}
    (root / "manifest").mkdir()
    entry = old | {"name": "off-hub", "versions": [version]}
    (root / "manifest" / "off-hub.json").write_text(json.dumps(entry))
    patch = pytest.MonkeyPatch()
    with running(root / "mirror", handler=FuzzHandler, server=FuzzHub) as server:
        server.changes = []
        for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
            patch.delenv(name, raising=False)
        patch.setenv("LESFF_CACHE", str(root / "home" / "cache"))
        patch.setenv("LESFF_STATE", str(root / "home" / "state"))
        patch.setenv("LESFF_HUB", server.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(registry, "manifest_folder", lambda: root / "manifest")
        patch.setattr(repositories, "_BACKOFF_S", 0.0)
        yield root, server
    patch.undo()


def outside(root: Path) -> set[str]:
    """All that is not in the cache or the state of this user."""
    home = root / "home"
    return {str(p.relative_to(root)) for p in root.rglob("*") if home not in (p, *p.parents)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["off-hub", "hf:lesff/off-small@0.1.0"])
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # an answer takes too long to be made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(CHANGES, min_size=1, max_size=12))
def test_odd_answers_give_the_model_or_an_error(place, name: str, changes: list) -> None:
    root, server = place
    shutil.rmtree(root / "home", ignore_errors=True)
    before = outside(root)
    server.changes = list(changes)
    found = None
    with contextlib.suppress(LesffError), warnings.catch_warnings():
        # a commit that was known before an answer broke off serves, and it is said
        warnings.simplefilter("ignore", UnverifiedWarning)
        found = resolve(name).folder
    assert found is None or TRUTH.damage(found) is None
    assert outside(root) == before
    # what the odd answers left behind does not stand in the way of a good one
    server.changes = []
    assert TRUTH.damage(resolve(name).folder) is None
