"""Throughput of `lesff hub serve` under many clients on this machine.

    python benchmarks/hub_load.py [--clients 50] [--seconds 60]

The server is a process of its own, as in use; each client is a thread that fetches the files of the
bundled model in turn over one connection and compares every body with its sha256.
"""

import argparse
import hashlib
import http.client
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.store import RepositorySnapshot


class Client(threading.Thread):
    """Fetches until it is told to stop."""

    def __init__(self, port: int, snapshot: RepositorySnapshot, stop: threading.Event) -> None:
        super().__init__()
        self.port, self.snapshot, self.stop_event = port, snapshot, stop
        self.n_requests = self.n_bytes = 0
        self.slowest = 0.0
        self.errors: list[str] = []

    def run(self) -> None:
        """Fetch."""
        try:
            self.fetch()
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(repr(error))

    def fetch(self) -> None:
        """Every file in turn."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop_event.is_set():
            for file in self.snapshot.files:
                start = time.perf_counter()
                path = f"/{self.snapshot.repo}/resolve/{self.snapshot.commit}/{file.path}"
                connection.request("GET", path)
                body = connection.getresponse().read()
                self.slowest = max(self.slowest, time.perf_counter() - start)
                if hashlib.sha256(body).hexdigest() != file.sha256:
                    self.errors.append(f"wrong bytes of {file.path}")
                self.n_requests += 1
                self.n_bytes += len(body)
        connection.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (snapshot,) = mirror_models(["off-small"], Path(folder))
        server = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, "-m", "lesff.cli", "hub", "serve", folder, "--port", "0"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        port = int(server.stdout.readline().split("127.0.0.1:")[1].split(";")[0])
        stop = threading.Event()
        clients = [Client(port, snapshot, stop) for _ in range(options.clients)]
        start = time.perf_counter()
        for client in clients:
            client.start()
        time.sleep(options.seconds)
        stop.set()
        for client in clients:
            client.join()
        seconds = time.perf_counter() - start
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=60)
    n_requests = sum(client.n_requests for client in clients)
    n_bytes = sum(client.n_bytes for client in clients)
    errors = [error for client in clients for error in client.errors]
    slowest = max(client.slowest for client in clients)
    print(f"{options.clients} clients, {seconds:.1f} s: {n_requests} requests, all bytes hashed")
    print(f"  {n_requests / seconds:.0f} requests/s, {n_bytes / seconds / 1e6:.0f} MB/s")
    print(f"  slowest request {1e3 * slowest:.0f} ms; errors {len(errors)} {errors[:3]}")
    print(f"  server ended with status {status}")
    sys.exit(bool(errors) or status)


if __name__ == "__main__":
    main()
