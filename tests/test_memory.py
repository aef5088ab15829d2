"""Freed memory that trajectories of many atoms keep."""

import os
import subprocess
import sys

import pytest

from lesff.environment import keeps_memory
from lesff.errors import ConfigError
from lesff.memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for _ in range(3):
        a, b = np.ones(8_000_000), np.ones(8_000_000)  # 61 MiB each
        del a, b
step()
start = faults()
step()
before = faults() - start
from lesff.memory import keep_freed_memory
kept = keep_freed_memory()
step()
start = faults()
step()
print(kept, before, faults() - start)
"""


def run(**environment):
    """What the script prints."""
    out = subprocess.run(  # noqa: S603
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=100,
        env={**os.environ, **environment},
    ).stdout.split()  # fmt: skip
    return out[0] == "True", int(out[1]), int(out[2])


def test_pages_are_paid_for_once():
    """Six blocks of 61 MiB are 93,750 pages of 4 KiB, or fewer of larger ones."""
    kept, before, after = run()
    if not kept:
        pytest.skip("not glibc: memory is left to the C library")
    assert after < 0.05 * before
    kept, before, after = run(LESFF_KEEP_MEMORY="0")
    assert not kept
    assert after > 0.5 * before


def test_the_variable_is_yes_or_no(monkeypatch):
    for text, expected in (("", True), ("1", True), ("No", False), ("off", False)):
        monkeypatch.setenv("LESFF_KEEP_MEMORY", text)
        assert keeps_memory() is expected
    monkeypatch.setenv("LESFF_KEEP_MEMORY", "perhaps")
    keep_freed_memory.cache_clear()
    with pytest.raises(ConfigError, match="must be 0 or 1, got 'perhaps'"):
        keep_freed_memory()
