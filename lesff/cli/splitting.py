"""Dividing labelled frames by molecule."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click
from ase.io import write

from lesff.errors import DataError
from lesff.evaluation.splits import VALIDATION_FRACTION, split_by_molecule
from lesff.structures import read_structures


@click.command("split")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--by", "key", default="molecule", show_default=True, help="Key of info to group by.")
@click.option(
    "--validation", "fraction", default=VALIDATION_FRACTION, show_default=True,
    help="Share of the molecules of each subset to hold out.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder.")
def split_command(file: Path, key: str, fraction: float, output: Path) -> None:
    """Divide labelled frames by molecule into train.extxyz and validation.extxyz.

    The division depends on the names of the molecules only (their SHA-256): the same file gives the
    same parts everywhere. Of every subset (`info["subset"]`) the same share of molecules is held
    out. split.json records the file, its SHA-256 and the molecules that are held out.
    """
    frames = [atoms for _, atoms in read_structures(file)]
    lacking = [index for index, atoms in enumerate(frames) if key not in atoms.info]
    if lacking:
        raise DataError(f"{file}, frame {lacking[0]}: no info[{key!r}] to group by")
    labels = [(str(a.info.get("subset", file.stem)), str(a.info[key])) for a in frames]
    split = split_by_molecule(labels, fraction)
    output.mkdir(parents=True, exist_ok=True)
    held_out = [split.holds_out(molecule) for _, molecule in labels]
    for name, wanted in (("train", False), ("validation", True)):
        part = [atoms for atoms, out in zip(frames, held_out, strict=True) if out is wanted]
        write(output / f"{name}.extxyz", part)
        click.echo(f"{len(part)} frames written to {output / name}.extxyz")
    record = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "by": key,
        "validation_fraction": split.fraction,
        "counts": split.counts,
        "validation": list(split.validation),
    }
    (output / "split.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
