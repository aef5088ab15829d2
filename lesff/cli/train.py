"""Training from a recipe."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch
import torch.distributed as dist

from lesff.train.recipe import read_recipe
from lesff.train.run import dry_run, run_recipe


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", "folder", type=click.Path(path_type=Path), required=True, help="Data folder."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.")
@click.option(
    "--from", "start", type=click.Path(path_type=Path), help="Model folder to go on from."
)
@click.option("--threads", type=int, help="Threads per process.")
@click.option(
    "--dry-run", "is_dry", is_flag=True, help="Read data, make the model and one gradient, stop."
)
def train_command(
    recipe: Path,
    folder: Path,
    output: Path | None,
    start: Path | None,
    threads: int | None,
    *,
    is_dry: bool,
) -> None:
    """Train the model of a recipe; run again to resume.

    Under ``torchrun --nproc-per-node N`` the processes share each step. The run folder holds the
    log, the learning curves, the resume point and, at the end, the model folder ``model``.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if is_dry:
        for name, value in dry_run(read_recipe(recipe), folder, start=start).items():
            click.echo(f"{name}: {value}")
        return
    if output is None:
        raise click.UsageError("give a run folder with -o, or --dry-run")
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    try:
        run_recipe(read_recipe(recipe), folder, output, start=start)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
