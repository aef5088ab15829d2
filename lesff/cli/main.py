"""The ``lesff`` command."""

from __future__ import annotations

import warnings
from typing import Any

import click

import lesff
from lesff.cli.cache import cache_group
from lesff.cli.calibrate import calibrate_command
from lesff.cli.catalogue import cite_command, list_command, pull_command
from lesff.cli.convert import convert_command
from lesff.cli.distill import distill_command
from lesff.cli.doctor import doctor_command
from lesff.cli.evaluate import evaluate_command
from lesff.cli.finetune import finetune_command
from lesff.cli.hub import hub_group
from lesff.cli.info import info_command
from lesff.cli.predict import predict_command
from lesff.cli.publish import publish_command
from lesff.cli.select import select_command
from lesff.cli.sign import sign_command
from lesff.cli.spectra import spectrum_command, transport_command
from lesff.cli.split import split_command
from lesff.cli.train import train_command
from lesff.cli.verify import verify_command
from lesff.errors import ExtrapolationWarning, LesffError, UnverifiedWarning


class _Group(click.Group):
    """Prints errors of lesff as one line and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            with warnings.catch_warnings():
                for category in (ExtrapolationWarning, UnverifiedWarning):
                    warnings.simplefilter("always", category)
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except LesffError as error:
            raise click.ClickException(str(error)) from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(lesff.__version__, prog_name="lesff")
def main() -> None:
    """Foundation models for atoms with long-range electrostatics."""


_COMMANDS = (
    list_command,
    info_command,
    pull_command,
    cite_command,
    predict_command,
    evaluate_command,
    split_command,
    train_command,
    finetune_command,
    calibrate_command,
    select_command,
    distill_command,
    convert_command,
    verify_command,
    doctor_command,
    sign_command,
    publish_command,
    hub_group,
    cache_group,
    spectrum_command,
    transport_command,
)
for command in _COMMANDS:
    main.add_command(command)
