"""Dividing labelled frames by molecule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lesff.cli.options import HELD_OUT
from lesff.errors import DataError
from lesff.files import sha256_of
from lesff.plain_data import write_json

if TYPE_CHECKING:
    from lesff.train.splits import MoleculeSplit


DEFAULT_KEY = "molecule"
COMPOSITION = "composition"


@click.command("split")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--by", "key",
    help="Key of info to group by (of npz shards an array), or composition for formulas, of "
    "shards reduced; molecule if left out, or composition where no frame has that.",
)  # fmt: skip
@click.option(
    "--validation", "fraction", default=HELD_OUT, show_default=True,
    help="Share of the molecules of each subset to hold out.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder.")
def split_command(files: tuple[Path, ...], key: str | None, fraction: float, output: Path) -> None:
    """Divide labelled frames by molecule into train.extxyz and validation.extxyz.

    The division depends on the names of the molecules only (their SHA-256): the same file gives the
    same parts everywhere. Of every subset (`info["subset"]`) the same share of molecules is held
    out. split.json records the file, its SHA-256 and the molecules that are held out.

    Of npz shards, one or several, copies are written whose array `valid` marks the frames that are
    held out, the same groups in all of them: `lesff split a.npz b.npz --by composition -o DATA`.
    """
    shards = [path.suffix == ".npz" for path in files]
    if all(shards):
        used = key or DEFAULT_KEY
        split = _split_shards(files, used, fraction, output)
    elif len(files) == 1:
        split, used = _split_file(files[0], key, fraction, output)
    else:
        raise click.UsageError("give one file, or npz shards only")
    record = {
        "file": [path.name for path in files] if all(shards) else files[0].name,
        "sha256": [sha256_of(path) for path in files] if all(shards) else sha256_of(files[0]),
        "by": used,
        "validation_fraction": split.fraction,
        "counts": split.counts,
        "validation": list(split.validation),
    }
    write_json(output / "split.json", record)


def _split_file(
    file: Path, key: str | None, fraction: float, output: Path
) -> tuple[MoleculeSplit, str]:
    """Write both parts; returns the split and what was grouped by."""
    # start-up: help needs nothing that computes
    from ase.io import write

    from lesff.atoms.structure import read_structures, with_state
    from lesff.train.splits import split_by_molecule

    frames = [with_state(atoms, structure) for structure, atoms in read_structures(file)]
    wanted = key or DEFAULT_KEY
    lacking = [index for index, atoms in enumerate(frames) if wanted not in atoms.info]
    by_formula = wanted == COMPOSITION or (key is None and len(lacking) == len(frames))
    if lacking and not by_formula:
        raise DataError(f"{file}, frame {lacking[0]}: no info[{wanted!r}] to group by")
    names = [a.get_chemical_formula() if by_formula else str(a.info[wanted]) for a in frames]
    labels = [
        (str(a.info.get("subset", file.stem)), name) for a, name in zip(frames, names, strict=True)
    ]
    try:
        split = split_by_molecule(labels, fraction)
    except DataError as error:
        if not (by_formula and key is None):
            raise
        raise DataError(
            f"{file}, frame 0: no info[{wanted!r}] to group by, and by formula {error}"
        ) from error
    if by_formula and key is None:
        click.echo(f"no frame has info[{wanted!r}]: divided by formula")
    output.mkdir(parents=True, exist_ok=True)
    held_out = [split.holds_out(molecule) for _, molecule in labels]
    for name, is_wanted in (("train", False), ("validation", True)):
        part = [atoms for atoms, out in zip(frames, held_out, strict=True) if out is is_wanted]
        write(output / f"{name}.extxyz", part)
        click.echo(f"{len(part)} frames written to {output / name}.extxyz")
    return split, COMPOSITION if by_formula else wanted


def _split_shards(
    files: tuple[Path, ...], key: str, fraction: float, output: Path
) -> MoleculeSplit:
    # start-up: help needs nothing that computes
    import numpy as np

    from lesff.train.shards import read_shard, write_npz
    from lesff.train.splits import shard_groups, split_by_molecule

    shards = {path: read_shard(path) for path in files}
    if len({path.name for path in files}) < len(files) or output in {p.parent for p in files}:
        raise DataError("shards must have different names and be in another folder than the output")
    names = {path: shard_groups(path, arrays, key) for path, arrays in shards.items()}
    split = split_by_molecule([("shards", n) for group in names.values() for n in group], fraction)
    output.mkdir(parents=True, exist_ok=True)
    for path, arrays in shards.items():
        valid = np.array([split.holds_out(name) for name in names[path]])
        write_npz(output / path.name, arrays | {"valid": valid}, np.savez_compressed)
        click.echo(f"{valid.sum()} of {len(valid)} frames of {output / path.name} are held out")
    return split
