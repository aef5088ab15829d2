"""Table, spectrum, modes and page of harmonic vibrations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lesff.disk import written_atomically
from lesff.reports.figures import new_figure
from lesff.workflows.folder import WorkFolder
from lesff.workflows.vibrations import VibrationsResult, animated_modes

_WIDTH = 20.0
"""Full width at half maximum of the lines that are drawn, 1/cm."""


def report_vibrations(
    folder: WorkFolder, result: VibrationsResult, *, command_line: str | None = None
) -> dict[str, Any]:
    """Write ``vibrations.json``, ``.html``, ``.csv``, ``.png`` and files of the modes.

    ``modes.extxyz`` has one frame a mode with its displacements (Jmol, OVITO), ``modes/`` one
    animation a mode (``ase gui``).

    Args:
        folder: Where.
        result: The modes.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    none = np.full(len(result.frequencies), np.nan)
    intensities = none if result.intensities is None else result.intensities
    columns = {"frequency (1/cm)": result.frequencies, "intensity (km/mol)": intensities}
    folder.write_csv("vibrations", columns)
    with written_atomically(folder.path / "modes.extxyz") as new:
        result.data.write_jmol(str(new), ir_intensities=intensities)
    (folder.path / "modes").mkdir(exist_ok=True)
    for name, frames in animated_modes(result).items():
        folder.write_atoms(f"modes/{name}", frames)
    folder.write_atoms("minimum.extxyz", result.atoms)
    inner = np.sort(np.argsort(np.abs(result.frequencies))[result.n_rigid :])
    thermo = asdict(result.thermochemistry)
    report = {
        "energy_ev": result.energy, "fmax_ev_per_a": result.fmax,
        "n_translations_and_rotations": result.n_rigid,
        "frequencies_per_cm": result.frequencies.tolist(),
        "intensities_km_per_mol": intensities.tolist(), "vibrations": inner.tolist(),
        "n_imaginary": int((result.frequencies[inner] < 0.0).sum()), "thermochemistry": thermo,
    }  # fmt: skip
    units = {"temperature": "K", "pressure": "Pa", "entropy": "eV/K", "kind": "",
             "n_imaginary": ""}  # fmt: skip
    rows = [[int(i), float(result.frequencies[i]), float(intensities[i])] for i in inner]
    folder.finish(
        report,
        title=f"Vibrations of {result.atoms.get_chemical_formula()}",
        summary=[
            f"model {folder.settings['model']}: {len(inner)} vibrations, "
            f"{report['n_imaginary']} of them imaginary",
            f"zero-point energy {thermo['zero_point']:.4f} eV, largest force {result.fmax:.1g} "
            "eV/A",
        ],
        tables={
            "Modes": (["mode", "frequency 1/cm", "intensity km/mol"], rows),
            "Thermochemistry": (
                ["", "value", "unit"],
                [[k.replace("_", " "), v, units.get(k, "eV")] for k, v in thermo.items()
                 if v is not None],
            ),
        },
        figures={"vibrations": _figure(result.frequencies[inner], intensities[inner])},
        command_line=command_line,
    )  # fmt: skip
    return report


def _figure(frequencies: np.ndarray, intensities: np.ndarray) -> Any:
    """Lines and their sum, broadened; heights of one where there are no intensities."""
    heights = np.where(np.isfinite(intensities), intensities, 1.0)
    label = "intensity (km/mol)" if np.isfinite(intensities).any() else "modes"
    figure = new_figure(6.4, 3.4)
    panel = figure.subplots()
    panel.vlines(frequencies, 0.0, heights, color="#c0392b", lw=1.0)
    grid = np.linspace(
        min(0.0, frequencies.min(initial=0.0)), 1.1 * frequencies.max(initial=1.0), 2000
    )
    half = 0.5 * _WIDTH
    # Lorentzians of the height of their line
    lines = half**2 / ((grid[:, None] - frequencies) ** 2 + half**2)
    panel.plot(grid, lines @ heights, color="#1f6fb2", lw=1.0)
    panel.set(xlabel="wavenumber (1/cm)", ylabel=label)
    return figure
