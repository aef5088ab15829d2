"""Interpreter of the pickle stream of a checkpoint; it calls nothing and looks nothing up."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lesff.convert.archive import _MAX_RANK, MAX_PICKLE_BYTES, Storage, Storages, is_count
from lesff.convert.record import _REQUIRED, RESAVE, Record, RefusedError, shown

MAX_OPCODES = 1_000_000
MAX_DEPTH = 200
"""Levels of containers and records inside each other."""
MAX_PLAIN_KEYS = 10_000
"""Keys and set members that are not text: their hashes can be made to collide."""
_MAX_INTEGER_BYTES = 64
_MAX_NAME = 512
_MAX_ARGS = 10
_MAX_KEY_WIDTH = 16
_SET_ENTRY_BYTES = 64
_GLOBAL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
DTYPES = {
    f"torch.{name}": dtype
    for name, dtype in {
        "float64": torch.float64,
        "double": torch.float64,
        "float32": torch.float32,
        "float": torch.float32,
        "float16": torch.float16,
        "half": torch.float16,
        "bfloat16": torch.bfloat16,
        "complex64": torch.complex64,
        "complex128": torch.complex128,
        "int64": torch.int64,
        "long": torch.int64,
        "int32": torch.int32,
        "int": torch.int32,
        "int16": torch.int16,
        "short": torch.int16,
        "int8": torch.int8,
        "uint8": torch.uint8,
        "bool": torch.bool,
    }.items()
}


class InertUnpickler:
    """Interpreter of the opcodes that torch's pickler writes, protocols 2 to 5; calls nothing."""

    def __init__(self, stream: bytes, storages: Storages) -> None:
        self.stream = stream
        self.storages = storages
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Any] = {}
        self.plain_keys = 0
        self.copied = 0

    def run(self) -> Any:
        """Interpret up to the stop and return the one object left."""
        if self.take(1) != b"\x80" or not 2 <= self.take(1)[0] <= 5:
            raise RefusedError("its pickle stream is not of protocol 2 to 5", RESAVE)
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                return self.finish()
            operation = _OPCODES.get(opcode)
            if operation is None:
                raise RefusedError(f"its pickle stream has the opcode {opcode!r}", RESAVE)
            operation(self)
        raise RefusedError(f"its pickle stream has more than {MAX_OPCODES} opcodes")

    def finish(self) -> Any:
        """The only object on the stack, if nothing follows the stop."""
        if self.marks or len(self.stack) != 1 or self.position != len(self.stream):
            raise RefusedError("its pickle stream does not end with one object")
        _check_depth(self.stack[0])
        return self.stack[0]

    def take(self, count: int) -> bytes:
        """Next bytes of the stream."""
        end = self.position + count
        if end > len(self.stream):
            raise RefusedError("its pickle stream is cut off")
        part = self.stream[self.position : end]
        self.position = end
        return part

    def number(self, count: int) -> int:
        """Next unsigned little-endian integer."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        """Next line of a global's name."""
        end = self.stream.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise RefusedError("its pickle stream has a global with an endless name")
        return _text(self.take(end + 1 - self.position)[:-1])

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value off the stack."""
        if not self.stack:
            raise RefusedError("its pickle stream takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Topmost value, left on the stack."""
        if not self.stack:
            raise RefusedError("its pickle stream takes from an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Take all values down to the last mark."""
        if not self.marks:
            raise RefusedError("its pickle stream closes a group that it did not open")
        values, self.stack = self.stack, self.marks.pop()
        return values

    def mark(self) -> None:
        """Open a group."""
        self.marks.append(self.stack)
        self.stack = []

    def drop(self) -> None:
        """Take off a value, or close an empty group."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def pack(self, count: int) -> None:
        """Make a tuple of the topmost values."""
        if len(self.stack) < count:
            raise RefusedError("its pickle stream takes from an empty stack")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(values)

    def remember(self, index: int) -> None:
        """Store the topmost value under a number."""
        if index >= MAX_OPCODES:
            raise RefusedError(f"its pickle stream has the memo index {index}")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a stored value."""
        if index not in self.memo:
            raise RefusedError(f"its pickle stream recalls the unknown memo index {index}")
        self.push(self.memo[index])

    def integer(self, count: int) -> None:
        """Push a signed integer of the given number of bytes."""
        if count > _MAX_INTEGER_BYTES:
            raise RefusedError(f"its pickle stream has an integer of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def name(self, module: Any, name: Any) -> None:
        """Push a global: a number type of torch, or a record of its path."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("its pickle stream has a global without a name")
        module = "builtins" if module == "__builtin__" else module
        path = f"{module}.{name}"
        if len(path) > _MAX_NAME or not _GLOBAL.fullmatch(path):
            raise RefusedError(f"its pickle stream has the global {path[:80]!r}")
        if path not in self.globals:
            self.globals[path] = DTYPES.get(path) or Record(path)
        self.push(self.globals[path])

    def stack_name(self) -> None:
        """Push the global whose module and name are on the stack."""
        name = self.pop()
        self.name(self.pop(), name)

    def call(self) -> None:
        """Push what a call stands for: a value of `_CALLS`, otherwise an inert record."""
        args = self.pop()
        target = self.pop()
        if not isinstance(target, Record) or target.args is not None:
            raise RefusedError(f"it calls {shown(target)}, which is no global")
        if not isinstance(args, tuple):
            raise RefusedError(f"it calls {target.path} without a tuple of arguments")
        rebuild = _CALLS.get(target.path)
        if rebuild is None:
            self.push(Record(target.path, args))
            return
        try:
            self.push(rebuild(self, *args[:_MAX_ARGS]))
        except TypeError:
            raise RefusedError(f"it calls {target.path} with other arguments than torch") from None

    def build(self) -> None:
        """Store the state of a record."""
        state = self.pop()
        target = self.top()
        if type(target) is dict and isinstance(state, dict) and set(state) == {"_metadata"}:
            return  # version numbers that torch hangs on a state dict
        if not isinstance(target, Record) or target.args is None or target.state is not None:
            raise RefusedError(f"it sets the state of {shown(target)}")
        target.state = state

    def append(self, values: list[Any]) -> None:
        """Extend the list on the stack."""
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif isinstance(target, Record) and target.args is not None:
            target.entries.extend(values)
        else:
            raise RefusedError(f"it appends to {shown(target)}")

    def set_items(self, values: list[Any]) -> None:
        """Fill the dict on the stack from alternating keys and values."""
        if len(values) % 2:
            raise RefusedError("it has a key without a value")
        pairs = zip(values[::2], values[1::2], strict=True)
        target = self.top()
        if type(target) is dict:
            for key, value in pairs:
                target[self.key(key)] = value
        elif isinstance(target, Record) and target.args is not None:
            target.entries.extend(pairs)
        else:
            raise RefusedError(f"it sets items of {shown(target)}")

    def add_items(self) -> None:
        """Fill the set on the stack."""
        values = self.pop_mark()
        target = self.top()
        if type(target) is not set:
            raise RefusedError(f"it adds members to {shown(target)}")
        target.update(self.key(value) for value in values)

    def key(self, value: Any) -> Any:
        """A value that is safe and cheap to hash: text, numbers, types, records, short tuples."""
        if type(value) is str:
            return value
        self.plain_keys += 1
        parts = value if type(value) is tuple else (value,)
        simple = (str, int, float, bool, bytes, type(None), Record, torch.dtype)
        if len(parts) > _MAX_KEY_WIDTH or not all(type(part) in simple for part in parts):
            raise RefusedError(f"it has {shown(value)} as a key or member of a set")
        if self.plain_keys > MAX_PLAIN_KEYS:
            raise RefusedError(f"it has more than {MAX_PLAIN_KEYS} keys that are not text")
        return value

    def charge(self, count: int) -> None:
        """Count bytes copied, which a short stream could ask for again and again."""
        self.copied += count
        if self.copied > MAX_PICKLE_BYTES:
            raise RefusedError("it copies the same values too often")

    def make_set(self, values: Any = ()) -> set[Any]:
        """Value of `set(list)`."""
        if not isinstance(values, (list, tuple)):
            raise TypeError
        self.charge(_SET_ENTRY_BYTES * len(values))
        return {self.key(value) for value in values}

    def make_dict(self) -> dict[Any, Any]:
        """Value of `OrderedDict()`."""
        return {}

    def make_list(self, values: Any) -> list[Any]:
        """Value of `build_intlist(list)` and its kin, how TorchScript writes typed lists."""
        if type(values) is not list:
            raise TypeError
        return values

    def make_tagged(self, value: Any, tag: Any) -> Any:
        """Value of `restore_type_tag(value, type)`: the value, the type is dropped."""
        if type(tag) is not str:
            raise TypeError
        return value

    def make_bytes(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        """Value of `codecs.encode(text, "latin1")`, how protocol 2 writes bytes."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise TypeError
        self.charge(len(text))
        try:
            return text.encode("latin1")
        except UnicodeEncodeError:
            raise TypeError from None

    def make_empty_bytes(self) -> bytes:
        """Value of `bytes()`."""
        return b""

    def make_size(self, size: Any = ()) -> torch.Size:
        """Value of `torch.Size(tuple)`."""
        if not isinstance(size, tuple) or len(size) > _MAX_RANK or not all(map(is_count, size)):
            raise TypeError
        return torch.Size(size)

    def make_tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        metadata: Any = None,
    ) -> Tensor:
        """Value of `_rebuild_tensor_v2`; whether it needs a gradient is dropped."""
        if not isinstance(storage, Storage) or type(requires_grad) is not bool:
            raise TypeError
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or hooks or metadata:
            raise TypeError
        return self.storages.view(storage, offset, size, stride)

    def make_parameter(self, values: Any, requires_grad: Any, hooks: Any) -> Tensor:
        """Value of `_rebuild_parameter`, as a plain tensor."""
        if not isinstance(values, Tensor) or type(requires_grad) is not bool or hooks:
            raise TypeError
        return values


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": InertUnpickler.make_dict,
    "builtins.set": InertUnpickler.make_set,
    "builtins.bytes": InertUnpickler.make_empty_bytes,
    "_codecs.encode": InertUnpickler.make_bytes,
    "torch.Size": InertUnpickler.make_size,
    "torch._utils._rebuild_tensor_v2": InertUnpickler.make_tensor,
    "torch._utils._rebuild_parameter": InertUnpickler.make_parameter,
    **{
        f"torch.jit._pickle.build_{kind}list": InertUnpickler.make_list
        for kind in ("int", "double", "bool", "tensor")
    },
    "torch.jit._pickle.restore_type_tag": InertUnpickler.make_tagged,
}
"""Globals whose call gives a value instead of a record; each is computed here, not imported."""

_OPCODES: dict[bytes, Callable[[InertUnpickler], object]] = {
    b"(": InertUnpickler.mark,
    b"0": InertUnpickler.drop,
    b"1": InertUnpickler.pop_mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.integer(4),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(_text(m.take(m.number(4)))),
    b"\x8c": lambda m: m.push(_text(m.take(m.number(1)))),
    b"\x8d": lambda m: m.push(_text(m.take(m.number(8)))),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(set()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.pack(1),
    b"\x86": lambda m: m.pack(2),
    b"\x87": lambda m: m.pack(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": InertUnpickler.add_items,
    b"\x91": lambda m: m.push(frozenset(map(m.key, m.pop_mark()))),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": InertUnpickler.stack_name,
    b"R": InertUnpickler.call,
    b"\x81": InertUnpickler.call,
    b"b": InertUnpickler.build,
    b"Q": lambda m: m.push(m.storages.load(m.pop())),
    b"\x95": lambda m: m.take(8),  # a frame only announces how many bytes follow
}


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        raise RefusedError("its pickle stream has text that is not UTF-8") from None


def _check_depth(root: Any) -> None:
    """Refuse values nested too deeply for recursive code; a loop is entered once."""
    depths: dict[int, int] = {}
    stack: list[tuple[Any, Iterator[Any]]] = [(root, iter(_parts(root)))]
    depths[id(root)] = 0
    while stack:
        value, parts = stack[-1]
        child = next(parts, _REQUIRED)
        if child is not _REQUIRED and id(child) not in depths:
            depths[id(child)] = 0
            stack.append((child, iter(_parts(child))))
        elif child is _REQUIRED:
            stack.pop()
            depths[id(value)] = depth = 1 + max((depths[id(p)] for p in _parts(value)), default=0)
            if depth > MAX_DEPTH:
                raise RefusedError(f"it has values nested deeper than {MAX_DEPTH} levels")


def _parts(value: Any) -> Iterable[Any]:
    """Containers and records directly inside a value."""
    if isinstance(value, Record):
        inside: Iterable[Any] = (value.args, value.state, value.entries)
    elif type(value) is dict:
        inside = (*value.keys(), *value.values())
    elif type(value) in (tuple, list):
        inside = value
    else:
        inside = ()  # members of sets are flat
    return [part for part in inside if isinstance(part, (Record, dict, tuple, list))]
