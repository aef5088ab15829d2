"""The command that converts checkpoints of others."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--head", help="Which output head to convert, for files with several.")
@click.option("--all-heads", is_flag=True, help="Convert every head, to FOLDER/<head>.")
@click.option("--overwrite", is_flag=True, help="Replace a model folder that is there.")
def convert_command(
    source: Path, folder: Path, head: str | None, *, all_heads: bool, overwrite: bool
) -> None:
    """Convert a MACE, MACELES, AIMNet2 or Nequix file to a model folder; nothing is executed."""
    if head is not None and all_heads:
        raise click.UsageError("--head and --all-heads exclude each other")
    # start-up: help needs nothing that computes
    from lesff.convert.checkpoint import checkpoint_heads, convert_checkpoint, head_folder

    # files without heads have one model
    heads = (checkpoint_heads(source) or [None]) if all_heads else [head]
    for name in heads:
        target = folder / head_folder(name) if all_heads and name else folder
        convert_checkpoint(source, target, head=name, overwrite=overwrite)
        click.echo(f"{source.name} converted; load it with lesff.load({str(target)!r})")
