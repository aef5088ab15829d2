"""Structures for the tests of bulk prediction, some of which cannot be computed."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner, Result

from lesff.cli.main import main

MODEL = "off-small"
NAMES = ("CH3CH2OH", "C6H6", "CH3COOH", "C2H6", "H2O", "CH3OH", "C4H4O", "C5H5N", "CH3SH", "PH3")


def rattled(count: int, seed: int = 0) -> list[ase.Atoms]:
    """Rattled small molecules of the G2 set, closed shells that off-small covers."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        known = molecule(NAMES[i % len(NAMES)])
        noise = 0.03 * rng.standard_normal(known.positions.shape)
        found.append(ase.Atoms(known.numbers, known.positions + noise))
    return found


def with_bad_ones(frames: list[ase.Atoms]) -> tuple[list[ase.Atoms], list[int]]:
    """The frames, of every hundred of which one cannot be computed, and the places of those."""
    bad = list(range(37, len(frames), 100))
    for turn, place in enumerate(bad):
        atoms = frames[place]
        if turn % 2:
            atoms.positions[1] = atoms.positions[0] + 0.01  # they overlap
        else:
            atoms.numbers[0] = 79  # gold
    return frames, bad


def write_frames(path: Path, count: int) -> list[int]:
    """A file of frames, one in a hundred bad; returns the places of those."""
    frames, bad = with_bad_ones(rattled(count))
    write(path, frames)
    return bad


def predict(*arguments: Any, code: int = 0, stdin: str | None = None) -> Result:
    """``lesff predict`` with off-small, in this process; the exit code is checked."""
    words = ["predict", "-m", MODEL, *map(str, arguments)]
    result = CliRunner().invoke(main, words, input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


class Deadly(ase.Atoms):
    """Atoms over which every worker process dies."""

    def __getattribute__(self, name: str) -> Any:
        looked_at = name in ("positions", "numbers", "get_positions", "get_atomic_numbers")
        if looked_at and multiprocessing.parent_process() is not None:
            os._exit(17)
        return super().__getattribute__(name)
