"""The command that signs a model folder."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.hub.signatures import sign_folder


@click.command("sign")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Ed25519 private key, PEM."
)
def sign_command(folder: Path, key: Path) -> None:
    """Sign a model folder; `lesff verify FOLDER --key PUBLIC` checks it."""
    click.echo(f"{folder} signed with the key {sign_folder(folder, key).key}")
