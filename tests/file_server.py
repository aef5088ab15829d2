"""A web server on this machine that serves files and breaks as it is told to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves ``files``; ``faults`` are popped one per request.

    A fault is a number (close the connection after so many bytes of the body), an HTTP status
    such as ``"500"``, ``"tampered"``, ``"oversize"`` (says and sends more), ``"endless"`` (gives no
    length and sends more), ``"stall"`` (waits until it is asked again) or ``"moved:URL"``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.has_ranges = True
        self.has_etags = True
        self.requests: list[dict[str, str]] = []
        self.sent: list[int] = []
        """Bytes of the body, by request."""

    def url(self, name: str) -> str:
        """Address of a file."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append({k.lower(): v for k, v in self.headers.items()})
        fault = server.faults.pop(0) if server.faults else ""
        data = server.files.get(self.path.lstrip("/"))
        if isinstance(fault, str) and fault.startswith("moved:"):
            self.reply(302, {"Location": fault.removeprefix("moved:")}, b"")
        elif isinstance(fault, str) and fault.isdigit():
            self.reply(int(fault), {}, b"sorry")
        elif data is None:
            self.reply(404, {}, b"not here")
        else:
            self.reply_file(data, fault)

    def reply_file(self, data: bytes, fault: int | str) -> None:
        if fault == "tampered":
            data = b"x" * len(data)
        if fault in ("oversize", "endless"):
            data += b"more"
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"ETag": tag} if self.server.has_etags else {}
        if fault == "stall":
            asked = len(self.server.requests)
            for _ in range(3000):  # 30 s
                if len(self.server.requests) > asked:
                    break
                threading.Event().wait(0.01)
        start, wanted = 0, self.headers.get("Range")
        if wanted and self.server.has_ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = start + fault if isinstance(fault, int) else None
        has_length = fault != "endless"
        self.reply(206 if start else 200, headers, data[start:], data[start:cut], has_length)

    def reply(
        self,
        status: int,
        headers: dict[str, Any],
        body: bytes,
        sent: bytes | None = None,
        has_length: bool = True,
    ) -> None:
        sent = body if sent is None else sent
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if has_length:
            self.send_header("Content-Length", str(len(body)))
        self.server.sent.append(len(sent))  # before the client sees anything of the answer
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True


@contextmanager
def running_server() -> Iterator[FileServer]:
    """A server in a thread of its own."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
