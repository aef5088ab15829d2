"""Options that several commands have."""

from __future__ import annotations

import click

accept_license_option = click.option(
    "--accept-license", is_flag=True, help="Accept the licence of the model; asked for once."
)
"""For every command that may load a model of others."""
