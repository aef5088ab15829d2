"""Atoms that LAMMPS moves to the other side of the box, and how often it did."""

from __future__ import annotations

import numpy as np

_MOST = 4
"""Boxes that an atom may go from where it began before they are counted anew."""


class Images:
    """How many boxes atoms have passed: positions with these are without jumps.

    Neighbours would be searched anew after each jump. Boxes count from where the atoms were first,
    so that none is far away.
    """

    def __init__(self) -> None:
        self._start = np.zeros(0, dtype=np.int32)
        self._last = self._start
        self._passed = np.zeros((0, 3))

    def passed(self, images: np.ndarray) -> np.ndarray:
        """Boxes passed along each axis since the start, (n, 3).

        Args:
            images: (n,) image flags as LAMMPS packs them, by atom ID.
        """
        if images.shape == self._last.shape and bool((images == self._last).all()):
            return self._passed
        self._last = images
        if images.shape == self._start.shape:
            self._passed = _unpacked(images) - _unpacked(self._start)
        if images.shape != self._start.shape or np.abs(self._passed).max(initial=0) > _MOST:
            self._start, self._passed = images, np.zeros((len(images), 3))
        return self._passed


def _unpacked(images: np.ndarray) -> np.ndarray:
    """(n, 3) integers, zero along open axes, from LAMMPS' packed numbers.

    A third of the bits for x, y and z each, around their middle (``imageint`` and ``IMGMAX`` in
    ``lmptype.h`` of LAMMPS).
    """
    bits = 21 if images.dtype.itemsize == 8 else 10
    parts = [(images >> i * bits) & (2**bits - 1) for i in range(3)]
    return np.stack(parts, axis=1) - 2 ** (bits - 1)
