"""Commands on trajectories: spectrum, transport."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.options import accept_license_option
from lesff.cli.workflow import command_line, read_one
from lesff.errors import DataError
from lesff.plain_data import finite, write_json

if TYPE_CHECKING:
    import numpy as np

    from lesff.electrostatics.moments.born import BornMode
    from lesff.model import Model
    from lesff.spectra.correlation import Spectrum
    from lesff.spectra.trajectory import Trajectory
    from lesff.workflows.spectrum import SpectrumKind


_TRAJECTORY = click.argument("trajectory", type=click.Path(path_type=Path))
_MODEL = click.option("-m", "--model", "name", required=True, help="Model name.")
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True,
    help="Folder for results; a folder that is there is continued.",
)  # fmt: skip
_STEP = click.option("--dt", type=float, required=True, help="Time between frames, fs.")
_TEMPERATURE = click.option(
    "--temperature", type=float, help="K; by default that of the velocities."
)
_BLOCKS = click.option("--blocks", default=5, show_default=True, help="Blocks for the error bars.")
_EVERY = click.option(
    "--every", default=1, show_default=True,
    help="Born effective charges every so many frames; between them they are interpolated.",
)  # fmt: skip
_BORN = click.option(
    "--born", type=click.Choice(["exact", "sine"]), default="exact", show_default=True,
    help="Born effective charges of crystals: image-exact, or the published sine stencil.",
)  # fmt: skip
_ORDINATE = {"ir": "n alpha", "vdos": "density of states", "raman": "intensity"}


@click.command("spectrum")
@_TRAJECTORY
@click.option("-m", "--model", "name", help="Model name; not needed for vdos.")
@_OUTPUT
@click.option(
    "--kind", type=click.Choice(["ir", "vdos", "raman"]),
    help="Infrared absorption, vibrational density of states or Raman; ir, and with --steps all "
    "that the model has.",
)  # fmt: skip
@click.option("--dt", type=float, help="Time between frames, fs; with --steps the time step, 0.5.")
@click.option(
    "--temperature", type=float,
    help="K; by default that of the velocities, with --steps 300.",
)  # fmt: skip
@click.option(
    "--steps", type=int,
    help="The file has one structure: run so many steps of dynamics first.",
)  # fmt: skip
@click.option("--equilibration", default=2000, show_default=True, help="Steps before those.")
@click.option("--keep", default=4, show_default=True, help="With --steps: steps between frames.")
@click.option(
    "--harmonic/--no-harmonic", default=True, show_default=True,
    help="With --steps: start at the minimum, and compute its modes, too.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the dynamics.")
@click.option(
    "--lag", type=float, help="Longest correlation time, fs; 1000 or a block if that is shorter."
)
@_BLOCKS
@_EVERY
@_BORN
@click.option("--max-wavenumber", default=4500.0, show_default=True, help="Of the plot, 1/cm.")
@accept_license_option
def spectrum_command(
    trajectory: Path,
    name: str | None,
    output: Path,
    kind: SpectrumKind | None,
    dt: float | None,
    temperature: float | None,
    steps: int | None,
    equilibration: int,
    keep: int,
    seed: int,
    lag: float | None,
    blocks: int,
    every: int,
    born: BornMode,
    max_wavenumber: float,
    *,
    harmonic: bool,
    accept_license: bool,
) -> None:
    """Spectrum of a trajectory, or with --steps of a structure: CSV, JSON, PNG with error bars.

    Of a structure, dynamics, Born charges and polarizabilities come from the model, with harmonic
    lines beside them and a page. All that takes long is stored in the output folder; a command
    that was interrupted goes on from there.
    """
    if steps is not None:
        values = {
            "dt": 0.5 if dt is None else dt, "steps": steps, "equilibration": equilibration,
            "temperature": 300.0 if temperature is None else temperature, "keep": keep,
            "every": every, "blocks": blocks, "born": born, "seed": seed,
        }  # fmt: skip
        _of_structure(
            trajectory, name, output, kind, values, lag, max_wavenumber, harmonic, accept_license
        )
        return
    if dt is None:
        raise click.UsageError("--dt is needed for a trajectory (and --steps for one structure)")
    kind = kind or "ir"
    if (name is None) != (kind == "vdos"):
        raise click.UsageError("--model is needed for ir and raman, and has no use for vdos")
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.spectra.series import property_series
    from lesff.spectra.trajectory import read_trajectory
    from lesff.spectra.vibrations import density_of_states, infrared, raman

    path = trajectory
    run = read_trajectory(path, dt)
    if kind == "vdos" and temperature is None:
        temperature = run.temperature  # of the velocities that it shows, wherever they are from
    else:
        temperature = run.temperature_or(temperature)
    block = run.n_frames // max(blocks, 1) * dt
    options = {"max_lag": min(1000.0, block) if lag is None else lag, "n_blocks": blocks}
    output.mkdir(parents=True, exist_ok=True)
    model = None if name is None else load(name, accept_license=accept_license)
    if model is None:
        found = density_of_states(
            run.velocities, run.masses, dt, temperature=temperature, **options
        )
        curves = {"density of states": found}
    elif kind == "raman":
        values = property_series(model, run.frames, "polarizability", output / "polarizability")
        lines = raman(values, dt, temperature=temperature, **options)
        curves = {"VV": lines.parallel, "VH": lines.perpendicular}
    else:
        current = born_current(run, model, output, every, born)
        curves = {
            "absorption": infrared(
                current, dt, temperature=temperature, volume=run.volume, **options
            )
        }
    _write_spectrum(output / kind, curves, max_wavenumber, {
        "trajectory": path.name, "model": None if model is None else model.name, "kind": kind,
        "n_frames": run.n_frames,
        "time_step_fs": dt, "temperature_k": temperature, "volume_a3": run.volume,
        "velocities": "file" if run.has_velocities else "differences of positions",
        "born_every": every, "born_mode": born, **options,
    })  # fmt: skip


def _of_structure(
    path: Path,
    name: str | None,
    output: Path,
    kind: SpectrumKind | None,
    values: dict[str, Any],
    lag: float | None,
    limit: float,
    harmonic: bool,
    accept_license: bool,
) -> None:
    """Dynamics, spectra, harmonic modes and a page."""
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.spectrum import SpectrumOptions, bands, structure_spectrum
    from lesff.workflows.spectrum_report import TITLES, report_spectrum

    if name is None:
        raise click.UsageError("--model is needed for the spectrum of a structure")
    if lag is None:
        sizes = {key: values[key] for key in ("steps", "keep", "blocks", "dt")}
        lag = min(1000.0, SpectrumOptions.block_length(**sizes))
    options = SpectrumOptions(**values, max_lag=lag)
    atoms = read_one(path)
    model = load(name, accept_license=accept_license)
    kept = {**asdict(options), "kind": kind, "harmonic": harmonic}
    folder = WorkFolder(output, "spectrum", model, [atoms], kept)

    def say(step: int, row: dict[str, float]) -> None:
        click.echo(f"step {step}: {row['temperature']:.0f} K")

    result = structure_spectrum(
        model, atoms, options, folder=folder, kinds=None if kind is None else (kind,),
        harmonic=harmonic, say=say,
    )  # fmt: skip
    report = report_spectrum(folder, result, limit=limit, command_line=command_line())
    if report["harmonic"]:
        modes = ", ".join(
            f"{m['wavenumber']:.0f} ({m['km_per_mol']:.0f} km/mol)" for m in report["harmonic"]
        )
        click.echo(f"harmonic, 1/cm: {modes}")
    for found, spectrum in result.spectra.items():
        places = ", ".join(f"{band.wavenumber:.0f}" for band in bands(spectrum, limit))
        click.echo(f"{TITLES[found]} at {result.temperature:.0f} K, 1/cm: {places}")
    if result.missing:
        click.echo(f"{model.name} has no quantity for: {', '.join(result.missing)}")
    click.echo(f"written to {output / 'spectrum'}.json, .html and .png, and a .csv for each")


def born_current(
    run: Trajectory, model: Model, output: Path, every: int, mode: BornMode
) -> np.ndarray:
    """Current of Born effective charges in e A / fs, (n_frames, 3); they are kept in a folder."""
    # start-up: help needs nothing that computes
    from lesff.atoms.structure import to_structure
    from lesff.potential.response import BornOptions
    from lesff.spectra.series import property_series
    from lesff.spectra.vibrations import polarisation_current

    if every < 1:
        raise DataError(f"`--every` must be at least 1, got {every}")
    frames = run.frames[::every]
    born = property_series(
        model,
        frames,
        "born_effective_charges",
        output / "born_effective_charges",
        born=BornOptions(mode=mode),
    )
    charge = to_structure(run.frames[0]).total_charge
    return polarisation_current(born, run.velocities, every=every, total_charge=charge)


def _write_spectrum(
    stem: Path, curves: dict[str, Spectrum], limit: float, settings: dict[str, Any]
) -> None:
    # start-up: help needs nothing that computes
    from lesff.reports.spectrum import draw_curves, write_csv
    from lesff.spectra.correlation import peaks

    first = next(iter(curves.values()))
    columns = {"wavenumber (1/cm)": first.wavenumber}
    for key, curve in curves.items():
        columns[f"{key} ({curve.unit})"] = curve.values
        columns[f"{key} error ({curve.unit})"] = curve.errors
    write_csv(stem.with_suffix(".csv"), columns)
    highest = {key: peaks(curve, 0.0, limit) for key, curve in curves.items()}
    report = settings | {"unit": first.unit, "highest": highest}
    write_json(stem.with_suffix(".json"), finite(report))
    draw_curves(
        stem.with_suffix(".png"),
        first.wavenumber,
        [(key, c.values, c.errors) for key, c in curves.items()],
        labels=("wavenumber (1/cm)", f"{_ORDINATE[settings['kind']]} ({first.unit})"),
        limits=(0.0, limit),
    )
    for key, value in highest.items():
        click.echo(f"{key}: highest at {value:.0f} 1/cm")
    click.echo(f"written to {stem}.csv, .json and .png")


@click.command("transport")
@_TRAJECTORY
@_MODEL
@_OUTPUT
@_STEP
@_TEMPERATURE
@click.option("--lower", type=float, help="Start of the Helfand fit, fs; a quarter of --upper.")
@click.option("--upper", type=float, help="End of fit and integral, fs; half a block.")
@click.option("--eps-inf", default=1.0, show_default=True, help="Electronic dielectric constant.")
@_BLOCKS
@_EVERY
@_BORN
@accept_license_option
def transport_command(
    trajectory: Path,
    name: str,
    output: Path,
    dt: float,
    temperature: float | None,
    lower: float | None,
    upper: float | None,
    eps_inf: float,
    blocks: int,
    every: int,
    born: BornMode,
    *,
    accept_license: bool,
) -> None:
    """Ionic conductivity (Green-Kubo and Helfand) and the static dielectric constant.

    The current is that of Born effective charges, not of formal ones. The dielectric constant has a
    meaning where no ions move on; it is for permanent dipoles, relative to --eps-inf.
    """
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.reports.spectrum import draw_curves, write_csv
    from lesff.spectra.trajectory import read_trajectory
    from lesff.spectra.transport import dielectric_constant, green_kubo, helfand, integrated

    run = read_trajectory(trajectory, dt)
    if run.volume is None:
        raise DataError("transport needs a trajectory of a crystal or liquid, periodic in 3D")
    temperature = run.temperature_or(temperature)
    upper = 0.5 * (run.n_frames // max(blocks, 1)) * dt if upper is None else upper
    lower = 0.25 * upper if lower is None else lower
    output.mkdir(parents=True, exist_ok=True)
    model = load(name, accept_license=accept_license)
    current = born_current(run, model, output, every, born)
    moved = integrated(current, dt)
    common = {"temperature": temperature, "volume": run.volume, "n_blocks": blocks}
    kubo = green_kubo(current, dt, upper=upper, **common)
    slope = helfand(moved, dt, lower=lower, upper=upper, **common)
    eps, eps_error = dielectric_constant(moved, eps_inf=eps_inf, **common)
    columns = {
        "time (fs)": kubo.time,
        "Green-Kubo integral (S/m)": kubo.curve, "error (S/m)": kubo.curve_error,
        "mean squared dP (e^2 A^2)": slope.curve, "error (e^2 A^2)": slope.curve_error,
    }  # fmt: skip
    write_csv(output / "transport.csv", columns)
    write_json(output / "transport.json", finite({
        "trajectory": trajectory.name, "model": model.name, "n_frames": run.n_frames,
        "time_step_fs": dt, "temperature_k": temperature, "volume_a3": run.volume,
        "velocities": "file" if run.has_velocities else "differences of positions",
        "born_every": every, "born_mode": born,
        "lower_fs": lower, "upper_fs": upper, "n_blocks": blocks,
        "green_kubo_s_per_m": kubo.conductivity, "green_kubo_error_s_per_m": kubo.error,
        "helfand_s_per_m": slope.conductivity, "helfand_error_s_per_m": slope.error,
        "eps_inf": eps_inf, "dielectric_constant": eps, "dielectric_constant_error": eps_error,
    }))  # fmt: skip
    draw_curves(
        output / "transport.png",
        kubo.time,
        [("Green-Kubo integral", kubo.curve, kubo.curve_error)],
        labels=("time (fs)", "conductivity (S/m)"),
    )
    click.echo(f"Green-Kubo: {kubo.conductivity:.4g} +- {kubo.error:.2g} S/m")
    click.echo(f"Helfand: {slope.conductivity:.4g} +- {slope.error:.2g} S/m")
    click.echo(f"dielectric constant: {eps:.4g} +- {eps_error:.2g}")
    click.echo(f"written to {output / 'transport'}.csv, .json and .png")
