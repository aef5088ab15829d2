"""Training from a recipe."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch
import torch.distributed as dist

from lesff.train.recipe import read_recipe
from lesff.train.run import run_recipe


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", "folder", type=click.Path(path_type=Path), required=True, help="Data folder."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option(
    "--from", "start", type=click.Path(path_type=Path), help="Model folder to go on from."
)
@click.option("--threads", type=int, help="Threads per process.")
def train_command(
    recipe: Path, folder: Path, output: Path, start: Path | None, threads: int | None
) -> None:
    """Train the model of a recipe; run again to resume.

    Under ``torchrun --nproc-per-node N`` the processes share each step. The run folder holds the
    log, the learning curves, the resume point and, at the end, the model folder ``model``.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    try:
        run_recipe(read_recipe(recipe), folder, output, start=start)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
