"""Commands on the hub: lock, mirror, show, serve, update."""

from __future__ import annotations

import datetime
import signal
import threading
from pathlib import Path

import click

from lesff.cli.options import accept_license_option
from lesff.environment import own_mirror
from lesff.files import FileSet
from lesff.hub.catalogue import write_catalogue
from lesff.hub.manifest.names import list_models, read_entry
from lesff.hub.manifest.updates import remove_update, write_update
from lesff.hub.mirror import server as hub_server
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.resolve import lock_models
from lesff.hub.sources.update import pull_update


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
@click.option("--name", help="Name of a model folder; that of its card if not given.")
@click.option("--version", help="Its major.minor.patch; that of its card if not given.")
@accept_license_option
def mirror_command(
    folder: Path,
    names: tuple[str, ...],
    name: str | None,
    version: str | None,
    *,
    accept_license: bool,
) -> None:
    """Copy models (all of lesff itself if none is named) to FOLDER, for `lesff hub serve`.

    A model folder ('./my-model') becomes local/NAME, which loads as hf:local/NAME.
    """
    for snapshot in mirror_models(
        names, folder, name=name, version=version, accept_license=accept_license
    ):
        n_bytes = FileSet(snapshot.files).size
        click.echo(f"{snapshot.repo} at {snapshot.commit[:12]}: {n_bytes / 1e6:.1f} MB")


@hub_group.command("site")
@click.argument("folder", type=click.Path(path_type=Path))
def site_command(folder: Path) -> None:
    """Write the catalogue of all models as a page for a browser, FOLDER/index.html.

    It opens without a server and fetches nothing.
    """
    models = list_models()
    path = write_catalogue(models, folder)
    click.echo(f"{len(models)} models in {path}")


@hub_group.command("serve")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8043,
    show_default=True,
    help="Port; 0 for a free one.",
)
def serve_command(folder: Path, host: str, port: int) -> None:
    """Serve a mirror, read-only, to lesff (LESFF_HUB) and huggingface_hub (HF_ENDPOINT).

    A browser sees the catalogue of what is there.

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


@hub_group.command("update")
@click.argument("source", required=False)
@click.option(
    "--key", type=click.Path(path_type=Path), help="Public key to trust from now on, PEM."
)
@click.option("--reset", is_flag=True, help="Go back to the manifest that came with lesff.")
def update_command(source: str | None, key: Path | None, *, reset: bool) -> None:
    """Pull a signed update of the manifest from an address or a file.

    Without SOURCE, from the mirror that LESFF_HUB names. An update can add models and versions and
    deprecate versions; what a known version is never changes.
    """
    if reset:
        click.echo("update removed" if remove_update() else "there was no update")
        return
    mirror = own_mirror()
    if source is None and mirror is None:
        raise click.UsageError("give the address or file of the update, or set LESFF_HUB")
    update = pull_update(source or f"{mirror}/manifest.json", public_key=key)
    names = ", ".join(entry.name for entry in update.models)
    click.echo(f"update {update.serial} of {update.date} installed: {names}")


@hub_group.command("sign")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File.")
@click.option("--serial", type=int, required=True, help="Larger than that of the last update.")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Private key, PEM.")
def sign_update_command(folder: Path, output: Path, serial: int, key: Path) -> None:
    """Make a signed update from the manifest files in FOLDER, for `lesff hub update`."""
    entries = [read_entry(path) for path in sorted(folder.glob("*.json"))]
    today = datetime.date.today().isoformat()
    write_update(entries, output, serial=serial, date=today, key=key)
    click.echo(f"{output} and {output}.sig written: {len(entries)} models")
