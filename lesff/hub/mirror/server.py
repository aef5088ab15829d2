"""A read-only hub: serves a mirror to lesff and to plain huggingface_hub.

Speaks what their clients use: model information, file trees, references, and files with ranges,
entity tags (their sha256) and the headers that name commit and size.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from lesff.errors import IntegrityError, ModelNotFoundError
from lesff.files import FileEntry
from lesff.hub.catalogue import catalogue_html
from lesff.hub.manifest.names import installed_models
from lesff.hub.mirror.store import RepositorySnapshot, Store

MAX_CLIENTS = 256
"""Connections at a time; further ones are told to come back."""

UPDATE_FILES = ("manifest.json", "manifest.json.sig")
"""Manifest update and its signature, served from the root of the mirror if they are there."""

MAX_CLIENTS_EACH = 240
"""Connections at a time of one address, so that one client cannot take all."""

_SETTLED_S = 2.0
"""A connection that has waited this long for a request makes room for a new one where none is
left."""

_IDLE_S = 30.0
"""A client that neither asks nor takes anything for so long is disconnected."""
_REQUEST_S = 20.0
"""A request must be complete so long after its first byte."""
_ANSWER_S = 60.0
"""An answer must be taken in this time and that of its size at the lowest rate."""
_LOWEST_RATE = 50_000
"""Bytes per second that a client must take on average."""
_MAX_REQUESTS = 10_000
"""Requests of one connection; further ones need a new one."""
_REQUEST_LINE = re.compile(rb"(GET|HEAD|[A-Z]{1,16}) [\x21-\x7e]{1,65536} HTTP/1\.[01]\r?\n")
_HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r?\n")
_MAX_HEADERS = 100
_MAX_HEAD_BYTES = 131_072
_PIECE = 2**20
_MAX_UPDATE_BYTES = 25_000_000
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+)(?:/(.*))?)?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

_log = logging.getLogger(__name__)


@dataclass
class _Connection:
    """A client that is connected.

    Attributes:
        address: Where from.
        since: When it began to wait for a request to be complete; None while it is answered.
    """

    address: str
    since: float | None = field(default_factory=time.monotonic)


class HubServer(ThreadingHTTPServer):
    """Serves a mirror; closing waits for the answers that are under way.

    Args:
        folder: The mirror.
        host: Address to listen at; ``"0.0.0.0"`` for all.
        port: Port to listen at; 0 for any free one.
        handler: Class that answers.

    Raises:
        ModelNotFoundError: if the folder does not exist.
        OSError: if the address cannot be listened at.
    """

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        handler: type[HubHandler] | None = None,
    ) -> None:
        self.store = Store(folder)
        self.is_closing = False
        self._clients: dict[socket.socket, _Connection] = {}
        self._guard = threading.Lock()
        super().__init__((host, port), handler or HubHandler)

    @property
    def url(self) -> str:
        """Address for ``LESFF_HUB`` and ``HF_ENDPOINT`` on this machine."""
        host = str(self.server_address[0])
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self.server_port}"  # noqa: S104

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        address = str(client_address[0])
        with self._guard:
            is_full = not self._has_room(address)
            if not is_full:
                self._clients[request] = _Connection(address)
        if is_full:
            # never wait here: this thread takes all connections
            request.setblocking(False)
            with suppress(OSError):
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def _has_room(self, address: str) -> bool:
        """Whether one more connection of an address fits; one that only waits is ended for it."""
        own = {c: row for c, row in self._clients.items() if row.address == address}
        if len(own) >= MAX_CLIENTS_EACH:
            return self._end_waiting(own)
        return len(self._clients) < MAX_CLIENTS or self._end_waiting(self._clients)

    def _end_waiting(self, clients: dict[socket.socket, _Connection]) -> bool:
        """End the connection that has waited longest for a request; False if there is none."""
        now = time.monotonic()
        waiting = [(row.since, c) for c, row in clients.items() if row.since is not None]
        if not waiting:
            return False
        since, client = min(waiting, key=lambda pair: pair[0])
        if now - since < _SETTLED_S:
            return False
        self._clients.pop(client)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        return True

    def note(self, request: socket.socket, *, waits: bool) -> None:
        """Write down whether a connection waits for a request or is being answered."""
        with self._guard:
            row = self._clients.get(request)
            if row is not None:
                row.since = time.monotonic() if waits else None

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection."""
        with self._guard:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error of ours; the rest goes to the log."""
        _log.info("connection of %s ended early", client_address, exc_info=True)

    def server_close(self) -> None:
        """Stop listening, let answers finish, close."""
        self.is_closing = True
        with self._guard:
            clients = list(self._clients)
        for client in clients:  # those that wait for a next request see the end of it
            try:
                client.shutdown(socket.SHUT_RD)
            except OSError:
                _log.debug("client was gone already")
        super().server_close()


S = TypeVar("S", bound=HubServer)


@contextmanager
def running(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    handler: type[HubHandler] | None = None,
    server: type[S] = HubServer,
) -> Iterator[S]:
    """A server in a thread of its own, until the block is left.

    Args:
        folder: The mirror.
        host: Address to listen at.
        port: Port to listen at; 0 for any free one.
        handler: Class that answers.
        server: Class of the server.
    """
    running_one = server(folder, host=host, port=port, handler=handler)
    thread = threading.Thread(target=running_one.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running_one
    finally:
        running_one.shutdown()
        thread.join()
        running_one.server_close()


class _Deadline(RawIOBase):
    """Reads a connection until a moment, however slowly its bytes come.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end: float | None = None

    def restart(self, seconds: float | None, *, keep: bool = False) -> None:
        """Set the moment; idle time counts only up to the first byte if None.

        Args:
            seconds: From now.
            keep: Leave a moment that is set as it is.
        """
        if not (keep and self._end is not None):
            self._end = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there; the first bytes of a request set its moment.

        Raises:
            TimeoutError: when the time is over.
        """
        left = _IDLE_S if self._end is None else self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(min(left, _IDLE_S))
        try:
            n_bytes = self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(_IDLE_S)
        self.restart(_REQUEST_S, keep=True)
        return n_bytes


class _Replayed:
    """The head of a request, which has been read, and what follows it.

    Args:
        head: Request line and headers.
        rest: The connection.
    """

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = BytesIO(head), rest

    def readline(self, size: int = -1) -> bytes:
        """A line of the head, then of the rest."""
        return self._head.readline(size) or self._rest.readline(size)

    def read(self, size: int = -1) -> bytes:
        """Bytes of the body."""
        return self._rest.read(size)


class HubHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: HubServer  # pyright: ignore[reportIncompatibleVariableOverride]  # only one serves this
    protocol_version = "HTTP/1.1"
    server_version = "lesff"
    sys_version = ""
    timeout = _IDLE_S
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Read requests through a stream with a limit of time."""
        super().setup()
        self._n_requests = 0
        self._deadline = _Deadline(self.connection)
        self.rfile = BufferedReader(self._deadline, 65_536)  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        """Answer a request whose head is complete in time and strictly of the form it must have."""
        self._n_requests += 1
        self._deadline.restart(None)
        self.server.note(self.connection, waits=True)
        try:
            head = self._read_head()
        except (TimeoutError, ConnectionError):
            self.close_connection = True
            return
        if head is None:
            self.close_connection = True
            return
        # the parser of the library sees what has been looked at, and nothing else
        rest, self.rfile = self.rfile, _Replayed(head, self.rfile)  # pyright: ignore[reportAttributeAccessIssue]
        self.server.note(self.connection, waits=False)
        self._deadline.restart(_ANSWER_S)
        try:
            super().handle_one_request()
        finally:
            self.rfile = rest
        if self._n_requests >= _MAX_REQUESTS:
            self.close_connection = True

    def _read_head(self) -> bytes | None:
        """Request line and headers, or None at the end or after an answer to a bad one."""
        lines = [self.rfile.readline(65_700)]
        if not lines[0]:
            return None
        self._deadline.restart(_REQUEST_S, keep=True)
        good = _REQUEST_LINE.fullmatch(lines[0]) is not None
        while good and len(lines) <= _MAX_HEADERS + 1:
            lines.append(self.rfile.readline(65_700))
            if lines[-1] in (b"\r\n", b"\n"):
                break
            good = _HEADER_LINE.fullmatch(lines[-1]) is not None
        size = sum(map(len, lines))
        names = [line.split(b":")[0].lower() for line in lines[1:-1]]
        lengths = [
            line.split(b":", 1)[1] for line in lines[1:-1] if line.lower().startswith(b"content-le")
        ]
        # only the length zero where nobody reads a body; else its bytes would be the next request
        digits = rb"0" if lines[0].startswith((b"GET ", b"HEAD ")) else rb"0|[1-9][0-9]{0,15}"
        bad_body = b"transfer-encoding" in names or any(
            not re.fullmatch(rb"[ \t]*(?:%s)[ \t]*\r?\n" % digits, value) for value in lengths
        )
        complete = lines[-1] in (b"\r\n", b"\n") and size <= _MAX_HEAD_BYTES
        if good and complete and not bad_body and len(lengths) <= 1 and names.count(b"host") <= 1:
            return b"".join(lines)
        self._refuse_head(
            "requests must not have a body" if bad_body or lengths else "malformed request"
        )
        return None

    def _refuse_head(self, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        with suppress(OSError):
            self.wfile.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nX-Error-Code: BadRequest\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base
        """Requests go to the log, not to the terminal."""
        _log.info("%s %s", self.client_address[0], format % args)

    def do_GET(self) -> None:
        """Answer with headers and body."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer with headers."""
        self._answer()

    def _answer(self) -> None:
        if self.server.is_closing:
            self.close_connection = True
        parts = urlsplit(self.path)
        try:
            self._route(parts.path, parse_qs(parts.query))
        except ModelNotFoundError as error:
            self._refuse(404, "RepoNotFound", str(error))
        except IntegrityError as error:
            _log.error("%s", error)  # noqa: TRY400 - the traceback says no more
            self._refuse(500, "Damaged", "the mirror is damaged; see its log")

    def _route(self, path: str, query: dict[str, list[str]]) -> None:
        if path.lstrip("/") in UPDATE_FILES:
            self._send_update(path.lstrip("/"))
        elif path == "/" and self.requestline.split()[1] == self.path:  # "//" is shortened
            self._send_front()
        elif path == "/api/models":
            rows = (self._find(repo, "main") for repo in self.server.store.repositories())
            self._send_json([_information(row) for row in rows if row is not None])
        elif match := _API.fullmatch(path):
            self._send_api(match, is_recursive=query.get("recursive", [""])[0].lower() == "true")
        elif match := _RESOLVE.fullmatch(path):
            repo, revision, name = (unquote(group) for group in match.groups())
            snapshot = self._find(repo, revision)
            if snapshot is not None:
                self._send_entry(snapshot, name)
        else:
            self._refuse(404, "EntryNotFound", "this server has mirrored models only")

    def _send_front(self) -> None:
        """The catalogue of what is here for a browser, a list of it for others."""
        if "text/html" not in self.headers.get("Accept", ""):
            self._send_bytes(self._page().encode(), "text/plain; charset=utf-8")
            return
        names = {repo.rpartition("/")[2] for repo in self.server.store.repositories()}
        here = [entry for entry in installed_models() if entry.name in names]
        self._send_bytes(catalogue_html(here, self._page()).encode(), "text/html; charset=utf-8")

    def _page(self) -> str:
        """What is here and how to reach it, as plain text."""
        lines = [
            "A mirror of models for lesff, read-only.",
            "",
            f"export LESFF_HUB={self.server.url}     # lesff",
            f"export HF_ENDPOINT={self.server.url}   # huggingface_hub",
            "",
        ]
        for repo in self.server.store.repositories():
            refs = self.server.store.references(repo)
            tags = sorted(name for name in refs if name != "main")
            lines.append(f"{repo}  {', '.join(tags)}".rstrip())
        return "\n".join(lines) + "\n"

    def _send_api(self, match: re.Match[str], *, is_recursive: bool) -> None:
        repo, kind, revision, inner = (unquote(group or "") for group in match.groups())
        if kind == "refs":
            refs = self.server.store.references(repo)
            rows = [_reference(name, commit) for name, commit in refs.items()]
            branches = [row for row in rows if row["name"] == "main"]
            tags = [row for row in rows if row["name"] != "main"]
            self._send_json({"branches": branches, "tags": tags, "converts": []})
            return
        snapshot = self._find(repo, revision or "main")
        if snapshot is None:
            return
        if kind == "tree":
            prefix = f"{inner.rstrip('/')}/" if inner else ""
            files = [file for file in snapshot.files if file.path.startswith(prefix)]
            if not is_recursive:
                files = [file for file in files if "/" not in file.path[len(prefix) :]]
            self._send_json([_tree_row(file) for file in files])
        else:
            self._send_json(_information(snapshot))

    def _find(self, repo: str, revision: str) -> RepositorySnapshot | None:
        """The snapshot, or None after an answer that it is not there."""
        snapshot = self.server.store.snapshot(repo, revision)
        if snapshot is None:
            self._refuse(404, "RevisionNotFound", f"{repo} has no revision {revision}")
        return snapshot

    def _send_entry(self, snapshot: RepositorySnapshot, name: str) -> None:
        file = next((file for file in snapshot.files if file.path == name), None)
        common = {"X-Repo-Commit": snapshot.commit, "Accept-Ranges": "bytes"}
        if file is None:
            self._refuse(404, "EntryNotFound", f"{snapshot.repo} has no such file", common)
            return
        tag = f'"{file.sha256}"'
        common |= {"ETag": tag, "X-Linked-ETag": tag, "X-Linked-Size": str(file.size)}
        if tag in self.headers.get("If-None-Match", ""):
            self._send_headers(304, common, 0)
            return
        span = _span(self.headers.get("Range"), file.size)
        if self.headers.get("If-Range", tag) != tag:
            span = None
        if span is not None and span[0] >= span[1]:
            self._refuse(416, "Range", "no such range", {"Content-Range": f"bytes */{file.size}"})
            return
        start, end = span or (0, file.size)
        if span is not None:
            common["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        with self.server.store.open(snapshot, file) as stream:
            content = {"Content-Type": "application/octet-stream"}
            self._send_headers(200 if span is None else 206, common | content, end - start)
            if self.command != "HEAD":
                self._send_file(stream, start, end)

    def _send_file(self, stream: BinaryIO, start: int, end: int) -> None:
        """Send a part of a file to a client that takes it at the lowest rate or faster."""
        deadline = time.monotonic() + _ANSWER_S + (end - start) / _LOWEST_RATE
        for here in range(start, end, _PIECE):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.client_address[0]} takes too long")
            self.connection.sendfile(stream, offset=here, count=min(_PIECE, end - here))

    def _send_update(self, name: str) -> None:
        path = self.server.store.folder / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_UPDATE_BYTES:
            self._refuse(404, "EntryNotFound", f"this mirror has no {name}")
            return
        self._send_bytes(path.read_bytes(), "application/octet-stream")

    def _send_json(self, data: Any) -> None:
        self._send_bytes(json.dumps(data).encode(), "application/json")

    def _send_bytes(self, body: bytes, kind: str) -> None:
        self._send_headers(200, {"Content-Type": kind}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps({"error": message}).encode()
        text = message.encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
        extra = {"X-Error-Code": code, "X-Error-Message": text, "Content-Type": "application/json"}
        self._send_headers(status, extra | (headers or {}), len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and byte after the last of a range, or None for the whole file."""
    match = _RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def _information(snapshot: RepositorySnapshot) -> dict[str, Any]:
    return {
        "_id": snapshot.commit[:24],
        "id": snapshot.repo,
        "modelId": snapshot.repo,
        "author": snapshot.repo.split("/")[0],
        "sha": snapshot.commit,
        "lastModified": f"{snapshot.date}T00:00:00.000Z",
        "createdAt": f"{snapshot.date}T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": "lesff",
        "tags": ["lesff"],
        "siblings": [
            {"rfilename": file.path, "size": file.size, "lfs": _large(file)}
            for file in snapshot.files
        ],
    }


def _large(file: FileEntry) -> dict[str, Any]:
    """How the hub describes a file that is known by its sha256."""
    return {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}


def _tree_row(file: FileEntry) -> dict[str, Any]:
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "oid": file.sha256[:40],
        "lfs": _large(file),
    }


def _reference(name: str, commit: str) -> dict[str, str]:
    kind = "heads" if name == "main" else "tags"
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
