"""The hub server: the endpoints that clients use, and nothing outside its folder."""

import contextlib
import hashlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import lesff
from lesff.errors import IntegrityError, ManifestError, ModelNotFoundError
from lesff.hub.mirror import server as hub_server
from lesff.hub.mirror.server import HubServer, running
from lesff.hub.mirror.store import RepositorySnapshot, Store
from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES

SOURCE = bundled_folder() / "off-small" / "0.1.0"
REPO = "lesff/off-small"


def fill(folder: Path) -> RepositorySnapshot:
    folder.mkdir(exist_ok=True)
    files = {name: SOURCE / name for name in MODEL_FILES} | {"extra/notes.txt": SOURCE / "LICENSE"}
    return Store(folder).add(REPO, files, refs=("main", "0.1.0"), date="2026-11-23")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    fill(tmp_path / "mirror")
    return tmp_path / "mirror"


@pytest.fixture
def server(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with running(mirror) as server:
        yield server


def ask(server: HubServer, path: str, method: str = "GET", **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    response.body = response.read()  # pyright: ignore[reportAttributeAccessIssue]
    connection.close()
    return response


def file_path(server: HubServer, name: str) -> str:
    commit = server.store.references(REPO)["main"]
    return f"/{REPO}/resolve/{commit}/{name}"


# plain huggingface_hub


def test_plain_huggingface_hub_fetches_from_it(server: HubServer, tmp_path: Path) -> None:
    commit = server.store.references(REPO)["main"]
    options: Any = {"endpoint": server.url, "cache_dir": tmp_path / "hf", "token": False}
    # after 10 s, its default, it would take what is there already for the whole repository
    options["etag_timeout"] = 60.0
    for revision in (None, "main", "0.1.0", commit):
        path = hf_hub_download(REPO, "model.safetensors", revision=revision, **options)
        assert Path(path).read_bytes() == (SOURCE / "model.safetensors").read_bytes()
        assert Path(path).parent.name == commit
        digest = hashlib.sha256((SOURCE / "model.safetensors").read_bytes()).hexdigest()
        assert Path(path).resolve().name == digest
    folder = Path(snapshot_download(REPO, **options))
    for name in MODEL_FILES:
        assert (folder / name).read_bytes() == (SOURCE / name).read_bytes()
    assert (folder / "extra" / "notes.txt").is_file()
    api = HfApi(endpoint=server.url, token=False)
    assert api.model_info(REPO).sha == commit
    assert [model.id for model in api.list_models()] == [REPO]
    assert [ref.name for ref in api.list_repo_refs(REPO).tags] == ["0.1.0"]
    assert set(api.list_repo_files(REPO)) == {*MODEL_FILES, "extra/notes.txt"}
    assert api.file_exists(REPO, "config.json")
    checked = api.verify_repo_checksums(REPO, cache_dir=tmp_path / "hf")
    assert checked.checked_count == 6
    assert not checked.mismatches


def test_huggingface_hub_is_told_what_is_missing(server: HubServer, tmp_path: Path) -> None:
    options: Any = {"endpoint": server.url, "cache_dir": tmp_path / "hf", "token": False}
    with pytest.raises(RepositoryNotFoundError, match="404"):
        hf_hub_download("a/b", "config.json", **options)
    with pytest.raises(RevisionNotFoundError, match="404"):
        hf_hub_download(REPO, "config.json", revision="9.9.9", **options)
    with pytest.raises(RemoteEntryNotFoundError, match="404"):
        hf_hub_download(REPO, "pytorch_model.bin", **options)


def test_the_environment_of_huggingface_hub_is_enough(server: HubServer, tmp_path: Path) -> None:
    code = f"from huggingface_hub import hf_hub_download as f; print(f({REPO!r}, 'LICENSE'))"
    environment = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).read_bytes() == (SOURCE / "LICENSE").read_bytes()


def test_lesff_loads_from_it(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LESFF_HUB", server.url)
    model = lesff.load(f"hf:{REPO}")
    assert model.source.version == server.store.references(REPO)["main"]
    assert (model.source.folder / "config.json").read_bytes() == (
        SOURCE / "config.json"
    ).read_bytes()


# answers


def test_ranges_and_tags(server: HubServer) -> None:
    data = (SOURCE / "LICENSE").read_bytes()
    path, tag = file_path(server, "LICENSE"), f'"{hashlib.sha256(data).hexdigest()}"'
    head = ask(server, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == head.headers["X-Linked-ETag"] == tag
    assert head.headers["Content-Length"] == head.headers["X-Linked-Size"] == str(len(data))
    assert head.headers["X-Repo-Commit"] == server.store.references(REPO)["main"]
    size = len(data)
    for value, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=11000-", 11000, size),
        ("bytes=-7", size - 7, size),
        ("bytes=-99999", 0, size),
        ("bytes=5-99999", 5, size),
    ):
        answer = ask(server, path, Range=value)
        assert (answer.status, answer.body) == (206, data[start:end])
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for value in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=a-b"):
        assert ask(server, path, Range=value).status == 200
    for value in ("bytes=99999-", "bytes=5-4"):
        answer = ask(server, path, Range=value)
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
    assert ask(server, path, Range="bytes=1-2", If_Range=tag).status == 206
    assert ask(server, path, Range="bytes=1-2", If_Range='"other"').status == 200
    assert ask(server, path, If_None_Match=tag).status == 304


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_cannot_be_written_to(server: HubServer, method: str) -> None:
    assert ask(server, f"/api/models/{REPO}/commit/main", method).status == 501


def test_a_body_ends_the_connection(server: HubServer) -> None:
    """Else its bytes would be taken for the next request."""
    request = b"GET /api/models HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        client.sendall(request + b"GET /api/models HTTP/1.1\r\n\r\n")
        received = b""
        while part := client.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1


def answers(server: HubServer, data: bytes) -> bytes:
    """All that comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                received += part
    return received


SMUGGLED = b"GET /manifest.json HTTP/1.1\r\nHost: x\r\n\r\n"
BAD_HEADS = {
    "length twice": b"Content-Length: 0\r\nContent-Length: 44\r\n",
    "length twice, the same": b"Content-Length: 0\r\nContent-Length: 0\r\n",
    "length with a space before the colon": b"Content-Length : 44\r\n",
    "length with a space in front": b" Content-Length: 44\r\n",
    "length with a plus": b"Content-Length: +44\r\n",
    "length with a minus": b"Content-Length: -0\r\n",
    "length list": b"Content-Length: 0, 44\r\n",
    "length hexadecimal": b"Content-Length: 0x0\r\n",
    "length of zeros": b"Content-Length: 00\r\n",
    "length empty": b"Content-Length:\r\n",
    "length": b"Content-Length: 44\r\n",
    "chunked": b"Transfer-Encoding: chunked\r\n",
    "chunked with a tab": b"Transfer-Encoding:\tchunked\r\n",
    "chunked with a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "identity": b"transfer-encoding: identity\r\n",
    "both": b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "folded": b"X: a\r\n Content-Length: 44\r\n",
    "host twice": b"Host: y\r\n",
    "no colon": b"Content-Length\r\n",
    "carriage return": b"X: a\rContent-Length: 44\r\n",
    "zero byte": b"X: a\0b\r\n",
    "too many": b"X: a\r\n" * 200,
    "too long": b"X: " + b"a" * 70_000 + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_heads_are_read_strictly(name: str, server: HubServer) -> None:
    """What follows a bad head is never taken for a request."""
    head = b"GET /api/models HTTP/1.1\r\nHost: x\r\n" + BAD_HEADS[name] + b"\r\n"
    received = answers(server, head + SMUGGLED)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in received


BAD_LINES = [
    b"GET  /api/models HTTP/1.1",
    b"GET /api/models",
    b"GET /api/models HTTP/2.0",
    b"GET\t/ HTTP/1.1",
    b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"GET /\x80 HTTP/1.1",
    b"get / HTTP/1.1",
    b"nonsense",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_request_lines_are_read_strictly(line: bytes, server: HubServer) -> None:
    received = answers(server, line + b"\r\nHost: x\r\n\r\n" + SMUGGLED)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_requests_without_a_body_may_say_so(server: HubServer) -> None:
    head = b"GET /api/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    received = answers(server, head * 2)
    assert received.count(b"HTTP/1.1 200 ") == 2


def test_people_find_a_page(server: HubServer) -> None:
    answer = ask(server, "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert f"LESFF_HUB={server.url}".encode() in answer.body
    assert f"{REPO}  ".encode() in answer.body


def test_requests_that_never_end_are_dropped(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no reason to wait."""
    monkeypatch.setattr(hub_server, "_REQUEST_S", 0.6)
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /api/models HTTP/1.1\r\nX: " + b"a" * 1000:
                client.sendall(bytes([byte]))
                time.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            assert client.recv(1000) == b""
    assert time.monotonic() - begun < 30.0  # all bytes would take 50 s


def test_answers_that_are_not_taken_are_dropped(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_server, "_ANSWER_S", 0.2)
    monkeypatch.setattr(hub_server, "_LOWEST_RATE", 10**9)
    large = tmp_path / "large"
    large.write_bytes(bytes(64 * 2**20))
    Store(mirror).add("a/b", {"large": large}, refs=("main",), date="2026-01-01")
    with running(mirror) as server:
        client = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        client.sendall(b"GET /a/b/resolve/main/large HTTP/1.1\r\nHost: x\r\n\r\n")
        n_bytes = 0
        with contextlib.suppress(ConnectionError):
            while part := client.recv(4096):
                n_bytes += len(part)
                time.sleep(0.002)
        client.close()
    assert n_bytes < 64 * 2**20


def test_slow_clients_do_not_lock_the_server(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that only wait make room, at the limit of one address and at that of all."""
    monkeypatch.setattr(hub_server, "_SETTLED_S", 0.2)
    for name in ("MAX_CLIENTS_EACH", "MAX_CLIENTS"):
        with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
            patch.setattr(hub_server, name, 8)
            slow = []
            for _ in range(8):
                address = ("127.0.0.1", server.server_port)
                slow.append(stack.enter_context(socket.create_connection(address, timeout=10)))
                slow[-1].sendall(b"GET /api/mod")
            time.sleep(0.5)
            assert ask(server, "/api/models").status == 200
            # threads of a busy machine begin to wait in any order: one was ended, whichever
            (ended,) = select.select(slow, [], [], 10)[0]
            assert ended.recv(10) == b""


def test_one_address_cannot_take_all_connections(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_server.MAX_CLIENTS_EACH < hub_server.MAX_CLIENTS
    monkeypatch.setattr(hub_server, "MAX_CLIENTS_EACH", 2)
    with contextlib.ExitStack() as stack:
        for address in ("127.0.0.1", "127.0.0.1", "127.0.0.1"):
            client = stack.enter_context(
                socket.create_connection((address, server.server_port), timeout=10)
            )
        assert client.recv(100).startswith(b"HTTP/1.1 503 ")
        other = stack.enter_context(
            socket.create_connection(
                ("127.0.0.1", server.server_port), timeout=10, source_address=("127.0.0.2", 0)
            )
        )
        other.sendall(SMUGGLED)
        assert other.recv(100).startswith(b"HTTP/1.1 404 ")


def test_updates_of_the_manifest_are_served(server: HubServer, mirror: Path) -> None:
    assert ask(server, "/manifest.json").status == 404
    (mirror / "manifest.json").write_bytes(b"{}")
    assert ask(server, "/manifest.json").body == b"{}"
    assert ask(server, "/manifest.json.sig").status == 404


# escape


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/lesff/off-small/resolve/main/../../../../secret.txt",
        "/lesff/off-small/resolve/main/..%2F..%2F..%2F..%2Fsecret.txt",
        "/lesff/off-small/resolve/main//etc/passwd",
        "/lesff/off-small/resolve/..%2F..%2F..%2Fsecret.txt/x",
        "/lesff/off-small/resolve/main/refs.json",
        "/lesff/off-small/resolve/main/LICENSE%00.txt",
        "/lesff/..%2F..%2Fsecret.txt/resolve/main/LICENSE",
        "/../lesff/resolve/main/LICENSE",
        "/./off-small/resolve/main/LICENSE",
        "/lesff/off-small/refs.json",
        "/lesff/off-small/resolve/main/link",
        "/lesff/off-small/resolve/main/folder/secret.txt",
        "/api/models/..%2F..%2F/off-small",
        "/api/models/lesff/%2e%2e",
        "/api/datasets/lesff/off-small",
        "/anything",
    ],
)
def test_nothing_outside_is_served(server: HubServer, mirror: Path, path: str) -> None:
    secret = mirror.parent / "secret.txt"
    secret.write_text("secret")
    inside = mirror / REPO / server.store.references(REPO)["main"]
    (inside / "link").symlink_to(secret)
    (inside / "folder").symlink_to(mirror.parent)
    answer = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in answer.body.replace(b"secret.txt", b"")


@pytest.mark.parametrize("what", ["file", "folder", "index", "refs"])
def test_symbolic_links_are_refused(server: HubServer, mirror: Path, what: str) -> None:
    home, path = mirror / REPO, file_path(server, "LICENSE")
    assert ask(server, path).status == 200
    commit = server.store.references(REPO)["main"]
    place = {
        "file": home / commit / "LICENSE",
        "folder": home / commit,
        "index": home / f"{commit}.json",
        "refs": home / "refs.json",
    }[what]
    outside = mirror.parent / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    assert ask(server, path).status == (500 if what in ("file", "folder") else 404)


@pytest.mark.parametrize("damage", ["altered", "short", "missing", "index", "other"])
def test_damaged_mirrors_serve_nothing(server: HubServer, mirror: Path, damage: str) -> None:
    path = file_path(server, "LICENSE")
    assert ask(server, path).status == 200
    commit = server.store.references(REPO)["main"]
    file, index = mirror / REPO / commit / "LICENSE", mirror / REPO / f"{commit}.json"
    if damage == "missing":
        file.unlink()
    elif damage == "index":
        index.write_text('{"repo": 1}')
    elif damage == "other":
        index.write_text(index.read_text().replace(REPO, "lesff/other"))
    else:
        size = len(file.read_bytes())
        file.write_bytes(b"x" * (size if damage == "altered" else size - 1))
    answer = ask(server, path)
    assert answer.status == 500
    assert str(mirror).encode() not in answer.body


def test_names_in_an_index_cannot_lead_out(mirror: Path) -> None:
    store = Store(mirror)
    commit = store.references(REPO)["main"]
    index = mirror / REPO / f"{commit}.json"
    index.write_text(index.read_text().replace('"LICENSE"', '"../../LICENSE"'))
    with pytest.raises(IntegrityError, match="mirror is damaged: `path` must be a relative path"):
        store.snapshot(REPO, "main")
    (mirror / REPO / "refs.json").write_text('{"refs": {"main": "../../x"}}')
    with pytest.raises(IntegrityError, match="must hold commits of 40"):
        store.references(REPO)


def test_a_commit_is_one_set_of_bytes(mirror: Path, tmp_path: Path) -> None:
    store = Store(mirror)
    commit = store.references(REPO)["main"]
    with pytest.raises(IntegrityError, match="is in the mirror .* with other bytes"):
        store.add(REPO, {"a": SOURCE / "LICENSE"}, refs=(), date="2026-11-23", commit=commit)
    (mirror / REPO / commit / "LICENSE").write_bytes(b"damaged")
    assert fill(mirror).commit == commit
    assert (mirror / REPO / commit / "LICENSE").read_bytes() == (SOURCE / "LICENSE").read_bytes()
    with pytest.raises(ManifestError, match="cannot hold the repository"):
        store.add("../x", {"a": SOURCE / "LICENSE"}, refs=(), date="2026-11-23")
    with pytest.raises(ModelNotFoundError, match="does not exist; make it with `lesff hub mirror"):
        Store(tmp_path / "nowhere")


# load and ends


def hammer(url: str, path: str, expected: str, stop: threading.Event, counts: list[int]) -> None:
    """Fetch a file again and again over one connection; one number per fetch that was right."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    while not stop.is_set():
        connection.request("GET", path)
        body = connection.getresponse().read()
        if hashlib.sha256(body).hexdigest() != expected:
            return
        counts.append(len(body))
    connection.close()
    counts.append(0)


def test_fifty_clients_at_once(server: HubServer) -> None:
    path = file_path(server, "config.json")
    expected = hashlib.sha256((SOURCE / "config.json").read_bytes()).hexdigest()
    stop = threading.Event()
    counts: list[list[int]] = [[] for _ in range(50)]
    threads = [
        threading.Thread(target=hammer, args=(server.url, path, expected, stop, row))
        for row in counts
    ]
    for thread in threads:
        thread.start()
    stop.wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert all(row[-1:] == [0] and len(row) > 1 for row in counts)


def test_too_many_clients_are_told_to_come_back(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_server, "MAX_CLIENTS", 0)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
    monkeypatch.undo()
    assert ask(server, "/api/models").status == 200


def test_closing_ends_idle_connections(mirror: Path) -> None:
    with running(mirror) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        client.request("GET", "/api/models")
        client.getresponse().read()
    assert client.sock.recv(1) == b""
    client.close()


def test_the_command_serves_until_it_is_told_to_stop(mirror: Path) -> None:
    process = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-m", "lesff", "hub", "serve", str(mirror), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("1 repositories at http://127.0.0.1:")
    port = int(line.split("127.0.0.1:")[1].split(";")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/api/models/{REPO}")
    assert json.loads(connection.getresponse().read())["id"] == REPO
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    connection.close()
