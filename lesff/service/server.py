"""uvicorn, with the settings of a small service."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

MAX_CONNECTIONS = 512
"""Further ones are answered with 503."""
_BACKLOG = 512
_KEEP_ALIVE_S = 30
_SWITCH_S = 5e-4
"""Python's switch interval. A thread that computes gives up the interpreter at every tensor
operation and waits this long to have it back while requests are read; Python's own 5 ms cost two
thirds of the throughput of small structures."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; an old process that just ended does not hinder it.

    Raises:
        OSError: if the address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: Any, listener: socket.socket) -> None:
    """Serve until an interrupt or termination."""
    import uvicorn  # of the extra `serve`

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # addresses of clients are not looked at
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
        ws="none",
    )
    # uvicorn raises the signals that ended it once more when all is closed: they have done their
    # work
    before = {
        name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)
    }
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        sys.setswitchinterval(interval)
        for name, handler in before.items():
            signal.signal(name, handler)
