"""The command that computes phonons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lesff.cli.workflow import (
    command_line,
    input_argument,
    model_options,
    open_model,
    output_option,
    read_one,
    relax_crystal_option,
)
from lesff.errors import ConfigError


@click.command("phonons")
@input_argument()
@model_options("mat-medium", "float64")
@output_option
@relax_crystal_option
@click.option("--fmax", default=1e-3, show_default=True, help="Largest force of it, eV/A.")
@click.option(
    "--supercell", type=(int, int, int), metavar="A B C",
    help="Multiples of the lattice vectors; at least 10 A along each if not given.",
)  # fmt: skip
@click.option("--displacement", default=0.01, show_default=True, help="A.")
@click.option(
    "--nac/--no-nac", default=True, show_default=True,
    help="Field of longitudinal modes by Born charges.",
)  # fmt: skip
@click.option(
    "--dielectric", metavar="EPS[,EPS,EPS]",
    help="Electronic dielectric constant, or its diagonal.",
)  # fmt: skip
@click.option(
    "--born-file", type=click.Path(path_type=Path),
    help="phonopy's BORN file in place of the model's charges and --dielectric.",
)  # fmt: skip
def phonons_command(
    structure: Path,
    name: str,
    device: str,
    dtype: Any,
    output: Path,
    start: Any,
    fmax: float,
    supercell: tuple[int, int, int] | None,
    displacement: float,
    dielectric: str | None,
    born_file: Path | None,
    *,
    nac: bool,
    accept_license: bool,
) -> None:
    """Phonons of a crystal by phonopy: bands, density of states, thermal properties.

    Forces on displaced supercells are computed in batches. Needs `lesff[workflows]`.
    """
    # start-up: help needs nothing that computes
    from lesff.workflows.folder import WorkFolder
    from lesff.workflows.phonons import THZ_TO_PER_CM, PhononOptions, phonons
    from lesff.workflows.phonons_report import report_phonons

    options = PhononOptions(
        start=start, fmax=fmax, supercell=supercell, displacement=displacement, nac=nac,
        dielectric=_tensor(dielectric), born_file=born_file,
    )  # fmt: skip
    atoms = read_one(structure)
    model = open_model(name, device, dtype, accept_license)
    settings = {
        "start": start, "fmax": fmax, "supercell": supercell, "displacement": displacement,
        "nac": nac, "dielectric": dielectric,
        "born_file": None if born_file is None else born_file.read_text(encoding="utf-8"),
    }  # fmt: skip
    folder = WorkFolder(output, "phonons", model, [atoms], settings)
    result = phonons(model, atoms, options, folder=folder)
    report_phonons(folder, result, command_line=command_line())
    lines = {"zone centre": result.gamma, "with the field": result.longitudinal}
    for title, values in lines.items():
        if values is not None:
            # no negative zeros
            text = " ".join(f"{round(THZ_TO_PER_CM * f, 1) + 0.0:.1f}" for f in values)
            click.echo(f"{title} (1/cm): {text}")
    click.echo(f"smallest frequency on the mesh: {result.minimum_frequency:.3f} THz")
    click.echo(f"written to {output / 'phonons'}.json, .html and {output / 'bands.png'}")


def _tensor(text: str | None) -> Any:
    """Numbers with commas between them."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"`--dielectric` must be one number or three with commas, got {text!r}"
        ) from error
    return values[0] if len(values) == 1 else values
