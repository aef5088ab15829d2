"""The compiled library: found beside this file, loaded once, instruction set chosen at run time.

``LESFF_KERNELS`` chooses: ``auto`` (default: compiled kernels if they are there), ``off``, ``on``
(an error if they are not there), or an instruction set: ``generic``, ``avx2``, ``avx512``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from lesff.errors import KernelError

TABLE_BLOCK = 16
"""Channels per block of a radial table, as compiled in."""
VARIABLE = "LESFF_KERNELS"
INSTRUCTION_SETS = ("generic", "avx2", "avx512")
"""In ascending order; the index is what the library calls them."""

_OBSERVER: ContextVar[Callable[[str, bool, ctypes.Structure], None] | None] = ContextVar(
    "observer", default=None
)
_ABI_VERSION = 17
_CHOICES = ("auto", "on", "off", *INSTRUCTION_SETS)
_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class KernelStatus:
    """What computes on a CPU.

    Attributes:
        instruction_set: That of the compiled kernels in use, or None if plain PyTorch computes.
        reason: Why there are no compiled kernels; empty if there are.
        path: The library, or None.
    """

    instruction_set: str | None
    reason: str = ""
    path: Path | None = None


def library_path() -> Path | None:
    """The compiled library of this installation, or None."""
    # an editable installation keeps compiled files in a second folder of the package
    folders = [Path(folder) for folder in import_module("lesff.kernels").__path__]
    names = [f"_kernels*.{suffix}" for suffix in ("so", "dll", "dylib")]
    # the name's end depends on platform and build; one library is enough
    found = [path for folder in folders for name in names for path in folder.glob(name)]
    return found[0] if found else None


def device_kernels_wanted() -> bool:
    """Whether Triton kernels may compute on GPUs: unless ``LESFF_KERNELS=off``."""
    return os.environ.get(VARIABLE, "auto") != "off"


@cache
def kernel_status() -> KernelStatus:
    """Decide once per process what computes.

    Raises:
        KernelError: if ``LESFF_KERNELS`` asks for what is not there, or has no meaning.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in _CHOICES:
        raise KernelError(f"`{VARIABLE}` must be one of {', '.join(_CHOICES)}, got {choice!r}")
    if choice == "off":
        return KernelStatus(None, reason=f"switched off by {VARIABLE}=off")
    path = library_path()
    if path is None:
        return _absent(
            choice,
            "not built: this installation was made without a C++ compiler (GCC or Clang) and "
            "CMake, or runs from a source tree; install lesff again from source with both",
        )
    # a library of another system, or of another lesff, is as good as none
    try:
        library = _load(path)
    except (OSError, AttributeError) as error:
        return _absent(choice, f"{path.name} cannot be loaded: {error}; install lesff again")
    if library.lesff_abi_version() != _ABI_VERSION:
        return _absent(choice, f"{path.name} belongs to another version; install lesff again")
    # by default the best that the processor has
    best = library.lesff_best_instruction_set()
    wanted = INSTRUCTION_SETS.index(choice) if choice in INSTRUCTION_SETS else best
    if wanted > best:
        raise KernelError(
            f"`{VARIABLE}` must be at most {INSTRUCTION_SETS[best]} on this processor, "
            f"got {choice!r}"
        )
    return KernelStatus(INSTRUCTION_SETS[wanted], path=path)


def _absent(choice: str, reason: str) -> KernelStatus:
    if choice == "auto":
        return KernelStatus(None, reason=reason)
    raise KernelError(f"{VARIABLE}={choice} asks for compiled kernels, but they are {reason}")


@cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def is_active(tensor: Tensor) -> bool:
    """Whether compiled kernels compute on a tensor's device and type."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in _DTYPES
        and kernel_status().instruction_set is not None
    )


def call(name: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Run an entry point of the library; the interpreter lock is released meanwhile.

    Raises:
        KernelError: if there are no compiled kernels.
    """
    status = kernel_status()
    if status.path is None or status.instruction_set is None:
        raise KernelError(f"compiled kernels are {status.reason}")
    function = getattr(_load(status.path), f"lesff_{name}")
    # instruction set and type choose among the copies of the kernel in the library
    isa, is_double = INSTRUCTION_SETS.index(status.instruction_set), dtype == torch.float64
    function(isa, int(is_double), ctypes.byref(arguments))
    observer = _OBSERVER.get()
    if observer is not None:
        observer(name, is_double, arguments)


def address_of(name: str) -> int:
    """Address of an entry point, for calls inside of the library.

    Raises:
        KernelError: if there are no compiled kernels.
    """
    path = kernel_status().path
    if path is None:
        raise KernelError(f"compiled kernels are {kernel_status().reason}")
    return ctypes.cast(getattr(_load(path), f"lesff_{name}"), ctypes.c_void_p).value or 0


@contextmanager
def observed_calls(observer: Callable[[str, bool, ctypes.Structure], None]) -> Iterator[None]:
    """Tell of each :func:`call` in the block: name, whether in float64, and arguments."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)
