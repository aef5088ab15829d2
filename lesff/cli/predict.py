"""Commands that use models: info, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import click
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from lesff.atoms.structure import read_structures
from lesff.calculator import ASE_NAMES
from lesff.cli.options import accept_license_option
from lesff.errors import PropertyError
from lesff.model import load
from lesff.potential.response import BornOptions
from lesff.quantities import DEFAULT_PROPERTIES, QUANTITIES


@click.command("predict")
@click.argument("structures", type=click.Path(path_type=Path))
@click.option("-m", "--model", "name", default="off-medium", show_default=True, help="Model name.")
@click.option(
    "-p", "--properties", default=",".join(DEFAULT_PROPERTIES), show_default=True,
    help="Comma-separated quantities: " + ", ".join(QUANTITIES) + ".",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="extxyz file to write.")
@click.option("--charge", type=int, help="Total charge of every structure, e.")
@click.option("--spin", type=int, help="Spin multiplicity 2S+1 of every structure.")
@click.option("--field", type=(float, float, float), metavar="X Y Z", help="External field, V/A.")
@click.option(
    "--born",
    type=click.Choice(["exact", "sine"]),
    default="exact",
    show_default=True,
    help="Born effective charges of crystals: image-exact, or the published sine stencil.",
)
@click.option("--sum-rule", is_flag=True, help="Impose the acoustic sum rule on Born charges.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision.")
@click.option("--strict", is_flag=True, help="Refuse charges and spins outside the range.")
@click.option("--allow-close", is_flag=True, help="Compute also where atoms overlap.")
@accept_license_option
def predict_command(
    structures: Path,
    name: str,
    properties: str,
    output: Path | None,
    charge: int | None,
    spin: int | None,
    field: tuple[float, float, float] | None,
    born: Any,
    device: str,
    dtype: Any,
    *,
    sum_rule: bool,
    strict: bool,
    allow_close: bool,
    accept_license: bool,
) -> None:
    """Predict properties of every structure in a file."""
    if output is not None and output.suffix not in (".xyz", ".extxyz"):
        raise PropertyError(f"`--output` must end in .extxyz or .xyz, got {output.name}")
    names = [part.strip() for part in properties.split(",") if part.strip()]
    atoms_list = [atoms for _, atoms in read_structures(structures)]
    model = load(name, device=device, dtype=dtype, accept_license=accept_license)
    prediction = model.predict(
        atoms_list,
        names,
        total_charge=charge,
        spin_multiplicity=spin,
        external_field=field,
        born=BornOptions(mode=born, sum_rule=sum_rule),
        strict=strict,
        allow_close=allow_close,
    )
    rows = prediction.per_structure()
    if output is None:
        for index, (atoms, row) in enumerate(zip(atoms_list, rows, strict=True)):
            click.echo(_report(f"{atoms.get_chemical_formula()} (frame {index})", atoms, row))
        return
    write(output, [_attach(atoms, row) for atoms, row in zip(atoms_list, rows, strict=True)])
    click.echo(f"{len(rows)} structures written to {output}")


def _report(title: str, atoms: ase.Atoms, row: dict[str, Any]) -> str:
    lines = [title]
    per_atom = {k: v for k, v in row.items() if QUANTITIES[k].level == "atom"}
    for name, value in row.items():
        if name in per_atom:
            continue
        unit = QUANTITIES[name].unit
        text = (
            f"{value:.6f}"
            if np.ndim(value) == 0
            else np.array2string(np.asarray(value), precision=5, suppress_small=True)
        )
        lines.append(f"  {name} ({unit}): {text}")
    for name, value in per_atom.items():
        lines.append(f"  {name} ({QUANTITIES[name].unit}):")
        for symbol, item in zip(atoms.symbols, np.asarray(value), strict=True):
            numbers = " ".join(f"{x:11.5f}" for x in np.ravel(item))
            lines.append(f"    {symbol:2} {numbers}")
    return "\n".join(lines)


def _attach(atoms: ase.Atoms, row: dict[str, Any]) -> ase.Atoms:
    """Results as ASE's own where ASE has a name for them, else as info and arrays."""
    copy = atoms.copy()
    copy.calc = None
    results = {}
    for name, value in row.items():
        if name in ASE_NAMES.values():
            key = next(ase_name for ase_name, ours in ASE_NAMES.items() if ours == name)
            results[key] = full_3x3_to_voigt_6_stress(value) if name == "stress" else value
        elif QUANTITIES[name].level == "atom":
            copy.arrays[name] = np.asarray(value).reshape(len(copy), -1).squeeze()
        else:
            copy.info[name] = value
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
