"""What a spectrum of a structure says: CSV, JSON, picture, page; harmonic lines beside it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lesff.reports.figures import new_figure
from lesff.workflows.folder import WorkFolder
from lesff.workflows.spectrum import Band, SpectrumResult, bands, inner_modes

TITLES = {"ir": "infrared", "raman": "Raman VV", "vdos": "vibrational density of states"}


def report_spectrum(
    folder: WorkFolder,
    result: SpectrumResult,
    *,
    limit: float = 4500.0,
    command_line: str | None = None,
) -> dict[str, Any]:
    """Write ``spectrum.json``, ``.html``, ``.png`` and a CSV for each kind.

    Args:
        folder: Where.
        result: The spectra.
        limit: Highest wavenumber that is shown, 1/cm.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    found = {kind: bands(spectrum, limit) for kind, spectrum in result.spectra.items()}
    for kind, spectrum in result.spectra.items():
        columns = {
            "wavenumber (1/cm)": spectrum.wavenumber,
            f"{TITLES[kind]} ({spectrum.unit})": spectrum.values,
            f"standard error ({spectrum.unit})": spectrum.errors,
        }
        lines = result.harmonic_infrared(spectrum.wavenumber) if kind == "ir" else None
        if lines is not None:
            columns[f"harmonic ({spectrum.unit})"] = lines
        folder.write_csv(kind, columns)
    modes = _modes(result)
    report: dict[str, Any] = {
        "temperature_k": result.temperature, "volume_a3": result.volume,
        "resolution_per_cm": result.resolution,
        "spectra": {
            kind: {
                "unit": spectrum.unit, "n_blocks": spectrum.n_blocks,
                "max_lag_fs": spectrum.max_lag, "bands": [asdict(band) for band in found[kind]],
            }
            for kind, spectrum in result.spectra.items()
        },
        "harmonic": modes, "not_of_this_model": list(result.missing),
    }  # fmt: skip
    folder.finish(
        report,
        title="Spectrum",
        summary=_summary(folder, result),
        tables=_tables(result, found, modes),
        figures={"spectrum": _figure(result, limit)},
        command_line=command_line,
    )
    return report


def _modes(result: SpectrumResult) -> list[dict[str, float]]:
    """Wavenumber and intensity of the harmonic modes."""
    if result.harmonic is None:
        return []
    intensities = result.harmonic.intensities
    return [
        {
            "wavenumber": float(result.harmonic.frequencies[i]),
            "km_per_mol": float("nan") if intensities is None else float(intensities[i]),
        }
        for i in inner_modes(result.harmonic)
    ]


def _summary(folder: WorkFolder, result: SpectrumResult) -> list[str]:
    options = folder.settings
    lines = [
        f"model {options['model']}: {1e-3 * options['steps'] * options['dt']:g} ps at "
        f"{result.temperature:.0f} K, lines at least {result.resolution:.0f} 1/cm wide"
    ]
    if result.missing:
        lines.append(f"the model has no quantity for: {', '.join(result.missing)}")
    return lines


def _tables(
    result: SpectrumResult, found: dict[str, list[Band]], modes: list[dict[str, float]]
) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for kind, rows in found.items():
        unit = result.spectra[kind].unit
        tables[f"Bands: {TITLES[kind]}"] = (
            ["1/cm", f"height ({unit})", "standard error"],
            [[band.wavenumber, band.height, band.error] for band in rows],
        )
    if modes:
        tables["Harmonic modes"] = (
            ["1/cm", "km/mol"], [[mode["wavenumber"], mode["km_per_mol"]] for mode in modes]
        )  # fmt: skip
    return tables


def _figure(result: SpectrumResult, limit: float) -> Any:
    """A panel a kind: the spectrum with its error, the harmonic one below it."""
    figure = new_figure(7.0, 2.4 * len(result.spectra))
    panels = figure.subplots(len(result.spectra), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (kind, spectrum) in zip(panels, result.spectra.items(), strict=True):
        x, y, error = spectrum.wavenumber, spectrum.values, np.nan_to_num(spectrum.errors)
        panel.fill_between(x, y - error, y + error, color="#1f6fb2", alpha=0.25, lw=0)
        panel.plot(x, y, color="#1f6fb2", lw=1.0, label="dynamics")
        lines = result.harmonic_infrared(x) if kind == "ir" else None
        if lines is not None:
            panel.plot(x, -lines, color="#c0392b", lw=1.0, label="harmonic (downwards)")
        elif result.harmonic is not None:
            chosen = result.harmonic.frequencies[inner_modes(result.harmonic)]
            panel.vlines(chosen, 0.0, -0.08 * y.max(), color="#c0392b", lw=1.0, label="harmonic")
        panel.set(xlim=(0.0, limit), ylabel=f"{kind} ({spectrum.unit})")
        panel.legend(frameon=False, fontsize=7)
    panels[-1].set_xlabel("wavenumber (1/cm)")
    return figure
