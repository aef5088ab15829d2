"""Commands on the hub: lock, mirror, serve, update."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.cli.published import accept_license_option
from lesff.hub import lock_models


@click.group("hub")
def hub_group() -> None:
    """Lock, mirror and serve models, and update the manifest."""


@hub_group.command("lock")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("lesff.lock"),
    show_default=True, help="Lockfile to write or to add to.",
)  # fmt: skip
@accept_license_option
def lock_command(names: tuple[str, ...], output: Path, *, accept_license: bool) -> None:
    """Write down version and sha256 of models, for LESFF_LOCK or lesff.load(..., lock=FILE)."""
    lock = lock_models(names, output, accept_license=accept_license)
    for key, model in lock.models.items():
        click.echo(f"{key} = {model.spec}")
