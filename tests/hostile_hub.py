"""A hub on this machine that says and does what a hostile one could."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lesff.hub.sources.bundled import bundled_folder
from lesff.model_folder.layout import MODEL_FILES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "lesff-org/off-small"
SOURCE = bundled_folder() / "off-small" / "0.1.0"


class HostileHub(ThreadingHTTPServer):
    """Serves one commit of one repository.

    Attributes:
        content: Its files.
        commit: What it says that every branch stands for.
        headers: Headers of every answer.
        row: What rows of the list of files have beyond path, type and size; their digest if None.
        behaviour: ``"silent"`` (never answers), ``"drip"`` (a byte of the headers now and then) or
            ``"drip body"``; else it answers.
        asked: Paths of all requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = {name: (SOURCE / name).read_bytes() for name in MODEL_FILES}
        self.commit: Any = COMMIT
        self.headers: dict[str, str] = {}
        self.row: dict[str, Any] | None = None
        self.behaviour = ""
        self.asked: list[str] = []
        self.sent = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HostileHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_error(self) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(path)
        if hub.behaviour == "silent":
            hub.closing.wait(60)
            return
        if hub.behaviour == "drip":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 1000)
            return
        if "/api/models/" in path and "/revision/" in path:
            siblings = [{"rfilename": name} for name in hub.content]
            self.reply(json.dumps({"id": REPO, "sha": hub.commit, "siblings": siblings}).encode())
        elif "/tree/" in path:
            self.reply(json.dumps([self.row(name) for name in hub.content]).encode())
        elif path.split("/")[-1] in hub.content:
            self.reply(hub.content[path.split("/")[-1]])
        else:
            self.reply(b"{}", 404)

    def row(self, name: str) -> dict[str, Any]:
        data = self.server.content[name]
        digest = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}}
        more = digest if self.server.row is None else self.server.row
        return {"type": "file", "path": name, "size": len(data), **more}

    def reply(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.behaviour == "drip body":
            self.drip(body)
            return
        self.server.sent += len(body)
        self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        try:
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                if self.server.closing.wait(0.05):
                    return
        except OSError:  # the client is gone
            return


@contextmanager
def hostile_hub() -> Iterator[HostileHub]:
    """A hub in a thread of its own."""
    server = HostileHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
