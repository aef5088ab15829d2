"""Architectures by name: those of lesff, those registered in this process, those of packages.

A name is looked up in :data:`ARCHITECTURES` first. One that is not there may be brought by an
installed package, which names a module in the entry point group :data:`ENTRY_POINTS`; the module is
imported, and registers its architecture by :func:`register_architecture`. Nothing that a model
folder says is imported: only what the user has installed, and only if the name is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.architectures.aimnet2.model import AIMNet2
from lesff.architectures.base import Architecture
from lesff.architectures.mace.config import MACEConfig
from lesff.architectures.mace.model import MACE
from lesff.architectures.nequip.config import NequIPConfig
from lesff.architectures.nequip.model import NequIP
from lesff.errors import ConfigError
from lesff.plain_data import from_dict

Module = TypeVar("Module", bound=type[Architecture])

ARCHITECTURES: dict[str, tuple[type[Any], Callable[..., Architecture]]] = {
    "aimnet2": (AIMNet2Config, AIMNet2),
    "mace": (MACEConfig, MACE),
    "nequip": (NequIPConfig, NequIP),
}
"""Name in ``config.json`` -> (configuration class, module class)."""

ENTRY_POINTS = "lesff.architectures"
"""Group of entry points of other packages: name of the architecture -> module that registers it."""

_OURS = frozenset(ARCHITECTURES)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_REQUIRED = ("cutoff", "channels")
"""What a configuration must have: both are read before weights are."""


def register_architecture(name: str, config_type: type[Any]) -> Callable[[Module], Module]:
    """Class decorator: the architecture can be named in models, recipes and folders from now on.

    It holds for this process. Workers and engines that load a model by themselves need a package
    with an entry point, see :data:`ENTRY_POINTS`.

    Args:
        name: ``architecture.type`` of models with it: lower-case letters, digits, ``-`` and ``_``.
            The same class may be registered again, as a notebook does whose cell is run twice.
        config_type: Frozen dataclass of its hyper-parameters, plain data, with ``cutoff`` in A and
            ``channels`` among them.

    Raises:
        ConfigError: for a name that is no name or stands for something else, and for classes that
            are no configuration or no architecture.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"`name` must be lower-case letters, digits, '-' and '_', got {name!r}: choose "
            "another name for the architecture"
        )
    check_config_type(config_type)

    def register(module_type: Module) -> Module:
        if not (isinstance(module_type, type) and issubclass(module_type, Architecture)):
            raise ConfigError(
                "`module_type` must be a subclass of lesff.architectures.Architecture, got "
                f"{module_type!r}"
            )
        known = ARCHITECTURES.get(name)
        if known is not None and (name in _OURS or _path(known[1]) != _path(module_type)):
            raise ConfigError(
                f"`name` must be one that is free, got {name!r}, which is {_path(known[1])}: "
                "choose another name for the architecture"
            )
        ARCHITECTURES[name] = config_type, module_type
        return module_type

    return register


def check_config_type(config_type: type[Any]) -> None:
    """Raise ConfigError for a class that hyper-parameters cannot be read into."""
    is_class = isinstance(config_type, type) and is_dataclass(config_type)
    if not is_class or not config_type.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError(
            f"`config_type` must be a frozen dataclass, got {config_type!r}: decorate it with "
            "@dataclass(frozen=True, kw_only=True)"
        )
    known = {field.name for field in fields(config_type)} | set(dir(config_type))
    missing = [name for name in _REQUIRED if name not in known]
    if missing:
        raise ConfigError(
            f"`config_type` must have {' and '.join(_REQUIRED)}, got {config_type.__name__} "
            f"without {' and '.join(missing)}: add a field or a property"
        )


def find_architecture(name: object) -> tuple[type[Any], Callable[..., Architecture]]:
    """Configuration class and module class of an architecture.

    Args:
        name: ``architecture.type`` of a configuration.

    Raises:
        ConfigError: if nothing has this name, or the package that brings it cannot be imported or
            does not register it.
    """
    if not isinstance(name, str):
        raise ConfigError(_unknown(name, ()))
    if name not in ARCHITECTURES:
        brought = entry_points(group=ENTRY_POINTS)
        for entry in brought.select(name=name):
            _import(entry)
        if name not in ARCHITECTURES:
            raise ConfigError(_unknown(name, brought.names))
    return ARCHITECTURES[name]


def read_architecture(architecture: Mapping[str, Any]) -> Any:
    """Configuration object of ``architecture`` in a ``config.json`` or a recipe.

    Args:
        architecture: ``type`` and hyper-parameters.

    Raises:
        ConfigError: for an unknown type or hyper-parameter, or a bad value.
    """
    options = dict(architecture)
    return from_dict(find_architecture(options.pop("type", None))[0], options, "architecture")


def _import(entry: EntryPoint) -> None:
    """Import the module of an entry point; it must register the entry point's name."""
    where = f"entry point {entry.name} = {entry.value} of the package {_package(entry)}"
    try:
        entry.load()
    except Exception as error:
        # whatever a package of others does when it is imported
        raise ConfigError(
            f"`architecture.type` {entry.name!r} must be imported, but {where} fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    if entry.name not in ARCHITECTURES:
        raise ConfigError(
            f"`architecture.type` {entry.name!r} must be registered by {where}, which it is not: "
            f"the module needs @register_architecture({entry.name!r}, ...)"
        )


def _package(entry: EntryPoint) -> str:
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _path(module_type: Callable[..., Architecture]) -> str:
    return f"{module_type.__module__}.{getattr(module_type, '__qualname__', module_type)}"


def _unknown(name: object, brought: Any) -> str:
    known = sorted({*ARCHITECTURES, *brought})
    return (
        f"`architecture.type` must be one of {', '.join(known)}, got {name!r}: install the package "
        f"that brings it (entry point group {ENTRY_POINTS!r}), or import the module that registers "
        "it first"
    )
