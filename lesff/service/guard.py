"""Before a request is looked at: its key, its size, its time. After it: counts and headers.

Paths that compute are answered here: the way through the layers of a framework takes a quarter of
the time of a small request.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Set
from typing import Any

from lesff.service.answers import encoded
from lesff.service.faults import ServiceError
from lesff.service.limits import Limits
from lesff.service.meters import Meters

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""
Endpoint = Callable[[MutableMapping[str, Any], bytes], Awaitable[Answer]]
ASGI = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/health", "/info", "/favicon.ico")
"""Without a key; so is what the page at ``/`` loads."""
STATIC = "/static/"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Wraps an application.

    Args:
        app: The application.
        limits: Size of a request and the time it may take to arrive.
        meters: Where answers are counted.
        api_key: What clients must know; None if they need not.
        endpoints: Paths that take POST, answered without the application.
        paths: Paths of the application, counted by their names.
    """

    def __init__(
        self,
        app: ASGI,
        *,
        limits: Limits,
        meters: Meters,
        api_key: str | None,
        endpoints: Mapping[str, Endpoint],
        paths: Set[str],
    ) -> None:
        self._app, self._limits, self._meters = app, limits, meters
        self._key = None if api_key is None else api_key.encode()
        self._endpoints, self._paths = endpoints, paths | endpoints.keys()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, start, status = scope["path"], time.perf_counter(), 500
        label = path if path in self._paths else "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        endpoint = self._endpoints.get(path)
        try:
            self._check_key(path, dict(scope["headers"]))
            body = await self._body(scope, receive)
            if endpoint is None:
                await self._app(scope, _replayed(body, receive), counted)
            elif scope["method"] != "POST":
                raise ServiceError(405, "method", f"{path} takes POST, got {scope['method']}")
            else:
                await _send(await endpoint(scope, body), counted)
        except ServiceError as error:
            await refuse(error, counted)
        finally:
            self._meters.requests.labels(label, str(status)).inc()
            self._meters.seconds.labels(label).observe(time.perf_counter() - start)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._key is None or path in OPEN_PATHS or path.startswith(STATIC):
            return
        given = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given = token.strip()
        # takes the same time for every wrong key
        if not hmac.compare_digest(given, self._key):
            raise ServiceError(
                401, "key", "send the key of this service: `Authorization: Bearer KEY`"
            )

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The whole body, of bounded size, within bounded time."""
        most = self._limits.max_body
        too_large = ServiceError(413, "body", f"a request may have at most {most} bytes")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length[:18]) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ServiceError(408, "slow", "the request did not arrive in time") from None
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then what follows."""
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse(error: ServiceError, send: Send) -> None:
    """Send an error as JSON."""
    status, headers, body = refusal(error)
    if status in (408, 413):
        headers = {**headers, "connection": "close"}  # the rest of the body is not read
    await _send((status, headers, body), send)


def refusal(error: ServiceError) -> Answer:
    """The answer to what is refused."""
    headers = {"content-type": "application/json"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 405:
        headers["allow"] = "POST"
    body = encoded({"error": {"kind": error.kind, "message": str(error)}})
    return error.status, headers, body


async def _send(answer: Answer, send: Send) -> None:
    status, named, body = answer
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
