"""One computation recorded on its memory, then repeated without PyTorch's dispatch or autograd.

What a CUDA graph is on a GPU: the recorded operations (forward and backward) run again on the very
same memory, so that views cost nothing, and what does not depend on the inputs is not computed
again. Most operations become instructions of :mod:`lesff.kernels.program`, run by one call.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lesff.errors import KernelError
from lesff.kernels.library import observed_calls
from lesff.kernels.program import Program

_PAIR = ("d_inner", "d_wall", "d_bond", "d_open", "d_bonded", "d_crowd", "count", "shared")
_WRITTEN: dict[str, tuple[str, ...]] = {
    "convolve": ("messages",),
    "convolve_backward": ("grad_features", "grad_kernel", "grad_weights", "grad_distance"),
    "contract": ("output",),
    "contract_backward": ("grad_features", "grad_table"),
    "harmonics": ("distance", "harmonics"),
    "harmonics_backward": ("grad_vectors",),
    "open_pairs": ("potential", "slope"),
    "contacts": ("inner", "wall", "openness", "bonded", "lacks", *_PAIR),
    "shared_bonds_backward": ("grad_distance", "shared"),
    "transfers": ("moved", "total", "factor", "slope"),
    "transfers_backward": ("grad_transfers", "grad_distance", "total", "factor", "slope"),
    "shares": ("charges", "potential", "work"),
    "shares_backward": ("g_p", "g_weights", "g_totals", "work"),
    "molecules": ("shared",),
    "molecules_backward": ("g_charges", "g_weights", "g_targets", "g_bond"),
    "local_state": ("charges", "spins", "raw", "guess", "potentials", "work"),
    "local_state_backward": ("g_values", "g_base", "g_openness", "g_bonded", "work"),
    "shells": ("distance", "units", "shells"),
    "shells_backward": ("grad_vectors",),
    "pass": ("inputs", "sums", "vectors"),
    "pass_backward": ("grad_sums", "grad_features", "grad_charges", "grad_shells", "grad_units"),
    "onset": ("energy", "potential", "slope", "work"),
    "d3": ("shares", "count", "reference", "mixed"),
    "d3_backward": ("grad_positions", "grad_vectors", "count", "reference", "mixed"),
}
"""Fields of a kernel's arguments that it writes to."""
_MADE = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"}
_FILLED = {"zeros", "new_zeros", "zeros_like", "ones", "ones_like", "new_ones", "full", "full_like"}
_ASKS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique", "_unique2", "item"}
"""Operations whose answers decide what comes next: where they see inputs, nothing is recorded."""


_ASSUMED: ContextVar[list[Tensor] | None] = ContextVar("_ASSUMED", default=None)
"""What the computation that is being recorded takes for zero; None if there is none."""


def all_zero(*values: Tensor) -> bool:
    """Whether numbers are all zero, so that what they make superfluous may be left out.

    A recording assumes what it was told (:attr:`Recording.holds`). False where a GPU would be
    waited for.
    """
    if any(x.device.type != "cpu" for x in values):
        return False
    assumed = _ASSUMED.get()
    if assumed is None:
        return not any(bool(x.any()) for x in values)
    # as PyTorch would be asked, it would be listed
    are_zero = not any(x.detach().numpy().any() for x in values)
    if are_zero:
        assumed.extend(x.detach() for x in values)
    return are_zero


class NotRecordable(KernelError):
    """A computation asks for numbers that depend on its inputs."""


@dataclass
class _Operation:
    """An operation of PyTorch, or a call of the compiled library.

    Attributes:
        function: The operation, or the name of the call.
        args: Its arguments, or those of the call.
        kwargs: Likewise; nothing for a call.
        out: What it gave.
        reads: Memory it reads, by address.
        writes: Memory it writes to.
        is_double: Type of the call.
    """

    function: Any
    args: Any
    kwargs: dict[str, Any]
    out: Any
    reads: set[int]
    writes: set[int]
    is_double: bool = False

    @property
    def name(self) -> str:
        return self.function if isinstance(self.function, str) else self.function._opname

    def add_to(self, program: Program) -> None:
        """Add what was done to a program."""
        if isinstance(self.function, str):
            program.add_kernel(self.function, self.is_double, self.args)
        else:
            program.add(self.function, self.args, self.kwargs, self.out)


class _Recorder(TorchDispatchMode):
    """Lists what is computed; everything listed stays alive."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[tuple[Any, Any, dict[str, Any], Any, bool]] = []

    def note(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """An operation of PyTorch."""
        out = func(*args, **(kwargs or {}))
        self.listed.append((func, args, kwargs or {}, out, False))
        return out

    def called(self, name: str, is_double: bool, arguments: ctypes.Structure) -> None:
        """A call of the compiled library."""
        self.listed.append((name, arguments, {}, None, is_double))


# set here: PyTorch wraps a method of this name in the class's body so that its first call imports
# torch._dynamo, 1.6 s of CPU
_Recorder.__torch_dispatch__ = _Recorder.note


@dataclass(frozen=True)
class Recording:
    """A computation that can be repeated.

    Attributes:
        results: Where the results are, after each :meth:`repeat`.
        program: What is computed.
        settings: What is computed of the settings only.
        assumed: What was zero, so that something was left out.
    """

    results: Mapping[str, Tensor]
    program: Program
    settings: Program
    assumed: Sequence[Tensor] = ()

    @property
    def holds(self) -> bool:
        """Whether the last results are right: what was taken for zero still is."""
        return not any(x.numpy().any() for x in self.assumed)

    def set_up(self) -> None:
        """Compute what depends on the settings from what their memory holds now."""
        with torch.no_grad():
            self.settings.run()

    def repeat(self) -> Mapping[str, Tensor]:
        """Compute the results from what the inputs hold now; valid until the next call.

        Right only if :attr:`holds` afterwards.
        """
        with torch.no_grad():
            self.program.run()
        return self.results


def record(
    function: Callable[[], Mapping[str, Tensor]],
    inputs: Sequence[Tensor],
    settings: Sequence[Tensor] = (),
) -> Recording:
    """Compute, and keep how.

    Args:
        function: The computation; all tensors that it makes are on the CPU. Its Python code is not
            run again, and tensors that are neither inputs nor settings count as constants.
        inputs: Tensors in whose memory other values may be put before it is repeated.
        settings: Tensors whose values may change too, if :meth:`Recording.set_up` is called then.

    Raises:
        NotRecordable: if it asks for numbers that depend on the inputs.
    """
    recorder = _Recorder()
    assumed: list[Tensor] = []
    token = _ASSUMED.set(assumed)
    try:
        with observed_calls(recorder.called), recorder:
            results = dict(function())
    finally:
        _ASSUMED.reset(token)
    operations = _operations(recorder.listed, [*inputs, *settings])
    _, live = _changing(operations, {_memory(x) for x in inputs})
    changing, either = _changing(operations, {_memory(x) for x in (*inputs, *settings)})
    asked = [op.name for op, depends in zip(operations, either, strict=True) if depends]
    if _ASKS.intersection(asked):
        raise NotRecordable(
            "a computation must not ask for numbers to be recorded, got "
            f"{', '.join(sorted(_ASKS.intersection(asked)))}"
        )
    wanted = [*results.values(), *assumed]
    needed = _needed(operations, either, {_memory(x) for x in wanted if x.numel()})
    writers = _writers(operations)

    def program(chosen: Callable[[int], bool]) -> Program:
        made = Program(
            is_constant=lambda x: x.numel() == 0 or _memory(x) not in changing,
            is_shared=lambda x: writers[_memory(x)] > 1,
        )
        for index, operation in enumerate(operations):
            if needed[index] and chosen(index) and operation.name not in _MADE:
                operation.add_to(made)
        made.finish()
        return made

    once, each = program(lambda i: not live[i]), program(lambda i: live[i])
    # kernels hold addresses: whatever they read or write stays
    touched: set[int] = set()
    for operation, is_needed in zip(operations, needed, strict=True):
        touched |= (operation.reads | operation.writes) if is_needed else set()
    listed = (x for op in operations for x in _tensors((op.args, op.kwargs, op.out)))
    each.keep([x for x in listed if _memory(x) in touched])
    return Recording(results, each, once, tuple(assumed))


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        if value.numel():
            yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _operations(listed: Sequence[tuple], inputs: Sequence[Tensor]) -> list[_Operation]:
    """What each one reads and writes; views, which do neither, are left out."""
    # memory by address: where it ends
    ends: dict[int, int] = {}

    def seen(tensors: Iterable[Tensor]) -> set[int]:
        found = set()
        for x in tensors:
            storage = x.untyped_storage()
            start = storage.data_ptr()
            ends[start] = start + storage.nbytes()
            found.add(start)
        return found

    seen(inputs)
    operations = []
    for function, args, kwargs, out, is_double in listed:
        if isinstance(function, str):
            operations.append(_Operation(function, args, {}, None, set(), set(), is_double))
            continue
        reads, made = seen(_tensors((args, kwargs))), seen(_tensors(out))
        changed = _changed(function, args, kwargs)
        # neither new memory nor a change: a view
        if not changed and made <= reads and function._opname not in _ASKS:
            continue
        is_filled = function._opname in _MADE or function._opname in _FILLED
        writes = changed | (made - reads)
        operations.append(
            _Operation(function, args, kwargs, out, set() if is_filled else reads, writes)
        )
    starts = sorted(ends)
    for operation in operations:
        if isinstance(operation.function, str):
            _trace_pointers(operation, starts, ends)
    return operations


def _changed(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """Memory of the arguments that an operation changes."""
    if not function._schema.is_mutable:
        return set()
    changed: set[int] = set()
    for index, argument in enumerate(function._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed |= {_memory(x) for x in _tensors(value)}
    return changed


def _trace_pointers(operation: _Operation, starts: Sequence[int], ends: dict[int, int]) -> None:
    """Find the memory that a call's arguments point to."""
    written = _WRITTEN[operation.function]
    for name, *_ in type(operation.args)._fields_:
        value = getattr(operation.args, name)
        if isinstance(value, ctypes.Array):
            addresses = list(value)
        elif isinstance(value, int):
            addresses = [value]
        else:
            continue
        for address in addresses:
            place = bisect_right(starts, address or 0) - 1
            if place < 0 or not starts[place] <= (address or 0) < ends[starts[place]]:
                continue  # a size, or a table that belongs to the model
            operation.reads.add(starts[place])
            if name in written:
                operation.writes.add(starts[place])


def _writers(operations: Sequence[_Operation]) -> Counter[int]:
    """How many operations write to each piece of memory."""
    return Counter(place for operation in operations for place in operation.writes)


def _changing(operations: Sequence[_Operation], inputs: set[int]) -> tuple[set[int], list[bool]]:
    """Memory whose contents depend on the inputs, and which operations do."""
    writers = _writers(operations)
    changing, live = set(inputs), [False] * len(operations)
    grows = True
    while grows:
        grows = False
        for index, op in enumerate(operations):
            if live[index] or not (op.reads & changing or op.writes & changing):
                continue
            live[index] = grows = True
            # a constant that is written more than once is read between its values
            changing |= op.writes | {place for place in op.reads if writers.get(place, 0) > 1}
    return changing, live


def _needed(
    operations: Sequence[_Operation], live: Sequence[bool], results: set[int]
) -> list[bool]:
    """Which of the operations that depend on the inputs the results depend on."""
    wanted, needed = set(results), [False] * len(operations)
    for index in reversed(range(len(operations))):
        if operations[index].writes & wanted:
            needed[index] = live[index]
            wanted |= operations[index].reads
    return needed
