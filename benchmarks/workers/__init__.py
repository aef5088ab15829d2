"""Processes that are measured in turn: lesff, and mace-torch in an environment of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Comparison:
    """Medians of lesff and, if it was measured, of mace-torch.

    Attributes:
        ms: CPU milliseconds of a call.
        mb: Megabytes by which the process grew.
    """

    ms: np.ndarray
    mb: np.ndarray

    @property
    def speedup(self) -> float:
        """Time of mace-torch over ours; not a number without it."""
        return float(self.ms[1] / self.ms[0]) if len(self.ms) > 1 else np.nan

    def text(self) -> str:
        """Columns: our ms and MB, those of mace-torch, ratios mace / lesff of time and memory."""
        cells = f"{self.ms[0]:10.1f}{self.mb[0]:7.0f}"
        if len(self.ms) > 1:
            ratio = self.mb[1] / max(self.mb[0], 1.0)
            cells += f"{self.ms[1]:10.1f}{self.mb[1]:7.0f}{self.speedup:8.2f}{ratio:8.2f}"
        return cells


class Worker:
    """A process that answers "go" with the CPU time and memory of one call."""

    def __init__(self, python: str, script: str, arguments: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own scripts
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**_environment(script), **environment},
        )
        while (line := self.process.stdout.readline().strip()) != "ready":
            if not line and self.process.poll() is not None:
                raise SystemExit(f"{script} did not start with {python}")

    def run(self) -> tuple[float, float]:
        """CPU milliseconds and extra megabytes."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            raise SystemExit(f"{self.process.args[1]} stopped: run it by hand to see why")
        return float(answer[0]), float(answer[1])

    def close(self) -> None:
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()


def _environment(script: str) -> dict[str, str]:
    """One thread; the peer has an environment of its own, without our import path."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if script.startswith("peer"):
        environment.pop("PYTHONPATH", None)
    return environment


def compare(
    scripts: tuple[str, str], arguments: list[str], peer_python: str | None, repeats: int
) -> Comparison:
    """Run our script and, where its Python is given, the peer's in turn; two runs warm up."""
    workers = [Worker(sys.executable, scripts[0], arguments)]
    if peer_python:
        workers.append(Worker(peer_python, scripts[1], arguments))
    rows = np.array([[worker.run() for worker in workers] for _ in range(repeats + 2)])
    for worker in workers:
        worker.close()
    return Comparison(ms=np.median(rows[2:, :, 0], axis=0), mb=rows[-1, :, 1])
