"""The application: paths, what they take and give, and the page at ``/``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from lesff.errors import ConfigError, MissingDependencyError
from lesff.model import Model

try:
    from fastapi import FastAPI
    from pydantic import ValidationError
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.staticfiles import StaticFiles

    from lesff.service.answers import XYZ
    from lesff.service.meters import CONTENT_TYPE, Meters
except ImportError as error:
    raise MissingDependencyError(
        "the service needs FastAPI, uvicorn, orjson and prometheus-client; install them with `pip "
        'install "lesff[serve]"`'
    ) from error
from lesff.notices import hooked_warnings
from lesff.service.faults import ServiceError, as_service_error
from lesff.service.guard import Answer, Endpoint, Guard, refusal
from lesff.service.handlers import Handlers
from lesff.service.limits import Limits
from lesff.service.requests import (
    PredictRequest,
    RelaxRequest,
    StructureRequest,
    VibrationsRequest,
)

STATIC_FOLDER = Path(__file__).parent / "static"
_QUERY = ("model", "charge", "spin_multiplicity", "format", "fmax", "steps", "relax")
_RESPONSES = {
    200: "The results; extended xyz if `format` says so",
    401: "The key is missing or wrong",
    413: "Too many bytes, atoms or structures",
    422: "The input is no usable structure, or the model does not cover it",
    503: "Too much waits already",
    504: "No result in time",
}
_log = logging.getLogger(__name__)


def create_app(
    models: Mapping[str, Model], *, limits: Limits | None = None, api_key: str | None = None
) -> FastAPI:
    """The application that serves models.

    Args:
        models: Models by the names that clients use; the first is the default.
        limits: What one client may ask.
        api_key: What clients must send; None if they need not.

    Raises:
        ConfigError: without models.
    """
    if not models:
        raise ConfigError("`models` must name at least one model, got none")
    limits, meters = limits or Limits(), Meters()
    handlers = Handlers(models, limits, meters)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        with hooked_warnings():
            yield
            handlers.close()

    app = FastAPI(
        title="lesff",
        description="Predictions of foundation models for atoms. Units: eV, A, e, V/A.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    app.state.handlers = handlers
    endpoints = _computing(app, handlers)
    _add_looking(app, handlers, meters, needs_key=api_key is not None)
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static")
    paths = {getattr(route, "path", "") for route in app.routes}
    app.add_middleware(
        Guard, limits=limits, meters=meters, api_key=api_key, endpoints=endpoints, paths=paths
    )
    return app


def _computing(app: FastAPI, handlers: Handlers) -> dict[str, Endpoint]:
    """Paths that compute; the application only describes them, the guard answers."""
    described: dict[str, Any] = {}
    endpoints: dict[str, Endpoint] = {}

    def add(
        path: str, kind: type[StructureRequest], work: Callable[[Any], Awaitable[bytes]], what: str
    ) -> None:
        async def endpoint(scope: MutableMapping[str, Any], body: bytes) -> Answer:
            try:
                asked = _parsed(scope, body, kind)
                answer = await work(asked)
            except Exception as error:  # noqa: BLE001 - every request gets an answer
                return _refusal(error)
            media = f"{XYZ}; charset=utf-8" if asked.format == "extxyz" else "application/json"
            return 200, {"content-type": media}, answer

        endpoints[path] = endpoint
        described[path] = {"post": _description(kind, what)}

    add("/predict", PredictRequest, handlers.predict, "Properties of structures")
    add("/relax", RelaxRequest, handlers.relax, "A local minimum")
    add("/vibrations", VibrationsRequest, handlers.vibrations, "Normal modes and IR intensities")
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema["paths"] |= described
        return schema

    app.openapi = openapi
    return endpoints


def _add_looking(app: FastAPI, handlers: Handlers, meters: Meters, *, needs_key: bool) -> None:
    """Paths that compute nothing."""

    async def page() -> FileResponse:
        return FileResponse(STATIC_FOLDER / "index.html")

    async def icon() -> FileResponse:
        return FileResponse(STATIC_FOLDER / "icon.svg", media_type="image/svg+xml")

    async def health() -> JSONResponse:
        is_well = handlers.batcher.is_alive
        answer = {"status": "ok" if is_well else "broken", "waiting": handlers.batcher.n_waiting}
        return JSONResponse(answer, status_code=200 if is_well else 503)

    async def info() -> dict[str, Any]:
        return handlers.info() | {"needs_key": needs_key}

    async def metrics() -> Response:
        return Response(meters.text(), headers={"content-type": CONTENT_TYPE})

    for path, answer, what, is_described in (
        ("/", page, "The page", False),
        ("/favicon.ico", icon, "Its icon", False),
        ("/health", health, "Whether the service computes", True),
        ("/info", info, "Models and limits", True),
        ("/metrics", metrics, "Counters, in the text format of Prometheus", True),
    ):
        app.add_api_route(
            path, answer, methods=["GET"], summary=what, include_in_schema=is_described,
            response_model=None,
        )  # fmt: skip


def _parsed(
    scope: Mapping[str, Any], body: bytes, kind: type[StructureRequest]
) -> StructureRequest:
    """A request: JSON, or the text of an xyz file with options in the address."""
    media = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    try:
        if media in (XYZ.encode(), b"text/plain"):
            text = body.decode("utf-8", errors="strict")
            options = dict(parse_qsl(scope["query_string"].decode("latin-1"), True))
            given: dict[str, Any] = {"xyz": text, "format": "extxyz"}
            given |= {key: value for key, value in options.items() if key in _QUERY}
            names = options.get("properties")
            if names is not None and "properties" in kind.model_fields:
                given["properties"] = [part.strip() for part in names.split(",")]
            return kind.model_validate(given)
        return kind.model_validate_json(body)
    except UnicodeDecodeError:
        raise ServiceError(422, "request", "the text must be UTF-8") from None
    except RecursionError:
        raise ServiceError(422, "request", "the JSON is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise ServiceError(
            422, "request", f"{where + ': ' if where else ''}{first['msg'][:500]}"
        ) from None


def _refusal(error: Exception) -> Answer:
    told = as_service_error(error)
    if told.status == 500:
        _log.error("request failed", exc_info=error)
    return refusal(told)


def _description(kind: type[StructureRequest], what: str) -> dict[str, Any]:
    """A path, for OpenAPI."""
    content = {
        "application/json": {"schema": kind.model_json_schema()},
        XYZ: {"schema": {"type": "string"}},
    }
    return {
        "summary": what,
        "requestBody": {"required": True, "content": content},
        "responses": {str(status): {"description": text} for status, text in _RESPONSES.items()},
    }
