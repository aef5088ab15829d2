"""The command that distils a teacher into a student."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from lesff.cli.finetune import parse_settings
from lesff.cli.options import accept_license_option
from lesff.errors import ConfigError


@click.command("distill")
@click.option("--teacher", required=True, help="lesff model, or module:callable?key=value.")
@click.option(
    "--structures", required=True, type=click.Path(path_type=Path), help="Where sampling starts."
)
@click.option("--sample", type=click.Choice(["md", "rattle"]), default="md", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Student; a small one if left out.")
@click.option("--temperatures", help="K, such as 300,600; for md.")
@click.option("--frames", type=int, help="Frames per structure and temperature.")
@click.option("--minutes", type=float, help="Training time, instead of the recipe's.")
@click.option("--steps", type=int, help="Training steps, instead of the recipe's.")
@click.option("--threads", type=int, help="Threads.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Any other option of sampling, such as --set interval=40 --set driver=off-small.",
)  # fmt: skip
@click.option("--labels-only", is_flag=True, help="Sample and label into labels.npz; no student.")
@accept_license_option
def distill_command(
    teacher: str,
    structures: Path,
    sample: str,
    output: Path,
    recipe: Path | None,
    temperatures: str | None,
    frames: int | None,
    minutes: float | None,
    steps: int | None,
    threads: int | None,
    settings: tuple[str, ...],
    *,
    labels_only: bool,
    accept_license: bool,
) -> None:
    """Train a student on what a teacher says around STRUCTURES; run again to resume.

    A teacher is a lesff model or an ASE calculator such as ase.calculators.emt:EMT or
    "tblite.ase:TBLite?method=GFN2-xTB". The run folder holds the labelled shards, report.html,
    report.json and the model folder `model`.
    """
    options: dict[str, Any] = {"sample": sample, **parse_settings(settings)}
    if frames is not None:
        options["frames"] = frames
    if temperatures is not None:
        try:
            options["temperatures"] = [float(t) for t in temperatures.split(",")]
        except ValueError as error:
            raise ConfigError(
                f"`--temperatures` must be numbers between commas, got {temperatures!r}"
            ) from error
    # start-up: help needs nothing that computes
    import torch

    from lesff.distill.run import distill, label
    from lesff.train.recipe import read_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    if labels_only:
        _refuse_training(recipe=recipe, minutes=minutes, steps=steps)
        path = label(
            teacher, structures, output, accept_license=accept_license, options=options,
            say=click.echo,
        )  # fmt: skip
        click.echo(f"labels: {path}")
        return
    distill(
        teacher, structures, output, recipe=None if recipe is None else read_recipe(recipe),
        minutes=minutes, steps=steps, accept_license=accept_license, options=options,
        command=shlex.join(["lesff", *sys.argv[1:]]), say=click.echo,
    )  # fmt: skip
    click.echo(f"report: {output / 'report.html'}; model: lesff.load({str(output / 'model')!r})")


def _refuse_training(**given: Any) -> None:
    """Options of the training that would be ignored."""
    unused = [f"`--{name}`" for name, value in given.items() if value is not None]
    if unused:
        raise ConfigError(f"`--labels-only` trains nothing: leave out {', '.join(unused)}")
