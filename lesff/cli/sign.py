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
@click.option("--name", help="Name to bind; from the card or the folder if not given.")
@click.option("--version", help="Version to bind, major.minor.patch; from the card if not given.")
def sign_command(folder: Path, key: Path, name: str | None, version: str | None) -> None:
    """Sign a model folder, its name and version; `lesff verify FOLDER --key PUBLIC` checks it."""
    signature = sign_folder(folder, key, name=name, version=version)
    click.echo(f"{folder} signed with the key {signature.key} {signature.subject}")
