"""The command that takes diffusion and conductivity of species from trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.options import accept_license_option
from lesff.errors import ConfigError, DataError
from lesff.plain_data import finite, write_json

if TYPE_CHECKING:
    from lesff.electrostatics.moments.born import BornMode
    from lesff.spectra.diffusion import Diffusion, Reference

_NOMINAL = {
    1: "H Li Na K Rb Cs Ag Cu", 2: "Be Mg Ca Sr Ba Zn", 3: "Al", -1: "F Cl Br I", -2: "O S Se Te",
}  # fmt: skip
"""Charges of ions that are taken if none is given."""


@click.command("diffusion")
@click.argument("trajectories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--species", multiple=True, required=True, metavar="ELEMENT[=CHARGE]",
              help="What moves, and its charge if that is not the usual one; may be "
              "repeated.")  # fmt: skip
@click.option("-m", "--model", "name", help="Model whose Born charges give the conductivity, too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="Folder for results.")  # fmt: skip
@click.option("--dt", type=click.FloatRange(min=0.0, min_open=True), required=True,
              help="Time between frames, fs.")  # fmt: skip
@click.option("--temperature", type=float, multiple=True,
              help="K, once for each trajectory; by default those of the velocities.")  # fmt: skip
@click.option(
    "--skip",
    type=click.FloatRange(min=0.0),
    default=0.0,
    show_default=True,
    help="Left out at the beginning, fs.",
)
@click.option("--lower", type=float, help="Start of the straight part, fs; a quarter of --upper.")
@click.option("--upper", type=float, help="End of it, fs; half a block.")
@click.option("--blocks", default=5, show_default=True, help="Blocks for the error bars.")
@click.option("--reference", type=click.Choice(["all", "others", "cell"]), default="all",
              show_default=True, help="What rests: the centre of all atoms, of the atoms of no "
              "species, or nothing.")  # fmt: skip
@click.option("--at", default=300.0, show_default=True, help="K to which the fit is extended.")
@click.option("--every", type=int,
              help="With --model: Born charges every so many frames; 1.")  # fmt: skip
@click.option("--born", type=click.Choice(["exact", "sine"]),
              help="With --model: Born effective charges of crystals; exact.")  # fmt: skip
@accept_license_option
def diffusion_command(
    trajectories: tuple[Path, ...],
    species: tuple[str, ...],
    name: str | None,
    output: Path,
    dt: float,
    temperature: tuple[float, ...],
    skip: float,
    lower: float | None,
    upper: float | None,
    blocks: int,
    reference: Reference,
    at: float,
    every: int | None,
    born: BornMode | None,
    *,
    accept_license: bool,
) -> None:
    """Diffusion coefficients, conductivities and Haven ratio of trajectories.

    Several trajectories, each at its temperature, give activation energies, too.
    """
    # start-up: help needs nothing that computes
    from lesff.model import load

    charges = _charges(species)
    if temperature and len(temperature) != len(trajectories):
        raise click.UsageError(
            f"--temperature must be given once for each of {len(trajectories)} trajectories"
        )
    for option, value in (("--every", every), ("--born", born)):
        if name is None and value is not None:
            raise click.UsageError(f"{option} is for Born charges: give --model, too")
    model = None if name is None else load(name, accept_license=accept_license)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    curves: list[tuple[str, Diffusion]] = []
    for index, path in enumerate(trajectories):
        kelvin = temperature[index] if temperature else None
        row, found = _analysed(
            path, charges, dt, kelvin, skip=skip, lower=lower, upper=upper, blocks=blocks,
            reference=reference, model=model, output=output / f"born-{index}", every=every or 1,
            mode=born or "exact",
        )  # fmt: skip
        rows.append(row)
        curves += [(f"{index} {s} {row['temperature_k']:.0f} K", d) for s, d in found.items()]
        _say(row)
    report: dict[str, Any] = {"charges_e": charges, "reference": reference, "trajectories": rows}
    if len({row["temperature_k"] for row in rows}) > 1:
        report["arrhenius"] = _fits(rows, list(charges), at, output)
    _draw(output, curves)
    write_json(output / "diffusion.json", finite(report))
    click.echo(f"written to {output / 'diffusion'}.json and .png, {output}/squared-*.csv")


def _charges(species: tuple[str, ...]) -> dict[str, float]:
    """Elements with their charges in e."""
    nominal = {symbol: float(z) for z, text in _NOMINAL.items() for symbol in text.split()}
    found: dict[str, float] = {}
    for text in species:
        symbol, sign, value = text.partition("=")
        if not sign and symbol not in nominal:
            raise ConfigError(f"`--species` must say the charge of {symbol}: {symbol}=CHARGE, in e")
        try:
            found[symbol] = float(value) if sign else nominal[symbol]
        except ValueError:
            raise ConfigError(f"`--species` must be ELEMENT=CHARGE, got {text!r}") from None
    return found


def _analysed(
    path: Path,
    charges: dict[str, float],
    dt: float,
    temperature: float | None,
    *,
    skip: float,
    lower: float | None,
    upper: float | None,
    blocks: int,
    reference: Reference,
    model: Any,
    output: Path,
    every: int,
    mode: BornMode,
) -> tuple[dict[str, Any], dict[str, Diffusion]]:
    # start-up: help needs nothing that computes
    import numpy as np

    from lesff.atoms.structure import read_atoms
    from lesff.cli.spectra import born_current
    from lesff.spectra.diffusion import ion_conductivity, relative_positions, self_diffusion
    from lesff.spectra.trajectory import as_trajectory
    from lesff.spectra.transport import helfand, integrated

    run = as_trajectory(list(read_atoms(path))[round(skip / dt) :], dt)
    symbols = np.array(run.frames[0].get_chemical_symbols())
    missing = [s for s in charges if s not in symbols]
    if missing:
        raise DataError(f"{path} must have atoms of {', '.join(missing)}, got none")
    temperature = run.temperature_or(temperature)
    upper = 0.5 * (run.n_frames // max(blocks, 1)) * dt if upper is None else upper
    lower = 0.25 * upper if lower is None else lower
    fit = {"lower": lower, "upper": upper, "n_blocks": blocks}
    is_species = np.isin(symbols, list(charges))
    moved = relative_positions(run.positions, run.masses, is_species, reference)
    positions = {s: moved[:, symbols == s] for s in charges}
    found = {s: self_diffusion(r, dt, **fit) for s, r in positions.items()}
    row: dict[str, Any] = {
        "trajectory": path.name, "n_frames": run.n_frames, "time_step_fs": dt, "skip_fs": skip,
        "temperature_k": temperature, "volume_a3": run.volume,
        "velocities": "file" if run.has_velocities else "differences of positions",
        "lower_fs": lower,
        "upper_fs": upper, "n_blocks": blocks,
        "species": {
            s: {"n_atoms": positions[s].shape[1], "d_cm2_per_s": d.coefficient,
                "d_error_cm2_per_s": d.error, "d_xyz_cm2_per_s": d.axes.tolist(),
                "d_xyz_error_cm2_per_s": d.axes_error.tolist(),
                "largest_msd_a2": float(d.squared[-1])}
            for s, d in found.items()
        },
    }  # fmt: skip
    if run.volume is None:
        return row, found
    state = {"temperature": temperature, "volume": run.volume}
    ions = ion_conductivity(positions, charges, dt, **state, **fit)
    row |= {
        "nernst_einstein_s_per_m": ions.nernst_einstein,
        "nernst_einstein_error_s_per_m": ions.nernst_einstein_error,
        "collective_s_per_m": ions.collective, "collective_error_s_per_m": ions.collective_error,
        "haven_ratio": ions.haven, "haven_ratio_error": ions.haven_error,
    }  # fmt: skip
    if model is not None:
        current = born_current(run, model, output, every, mode)
        slope = helfand(integrated(current, dt), dt, **state, **fit)
        row |= {"model": model.name, "born_s_per_m": slope.conductivity,
                "born_error_s_per_m": slope.error}  # fmt: skip
    return row, found


def _say(row: dict[str, Any]) -> None:
    click.echo(f"{row['trajectory']}, {row['temperature_k']:.1f} K:")
    for symbol, values in row["species"].items():
        click.echo(
            f"  D({symbol}) {values['d_cm2_per_s']:.4g} +- {values['d_error_cm2_per_s']:.2g} cm^2/s"
        )
    for key, text in (("nernst_einstein", "Nernst-Einstein"), ("collective", "collective"),
                      ("born", "collective, Born charges")):  # fmt: skip
        if f"{key}_s_per_m" in row:
            value, error = row[f"{key}_s_per_m"], row[f"{key}_error_s_per_m"]
            click.echo(f"  {text}: {value:.4g} +- {error:.2g} S/m")
    if "haven_ratio" in row:
        click.echo(f"  Haven ratio: {row['haven_ratio']:.3g} +- {row['haven_ratio_error']:.2g}")


def _fits(
    rows: list[dict[str, Any]], species: list[str], at: float, output: Path
) -> dict[str, Any]:
    """Activation energies of each species' D, and of sigma T."""
    # start-up: help needs nothing that computes
    import numpy as np

    from lesff.reports.figures import new_figure
    from lesff.spectra.arrhenius import arrhenius

    kelvin = np.array([row["temperature_k"] for row in rows])
    series: dict[str, tuple[np.ndarray, np.ndarray, str]] = {}
    for s in species:
        values = [row["species"][s] for row in rows]
        series[f"D({s})"] = (
            np.array([v["d_cm2_per_s"] for v in values]),
            np.array([v["d_error_cm2_per_s"] for v in values]), "cm^2/s",
        )  # fmt: skip
    for key in ("nernst_einstein", "collective", "born"):
        if all(f"{key}_s_per_m" in row for row in rows):
            value = np.array([row[f"{key}_s_per_m"] for row in rows])
            error = np.array([row[f"{key}_error_s_per_m"] for row in rows])
            series[f"sigma T, {key}"] = (value * kelvin, error * kelvin, "S K/m")
    figure = new_figure(5.5, 3.8)
    panel = figure.subplots()
    report: dict[str, Any] = {}
    for name, (value, error, unit) in series.items():
        try:
            fit = arrhenius(kelvin, value, error)
        except DataError as problem:
            report[name] = {"error": str(problem)}
            click.echo(f"{name}: {problem}", err=True)
            continue
        extended, extended_error = fit.at(at)
        report[name] = {
            "activation_energy_ev": fit.activation_energy, "error_ev": fit.error,
            "log_prefactor": fit.log_prefactor, "chi_squared": fit.chi_squared, "unit": unit,
            "at_k": at, "value": extended, "value_error": extended_error,
        }  # fmt: skip
        click.echo(
            f"{name}: E_a {fit.activation_energy:.3f} +- {fit.error:.2g} eV, at {at:g} K "
            f"{extended:.3g} +- {extended_error:.1g} {unit}"
        )
        inverse = 1000.0 / kelvin
        grid = np.linspace(inverse.min(), max(inverse.max(), 1000.0 / at), 50)
        dots = panel.errorbar(inverse, value, np.nan_to_num(error), fmt="o", ms=4, label=name)
        line = [fit.at(1000.0 / x)[0] for x in grid]
        panel.plot(grid, line, lw=1.0, color=dots.lines[0].get_color())
    panel.set_yscale("log")
    panel.set(xlabel="1000 K / T", ylabel="D (cm²/s), sigma T (S K/m)")
    panel.legend(frameon=False, fontsize=7)
    figure.savefig(output / "arrhenius.png", dpi=150)
    return report


def _draw(output: Path, curves: list[tuple[str, Diffusion]]) -> None:
    # start-up: help needs nothing that computes
    from lesff.reports.figures import new_figure
    from lesff.reports.spectrum import write_csv

    figure = new_figure(6.0, 3.8)
    panel = figure.subplots()
    for number, (name, found) in enumerate(curves):
        write_csv(output / f"squared-{number}.csv", {
            "time (fs)": found.time, f"{name}: mean squared displacement (A^2)": found.squared,
            "error (A^2)": found.squared_error,
        })  # fmt: skip
        panel.errorbar(
            1e-3 * found.time, found.squared, found.squared_error, lw=1.1, label=name,
            errorevery=max(1, len(found.time) // 12),
        )  # fmt: skip
    panel.set(xlabel="time (ps)", ylabel="mean squared displacement (A²)")
    panel.legend(frameon=False, fontsize=7)
    figure.savefig(output / "diffusion.png", dpi=150)
