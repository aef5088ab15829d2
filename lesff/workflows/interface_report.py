"""What an interface says: CSV, JSON, pictures, phases as frames, page."""

from __future__ import annotations

from typing import Any

import numpy as np

from lesff.reports.figures import new_figure
from lesff.workflows.folder import WorkFolder
from lesff.workflows.interface import Analysis
from lesff.workflows.interface_phases import Phases

PHASE = "phase"
"""Array of atoms with the number of their phase."""


def report_interface(
    folder: WorkFolder,
    result: Analysis,
    *,
    stopped: str | None = None,
    command_line: str | None = None,
) -> dict[str, Any]:
    """Write ``interface.json``, ``.html``, pictures, ``density.csv`` and ``phases.extxyz``.

    Args:
        folder: Where.
        result: The analysis.
        stopped: Why the run ended early.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    columns = {"height (A)": next(iter(result.profiles.values())).height}
    for species, profile in result.profiles.items():
        columns[f"{species} (1/A^3)"] = profile.density
        columns[f"{species} standard error (1/A^3)"] = profile.error
    folder.write_csv("density", columns)
    report: dict[str, Any] = {
        "n_frames": result.run.n_frames, "time_step_fs": result.run.time_step,
        "temperature_k": result.run.temperature, "stopped": stopped,
        "lower_fs": result.fit[0], "upper_fs": result.fit[1],
        "layers": _layers(result), "phases": _phases(folder, result),
    }  # fmt: skip
    figures = {"density": _density_figure(result)}
    if result.phases is not None:
        figures["phases"] = _phase_figure(result, result.phases)
    folder.finish(
        report,
        title=f"Interface {result.run.frames[0].get_chemical_formula()}",
        summary=_summary(result, stopped),
        tables=_tables(report),
        figures=figures,
        command_line=command_line,
    )
    return report


def _layers(result: Analysis) -> list[dict[str, Any]]:
    """Motion and neighbours of each layer."""
    height = result.run.frames[0].cell.array[2, 2] / (int(result.layers.max()) + 1)
    rows = []
    for layer, first in enumerate(result.coordination_first):
        motions = [m for m in result.motions if m.layer == layer]
        rows.append({
            "layer": layer, "from_a": layer * height, "to_a": (layer + 1) * height,
            "coordination_first": first, "coordination_last": result.coordination_last[layer],
            "species": {
                m.species: {
                    "n_atoms": m.n_atoms, "in_plane_cm2_per_s": m.in_plane,
                    "in_plane_error_cm2_per_s": m.in_plane_error,
                    "normal_cm2_per_s": float(m.diffusion.axes[2]),
                    "normal_error_cm2_per_s": float(m.diffusion.axes_error[2]),
                    "largest_msd_a2": float(m.diffusion.squared[-1]),
                }
                for m in motions
            },
        })  # fmt: skip
    return rows


def _phases(folder: WorkFolder, result: Analysis) -> dict[str, Any] | None:
    """Phases as plain data; the frames that were clustered are written with them."""
    phases = result.phases
    if phases is None:
        return None
    frames = []
    for row, time in zip(phases.labels, phases.time, strict=True):
        atoms = result.run.frames[round(time / result.run.time_step)].copy()
        atoms.arrays[PHASE] = row
        frames.append(atoms)
    folder.write_atoms("phases.extxyz", frames)
    fifth = max(1, len(phases.time) // 5)
    folder.write_csv(
        "phases",
        {"time (fs)": phases.time}
        | {f"phase {k}: thickness (A)": phases.thickness[:, k] for k in range(len(phases.growth))},
    )
    return {
        "silhouette": phases.silhouette, "unassigned_share": phases.unassigned,
        "list": [
            {
                "phase": k, "composition": composition,
                "atoms_first": float(phases.counts[:fifth, k].mean()),
                "atoms_last": float(phases.counts[-fifth:, k].mean()),
                "thickness_first_a": float(phases.thickness[:fifth, k].mean()),
                "thickness_last_a": float(phases.thickness[-fifth:, k].mean()),
                "growth_a_per_ps": float(phases.growth[k]),
                "growth_error_a_per_ps": float(phases.growth_error[k]),
            }
            for k, composition in enumerate(phases.compositions)
        ],
    }  # fmt: skip


def _summary(result: Analysis, stopped: str | None) -> list[str]:
    time = 1e-3 * (result.run.n_frames - 1) * result.run.time_step
    lines = [f"{time:.3f} ps at {result.run.temperature:.0f} K"]
    if result.phases is not None:
        lines.append(_phase_line(result.phases))
    if stopped is not None:
        lines.append(f"stopped: {stopped}")
    return lines


def _phase_line(phases: Phases) -> str:
    """How many phases there are and how far apart."""
    n = len(phases.compositions)
    if n == 0:
        return "no phases: HDBSCAN takes all atoms for noise; take more frames, or k-means"
    text = "1 phase" if n == 1 else f"{n} phases, silhouette {phases.silhouette:.2f}"
    return text + (f", {phases.unassigned:.0%} of the atoms in none" if phases.unassigned else "")


def _tables(report: dict[str, Any]) -> dict[str, Any]:
    motion = [
        [row["layer"], f"{row['from_a']:.1f} to {row['to_a']:.1f}", species, values["n_atoms"],
         values["in_plane_cm2_per_s"], values["in_plane_error_cm2_per_s"],
         values["normal_cm2_per_s"], values["normal_error_cm2_per_s"]]
        for row in report["layers"] for species, values in row["species"].items()
    ]  # fmt: skip
    neighbours = [
        [row["layer"], pair, value, row["coordination_last"].get(pair)]
        for row in report["layers"] for pair, value in row["coordination_first"].items()
    ]  # fmt: skip
    tables = {
        "Motion by layer": (
            ["layer", "A", "species", "atoms", "D in plane cm^2/s", "error",
             "D along normal cm^2/s", "error"], motion,
        ),
        "Neighbours by layer": (["layer", "around", "first fifth", "last fifth"], neighbours),
    }  # fmt: skip
    if report["phases"] is not None:
        tables["Phases"] = (
            ["phase", "composition", "atoms at first", "at last", "thickness A at first",
             "at last", "growth A/ps", "error"],
            [[row["phase"], _formula(row["composition"]), row["atoms_first"], row["atoms_last"],
              row["thickness_first_a"], row["thickness_last_a"], row["growth_a_per_ps"],
              row["growth_error_a_per_ps"]] for row in report["phases"]["list"]],
        )  # fmt: skip
    return tables


def _formula(composition: dict[str, float]) -> str:
    return " ".join(f"{s}{share:.2f}" for s, share in composition.items() if share > 0.0)


def _density_figure(result: Analysis) -> Any:
    figure = new_figure(7.0, 3.2)
    panel = figure.subplots()
    for species, profile in result.profiles.items():
        (line,) = panel.step(profile.height, profile.density, where="mid", lw=1.1, label=species)
        error = np.nan_to_num(profile.error)
        panel.fill_between(
            profile.height, profile.density - error, profile.density + error, step="mid",
            color=line.get_color(), alpha=0.25, lw=0,
        )  # fmt: skip
    panel.set(xlabel="height (A)", ylabel="density (1/A^3)")
    panel.legend(frameon=False, fontsize=8)
    return figure


def _phase_figure(result: Analysis, phases: Phases) -> Any:
    """Thickness of phases over time, and where they are at the end."""
    figure = new_figure(7.0, 4.6)
    over_time, along = figure.subplots(2, 1)
    z = result.run.frames[round(phases.time[-1] / result.run.time_step)].positions[:, 2]
    period = result.run.frames[0].cell.array[2, 2]
    for k, composition in enumerate(phases.compositions):
        label = f"{k}: {_formula(composition)}"
        over_time.plot(1e-3 * phases.time, phases.thickness[:, k], lw=1.1, label=label)
        along.hist(
            z[phases.labels[-1] == k] % period, bins=40, range=(0.0, period), alpha=0.6, label=label
        )
    over_time.set(xlabel="time (ps)", ylabel="thickness (A)")
    if phases.compositions:
        over_time.legend(frameon=False, fontsize=7)
    along.set(xlabel="height (A)", ylabel="atoms, last frame")
    return figure
