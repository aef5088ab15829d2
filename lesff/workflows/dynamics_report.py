"""What a run says: drift, averages with errors, radial distribution, page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase.geometry.rdf import get_rdf
from ase.io.trajectory import TrajectoryWriter

from lesff.disk import written_atomically
from lesff.reports.figures import new_figure
from lesff.workflows.dynamics import DynamicsResult
from lesff.workflows.folder import WorkFolder

DISCARDED = 0.2
"""Share of a run that averages leave out, as the way to equilibrium."""
_BLOCKS = 5
_RDF_FRAMES = 100
_RDF_BIN = 0.05
_RDF_REACH = 8.0


def energy_drift(result: DynamicsResult) -> tuple[float, float]:
    """Slope of the conserved energy, meV/atom/ps, and the scatter about the line, meV/atom.

    NaN where nothing is conserved (Langevin) or there are fewer than three frames.
    """
    if result.n_frames < 3 or not np.isfinite(result.conserved).all():
        return float("nan"), float("nan")
    time, energy = 1e-3 * result.time, 1e3 * result.conserved / len(result.atoms)
    slope, offset = np.polyfit(time, energy, 1)
    return float(slope), float(np.std(energy - slope * time - offset))


def block_average(values: np.ndarray) -> tuple[float, float]:
    """Mean after the first fifth, and its standard error from the means of five blocks."""
    kept = values[int(DISCARDED * len(values)) :]
    if len(kept) < _BLOCKS:
        return float(np.mean(kept)), float("nan")
    means = [float(np.mean(part)) for part in np.array_split(kept, _BLOCKS)]
    return float(np.mean(kept)), float(np.std(means, ddof=1) / np.sqrt(_BLOCKS))


def radial_distributions(
    result: DynamicsResult,
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """``g(r)`` of each pair of elements over the last four fifths, by :func:`ase.geometry.rdf`.

    Returns:
        (n_bins,) distances in A and g by pair, or None for systems that are not periodic in 3D.
    """
    if not result.atoms.pbc.all():
        return None
    frames = list(result.frames())[int(DISCARDED * result.n_frames) :]
    frames = frames[:: max(1, len(frames) // _RDF_FRAMES)]
    # half of the smallest height of any cell: each pair counts once
    heights = [1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0) for atoms in frames]
    reach = min(_RDF_REACH, 0.499 * float(np.min(heights)))
    n_bins = max(int(reach / _RDF_BIN), 1)
    found: dict[str, np.ndarray] = {}
    distances = np.empty(0)
    symbols = dict.fromkeys(result.atoms.get_chemical_symbols())
    for first, second in combinations_with_replacement(symbols, 2):
        values, distances = get_rdf(frames, reach, n_bins, elements=(first, second))
        found[f"{first}-{second}"] = np.asarray(values)
    return np.asarray(distances), found


def report_dynamics(
    folder: WorkFolder, result: DynamicsResult, *, command_line: str | None = None
) -> dict[str, Any]:
    """Write ``md.json``, ``md.html``, ``md.csv``, pictures and ``trajectory.traj``.

    Args:
        folder: Where.
        result: The run.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    target = folder.path / "trajectory.traj"
    with written_atomically(target) as new, TrajectoryWriter(str(new)) as file:
        for atoms in result.frames():
            file.write(atoms)
    names = {
        "potential": "potential energy (eV)", "kinetic": "kinetic energy (eV)",
        "conserved": "conserved energy (eV)", "temperature": "temperature (K)",
        "pressure": "pressure (GPa)", "volume": "volume (A^3)",
    }  # fmt: skip
    columns = {"time (fs)": result.time} | {
        title: getattr(result, name) for name, title in names.items()
    }
    folder.write_csv("md", columns)
    drift, scatter = energy_drift(result)
    averages = {name: block_average(getattr(result, name)) for name in names}
    figures = {"md": _series_figure(result)}
    rdf = radial_distributions(result)
    if rdf is not None:
        figures["rdf"] = _rdf_figure(*rdf)
        folder.write_csv("rdf", {"distance (A)": rdf[0], **rdf[1]})
    report = {
        "n_frames": result.n_frames, "time_fs": float(result.time[-1]) if result.n_frames else 0.0,
        "stopped": result.stopped, "drift_mev_per_atom_ps": drift,
        "scatter_mev_per_atom": scatter, "discarded_share": DISCARDED,
        "averages": {k: {"mean": m, "error": e} for k, (m, e) in averages.items()},
    }  # fmt: skip
    rows = [[names[k], m, e] for k, (m, e) in averages.items() if np.isfinite(m)]
    folder.finish(
        report,
        title="Molecular dynamics",
        summary=_summary(folder.settings, result, drift, scatter),
        tables={"Averages after the first fifth": (["", "mean", "standard error"], rows)},
        figures=figures,
        command_line=command_line,
    )
    return report


def _summary(
    settings: Mapping[str, Any], result: DynamicsResult, drift: float, scatter: float
) -> list[str]:
    time = 1e-3 * result.time[-1] if result.n_frames else 0.0
    lines = [
        f"{result.atoms.get_chemical_formula()}, {settings['model']}, {settings['ensemble']}: "
        f"{time:.3f} ps in steps of {settings['dt']} fs"
    ]
    if np.isfinite(drift):
        lines.append(f"conserved energy: drift {drift:.3g} meV/atom/ps, scatter {scatter:.3g}")
    if result.stopped is not None:
        lines.append(f"stopped: {result.stopped}")
    return lines


def _series_figure(result: DynamicsResult) -> Any:
    """Temperature, conserved energy, and pressure where there is one."""
    shown = [("temperature", "temperature (K)", result.temperature)]
    if np.isfinite(result.conserved).all():
        zero = result.conserved - result.conserved[:1]
        shown.append(("conserved", "conserved energy (meV/atom)", 1e3 * zero / len(result.atoms)))
    else:
        zero = result.potential - result.potential[:1]
        shown.append(("potential", "potential energy (meV/atom)", 1e3 * zero / len(result.atoms)))
    if np.isfinite(result.pressure).all():
        shown.append(("pressure", "pressure (GPa)", result.pressure))
    figure = new_figure(7.5, 1.7 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (_, label, values) in zip(panels, shown, strict=True):
        panel.plot(1e-3 * result.time, values, lw=0.9, color="#1f6fb2")
        panel.set_ylabel(label, fontsize=8)
        panel.tick_params(labelsize=7)
    panels[-1].set_xlabel("time (ps)", fontsize=8)
    return figure


def _rdf_figure(distances: np.ndarray, curves: Mapping[str, np.ndarray]) -> Any:
    figure = new_figure(6.4, 3.4)
    panel = figure.subplots()
    for name, values in curves.items():
        panel.plot(distances, values, lw=1.1, label=name)
    panel.set(xlabel="distance (A)", ylabel="g(r)")
    panel.legend(frameon=False, fontsize=8)
    return figure
