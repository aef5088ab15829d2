"""Training from a recipe."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lesff.hub.resolve import resolve

if TYPE_CHECKING:
    from lesff.train.chain import ChainRun
    from lesff.train.data import Frame
    from lesff.train.frame_stream import FrameStream
    from lesff.train.stages import CalibrationConfig, Stage


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", "folder", type=click.Path(path_type=Path), required=True, help="Data folder."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.")
@click.option(
    "--from", "start", type=click.Path(path_type=Path), help="Model folder to go on from."
)
@click.option("--until", metavar="STAGE", help="Last stage of a recipe folder to train.")
@click.option("--only", metavar="STAGE", help="The one stage of a recipe folder to train.")
@click.option(
    "--unlocked", is_flag=True, help="Train on other data than data.lock.toml says; recorded."
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
    until: str | None,
    only: str | None,
    threads: int | None,
    *,
    unlocked: bool,
    is_dry: bool,
) -> None:
    """Train the model of a recipe; run again to resume.

    RECIPE is a TOML file, or a folder with stages, each of which goes on from another and is
    written into the run folder under its name; stages that are done are skipped. The result is
    calibrated where the recipe has a section ``calibration``. The folder of a run holds the log,
    the learning curves, the resume point and, at the end, the model folder ``model``.

    Under ``torchrun --nproc-per-node N`` N processes share each step: on N idle cores, with
    --threads 1 each, faster than one process with N threads (2,820 and 2,055 atoms a second on two
    cores). Processes that share a core are slower than one alone (1,557 and 1,710):
    docs/performance.md.
    """
    is_chain = recipe.is_dir()
    if is_chain and start is not None:
        raise click.UsageError("`--from` is for a recipe file; stages say what they go on from")
    if not is_chain and (until is not None or only is not None or unlocked):
        raise click.UsageError(
            "`--until`, `--only` and `--unlocked` are for a recipe folder with stages"
        )
    if output is None and not is_dry:
        raise click.UsageError("give a run folder with -o, or --dry-run")
    # start-up: help needs nothing that computes
    import torch
    import torch.distributed as dist

    from lesff.train.chain import ChainRun
    from lesff.train.stages import read_stages, select_stages

    if threads is not None:
        torch.set_num_threads(threads)
    if "RANK" in os.environ and not is_dry:
        dist.init_process_group("gloo")
    try:
        if is_chain:
            stages = select_stages(read_stages(recipe), until=until, only=only)
            run = ChainRun(
                recipe=recipe,
                data=folder,
                output=Path() if output is None else output,
                find_model=lambda name: resolve(name).folder,
                calibrate=_calibrate,
                report=_say,
                unlocked=unlocked,
            )
            _train_stages(stages, run, is_dry=is_dry)
        else:
            _train_file(recipe, folder, output, start, is_dry=is_dry)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _train_stages(stages: list[Stage], run: ChainRun, *, is_dry: bool) -> None:
    # start-up: help needs nothing that computes
    from lesff.train.chain import dry_run_stages, run_stages

    if is_dry:
        dry_run_stages(stages, run)
    else:
        run_stages(stages, run)


def _train_file(
    recipe: Path, folder: Path, output: Path | None, start: Path | None, *, is_dry: bool
) -> None:
    # start-up: help needs nothing that computes
    from lesff.train.recipe import read_recipe
    from lesff.train.run import dry_run, run_recipe

    if output is None or is_dry:
        for name, value in dry_run(read_recipe(recipe), folder, start=start).items():
            click.echo(f"{name}: {value}")
    else:
        run_recipe(read_recipe(recipe), folder, output, start=start)


def _calibrate(
    folder: Path, train: FrameStream, validation: list[Frame], config: CalibrationConfig
) -> dict[str, Any]:
    """Calibrate a model folder in place, print what was found and give it."""
    # start-up: help needs nothing that computes
    from lesff.uncertainty.calibration import calibrate_folder

    result = calibrate_folder(
        folder, train, validation, directions=config.directions, progress=True
    )
    _say(f"  {len(train)} training, {len(validation)} validation frames")
    for line in result.lines():
        _say(f"  {line}")
    return asdict(result)


def _say(line: str) -> None:
    """Print a line, in one process only."""
    # start-up: help needs nothing that computes
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_rank() == 0:
        click.echo(line)
