"""Commands on the hub: lock, mirror, serve, update."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from lesff import hub_server
from lesff.cli.published import accept_license_option
from lesff.hub import lock_models
from lesff.mirror import mirror_models


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


@hub_group.command("mirror")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
@accept_license_option
def mirror_command(folder: Path, names: tuple[str, ...], *, accept_license: bool) -> None:
    """Copy models (all of lesff itself if none is named) to FOLDER, for `lesff hub serve`."""
    for snapshot in mirror_models(names, folder, accept_license=accept_license):
        n_bytes = sum(file.size for file in snapshot.files)
        click.echo(f"{snapshot.repo} at {snapshot.commit[:12]}: {n_bytes / 1e6:.1f} MB")


@hub_group.command("serve")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 for all.")
@click.option("--port", type=int, default=8043, show_default=True, help="Port; 0 for a free one.")
def serve_command(folder: Path, host: str, port: int) -> None:
    """Serve a mirror, read-only, to lesff (LESFF_HUB) and huggingface_hub (HF_ENDPOINT).

    Ends on interrupt or termination, after the answers that are under way.
    """
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    try:
        with hub_server.running(folder, host=host, port=port) as server:
            n_repositories = len(server.store.repositories())
            click.echo(f"{n_repositories} repositories at {server.url}; LESFF_HUB={server.url}")
            while not stop.wait(1.0):
                pass
    except OSError as error:
        raise click.ClickException(
            f"cannot listen at {host}:{port}: {error.strerror or error}"
        ) from error
    click.echo("stopped")
