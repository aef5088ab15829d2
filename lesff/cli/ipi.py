"""The command that serves a model to an i-PI at a socket."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.errors import ConfigError


@click.command("ipi")
@click.argument("template", type=click.Path(path_type=Path), required=False)
@click.option("-m", "--model", "name", default="off-medium", show_default=True, help="Model name.")
@click.option("-a", "--address", default="lesff", show_default=True, help="Unix socket or host.")
@click.option("-p", "--port", type=int, help="Port: an internet socket instead of a Unix one.")
@click.option("--extras", metavar="NAMES", help="Quantities with +, as dipole+charges, as JSON.")
@click.option("--charge", type=int, help="Total charge, e; else that of the template.")
@click.option("--spin", type=int, help="Spin multiplicity 2S+1; else that of the template.")
@click.option(
    "--out-of-domain",
    type=click.Choice(["warn", "stop", "ignore"]),
    default="warn",
    show_default=True,
    help="What is done where atoms are unlike what the model was calibrated on.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision.")
@click.option("--path", is_flag=True, help="Print the driver's file, for <pes_path>, and end.")
def ipi_command(
    template: Path | None,
    name: str,
    address: str,
    port: int | None,
    extras: str | None,
    charge: int | None,
    spin: int | None,
    out_of_domain: str,
    device: str,
    dtype: str | None,
    *,
    path: bool,
) -> None:
    """Give forces to an i-PI that waits at a socket (<ffsocket>), until it ends.

    TEMPLATE is a file with the atoms in i-PI's order.
    """
    # start-up: it imports torch, which help does not need
    from lesff.engines.ipi import driver_path, run_socket_driver

    if path:
        click.echo(driver_path())
        return
    if template is None or not template.is_file():
        raise ConfigError(f"TEMPLATE must be a file with the atoms, got {template}")
    run_socket_driver(
        template,
        name,
        address=address,
        port=port,
        extras=extras,
        total_charge=charge,
        spin_multiplicity=spin,
        on_out_of_domain=out_of_domain,
        device=device,
        dtype=dtype,
    )
