"""Download of one file from the web: resumable, bounded in size and time, without credentials."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tqdm.auto import tqdm

from lesff.disk import is_own, open_own
from lesff.errors import ConfigError, IntegrityError, ModelNotFoundError, OfflineError
from lesff.hub.cache import DISK_ERRORS
from lesff.hub.spec import is_safe_url
from lesff.hub.time_limit import TimeLimit
from lesff.plain_data import from_dict, read_json, write_json

MAX_BYTES = 4 * 2**30
"""Largest file that is fetched when the manifest does not know its size."""

SMALL_BYTES = 25_000_000
"""Largest file of a model folder that does not hold the weights, when its size is not known."""

_ATTEMPTS = 4
"""Attempts in a row without a new byte."""
_MAX_ATTEMPTS = 40
_BACKOFF_S = 0.5
"""Pause before the second attempt; doubles with every attempt in a row that brings nothing."""
_TIMEOUT_S = 30.0
"""For the connection and for every read, where more is left of the time limit."""
_POLL_S = 1.0
"""How often the time limit is looked at."""
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {401, 403, 404, 410, 451}
_RANGE_REFUSED = 416


@dataclass(frozen=True, kw_only=True)
class _State:
    """What the server said about a partial file.

    Attributes:
        url: Where it comes from.
        etag: Strong entity tag, or None.
        last_modified: Date of the file, or None.
        size: Bytes of the whole file, or None.
    """

    url: str
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What tells whether the file has changed since."""
        return self.etag or self.last_modified


class _TryAgain(Exception):
    """The server or the connection failed in a way that may pass."""


class _Stopped(Exception):
    """Nobody waits for this attempt any more."""


class Download:
    """A file being fetched into a folder; what is there of it is used by the next call.

    What lies in the folder under its name, but is a link or can be written by others, is neither
    used nor written to: it is removed.

    Only one process may work on a folder at a time; the caller holds :attr:`lock_path`.

    Args:
        url: Address of the file.
        folder: Where to keep the partial file.
        what: Name of the file for messages.
        size: Bytes, if known.
        limit: Most bytes to take if the size is not known; :data:`MAX_BYTES` if None.
        advice: What to do if it fails, for messages.
        time_limit: How long the task that it is part of may wait; one of its own if None.

    Attributes:
        url: Address of the file.
        path: The file, complete after :meth:`run`.
        resumed: Whether a part of it was there before :meth:`run`.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        what: str,
        size: int | None = None,
        limit: int | None = None,
        advice: str = "fetch the file by other means and use `lesff pull NAME --from FILE`",
        time_limit: TimeLimit | None = None,
    ) -> None:
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        self.path = folder / f"{key}.part"
        self.lock_path = folder / f"{key}.lock"
        self.resumed = False
        self._state_path = folder / f"{key}.json"
        self.url = url
        self._what, self._size = what, size
        self._limit, self._advice = limit or MAX_BYTES, advice
        self._time_limit = time_limit or TimeLimit()

    def discard(self) -> None:
        """Remove the file and what is known about it."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def run(self) -> Path:
        """Fetch what is missing.

        Returns:
            Where the file is.

        Raises:
            ModelNotFoundError: if the server does not have the file.
            IntegrityError: if it is larger than it may be or not of the size that it must have.
            OfflineError: if the server cannot be reached, keeps failing, or is too slow.
        """
        from huggingface_hub.errors import (  # start-up: 0.3 s of CPU
            HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2
        )

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.resumed = self._n_bytes() > 0
        failures, last = 0, None
        with self._time_limit.waiting():
            for _ in range(_MAX_ATTEMPTS):
                before = self._n_bytes()
                try:
                    self._in_time(self._attempt)
                    return self.path
                except (IntegrityError, OfflineError):
                    raise
                except (_TryAgain, HTTPError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                        raise
                    last = error
                failures = 1 if self._n_bytes() > before else failures + 1
                if failures >= _ATTEMPTS:
                    break
                time.sleep(min(_BACKOFF_S * 2 ** (failures - 1), max(self._time_limit.left, 0)))
        raise OfflineError(
            f"cannot download {self._what} from {self.url} (last error: {last or 'no answer'}); "
            f"what has arrived is kept: try again, or {self._advice}"
        ) from last

    def _in_time(self, action: Callable[[threading.Event], None]) -> None:
        """Run an attempt in a thread; it is given up when the time is over.

        Name look-up, headers that arrive byte by byte and the like have no time limit of their own.

        Raises:
            OfflineError: if the time is over.
            BaseException: what the attempt raises.
        """
        done, stop = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                action(stop)
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)
            finally:
                done.set()

        # a daemon: one that hangs does not keep the process from ending
        threading.Thread(target=run, daemon=True, name="lesff download").start()
        try:
            while not done.wait(min(max(self._time_limit.left, 0.001), _POLL_S)):
                if self._time_limit.left <= 0:
                    raise OfflineError(
                        f"{urlsplit(self.url).netloc} was too slow or silent: cannot download "
                        f"{self._what} from {self.url}, {self._time_limit.text}; what has arrived "
                        f"is kept: try again, or {self._advice}"
                    )
        finally:
            stop.set()
        if errors:
            raise errors[0]

    def _attempt(self, stop: threading.Event) -> None:
        state, start = self._read_state(), self._n_bytes()
        if start and state is not None and state.size == start:
            return
        headers = {"Accept-Encoding": "identity"}
        if start and state is not None and state.validator is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": state.validator}
        else:
            self.discard()
            state, start = None, 0
        response = self._open(headers)
        try:
            _go_on(stop)
            self._check_status(response.status_code)
            if response.status_code == 200 or not start:
                state, start = self._begin(response.headers), 0
            else:
                self._check_range(response.headers, start, state)
            self._receive(response, start, state, stop)
        finally:
            response.close()

    def _open(self, headers: dict[str, str]) -> Any:
        """Response to a request, redirects followed, body not yet read."""
        from huggingface_hub import get_session  # start-up: 0.3 s of CPU

        url, session = self.url, get_session()
        agent = f"lesff/{importlib.metadata.version('lesff')}"
        for _ in range(_MAX_REDIRECTS + 1):
            request = session.build_request(
                "GET", url, headers={**headers, "User-Agent": agent},
                timeout=min(_TIMEOUT_S, max(self._time_limit.left, 0.001)),
            )  # fmt: skip
            for secret in ("authorization", "cookie"):
                request.headers.pop(secret, None)
            response = session.send(request, stream=True, auth=None, follow_redirects=False)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = urljoin(url, response.headers.get("location", ""))
            if not _may_lead_to(self.url, url):
                raise IntegrityError(
                    f"{self.url} leads to {url!r}: addresses must start with https://"
                )
        raise IntegrityError(f"{self.url} leads on more than {_MAX_REDIRECTS} times")

    def _check_status(self, status: int) -> None:
        if status in _GONE:
            raise ModelNotFoundError(
                f"{self.url} does not give {self._what} (HTTP status {status}); check the "
                f"address, or {self._advice}"
            )
        if status == _RANGE_REFUSED:
            self.discard()
        if status not in (200, 206):
            raise _TryAgain(f"HTTP status {status}")

    def _begin(self, headers: Any) -> _State:
        """Start a new file."""
        etag = headers.get("etag")
        is_encoded = headers.get("content-encoding", "identity") != "identity"
        state = _State(
            url=self.url,
            etag=None if etag is None or etag.startswith("W/") else etag,
            last_modified=headers.get("last-modified"),
            size=None if is_encoded else _number(headers.get("content-length")),
        )
        self._check_size(state.size)
        self.discard()
        os.close(open_own(self.path))
        write_json(self._state_path, asdict(state))
        return state

    def _check_range(self, headers: Any, start: int, state: _State | None) -> None:
        """Make sure that the answer is the rest of the same file."""
        span, _, total = headers.get("content-range", "").removeprefix("bytes ").partition("/")
        tag = headers.get("etag")
        is_same = state is not None and (
            span.partition("-")[0] == str(start)
            and state.size in (None, _number(total))
            and (tag is None or state.etag in (None, tag))
        )
        if not is_same:
            self.discard()
            raise _TryAgain("the server did not continue the file")

    def _receive(
        self, response: Any, start: int, state: _State | None, stop: threading.Event
    ) -> None:
        limit = self._size or self._limit
        total = None if state is None else state.size
        bar = tqdm(
            total=self._size or total, initial=start, unit="B", unit_scale=True,
            desc=self._what, disable=None,
        )  # fmt: skip
        n_bytes = start
        try:
            with bar, os.fdopen(open_own(self.path, append=True), "ab") as stream:
                for chunk in response.iter_raw():
                    _go_on(stop)
                    n_bytes += len(chunk)
                    if n_bytes > limit:
                        self._check_size(n_bytes)
                    stream.write(chunk)
                    bar.update(len(chunk))
                    self._time_limit.received(len(chunk))
            if total is not None and n_bytes < total:
                raise _TryAgain(f"the connection ended after {n_bytes} of {total} bytes")
            self._check_size(n_bytes)
        except IntegrityError:
            self.discard()
            raise

    def _check_size(self, n_bytes: int | None) -> None:
        if n_bytes is None:
            return
        if self._size is not None and n_bytes != self._size:
            raise IntegrityError(
                f"{self._what} must have {self._size} bytes, but {self.url} gives {n_bytes}"
            )
        if n_bytes > self._limit:
            raise IntegrityError(
                f"{self._what} must have at most {self._limit} bytes, "
                f"but {self.url} gives {n_bytes}"
            )

    def _n_bytes(self) -> int:
        """Bytes that this user has fetched before."""
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            return found.st_size if is_own(found) else 0
        return 0

    def _read_state(self) -> _State | None:
        try:
            if not is_own(self._state_path.lstat()):
                return None
            state = from_dict(_State, read_json(self._state_path), self._state_path.name)
        except (OSError, ConfigError):
            return None
        return state if state.url == self.url else None


def fetch_bytes(
    url: str, *, what: str, limit: int, advice: str, time_limit: TimeLimit | None = None
) -> bytes:
    """A small file from the web, as :class:`Download` gets it, kept nowhere.

    Args:
        url: Address of the file.
        what: Name of the file for messages.
        limit: Most bytes to take.
        advice: What to do if it fails, for messages.
        time_limit: How long the task that it is part of may wait.

    Raises:
        LesffError: as :meth:`Download.run` does.
    """
    with tempfile.TemporaryDirectory() as work:
        download = Download(
            url, Path(work), what=what, limit=limit, advice=advice, time_limit=time_limit
        )
        return download.run().read_bytes()


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise _Stopped


def _may_lead_to(origin: str, target: str) -> bool:
    """Whether a redirect is to https, from one loopback address to another, or to the same host."""
    if is_safe_url(target):
        return target.startswith("https:") or not origin.startswith("https:")
    here, there = urlsplit(origin), urlsplit(target)
    return here.scheme == "http" and (here.scheme, here.netloc) == (there.scheme, there.netloc)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
