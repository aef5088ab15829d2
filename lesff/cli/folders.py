"""Commands on model folders: convert, verify."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.checkpoint import MODEL_FILES, verify_parity
from lesff.convert.folder import checkpoint_heads, convert_checkpoint, head_folder
from lesff.digests import forget
from lesff.errors import IntegrityError
from lesff.hub import resolve
from lesff.vouching import check_folder, digest_of, sign_folder


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--head", help="Which output head to convert, for files with several.")
@click.option("--all-heads", is_flag=True, help="Convert every head, to FOLDER/<head>.")
@click.option("--overwrite", is_flag=True, help="Replace a model folder that is there.")
def convert_command(
    source: Path, folder: Path, head: str | None, *, all_heads: bool, overwrite: bool
) -> None:
    """Convert a MACE or MACELES checkpoint to a model folder; nothing in it is executed."""
    if head is not None and all_heads:
        raise click.UsageError("--head and --all-heads exclude each other")
    heads = checkpoint_heads(source) if all_heads else [head]
    for name in heads:
        target = folder / head_folder(name) if all_heads and name else folder
        convert_checkpoint(source, target, head=name, overwrite=overwrite)
        click.echo(f"{source.name} converted; load it with lesff.load({str(target)!r})")


@click.command("verify")
@click.argument("name")
@click.option("--deep", is_flag=True, help="Read and hash every file, also those unchanged.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="Public key that must have signed the folder."
)
def verify_command(name: str, *, deep: bool, key: Path | None) -> None:
    """Replay the golden values stored with a model (a name or a folder)."""
    folder = resolve(name).folder
    if deep:
        for file in MODEL_FILES:
            forget(folder / file)
        folder = resolve(name).folder
        click.echo(f"sha256 of the folder: {digest_of(folder)}")
    if key is not None:
        click.echo(f"signed with the key {check_folder(folder, key).key}")
    report = verify_parity(folder)
    charge = "" if report.charge_error is None else f", charges {report.charge_error:.1e} e"
    click.echo(
        f"{report.n_structures} structures: energy {report.energy_error:.1e} eV/atom, "
        f"forces {report.force_error:.1e} eV/A{charge} (tolerance {report.tolerance:.0e})"
    )
    if not report.ok:
        raise IntegrityError(f"{name} does not reproduce its golden values: do not use it here")


@click.command("sign")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Ed25519 private key, PEM."
)
def sign_command(folder: Path, key: Path) -> None:
    """Sign a model folder; `lesff verify FOLDER --key PUBLIC` checks it."""
    click.echo(f"{folder} signed with the key {sign_folder(folder, key).key}")
