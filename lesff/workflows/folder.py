"""The folder of a workflow: whose it is, stages that are done, results written whole."""

from __future__ import annotations

import hashlib
import html
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from lesff.atoms.structure import to_structure
from lesff.disk import write_atomically, written_atomically
from lesff.errors import DataError
from lesff.model import Model
from lesff.plain_data import finite, read_json, write_json
from lesff.reports.figures import image
from lesff.reports.page import document
from lesff.reports.spectrum import write_csv
from lesff.reports.tables import table
from lesff.spectra.series import float64_digest
from lesff.train.shards import write_npz

_CLAIM = "settings.json"


def input_digest(structures: Iterable[ase.Atoms]) -> str:
    """sha256 of all that a workflow takes from its structures.

    Elements, positions, cell, boundaries, masses, velocities, constraints, charge, spin and field.
    """
    digest = hashlib.sha256()
    for atoms in structures:
        found = to_structure(atoms)
        arrays = (found.numbers, found.positions, found.cell, found.pbc, atoms.get_masses())
        for array in (*arrays, atoms.get_momenta()):
            digest.update(np.ascontiguousarray(array).tobytes())
        field = found.external_field
        state = [
            found.total_charge,
            found.spin_multiplicity,
            None if field is None else np.asarray(field).tolist(),
            [repr(constraint) for constraint in atoms.constraints],
        ]
        digest.update(json.dumps(state).encode())
    return digest.hexdigest()


class WorkFolder:
    """A folder that belongs to one command, model, input and set of options.

    Args:
        path: The folder; made if need be.
        command: Name of the workflow.
        model: The model, if there is one.
        structures: The input.
        options: All that the results depend on besides, as plain data.

    Raises:
        DataError: if the folder belongs to something else.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        model: Model | None,
        structures: Iterable[ase.Atoms],
        options: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.command = command
        self._start = time.perf_counter(), time.process_time()
        settings = finite({
            "command": command, **({} if model is None else _identity(model)),
            "input": input_digest(structures), **options,
        })  # fmt: skip
        path.mkdir(parents=True, exist_ok=True)
        claim = path / _CLAIM
        # a command that was refused has left nothing but its claim
        if claim.is_file() and any(p != claim for p in path.iterdir()):
            self._compare(claim, settings)
        else:
            write_json(claim, settings)
        self.settings = settings

    def _compare(self, claim: Path, settings: dict[str, Any]) -> None:
        stored = read_json(claim)
        wanted = json.loads(json.dumps(settings))
        keys = sorted(stored.keys() | wanted.keys())
        different = [key for key in keys if stored.get(key) != wanted.get(key)]
        if different:
            raise DataError(
                f"{self.path} was made with another {', '.join(different)}; choose another output "
                "folder, or remove it"
            )

    def stage(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays of a stage: read if they are there, else computed and written.

        Args:
            name: Of the stage; the file is ``NAME.npz``.
            compute: What gives the arrays.
        """
        path = self.path / f"{name}.npz"
        if not path.is_file():
            write_npz(path, {k: np.asarray(v) for k, v in compute().items()})
        with np.load(path) as stored:
            return {key: stored[key] for key in stored.files}

    def write_figure(self, name: str, figure: Any) -> None:
        """Write a figure of matplotlib as ``NAME.png``."""
        with written_atomically(self.path / f"{name}.png") as new:
            figure.savefig(new, format="png", dpi=150)

    def write_csv(self, name: str, columns: dict[str, np.ndarray]) -> None:
        """Write columns as ``NAME.csv``; their names carry units."""
        with written_atomically(self.path / f"{name}.csv") as new:
            write_csv(new, columns)

    def write_atoms(self, name: str, frames: Sequence[ase.Atoms] | ase.Atoms) -> None:
        """Write structures; the format is that of the ending of the name."""
        from ase.io import write  # start-up: imports scipy, 0.7 s of CPU

        endings = {".extxyz": "extxyz", ".traj": "traj", ".xyz": "extxyz"}
        with written_atomically(self.path / name) as new:
            write(new, frames, format=endings[Path(name).suffix])

    def finish(
        self,
        report: Mapping[str, Any],
        *,
        title: str,
        summary: Sequence[str],
        tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
        figures: Mapping[str, Any],
        command_line: str | None = None,
    ) -> None:
        """Write JSON, pictures and the page.

        Args:
            report: Content of ``COMMAND.json`` beside the settings, plain data.
            title: Of the page.
            summary: Lines of the box at its top.
            tables: Head and rows of each table by title.
            figures: Figures of matplotlib by name of the file.
            command_line: The command as it was given, for the page.
        """
        cost = {
            "seconds": time.perf_counter() - self._start[0],
            "cpu_seconds": time.process_time() - self._start[1],
        }
        content = {"settings": self.settings, **report, **cost}
        write_json(self.path / f"{self.command}.json", finite(content))
        for name, figure in figures.items():
            self.write_figure(name, figure)
        lines = "<br>".join(html.escape(line) for line in summary)
        parts = [f"<h1>{html.escape(title)}</h1>", f'<div class="verdict">{lines}</div>']
        parts += [image(figure, name) for name, figure in figures.items()]
        for name, (head, rows) in tables.items():
            parts += [f"<h2>{html.escape(name)}</h2>", table(head, rows)]
        if command_line is not None:
            parts += ["<h2>Run</h2>", f"<pre>{html.escape(command_line)}</pre>"]
        options = html.escape(json.dumps(self.settings, indent=1))
        parts.append(f"<details><summary>Settings</summary><pre>{options}</pre></details>")
        write_atomically(self.path / f"{self.command}.html", document(title, parts))


def _identity(model: Model) -> dict[str, str]:
    """Name, weights and precision of a model."""
    return {
        "model": model.name,
        "weights": float64_digest(model.potential),
        "dtype": str(model.potential.dtype).removeprefix("torch."),
    }


def staged(
    folder: WorkFolder | None, name: str, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of a stage: those that the folder has, else computed, and kept if there is one."""
    return compute() if folder is None else folder.stage(name, compute)
