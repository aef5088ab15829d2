"""Packages that only some workflows need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lesff.errors import MissingDependencyError


def require(module: str, package: str) -> Any:
    """A module of an optional package.

    Args:
        module: Its full name.
        package: What holds it, for the message.

    Raises:
        MissingDependencyError: if it is not installed, naming the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f'this workflow needs {package}: pip install "lesff[workflows]"'
        ) from error
