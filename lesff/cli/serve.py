"""The command that serves models over HTTP."""

from __future__ import annotations

import click

from lesff.cli.options import accept_license_option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command("serve")
@click.option(
    "-m", "--model", "names", multiple=True, default=("off-small",), show_default=True,
    help="Model name; twice for a page that compares two.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8044, show_default=True,
    help="Port; 0 for a free one.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision.")
@click.option("--api-key", help="Key that clients must send; better in LESFF_API_KEY.")
@click.option("--max-body", type=click.IntRange(min=1), help="Bytes of a request (2000000).")
@click.option("--max-atoms", type=click.IntRange(min=1), help="Atoms of a request (1000).")
@click.option("--max-queue", type=click.IntRange(min=1), help="Structures that wait (1024).")
@click.option("--batch-atoms", type=click.IntRange(min=1), help="Atoms of a batch (1024).")
@click.option("--timeout", type=float, help="Seconds until a request is given up (60).")
@accept_license_option
def serve_command(
    names: tuple[str, ...],
    host: str,
    port: int,
    device: str,
    dtype: str | None,
    api_key: str | None,
    max_body: int | None,
    max_atoms: int | None,
    max_queue: int | None,
    batch_atoms: int | None,
    timeout: float | None,
    *,
    accept_license: bool,
) -> None:
    """Serve models over HTTP: predictions, relaxations, vibrations, and a page for a browser.

    Ends on interrupt or termination, after the answers that are under way.
    """
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.service.app import create_app
    from lesff.service.limits import Limits, api_key_of_environment
    from lesff.service.server import listening_socket, serve

    given = {
        "max_body": max_body,
        "max_atoms": max_atoms,
        "max_queue": max_queue,
        "batch_atoms": batch_atoms,
        "timeout": timeout,
    }
    limits = Limits(**{key: value for key, value in given.items() if value is not None})
    key = api_key or api_key_of_environment()
    models = {
        name: load(name, device=device, dtype=dtype, accept_license=accept_license)  # pyright: ignore[reportArgumentType]
        for name in names
    }
    app = create_app(models, limits=limits, api_key=key)
    try:
        listener = listening_socket(host, port)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen at {host}:{port}: {error.strerror or error}"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    click.echo(f"{', '.join(model.name for model in models.values())} at {address}")
    if key is None and host not in _LOOPBACK:
        click.echo(
            "Warning: whoever reaches this address can use the service; set LESFF_API_KEY", err=True
        )
    serve(app, listener)
    click.echo("stopped")
