"""The command that predicts: on the screen, or into a file that every other command reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.frames import with_state
from lesff.cli.options import accept_license_option
from lesff.errors import PropertyError, StateWarning
from lesff.quantities import (
    DEFAULT_PROPERTIES,
    DIPOLE_ORIGINS,
    INFO_DIPOLE_ORIGIN,
    INFO_MODEL,
    QUANTITIES,
)

if TYPE_CHECKING:
    import ase

    from lesff.atoms.structure import Structure


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
@click.option(
    "--strict", is_flag=True,
    help="Refuse charge, spin and, of a calibrated model, surroundings unlike the known ones.",
)  # fmt: skip
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
    """Predict properties of every structure in a file.

    A file that is written holds the predictions, the charge, spin and field that were used and the
    name of the model, in place of labels that came along: evaluate, finetune, calibrate, select,
    split and ASE calculators read it.
    """
    if output is not None and output.suffix not in (".xyz", ".extxyz"):
        raise PropertyError(f"`--output` must end in .extxyz or .xyz, got {output.name}")
    names = [part.strip() for part in properties.split(",") if part.strip()]
    # start-up: help needs nothing that computes
    from lesff.atoms.structure import read_atoms, to_structure
    from lesff.model import load
    from lesff.potential.response import BornOptions

    atoms_list = read_atoms(structures)
    told: set[str] = set()
    states = [
        to_structure(
            atoms, total_charge=charge, spin_multiplicity=spin, external_field=field,
            where=f"{structures.name}, frame {index}", told=told,
        )
        for index, atoms in enumerate(atoms_list)
    ]  # fmt: skip
    model = load(name, device=device, dtype=dtype, accept_license=accept_license)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StateWarning)  # said above, with the name of the file
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
    dropped: set[str] = set()
    written = [
        _attach(with_state(atoms, state), row, state, model.name, dropped)
        for atoms, state, row in zip(atoms_list, states, rows, strict=True)
    ]
    from ase.io import write  # start-up: imports scipy, 0.7 s of CPU

    write(output, written)
    click.echo(f"{len(rows)} structures written to {output}")
    if dropped:
        click.echo(f"in place of labels of {structures.name}: {', '.join(sorted(dropped))}")


def _report(title: str, atoms: ase.Atoms, row: dict[str, Any]) -> str:
    # start-up: help needs nothing that computes
    import numpy as np

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


def _attach(
    atoms: ase.Atoms, row: dict[str, Any], state: Structure, model: str, dropped: set[str]
) -> ase.Atoms:
    """Results as ASE's own where ASE has a name for them, else as info and arrays.

    Labels that the atoms came with are removed and named in ``dropped``: beside predictions they
    would be two values of one quantity.
    """
    # start-up: help needs nothing that computes
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from lesff.calculator import ASE_NAMES
    from lesff.train.labels import kind_of_key

    if atoms.calc is not None:
        dropped.update(getattr(atoms.calc, "results", {}))
        atoms.calc = None
    for store in (atoms.info, atoms.arrays):
        for key in [k for k in store if kind_of_key(str(k)) is not None or k in QUANTITIES]:
            del store[key]
            dropped.add(key)
    atoms.info.pop(INFO_DIPOLE_ORIGIN, None)
    atoms.info[INFO_MODEL] = model
    if "dipole" in row and state.total_charge:
        atoms.info[INFO_DIPOLE_ORIGIN] = DIPOLE_ORIGINS[0]
    results: dict[str, Any] = {}
    for name, value in row.items():
        values = np.asarray(value, dtype=np.float64)
        if name in ASE_NAMES.values():
            key = next(ase_name for ase_name, ours in ASE_NAMES.items() if ours == name)
            if name == "stress":
                values = full_3x3_to_voigt_6_stress(values)
            results[key] = float(values) if values.ndim == 0 else values
        elif QUANTITIES[name].level == "atom":
            flat = values.reshape(len(atoms), -1)
            atoms.arrays[name] = flat[:, 0] if flat.shape[1] == 1 else flat
        else:
            atoms.info[name] = float(values) if values.ndim == 0 else values
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
