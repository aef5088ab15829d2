"""Inert objects of a checkpoint: what a file says, nothing that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lesff.errors import IntegrityError

MAX_WALKED = 100_000
"""Modules, parameters and buffers under one record."""
MAX_DOTTED_NAME = 1024
ADVICE = "fetch the file again from its author"
RESAVE = "save it again with torch.save in an environment you trust"
_REQUIRED = object()


class RefusedError(Exception):
    """Why a file is refused, and what to do; becomes an `IntegrityError` with the file's name."""

    def __init__(self, reason: str, advice: str = ADVICE) -> None:
        super().__init__(f"{reason}; {advice}")


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """A global of the file, or the object that a call of it would have made.

    Attributes:
        path: Dotted path of the class or function as written in the file, such as
            `mace.modules.models.MACELES`; `__builtin__` is written `builtins`.
        args: Arguments of the call; None for the global itself.
        state: What the object's `__setstate__` or `__dict__` would have got; None without one.
        entries: Items of a list subclass, or (key, value) pairs of a dict subclass.
    """

    path: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    entries: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<record of {self.path}>"

    def attributes(self) -> dict[str, Any]:
        """Instance attributes: the state where it is a dict, or the body of a traced module."""
        state = self.state
        if self.path == "torch.fx.graph_module.reduce_graph_module" and state is None:
            state = self.args[0] if self.args else None
        return state if isinstance(state, dict) else {}

    def attribute(self, name: str, default: Any = _REQUIRED) -> Any:
        """Attribute, parameter, buffer or child module `name`, in torch's order of look-up.

        Args:
            name: Name without dots.
            default: Returned when there is none; without it, the absence is an error.

        Returns:
            The value as stored: plain data, a tensor or a `Record`.
        """
        attributes = self.attributes()
        if name in attributes:
            return attributes[name]
        for kind in ("_parameters", "_buffers", "_modules"):
            members = attributes.get(kind)
            if isinstance(members, dict) and name in members:
                return members[name]
        if default is not _REQUIRED:
            return default
        raise IntegrityError(
            f"{self.path} in the checkpoint has no attribute {name!r}; "
            "check that the file holds a supported model"
        )

    def module(self, name: str) -> Record:
        """Child module `name`."""
        child = self._members("_modules").get(name)
        if not isinstance(child, Record):
            raise IntegrityError(
                f"{self.path} in the checkpoint has no module {name!r}; "
                "check that the file holds a supported model"
            )
        return child

    def submodule(self, dotted: str) -> Record:
        """Descendant module such as `interactions.0.linear_up`; the empty name is the record."""
        record = self
        for name in dotted.split(".") if dotted else ():
            record = record.module(name)
        return record

    def named_modules(self) -> Iterator[tuple[str, Record]]:
        """This module and all below it, with dotted names, parents first.

        A module held twice comes twice, under both names.
        """
        stack: list[tuple[str, Record]] = [("", self)]
        walked = 0
        while stack:
            name, record = stack.pop()
            yield name, record
            children = record._members("_modules")
            walked += 1 + len(children)
            if walked > MAX_WALKED:
                raise _walked_too_far(self)
            for key in reversed(children):
                child = children[key]
                if child is None:
                    continue
                if not isinstance(child, Record):
                    raise IntegrityError(
                        f"{key!r} among the modules of {record.path} in the checkpoint is "
                        f"{shown(child)}; {ADVICE}"
                    )
                stack.append((_join(name, key), child))

    def parameters_and_buffers(self) -> dict[str, Tensor]:
        """Tensors of this module and all below it under torch's dotted names.

        Buffers that torch leaves out of a state dict (non-persistent ones) are included, a tensor
        held twice comes under both names, and members that are None are left out.
        """
        tensors: dict[str, Tensor] = {}
        walked = 0
        for prefix, record in self.named_modules():
            for kind in ("_parameters", "_buffers"):
                members = record._members(kind)
                walked += len(members)
                if walked > MAX_WALKED:
                    raise _walked_too_far(self)
                for key, value in members.items():
                    if value is not None:
                        name = _join(prefix, key)
                        _check_new_tensor(name, value, tensors)
                        tensors[name] = value
        return tensors

    def _members(self, kind: str) -> dict[Any, Any]:
        members = self.attributes().get(kind, {})
        if not isinstance(members, dict):
            raise IntegrityError(
                f"{kind} of {self.path} in the checkpoint is {shown(members)}, must be a dict; "
                f"{ADVICE}"
            )
        return members


def _join(prefix: str, key: Any) -> str:
    """Dotted name of a member, as torch writes it."""
    if not isinstance(key, str) or not key or "." in key:
        raise IntegrityError(
            f"a member of {prefix[:80]!r} in the checkpoint has no plain name; {ADVICE}"
        )
    if len(prefix) + len(key) > MAX_DOTTED_NAME:
        raise IntegrityError(
            f"module {prefix[:80]!r} in the checkpoint is nested too deeply (names above "
            f"{MAX_DOTTED_NAME} characters); {ADVICE}"
        )
    return f"{prefix}.{key}" if prefix else key


def _check_new_tensor(name: str, value: Any, tensors: dict[str, Tensor]) -> None:
    if name in tensors:
        raise IntegrityError(f"the checkpoint has two tensors {name!r}; {ADVICE}")
    if not isinstance(value, Tensor):
        raise IntegrityError(
            f"{name!r} in the checkpoint is {shown(value)}, must be a plain tensor; {RESAVE}"
        )


def _walked_too_far(record: Record) -> IntegrityError:
    return IntegrityError(
        f"{record.path} in the checkpoint has more than {MAX_WALKED} modules and tensors, or holds "
        f"itself; {ADVICE}"
    )


def shown(value: Any) -> str:
    """What a value is, short and safe whatever it holds."""
    if isinstance(value, Record):
        return value.path if value.args is None else f"an object of {value.path}"
    return f"a {type(value).__name__}"
