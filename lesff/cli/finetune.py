"""The command that finetunes a model."""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from lesff.cli.options import accept_license_option
from lesff.errors import ConfigError


@click.command("finetune")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-m", "--model", "name", default="off-medium", show_default=True, help="Base model.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with options.")
@click.option("--validation", type=click.Path(path_type=Path), help="Frames to validate on.")
@click.option("--test", type=click.Path(path_type=Path), help="Frames to report on only.")
@click.option("--probe", type=click.Path(path_type=Path), help="Frames that must not be forgotten.")
@click.option("--strategy", help="full, last_layer, head or lora.")
@click.option("--minutes", type=float, help="Training time; the schedule runs on it.")
@click.option("--threads", type=int, help="Threads per process.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Any other option, such as --set optimizer.lr=0.002 or --set labels.forces=my_forces.",
)  # fmt: skip
@accept_license_option
def finetune_command(
    data: Path,
    name: str,
    output: Path,
    config: Path | None,
    validation: Path | None,
    test: Path | None,
    probe: Path | None,
    strategy: str | None,
    minutes: float | None,
    threads: int | None,
    settings: tuple[str, ...],
    *,
    accept_license: bool,
) -> None:
    """Train a model further on the labelled frames of DATA; run again to resume.

    Prints what labels were found and what became better or worse. The run folder holds the model
    folder ``model``, ``report.html`` and ``report.json``. Under ``torchrun --nproc-per-node N`` the
    processes share each step.
    """
    overrides = parse_settings(settings)
    if strategy is not None:
        overrides["strategy"] = strategy
    if minutes is not None:
        overrides.setdefault("optimizer", {}).update(
            time_limit_minutes=minutes, max_steps=10_000_000
        )
    # start-up: help needs nothing that computes
    import torch
    import torch.distributed as dist

    from lesff.finetune.options import read_options
    from lesff.model import load

    options = read_options(config, overrides)
    if threads is not None:
        torch.set_num_threads(threads)
    model = load(name, accept_license=accept_license)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    try:
        model.finetune(
            data, output, validation=validation, test=test, probe=probe,
            command=shlex.join(["lesff", *sys.argv[1:]]), say=click.echo, **options.changed(),
        )  # fmt: skip
        if not dist.is_initialized() or dist.get_rank() == 0:
            click.echo(
                f"report: {output / 'report.html'}; model: lesff.load({str(output / 'model')!r})"
            )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """``a.b=1`` as ``{"a": {"b": 1}}``; values are TOML, bare words are text.

    Raises:
        ConfigError: for a setting without ``=``.
    """
    result: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"`--set` must be KEY=VALUE, got {setting!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = key.split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value
    return result
