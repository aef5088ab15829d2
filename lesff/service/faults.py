"""Answers of a service to what it cannot or will not do."""

from __future__ import annotations

import re

from lesff.errors import (
    ChargeSpinError,
    ConfigError,
    ConvergenceError,
    LesffError,
    MissingDependencyError,
    NotPositiveDefiniteError,
    PropertyError,
    StructureError,
    UnsupportedInputError,
)

_OF_THE_INPUT = (
    StructureError,
    UnsupportedInputError,
    ChargeSpinError,
    PropertyError,
    ConfigError,
    ConvergenceError,
    NotPositiveDefiniteError,
)


class ServiceError(LesffError):
    """A request that gets no result.

    Args:
        status: HTTP status.
        kind: Name of the cause, for programs.
        message: What is the matter and what to do, for people.
        retry_after: Seconds after which it may go better.
    """

    def __init__(
        self, status: int, kind: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, retry_after


def too_busy(what: str) -> ServiceError:
    """503: there is no room for more of something."""
    return ServiceError(503, "busy", f"{what}; try again in a second", retry_after=1)


def timed_out(seconds: float) -> ServiceError:
    """504: a request took too long."""
    return ServiceError(
        504, "timeout", f"no result within {seconds:g} s; ask for less or raise `--timeout`"
    )


def as_service_error(error: Exception) -> ServiceError:
    """What a client is told about an error; nothing about those that are no fault of the input."""
    if isinstance(error, ServiceError):
        return error
    text = " ".join(str(error).split())[:2000]
    if isinstance(error, MissingDependencyError):
        return ServiceError(501, "MissingDependencyError", text)
    if isinstance(error, _OF_THE_INPUT):
        # errors for ASE carry names of their own
        kind = next(c.__name__ for c in _OF_THE_INPUT if isinstance(error, c))
        return ServiceError(422, kind, re.sub(r"^structure( 0)?\b", "the structure", text))
    return ServiceError(500, "internal", "the service failed; its log says why")
