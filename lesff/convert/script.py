"""Objects of a TorchScript archive in the form of pickled eager modules.

A scripted module is pickled as one table of attributes: parameters, buffers, child modules and
numbers. Here they are sorted into the tables of an eager module, so that the same code walks both,
and every tensor has a name, wherever it stands: ``shifts``, and ``shifts[2]`` in a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lesff.convert.record import MAX_WALKED, Record, RefusedError, shown

SCRIPT = "__torch__."
"""What dotted paths of scripted classes begin with."""


def sort_members(root: Record, constants: Any) -> None:
    """Sort the attributes of all modules under a scripted one into those of eager modules.

    Args:
        root: The module, which is changed.
        constants: Constants of the code; tensors among them become buffers of the root.

    Raises:
        RefusedError: for objects that are no modules, and for more members than any model has.
    """
    if not root.path.startswith(SCRIPT):
        raise RefusedError(f"its root is {shown(root)}, not a scripted module")
    if not isinstance(constants, tuple):
        raise RefusedError(f"its constants are {shown(constants)}, not a tuple")
    budget = _Budget()
    seen, stack = {id(root)}, [root]
    while stack:
        record = stack.pop()
        record.state = _sorted(_attributes(record), budget)
        for child in record.state["_modules"].values():
            if id(child) not in seen:  # a module may be held twice
                seen.add(id(child))
                stack.append(child)
    root.state["_buffers"] |= dict(_tensors("constants", constants, budget))


class _Budget:
    """Parts of a file that are still walked."""

    def __init__(self) -> None:
        self.left = MAX_WALKED

    def spend(self) -> None:
        """Count one part."""
        self.left -= 1
        if self.left < 0:
            raise RefusedError(f"it has more than {MAX_WALKED} members")


def _sorted(attributes: dict[str, Any], budget: _Budget) -> dict[str, Any]:
    """Attributes of an eager module: plain ones, buffers, modules."""
    plain, buffers, modules = {}, {}, {}
    for name, value in attributes.items():
        budget.spend()
        if isinstance(value, Record) and value.args is not None:
            modules[name] = value
        else:
            plain[name] = value
            buffers |= dict(_tensors(name, value, budget))
    return {**plain, "_buffers": buffers, "_modules": modules}


def _attributes(record: Record) -> dict[str, Any]:
    """Attributes of a scripted module as pickled."""
    state = {} if record.state is None else record.state
    is_plain = record.path.startswith(SCRIPT) and not record.args and not record.entries
    if not is_plain or type(state) is not dict:
        raise RefusedError(f"it holds {shown(record)}, which is no scripted module")
    for name in state:
        if type(name) is not str or name.startswith("_buffers") or name.startswith("_modules"):
            raise RefusedError(f"a member of {record.path} has no plain name")
    return state


def _tensors(name: str, value: Any, budget: _Budget) -> Iterator[tuple[str, Tensor]]:
    """The value if it is a tensor, or those that stand in it, with names."""
    stack = [(name, value)]
    while stack:
        key, part = stack.pop()
        budget.spend()
        if isinstance(part, Tensor):
            yield key, part
        elif isinstance(part, Record) and part.args is not None:
            raise RefusedError(f"its member {key[:80]!r} is {shown(part)} in a list")
        elif isinstance(part, (list, tuple)):
            stack.extend((f"{key}[{index}]", inner) for index, inner in enumerate(part))
        elif type(part) is dict:
            stack.extend((f"{key}[{inner_key!r}]", inner) for inner_key, inner in part.items())
