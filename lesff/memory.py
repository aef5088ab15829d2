"""Memory that a step frees and the next one needs again, kept by the process.

The C library gives large blocks back to the system as soon as they are freed, and the next step
pays for every page of them anew: of 12,288 atoms, an eighth of the step. Trajectories of many atoms
therefore ask it, once in a process, to give back the end of its heap only beyond :data:`KEPT`
bytes. What is free below a block in use stays with the process, which may therefore keep what it
needed at most. ``LESFF_KEEP_MEMORY=0`` leaves everything as it is.

glibc only: other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
from functools import cache

from lesff.environment import keeps_memory

KEPT = 2**30
"""Bytes."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of ``mallopt`` in <malloc.h> of glibc."""


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step; once is enough.

    Returns:
        Whether it will.
    """
    if not keeps_memory():
        return False
    try:
        library = ctypes.CDLL(None)
        # musl has a mallopt that does nothing, macOS and Windows have none
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # every block from the heap, whose end goes back to the system only beyond so many bytes
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
