"""Recorded operations as instructions of the compiled library, run by one call.

The structures mirror ``csrc/program.h``, :data:`_CODES` the codes of ``csrc/program.cpp``. An
operation that has no instruction (other types, more dimensions, rare functions) stays a call of
PyTorch between two runs of instructions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_double, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from lesff.kernels.library import address_of, call

_N_DIMS = 4
_CODES = (
    *("kernel", "zero", "copy", "add", "subtract", "multiply"),
    *("divide", "negate", "sine", "cosine", "silu", "silu_backward"),
    *("softplus", "softplus_backward", "raise", "less", "greater", "matrix"),
    *("gather", "scatter_copy", "scatter_add", "total", "square_root", "reciprocal"),
    *("exponent", "tangent", "absolute", "at_least", "at_most"),
    *("less_equal", "greater_equal", "both", "choose", "power_of", "sign", "nearest"),
    *("error_complement", "complex_multiply", "matrices", "cross"),
)
_COMPARED = ("less", "greater", "less_equal", "greater_equal")
_CODE = {name: code for code, name in enumerate(_CODES)}
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bool: 2, torch.int64: 3}
_REAL = (torch.float32, torch.float64)
_MAX_POWER = 12
_MAX_PRODUCTS = 16
"""Products of matrices that one operation becomes."""
_MAX_SMALL = 32**3
"""Multiplications of a small matrix product; larger ones are PyTorch's."""


class _Instruction(ctypes.Structure):
    _fields_ = [
        *[(n, c_int32) for n in ("code", "type", "type_from", "unused")],
        *[(n, c_int64 * _N_DIMS) for n in ("sizes", "out_strides", "a_strides", "b_strides")],
        *[(n, c_void_p) for n in ("out", "a", "b", "index")],
        ("scalar", c_double),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("n_instructions", c_int64), ("instructions", c_void_p)]


class NoInstruction(Exception):
    """An operation has no instruction."""


class Program:
    """Instructions and calls on fixed memory, in order.

    Args:
        is_constant: Whether a tensor has the same values at each run.
        is_shared: Whether its memory is written to by several operations.
    """

    def __init__(
        self, is_constant: Callable[[Tensor], bool], is_shared: Callable[[Tensor], bool]
    ) -> None:
        self._is_constant = is_constant
        self._is_shared = is_shared
        self._pending: list[_Instruction] = []
        self._parts: list[Callable[[], Any]] = []
        # tensors and arguments whose addresses the instructions hold
        self._held: list[Any] = []
        self.n_instructions = 0
        self.calls: list[str] = []

    def finish(self) -> None:
        """Close the last part; nothing is added after it."""
        if not self._pending:
            return
        array = (_Instruction * len(self._pending))(*self._pending)
        arguments = _Program(len(array), ctypes.addressof(array))
        self._held += [array, arguments]
        self._parts.append(lambda: call("program", torch.float32, arguments))
        self._pending = []

    def keep(self, tensors: Sequence[Any]) -> None:
        """Hold what instructions point to."""
        self._held += tensors

    def run(self) -> None:
        """Compute everything again from what the memory of the inputs holds now."""
        for part in self._parts:
            part()

    def add_kernel(self, name: str, is_double: bool, arguments: ctypes.Structure) -> None:
        """A call of the compiled library; its structure is used as it is."""
        instruction = _Instruction(
            code=_CODE["kernel"],
            type=int(is_double),
            out=address_of(name),
            a=ctypes.addressof(arguments),
        )
        self._held.append(arguments)
        self._append(instruction)

    def add(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """An operation of PyTorch that gave ``out``, or that changed its first argument."""
        # instructions of an operation that turns out to have none are taken back
        n_pending, n_held, n_before = len(self._pending), len(self._held), self.n_instructions
        try:
            _ENCODERS[function](self, out, *args, **kwargs)
        except (KeyError, IndexError, NoInstruction, TypeError):
            del self._pending[n_pending:], self._held[n_held:]
            self.n_instructions = n_before
            self.finish()
            self.calls.append(str(function))
            self._parts.append(_again(function, args, kwargs, out))

    def _append(self, instruction: _Instruction) -> None:
        self._pending.append(instruction)
        self.n_instructions += 1

    # operands

    def _as(self, x: Any, dtype: torch.dtype) -> Tensor:
        """A number or tensor as tensor of a type, converted at each run if it must be."""
        if not isinstance(x, Tensor):
            return torch.tensor(x, dtype=dtype)
        if x.dtype == dtype:
            return x
        _require(not x.is_complex())
        if self._is_constant(x):
            return x.to(dtype)
        converted = torch.empty_like(x, dtype=dtype)
        self.copy(converted, x)
        return converted

    def pointwise(self, name: str, out: Tensor, *operands: Any, scalar: float = 0.0) -> None:
        """``out = f(a)`` or ``f(a, b)`` with operands spread to the shape of the result."""
        if out.is_complex():
            self._complex(name, out, *operands)
            return
        compared = name in _COMPARED
        dtype = operands[0].dtype if compared else out.dtype
        _require(not compared or not isinstance(operands[1], Tensor) or operands[1].dtype == dtype)
        _require(dtype in _REAL and (out.dtype == torch.bool) == compared)
        spread = [self._as(x, dtype).expand(out.shape) for x in operands]
        self._emit(name, dtype, out, *spread, scalar=scalar)

    def copy(self, out: Tensor, x: Tensor) -> None:
        """``out = x``, converted to the type of ``out``."""
        if out.is_complex():
            _require(x.dtype == out.dtype)
            if x.is_conj():
                to, x = _parts(out), _parts(x.conj().expand(out.shape))
                self.copy(to[..., 0], x[..., 0])
                self.pointwise("negate", to[..., 1], x[..., 1])
                return
            out, x = _parts(out), _parts(x.expand(out.shape))
        _require(out.dtype in _REAL and x.dtype in _TYPES)
        self._emit("copy", out.dtype, out, x.expand(out.shape), type_from=_TYPES[x.dtype])

    def _complex(self, name: str, out: Tensor, a: Any, b: Any) -> None:
        """Sums and products of complex numbers, products with real ones."""
        both = all(isinstance(x, Tensor) and x.dtype == out.dtype for x in (a, b))
        if name in ("add", "subtract"):
            _require(both)
            a, b = (_parts(x.expand(out.shape)) for x in (a, b))
            self.pointwise(name, _parts(out), a, b)
        elif both:
            _require(name == "multiply")
            conjugate = sum(sign for sign, x in ((1, a), (2, b)) if x.is_conj())
            a, b = (x.conj() if x.is_conj() else x for x in (a, b))
            self._emit("complex_multiply", _parts(out).dtype, out, a.expand(out.shape),
                       b.expand(out.shape), scalar=conjugate)  # fmt: skip
        else:
            _require(name == "multiply")
            a, b = (b, a) if not (isinstance(a, Tensor) and a.is_complex()) else (a, b)
            _require(isinstance(a, Tensor) and a.dtype == out.dtype)
            if isinstance(b, complex):
                self._complex(name, out, a, torch.tensor(b, dtype=out.dtype))
                return
            _require(not (isinstance(b, Tensor) and b.is_complex()))
            factor = b[..., None] if isinstance(b, Tensor) and b.dim() else b
            self.pointwise("multiply", _parts(out), _parts(a.expand(out.shape)), factor)

    def choose(self, out: Tensor, holds: Tensor, a: Tensor) -> None:
        """``out = a`` where a mask holds."""
        _require(out.dtype in _REAL and holds.dtype == torch.bool)
        a = self._as(a, out.dtype)
        self._emit("choose", out.dtype, out, a.expand(out.shape), holds.expand(out.shape))

    def both(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """Where two masks hold."""
        _require(all(x.dtype == torch.bool for x in (out, a, b)))
        self._emit("both", torch.float32, out, a.expand(out.shape), b.expand(out.shape))

    def flipped(self, out: Tensor, x: Tensor, dims: Sequence[int]) -> None:
        """``out = x`` in the opposite order along dimensions."""
        if out.is_complex():
            dims = [d % x.dim() for d in dims]
            out, x = _parts(out), _parts(x)
        _require(out.dtype in _REAL and x.dtype == out.dtype)
        turned = {d % x.dim() for d in dims}
        rows = [
            (size, out.stride(d), x.stride(d) * (-1 if d in turned else 1))
            for d, size in enumerate(out.shape) if size != 1
        ]  # fmt: skip
        sizes, *strides = zip(*_padded(_merged(rows), 2), strict=True)
        last = sum((x.shape[d] - 1) * x.stride(d) for d in turned)
        self._emit_raw("copy", out.dtype, out, x, sizes=sizes, strides=strides,
                       type_from=_TYPES[x.dtype], start=last)  # fmt: skip

    def matrices(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """``out = a b`` of many matrices, (n, i, j), (n, i, k) and (n, k, j)."""
        _require(out.dtype in _REAL and a.dtype == b.dtype == out.dtype)
        self._emit_raw(
            "matrices", out.dtype, out, a, b, sizes=(*out.shape, a.shape[2]),
            strides=[x.stride() for x in (out, a, b)],
        )  # fmt: skip

    def cross(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """Cross products of rows, (n, 3)."""
        _require(out.dtype in _REAL and a.dtype == b.dtype == out.dtype and out.dim() == 2)
        both = [x.expand(out.shape) for x in (a, b)]
        self._emit_raw("cross", out.dtype, out, *both, sizes=(len(out),),
                       strides=[x.stride() for x in (out, *both)])  # fmt: skip

    def zero_rest(self, out: Tensor) -> None:
        """Zeros around a part that is written next, unless they stay from the recording."""
        if self._is_shared(out):
            self.zero(out)

    def zero(self, out: Tensor) -> None:
        """``out = 0``, of contiguous memory."""
        _require(out.is_contiguous())
        self._emit_raw("zero", out.dtype, out, sizes=(out.numel() * out.element_size(),))

    def _emit(
        self, name: str, dtype: torch.dtype, out: Tensor, *operands: Tensor,
        type_from: int = 0, scalar: float = 0.0,
    ) -> None:  # fmt: skip
        tensors = (out, *operands)
        dims = [
            (size, *(x.stride(d) for x in tensors)) for d, size in enumerate(out.shape) if size != 1
        ]
        dims = _padded(_merged(dims), len(tensors))
        columns = list(zip(*dims, strict=True))
        self._emit_raw(
            name, dtype, *tensors, sizes=columns[0], strides=columns[1:], type_from=type_from,
            scalar=scalar,
        )  # fmt: skip

    def _emit_raw(
        self, name: str, dtype: torch.dtype, out: Tensor, *operands: Tensor,
        sizes: Sequence[int], strides: Sequence[Sequence[int]] = (), index: Tensor | None = None,
        type_from: int = 0, scalar: float = 0.0, start: int = 0,
    ) -> None:  # fmt: skip
        # memory of these holds something else than their numbers
        _require(not any(x.is_neg() or x.is_conj() for x in (out, *operands)))
        instruction = _Instruction(
            code=_CODE[name], type=int(dtype == torch.float64), type_from=type_from, scalar=scalar
        )
        instruction.sizes[: len(sizes)] = list(sizes)
        names = ("out_strides", "a_strides", "b_strides")
        for field, row in zip(names, strides, strict=False):
            getattr(instruction, field)[: len(row)] = list(row)
        for field, tensor in zip(("out", "a", "b"), (out, *operands), strict=False):
            setattr(instruction, field, tensor.data_ptr())
        if start:  # the first operand begins so many numbers later
            instruction.a = operands[0].data_ptr() + start * operands[0].element_size()
        if index is not None:
            _require(index.dtype == torch.int64 and index.is_contiguous())
            _require(index.numel() == 0 or int(index.min()) >= 0)
            instruction.index = index.data_ptr()
        self._held += [out, *operands, index]
        self._append(instruction)

    def product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """``out = a b``, matrices."""
        _require(out.dtype in _REAL and a.dtype == b.dtype == out.dtype)
        n = out.shape[1]
        _require(out.stride(1) == 1 or n == 1)
        if n == 1 and a.stride(1) == 1 and b.stride(0) == 1:
            pass
        elif b.stride(1) != 1 and n > 1:
            # columns side by side; of constants once
            packed = torch.empty(b.shape, dtype=b.dtype)
            packed.copy_(b)
            if not self._is_constant(b):
                self.copy(packed, b)
            b = packed
        self._emit_raw(
            "matrix", out.dtype, out, a, b, sizes=(*out.shape, a.shape[1]),
            strides=[x.stride() for x in (out, a, b)],
        )  # fmt: skip

    def rows(self, name: str, out: Tensor, x: Tensor, index: Tensor) -> None:
        """Rows of ``x`` taken by, or brought to, the places of ``index``."""
        _require(out.dtype in _REAL and x.dtype == out.dtype and out.is_contiguous())
        size = out[0].numel() if len(out) else 0
        if name == "gather":
            _require(x.shape[1:].numel() == 1 or x[0].is_contiguous())
            self._emit_raw(name, out.dtype, out, x, sizes=(len(index), size),
                           strides=[(), (x.stride(0),)], index=index)  # fmt: skip
            return
        if x[0].is_contiguous() or size == 1:
            steps = (x.stride(0), 1)
        else:
            _require(x.dim() == 2)
            steps = tuple(x.stride())
        self._emit_raw(name, out.dtype, out, out, x, sizes=(len(index), size),
                       strides=[(), (), steps], index=index)  # fmt: skip

    def total(self, out: Tensor, x: Tensor, dims: Sequence[int], keepdim: bool) -> None:
        """Sum over dimensions."""
        _require(out.dtype in _REAL and x.dtype == out.dtype)
        reduced = {d % x.dim() for d in dims} if len(dims) else set(range(x.dim()))
        if not keepdim:
            for d in sorted(reduced):
                out = out.unsqueeze(d)
        both = [(size, out.stride(d), x.stride(d)) for d, size in enumerate(x.shape)]
        kept = _merged([row for d, row in enumerate(both) if d not in reduced and row[0] != 1])
        rest = _merged([row for d, row in enumerate(both) if d in reduced and row[0] != 1])
        table = _padded(kept, 2, 2) + _padded(rest, 2, 2)
        sizes, *strides = zip(*table, strict=True)
        self._emit_raw("total", out.dtype, out, x, sizes=sizes, strides=strides)


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary parts of complex numbers, (..., 2)."""
    _require(not x.is_conj())
    return torch.view_as_real(x)


def _require(holds: bool) -> None:
    if not holds:
        raise NoInstruction


def _merged(dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Neighbouring dimensions that all tensors go through as if they were one, as one."""
    merged: list[tuple[int, ...]] = []
    for size, *strides in dims:
        # (size, strides...) of the dimension before, whose step is the whole of this one
        if merged and all(
            before == size * step for before, step in zip(merged[-1][1:], strides, strict=True)
        ):
            merged[-1] = (merged[-1][0] * size, *strides)
        else:
            merged.append((size, *strides))
    return merged


def _padded(dims: list[tuple[int, ...]], n_tensors: int, count: int = _N_DIMS) -> list:
    _require(len(dims) <= count)
    # the last dimension is the innermost loop
    return [(1, *(0,) * n_tensors)] * (count - len(dims)) + dims


def _again(
    function: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> Callable[[], None]:
    """The same call once more, with its results brought to where they were."""
    outs = out if isinstance(out, (tuple, list)) else (out,)
    first = args[0] if args else None

    def run() -> None:
        found = function(*args, **kwargs)
        if isinstance(found, Tensor) and found is first:
            return  # in place
        found = found if isinstance(found, (tuple, list)) else (found,)
        for place, value in zip(outs, found, strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)

    return run


# one encoder for each operation: (program, out, *arguments of the operation)


def _sum_of(name: str, flipped: bool = False) -> Callable[..., None]:
    def encode(p: Program, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
        _require(alpha == 1)
        p.pointwise(name, out, *((b, a) if flipped else (a, b)))

    return encode


def _plain(name: str) -> Callable[..., None]:
    return lambda p, out, *x: p.pointwise(name, out, *x)


def _compare(name: str) -> Callable[..., None]:
    return lambda p, out, a, b: p.pointwise(name, out, a, b)


def _softplus(p: Program, out: Tensor, a: Tensor, beta: float = 1, threshold: float = 20) -> None:
    _require(beta == 1 and threshold == 20)
    p.pointwise("softplus", out, a)


def _softplus_backward(
    p: Program, out: Tensor, g: Tensor, a: Tensor, beta: float, threshold: float
) -> None:
    _require(beta == 1 and threshold == 20)
    p.pointwise("softplus_backward", out, g, a)


def _power(p: Program, out: Tensor, a: Tensor, n: float) -> None:
    few = float(n).is_integer() and 0 <= n <= _MAX_POWER
    p.pointwise("raise" if few else "power_of", out, a, scalar=float(n))


def _clamp(
    p: Program, out: Tensor, a: Tensor, low: float | None = None, high: float | None = None
) -> None:
    if low is not None:
        p.pointwise("at_least", out, a, scalar=float(low))
        a = out
    if high is not None:
        p.pointwise("at_most", out, a, scalar=float(high))


def _copy(p: Program, out: Tensor, x: Tensor, **_: Any) -> None:
    p.copy(out, x)


def _copy_into(p: Program, _: Tensor, place: Tensor, x: Tensor, non_blocking: bool = False) -> None:
    p.copy(place, x)


def _zeros(p: Program, out: Tensor, *_: Any, **__: Any) -> None:
    p.zero(out)


def _joined(p: Program, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    start = 0
    for x in tensors:
        n = x.shape[dim] if x.dim() == out.dim() else 0
        if n:
            p.copy(out.narrow(dim, start, n), x)
        start += n


def _stacked(p: Program, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    for index, x in enumerate(tensors):
        p.copy(out.select(dim, index), x)


def _slice_backward(
    p: Program, out: Tensor, g: Tensor, shape: Any, dim: int, start: int, stop: int, step: int
) -> None:
    p.zero_rest(out)
    stop = min(stop, out.shape[dim])
    index = [slice(None)] * out.dim()
    index[dim] = slice(start, stop, step)
    p.copy(out[tuple(index)], g)


def _select_backward(p: Program, out: Tensor, g: Tensor, shape: Any, dim: int, at: int) -> None:
    p.zero_rest(out)
    p.copy(out.select(dim, at), g)


def _matrices(p: Program, out: Tensor, a: Tensor, b: Tensor) -> None:
    if b.stride(0) == 0 and out.shape[1] <= _MAX_PRODUCTS:
        # one matrix for all: row by row of the others
        for m in range(out.shape[1]):
            p.product(out[:, m], a[:, m], b[0])
        return
    if len(out) > _MAX_PRODUCTS:
        _require(out[0].numel() * a.shape[2] <= _MAX_SMALL)
        p.matrices(out, a, b)
        return
    for k in range(len(out)):
        p.product(out[k], a[k], b[k])


def _select_rows(p: Program, out: Tensor, x: Tensor, dim: int, index: Tensor) -> None:
    _require(dim == 0 and index.dim() == 1)
    p.rows("gather", out, x, index)


def _one_index(indices: Sequence[Tensor | None]) -> Tensor:
    _require(len(indices) == 1 and indices[0] is not None and indices[0].dim() == 1)
    index = indices[0]
    if index is None:
        raise NoInstruction
    return index


def _index(p: Program, out: Tensor, x: Tensor, indices: Sequence[Tensor | None]) -> None:
    index = _one_index(indices)
    _require(index.dtype == torch.int64)
    p.rows("gather", out, x, index)


def _add_rows(
    p: Program, out: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float = 1
) -> None:
    _require(dim == 0 and alpha == 1 and x.shape[1:] == source.shape[1:])
    p.copy(out, x)
    p.rows("scatter_add", out, source, index)


def _copy_rows(p: Program, out: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    _require(dim == 0)
    p.copy(out, x)
    p.rows("scatter_copy", out, source, index)


def _put_rows(
    p: Program, out: Tensor, x: Tensor, indices: Sequence[Tensor | None], source: Tensor,
    accumulate: bool = False,
) -> None:  # fmt: skip
    index = _one_index(indices)
    _require(source.shape == (len(index), *x.shape[1:]))
    p.copy(out, x)
    p.rows("scatter_add" if accumulate else "scatter_copy", out, source, index)


def _total(
    p: Program, out: Tensor, x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False,
    *, dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    p.total(out, x, dims or (), keepdim)


def _where(p: Program, out: Tensor, holds: Tensor, a: Tensor, b: Tensor) -> None:
    p.copy(out, b)
    p.choose(out, holds, a)


def _add_product(
    p: Program, out: Tensor, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> None:
    _require(value == 1)
    p.pointwise("multiply", out, a, b)
    p.pointwise("add", out, out, x)


def _add_matrices(
    p: Program, _: Tensor, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> None:
    _require(beta == 1 and alpha == 1)
    product = torch.empty_like(x)
    _matrices(p, product, a, b)
    p.pointwise("add", x, x, product)


def _norm(
    p: Program, out: Tensor, x: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False,
    **_: Any,
) -> None:  # fmt: skip
    _require(order == 2 and x.dtype == out.dtype)
    square = torch.empty_like(x)
    p.pointwise("multiply", square, x, x)
    p.total(out, square, dims or (), keepdim)
    p.pointwise("square_root", out, out)


def _from_parts(p: Program, out: Tensor, real: Tensor, imag: Tensor) -> None:
    for part, x in enumerate((real, imag)):
        p.copy(_parts(out)[..., part], x)


def _inverse_root(p: Program, out: Tensor, x: Tensor) -> None:
    p.pointwise("square_root", out, x)
    p.pointwise("reciprocal", out, out)


def _cross(p: Program, out: Tensor, a: Tensor, b: Tensor, *, dim: int = -1) -> None:
    _require(dim in (-1, out.dim() - 1))
    p.cross(out, a, b)


def _in_place(name: str) -> Callable[..., None]:
    def encode(p: Program, _: Tensor, a: Tensor, b: Any, alpha: float = 1) -> None:
        _require(alpha == 1)
        p.pointwise(name, a, a, b)

    return encode


_A = torch.ops.aten
_ENCODERS: dict[Any, Callable[..., None]] = {
    _A.add.Tensor: _sum_of("add"),
    _A.add.Scalar: _sum_of("add"),
    _A.sub.Tensor: _sum_of("subtract"),
    _A.sub.Scalar: _sum_of("subtract"),
    _A.rsub.Scalar: _sum_of("subtract", flipped=True),
    _A.rsub.Tensor: _sum_of("subtract", flipped=True),
    _A.add_.Tensor: _in_place("add"),
    _A.mul_.Tensor: _in_place("multiply"),
    _A.mul.Tensor: _plain("multiply"),
    _A.mul.Scalar: _plain("multiply"),
    _A.div.Tensor: _plain("divide"),
    _A.div.Scalar: _plain("divide"),
    _A.neg.default: _plain("negate"),
    _A.sin.default: _plain("sine"),
    _A.cos.default: _plain("cosine"),
    _A.sqrt.default: _plain("square_root"),
    _A.reciprocal.default: _plain("reciprocal"),
    _A.exp.default: _plain("exponent"),
    _A.tanh.default: _plain("tangent"),
    _A.abs.default: _plain("absolute"),
    _A.silu.default: _plain("silu"),
    _A.silu_backward.default: _plain("silu_backward"),
    _A.softplus.default: _softplus,
    _A.softplus_backward.default: _softplus_backward,
    _A.pow.Tensor_Scalar: _power,
    _A.clamp.default: _clamp,
    _A.clamp_min.default: lambda p, out, a, low: _clamp(p, out, a, low),
    _A.clamp_max.default: lambda p, out, a, high: _clamp(p, out, a, None, high),
    _A.lt.Scalar: _compare("less"),
    _A.lt.Tensor: _compare("less"),
    _A.gt.Scalar: _compare("greater"),
    _A.gt.Tensor: _compare("greater"),
    _A.le.Scalar: _compare("less_equal"),
    _A.le.Tensor: _compare("less_equal"),
    _A.ge.Scalar: _compare("greater_equal"),
    _A.ge.Tensor: _compare("greater_equal"),
    _A.where.self: _where,
    _A.bitwise_and.Tensor: lambda p, out, a, b: p.both(out, a, b),
    _A.logical_and.default: lambda p, out, a, b: p.both(out, a, b),
    _A.logical_and_.default: lambda p, _, a, b: p.both(a, a, b),
    _A.sgn.default: _plain("sign"),
    _A.sign.default: _plain("sign"),
    _A.round.default: _plain("nearest"),
    _A.erfc.default: _plain("error_complement"),
    _A.rsqrt.default: _inverse_root,
    _A.addcmul.default: _add_product,
    _A.mul.out: lambda p, result, a, b, **_: p.pointwise("multiply", result, a, b),
    _A.complex.default: _from_parts,
    _A.flip.default: lambda p, out, x, dims: p.flipped(out, x, dims),
    _A.linalg_cross.default: _cross,
    _A.linalg_vector_norm.default: _norm,
    _A.clone.default: _copy,
    _A._to_copy.default: _copy,
    _A.copy_.default: _copy_into,
    _A.zeros_like.default: _zeros,
    _A.new_zeros.default: _zeros,
    _A.zeros.default: _zeros,
    _A.zero_.default: lambda p, _, x: p.zero(x),
    _A.cat.default: _joined,
    _A.stack.default: _stacked,
    _A.slice_backward.default: _slice_backward,
    _A.select_backward.default: _select_backward,
    _A.mm.default: lambda p, out, a, b: p.product(out, a, b),
    _A.bmm.default: _matrices,
    _A.baddbmm_.default: _add_matrices,
    _A.mv.default: lambda p, out, a, b: p.product(out[:, None], a, b[:, None]),
    _A.index_select.default: _select_rows,
    _A.index.Tensor: _index,
    _A.index_add.default: _add_rows,
    _A.index_copy.default: _copy_rows,
    _A.index_put.default: _put_rows,
    _A.sum.dim_IntList: _total,
    _A.sum.default: _total,
}
