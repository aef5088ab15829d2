"""The ``lesff`` command: a table of commands, each imported when it is called.

``lesff --help`` and completion read the table only: they import neither torch nor a command. The
modules of commands import what computes inside functions: ``lesff predict --help`` is as quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from lesff.cli.terminal import errors_in_one_line, escaped_streams, one_line
from lesff.errors import ExtrapolationWarning, UnverifiedWarning


class Entry(NamedTuple):
    """A command that is not imported yet.

    Attributes:
        module: Module of :mod:`lesff.cli`.
        attribute: The command's name there.
        help: What the list of commands says.
    """

    module: str
    attribute: str
    help: str


COMMANDS: dict[str, Mapping[str, Entry]] = {
    "Models": {
        "list": Entry("catalogue", "list_command", "List the models that can be loaded by name."),
        "info": Entry("info", "info_command", "Show what a model covers, and its card."),
        "cite": Entry("catalogue", "cite_command", "Print the BibTeX of what to cite for a model."),
        "pull": Entry(
            "catalogue", "pull_command", "Fetch a model into the cache, so that it loads offline."
        ),
    },
    "Predictions": {
        "predict": Entry(
            "predict", "predict_command", "Predict properties of every structure in a file."
        ),
        "serve": Entry(
            "serve", "serve_command", "Serve models over HTTP, with a page for a browser."
        ),
        "ipi": Entry("ipi", "ipi_command", "Give forces of a model to i-PI through a socket."),
        "lammps": Entry("lammps", "lammps_command", "Run an input script of LAMMPS with a model."),
        "spectrum": Entry(
            "spectra",
            "spectrum_command",
            "Spectrum of a trajectory, or of a structure: CSV, JSON and PNG with error bars.",
        ),
        "transport": Entry(
            "spectra",
            "transport_command",
            "Ionic conductivity and static dielectric constant of a trajectory.",
        ),
        "diffusion": Entry(
            "diffusion",
            "diffusion_command",
            "Diffusion of species, Haven ratio, Arrhenius fit of trajectories.",
        ),
    },
    "Workflows": {
        "relax": Entry("relax", "relax_command", "Relax structures, many at a time."),
        "md": Entry("md", "md_command", "Molecular dynamics with checkpoints and a report."),
        "vibrations": Entry(
            "vibrations", "vibrations_command", "Frequencies, intensities and thermochemistry."
        ),
        "phonons": Entry("phonons", "phonons_command", "Phonons of a crystal by phonopy."),
        "eos": Entry("eos", "eos_command", "Equation of state of a crystal."),
        "elastic": Entry("elastic", "elastic_command", "Elastic constants of a crystal."),
        "neb": Entry("neb", "neb_command", "Minimum energy path between two structures."),
        "interface": Entry(
            "interface", "interface_group", "Build interfaces of crystals, run and analyse them."
        ),
        "screen": Entry("screen", "screen_group", "Rank crystals as conductors of an ion."),
    },
    "Training": {
        "split": Entry("split", "split_command", "Divide labelled frames by molecule."),
        "train": Entry(
            "train", "train_command", "Train the model of a recipe; run again to resume."
        ),
        "finetune": Entry(
            "finetune", "finetune_command", "Train a model further on labelled frames."
        ),
        "distill": Entry("distill", "distill_command", "Train a student on what a teacher says."),
        "calibrate": Entry("calibrate", "calibrate_command", "Give a model uncertainties."),
        "select": Entry(
            "select", "select_command", "Choose the most informative frames of a file."
        ),
    },
    "Trust": {
        "evaluate": Entry(
            "evaluate",
            "evaluate_command",
            "Errors on labelled frames, or the suite of physical and chemical checks.",
        ),
        "verify": Entry(
            "verify", "verify_command", "Replay golden values; check physics and robustness."
        ),
        "sign": Entry("sign", "sign_command", "Sign a model folder."),
    },
    "Distribution": {
        "convert": Entry(
            "convert",
            "convert_command",
            "Convert a published model (MACE, Nequix) to a model folder.",
        ),
        "publish": Entry("publish", "publish_command", "Check a model folder and upload it."),
        "hub": Entry("hub", "hub_group", "Lock, mirror and serve models; update the manifest."),
        "cache": Entry("cache", "cache_group", "List, verify and clean the cache."),
    },
    "Installation": {
        "doctor": Entry(
            "doctor", "doctor_command", "Show versions, compiled kernels, threads and the cache."
        ),
    },
}
"""Commands by section, in the order of the help text."""

_ALL = {name: entry for section in COMMANDS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """Imports a command when it is called; prints every error as one line and exits with 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(_ALL)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, imported now; None if there is none of this name."""
        entry = _ALL.get(cmd_name)
        if entry is None:
            return None
        return getattr(import_module(f"lesff.cli.{entry.module}"), entry.attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, section by section."""
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands that begin with what is typed, with their help, none of them imported."""
        items = [
            CompletionItem(name, help=entry.help)
            for name, entry in _ALL.items()
            if name.startswith(incomplete)
        ]
        # click's own completion of a group's options, without that of its commands
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run with streams that escape control characters."""
        with escaped_streams():
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options before the command; help is printed here."""
        with errors_in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with errors_in_one_line(), warnings.catch_warnings():
            for category in (ExtrapolationWarning, UnverifiedWarning):
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            return super().invoke(ctx)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {one_line(str(message))}", err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("lesff"), prog_name="lesff")
def main() -> None:
    """Foundation models for atoms with long-range electrostatics."""
