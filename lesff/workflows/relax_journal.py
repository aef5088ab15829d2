"""Structures on their way to a minimum, and what is kept of them in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from lesff.disk import write_atomically


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """One structure at the end.

    Attributes:
        index: Its place in the input.
        atoms: At the end, energy and forces attached (as far as known); constraints as given.
        converged: Whether the forces are small enough.
        steps: Steps taken.
        energy: At the end, eV.
        energy_change: From the start, eV.
        fmax: Largest force at the end (with the cell: of the generalised ones), eV/A.
        displacement: Root mean square of the way of the atoms, A; with the cell, of the way beside
            the strain.
        volume_change: Relative; 0 with a fixed cell.
        error: Why the structure could not be relaxed, or None.
    """

    index: int
    atoms: ase.Atoms
    converged: bool
    steps: int
    energy: float
    energy_change: float
    fmax: float
    displacement: float
    volume_change: float
    error: str | None = None


@dataclass
class Run:
    """A structure on its way."""

    index: int
    start: ase.Atoms
    atoms: ase.Atoms
    optimizer: Any
    steps: int  # before this start
    energy_start: float | None


class Journal:
    """What is done and what is unfinished, in a folder.

    Args:
        folder: The folder; nothing is written if None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._done = None if folder is None else folder / "finished.jsonl"
        self._open = None if folder is None else folder / "unfinished.json"

    def finished(self) -> dict[int, dict[str, Any]]:
        """Rows by index; a last line that was cut off is left out."""
        if self._done is None or not self._done.is_file():
            return {}
        rows = {}
        whole = []
        for line in self._done.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                rows[row["index"]] = row
                whole.append(line)
        # a line that is appended must begin a line
        write_atomically(self._done, "".join(whole))
        return rows

    def unfinished(self) -> dict[int, dict[str, Any]]:
        """Positions, cell, steps and first energy by index."""
        if self._open is None or not self._open.is_file():
            return {}
        rows = json.loads(self._open.read_text(encoding="utf-8"))
        return {row["index"]: row for row in rows}

    def add(self, row: dict[str, Any]) -> None:
        """Append a structure that is done."""
        if self._done is not None:
            with self._done.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    def keep(self, runs: Sequence[Run]) -> None:
        """Write where unfinished structures are."""
        if self._open is None:
            return
        rows = [
            {
                "index": run.index,
                "positions": run.atoms.positions.tolist(),
                "cell": run.atoms.cell.array.tolist(),
                "steps": run.steps + run.optimizer.nsteps,
                "energy_start": run.energy_start,
            }
            for run in runs
        ]
        write_atomically(self._open, json.dumps(rows))


def to_row(result: Relaxed) -> dict[str, Any]:
    """A structure that is done as plain data; numbers keep all their digits."""
    row = {key: value for key, value in vars(result).items() if key != "atoms"}
    row["positions"] = result.atoms.positions.tolist()
    row["cell"] = result.atoms.cell.array.tolist()
    calculator = result.atoms.calc
    found = {} if result.error is not None or calculator is None else calculator.results
    row["results"] = {key: np.asarray(value).tolist() for key, value in found.items()}
    return row


def from_row(row: dict[str, Any], start: ase.Atoms) -> Relaxed:
    """A row that was written, with the atoms it came from."""
    atoms = start.copy()
    atoms.set_cell(row["cell"])
    atoms.positions = row["positions"]
    if row["results"]:
        results = {k: v if np.ndim(v) == 0 else np.array(v) for k, v in row["results"].items()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    values = {key: row[key] for key in row if key not in ("positions", "cell", "results")}
    return Relaxed(atoms=atoms, **values)
