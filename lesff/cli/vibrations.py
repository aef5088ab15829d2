"""The command that computes harmonic vibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lesff.cli.workflow import (
    charge_option,
    command_line,
    input_argument,
    model_options,
    open_model,
    output_option,
    read_one,
    spin_option,
)


@click.command("vibrations")
@input_argument()
@model_options("off-medium", "float64")
@output_option
@click.option("--relax/--no-relax", default=True, show_default=True, help="Minimum first.")
@click.option("--fmax", default=1e-3, show_default=True, help="Largest force of it, eV/A.")
@click.option("--temperature", default=298.15, show_default=True, help="K.")
@click.option("--pressure", default=101325.0, show_default=True, help="Pa.")
@click.option(
    "--symmetry-number", default=1, show_default=True,
    help="Rotations that leave the molecule as it is.",
)  # fmt: skip
@charge_option
@spin_option
def vibrations_command(
    structure: Path,
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    fmax: float,
    temperature: float,
    pressure: float,
    symmetry_number: int,
    charge: int | None,
    spin: int | None,
    *,
    relax: bool,
    accept_license: bool,
) -> None:
    """Frequencies, infrared intensities and thermochemistry of a structure.

    Atoms that are fixed in the file do not vibrate. Modes of a crystal are at the zone centre,
    without the field of longitudinal ones (see `lesff phonons`).
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.vibrations import vibrations
    from lesff.workflows.vibrations_report import report_vibrations

    atoms = read_one(structure, charge, spin)
    model = open_model(name, device, dtype, accept_license)
    options = {"relaxes": relax, "fmax": fmax}
    folder = WorkFolder(output, "vibrations", model, [atoms], options)
    result = vibrations(
        model, atoms, **options, temperature=temperature, pressure=pressure,
        symmetry_number=symmetry_number, folder=folder,
    )  # fmt: skip
    report = report_vibrations(folder, result, command_line=command_line())
    for index in report["vibrations"]:
        line = f"{index:4d} {result.frequencies[index]:10.1f} 1/cm"
        if result.intensities is not None:
            line += f" {result.intensities[index]:10.1f} km/mol"
        click.echo(line)
    thermo = result.thermochemistry
    click.echo(f"zero-point energy: {thermo.zero_point:.4f} eV")
    click.echo(f"{thermo.kind}: entropy {thermo.entropy:.6f} eV/K at {temperature} K")
    click.echo(f"written to {output / 'vibrations'}.json, .html, .csv and {output / 'modes'}")
