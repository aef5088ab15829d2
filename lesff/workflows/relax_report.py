"""Table, picture and page of a relaxation."""

from __future__ import annotations

from typing import Any

import numpy as np

from lesff.reports.figures import new_figure
from lesff.workflows.folder import WorkFolder
from lesff.workflows.relax import RelaxResult, summary_row

_SHOWN = 200
"""Structures in the table of the page; the JSON has all."""


def report_relaxation(
    folder: WorkFolder, result: RelaxResult, *, command_line: str | None = None
) -> None:
    """Write ``relax.json``, ``relax.html``, ``relax.png`` and ``relaxed.extxyz``.

    Structures that could not be computed are not in ``relaxed.extxyz``; the JSON says why.

    Args:
        folder: Where.
        result: The relaxation.
        command_line: For the page.
    """
    rows = [summary_row(row) for row in result.relaxed]
    good = [row for row in result.relaxed if row.error is None]
    written = []
    for row in good:
        atoms = row.atoms.copy()
        atoms.calc = row.atoms.calc
        atoms.info["index"] = row.index
        atoms.info["converged"] = row.converged
        written.append(atoms)
    if written:
        folder.write_atoms("relaxed.extxyz", written)
    n_failed = len(rows) - len(good)
    summary = [
        f"{result.n_converged} of {len(rows)} structures converged, {n_failed} could not be "
        f"computed",
        f"model {folder.settings['model']}, {folder.settings['method']} of ASE, cell "
        f"{folder.settings['cell']}, fmax {folder.settings['fmax']} eV/A",
    ]
    head = ["formula", "index", "converged", "steps", "energy eV", "change eV", "fmax eV/A",
            "moved A", "volume change", "pressure GPa", "error"]  # fmt: skip
    keys = ["formula", "index", "converged", "steps", "energy", "energy_change", "fmax",
            "displacement", "volume_change", "pressure_gpa", "error"]  # fmt: skip
    cells = [["" if row[key] is None else row[key] for key in keys] for row in rows[:_SHOWN]]
    folder.finish(
        {"n_structures": len(rows), "n_converged": result.n_converged, "n_failed": n_failed,
         "n_calls": result.n_calls, "structures": rows},
        title="Relaxation",
        summary=summary,
        tables={"Structures": (head, cells)},
        figures={"relax": _figure(rows)} if good else {},
        command_line=command_line,
    )  # fmt: skip


def _figure(rows: list[dict[str, Any]]) -> Any:
    """How far the structures went: energy and steps."""
    figure = new_figure(7.5, 3.0)
    left, right = figure.subplots(1, 2)
    good = [row for row in rows if row["error"] is None]
    for done, color in ((True, "#1f6fb2"), (False, "#c0392b")):
        chosen = [row for row in good if row["converged"] is done]
        if not chosen:
            continue
        label = "converged" if done else "not converged"
        change = [1e3 * row["energy_change"] for row in chosen]
        way = np.maximum([row["displacement"] for row in chosen], 1e-6)
        left.scatter(way, change, s=14, color=color, label=label)
        right.hist([row["steps"] for row in chosen], bins=20, color=color, alpha=0.6)
    left.set(xlabel="root mean square of the way (A)", ylabel="energy change (meV)")
    left.set_xscale("log")
    right.set(xlabel="steps", ylabel="structures")
    left.legend(frameon=False, fontsize=8)
    return figure
