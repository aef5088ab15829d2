"""The command that predicts: on the screen, or into a file, for one structure or millions."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.cli.options import accept_license_option
from lesff.errors import PropertyError, StateWarning
from lesff.quantities import DEFAULT_PROPERTIES, QUANTITIES

if TYPE_CHECKING:
    import ase

    from lesff.bulk.compute import Settings
    from lesff.bulk.executors import Workers
    from lesff.bulk.run import RunOptions
    from lesff.bulk.sources import Source
    from lesff.model import Model

_ENDINGS = (".extxyz", ".xyz", ".parquet", ".jsonl", ".ndjson", ".csv", ".npz", ".db")
_REPORTED = 20
"""Structures whose results are printed in full."""
_SMALL = 2**22
"""Bytes of a file that is read as a whole."""


@click.command("predict")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-m", "--model", "name", default="off-medium", show_default=True, help="Model name.")
@click.option(
    "-p", "--properties", default=",".join(DEFAULT_PROPERTIES), show_default=True,
    help="Comma-separated quantities: " + ", ".join(QUANTITIES) + ".",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="File to write: " + ", ".join(_ENDINGS) + ".",
)  # fmt: skip
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
@click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
    help="What to do about a structure that cannot be computed; `skip` lists it in a table.",
)  # fmt: skip
@click.option(
    "--executor", metavar="KIND:WHAT",
    help="Where to compute: processes:N, threads:N, dask:ADDRESS, parsl:CONFIG.py.",
)  # fmt: skip
@click.option(
    "--shard", metavar="I/N", help="Do the I-th of N parts only; the last one writes the output."
)
@click.option("--chunk", type=click.IntRange(min=1), help="Structures of a chunk (1000).")
@click.option("--keep-chunks", is_flag=True, help="Keep finished chunks beside the output.")
@click.option("--smiles-column", help="Column of a table that holds SMILES.")
@click.option("--progress/--no-progress", default=None, help="Progress bar; on terminals only.")
@accept_license_option
def predict_command(
    inputs: tuple[str, ...],
    name: str,
    properties: str,
    output: Path | None,
    charge: int | None,
    spin: int | None,
    field: tuple[float, float, float] | None,
    born: Any,
    device: str,
    dtype: Any,
    on_error: Any,
    executor: str | None,
    shard: str | None,
    chunk: int | None,
    smiles_column: str | None,
    *,
    sum_rule: bool,
    strict: bool,
    allow_close: bool,
    keep_chunks: bool,
    progress: bool | None,
    accept_license: bool,
) -> None:
    """Predict properties of structures: files, globs, folders, databases, SMILES, - for stdin.

    A file that is written holds the predictions, the charge, spin and field that were used and the
    name of the model, in place of labels that came along: evaluate, finetune, calibrate, select,
    split and ASE calculators read it. A run that was ended goes on when it is started again.
    """
    if output is not None and output.suffix.lower() not in _ENDINGS:
        raise PropertyError(
            f"`--output` must end in .extxyz or .xyz, {', '.join(_ENDINGS[2:])}, got {output.name}"
        )
    # start-up: help needs nothing that computes
    from lesff.bulk.compute import Settings
    from lesff.bulk.run import CHUNK, RunOptions, parse_shard
    from lesff.bulk.sources import sources_of
    from lesff.model import load
    from lesff.potential.batches import property_names
    from lesff.potential.response import BornOptions

    options = RunOptions(
        chunk=CHUNK if chunk is None else chunk,
        on_error=on_error,
        shard=(1, 1) if shard is None else parse_shard(shard),
        keep_parts=keep_chunks,
        progress=progress,
    )
    if shard is not None and output is None:
        raise PropertyError("`--shard` needs `--output`: the file that all parts are for")
    settings = Settings(
        properties=tuple(property_names(properties)),
        total_charge=charge,
        spin_multiplicity=spin,
        external_field=field,
        born=BornOptions(mode=born, sum_rule=sum_rule),
        strict=strict,
        allow_close=allow_close,
    )
    sources = sources_of(inputs, column=smiles_column, stdin=sys.stdin)
    is_plain = output is None and executor is None and on_error == "stop"
    atoms_list = _few_atoms(sources) if is_plain else None
    model = load(name, device=device, dtype=dtype, accept_license=accept_license)
    model.check_available(settings.properties)
    if atoms_list is not None:
        _print_reports(model, atoms_list, settings, sources[0].name)
        return
    workers = _workers(executor)
    try:
        if output is None:
            _print_summary(model, sources, settings, options, workers)
        else:
            _write(model, sources, settings, options, workers, output)
    finally:
        if workers is not None:
            workers.close()


def _workers(executor: str | None) -> Workers | None:
    from lesff.bulk.executors import workers_of  # start-up: help needs nothing that computes

    return None if executor is None else workers_of(executor)


def _write(
    model: Model,
    sources: Sequence[Source],
    settings: Settings,
    options: RunOptions,
    workers: Workers | None,
    output: Path,
) -> None:
    """Predict into a file and say what was done."""
    from lesff.bulk.run import predict_to_file  # start-up: help needs nothing that computes
    from lesff.bulk.sources import STDIN, count_structures, items_of

    summary = predict_to_file(
        lambda: items_of(sources),
        output,
        model.reference(for_workers=workers is not None),
        settings,
        options,
        workers=workers,
        count=lambda: count_structures(sources),
        has_smiles=any(source.has_smiles for source in sources),
        can_reread=all(source.name != STDIN for source in sources),
        say=click.echo,
    )
    if summary.is_old:
        click.echo(f"{output} is complete already: nothing to do")
        return
    if summary.n_known:
        click.echo(f"{summary.n_known} of {summary.n_chunks} chunks were done before")
    if summary.n_missing:
        done = summary.n_chunks - summary.n_missing
        click.echo(
            f"{done} of {summary.n_chunks} chunks are done; who does the last one writes {output}"
        )
        return
    click.echo(f"{summary.n_rows} structures written to {output}")
    if summary.dropped:
        labels = ", ".join(sorted(summary.dropped))
        names = sources[0].path.name if sources[0].path is not None else sources[0].name
        click.echo(f"in place of labels of {names if len(sources) == 1 else 'the input'}: {labels}")
    if summary.skipped_file is not None:
        click.echo(f"{summary.n_skipped} structures skipped, see {summary.skipped_file}")


def _few_atoms(sources: Sequence[Source]) -> list[ase.Atoms] | None:
    """Structures of one small file; None for more."""
    path = sources[0].path if len(sources) == 1 else None
    if path is None or sources[0].has_smiles:
        return None
    # what cannot be read is refused here
    if path.is_file() and path.stat().st_size > _SMALL:
        return None
    from lesff.atoms.structure import read_atoms  # start-up: help needs nothing that computes

    atoms_list = read_atoms(path)
    return atoms_list if len(atoms_list) <= _REPORTED else None


def _print_reports(
    model: Model, atoms_list: list[ase.Atoms], settings: Settings, name: str
) -> None:
    """All results of a few structures."""
    from lesff.atoms.structure import to_structure  # start-up: help needs nothing that computes

    told: set[str] = set()
    for index, atoms in enumerate(atoms_list):
        to_structure(
            atoms,
            total_charge=settings.total_charge,
            spin_multiplicity=settings.spin_multiplicity,
            external_field=settings.external_field,
            where=f"{Path(name).name}, frame {index}",
            told=told,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StateWarning)  # said above, with the name of the file
        prediction = model.predict(
            atoms_list,
            list(settings.properties),
            total_charge=settings.total_charge,
            spin_multiplicity=settings.spin_multiplicity,
            external_field=settings.external_field,
            born=settings.born,
            strict=settings.strict,
            allow_close=settings.allow_close,
        )
    for index, (atoms, row) in enumerate(zip(atoms_list, prediction.per_structure(), strict=True)):
        click.echo(_report(f"{atoms.get_chemical_formula()} (frame {index})", atoms, row))


def _print_summary(
    model: Model,
    sources: Sequence[Source],
    settings: Settings,
    options: RunOptions,
    workers: Workers | None,
) -> None:
    """Results of a few structures in full, of many in short."""
    from lesff.bulk.sources import count_structures, items_of  # start-up: as above
    from lesff.bulk.summary import summarize

    found = summarize(
        lambda: items_of(sources),
        model.reference(for_workers=workers is not None),
        settings,
        options,
        workers=workers,
        count=lambda: count_structures(sources),
        kept=_REPORTED,
        say=click.echo,
    )
    if found.n_rows <= _REPORTED:
        for row in found.rows:
            title = f"{row.atoms.get_chemical_formula()} ({row.item.name})"
            click.echo(_report(title, row.atoms, row.values))
    else:
        click.echo(
            f"{found.n_rows} structures, {found.n_atoms} atoms, {found.seconds:.1f} s "
            f"({found.n_rows / found.seconds:.0f} structures/s) with {model.name}"
        )
        for name, spread in found.spreads.items():
            unit = QUANTITIES[name].unit
            click.echo(
                f"  {name} ({unit}): smallest {spread.least:.6g}, mean {spread.mean:.6g}, "
                f"largest {spread.most:.6g}"
            )
        click.echo("`-o FILE` writes them all")
    if found.skipped:
        click.echo(f"{found.n_skipped} structures skipped:")
        for row in found.skipped:
            click.echo(f"  {row.item.name}: {row.reason}")


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
