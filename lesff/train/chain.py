"""Running the stages of a recipe folder, each into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lesff.errors import ConfigError, IntegrityError
from lesff.files import sha256_of
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import UNCERTAINTY_FILE, WEIGHTS_FILE
from lesff.plain_data import read_json, write_json
from lesff.train.average import average_weights
from lesff.train.calibration_data import calibration_frames
from lesff.train.data import Frame
from lesff.train.data_lock import LOCK_FILE, CheckedData, check_data, read_data_lock, require_locked
from lesff.train.frame_stream import FrameStream
from lesff.train.recipe import identity
from lesff.train.run import dry_run, run_recipe, unreleased_card
from lesff.train.stages import CalibrationConfig, Stage

RECORD_FILE = "stage.json"
"""What a stage was trained on, in its folder."""

_IDENTITY = ("recipe", "data", "start")
"""Keys of the record that must not change between the start of a stage and its end."""


Calibrate = Callable[[Path, FrameStream, list[Frame], CalibrationConfig], dict[str, Any]]
"""Calibrates a model folder in place on training and held-out frames; gives what it found."""


@dataclass(frozen=True, kw_only=True)
class ChainRun:
    """Where the stages of a recipe run.

    Attributes:
        recipe: Recipe folder, which holds the lock of the data.
        data: Data folder.
        output: Run folder; a stage is in the subfolder of its name. A dry run only reads there.
        find_model: Folder of a model ``name@version`` that a stage goes on from.
        calibrate: Calibrates a model folder, :func:`lesff.uncertainty.folder.calibrate_folder`;
            None leaves models as they are.
        report: Takes lines that say what happens.
        unlocked: Train on data that differ from the lock, and record which.
        progress: Whether to show a progress bar.
    """

    recipe: Path
    data: Path
    output: Path
    find_model: Callable[[str], Path]
    calibrate: Calibrate | None = None
    report: Callable[[str], None] = lambda line: None
    unlocked: bool = False
    progress: bool = True


def run_stages(stages: Sequence[Stage], run: ChainRun) -> Path:
    """Train stages one after the other; returns the model folder of the last.

    A stage that is done is skipped, one that was interrupted is resumed. At the end the results
    that are for use are calibrated as the recipe says; weights do not change. The folder of a stage
    holds what :func:`lesff.train.run.run_recipe` writes, and ``stage.json`` with the hashes of its
    data and of the model that it went on from.

    Args:
        stages: Stages of the recipe, or the part of them that is to be trained.
        run: Data, run folder and what else is needed.

    Raises:
        ConfigError: if a stage goes on from one that is not there.
        DataError: if a file is not there or cannot be used.
        IntegrityError: if data differ from the lock, or a stage in the run folder was made from
            other data, another recipe or another model.
    """
    checked = _check(stages, run)
    model = run.output / stages[-1].name / "model"
    for number, stage in enumerate(stages, start=1):
        run.report(f"[{number}/{len(stages)}] {stage.name}: {stage.notes.why}")
        _run_stage(stage, checked, run)
    for stage in stages:
        _calibrate(stage, checked, run)
    return model


def dry_run_stages(stages: Sequence[Stage], run: ChainRun) -> None:
    """Check the data of stages and report :func:`lesff.train.run.dry_run` of those that can start.

    Raises:
        LesffError: as :func:`run_stages` does.
    """
    _check(stages, run)
    for stage in stages:
        run.report(f"{stage.name}: {stage.notes.why}")
        if stage.recipe is None:
            continue
        if not _can_start(stage, run):
            run.report(f"  not tried: {stage.start}, which it goes on from, is not trained yet")
            continue
        folder = run.data / stage.notes.folder
        for name, value in dry_run(stage.recipe, folder, start=_start_of(stage, run)).items():
            run.report(f"  {name}: {value}")


def _check(stages: Sequence[Stage], run: ChainRun) -> CheckedData:
    """Compare the data of stages with the lock; refuse stages that tools make."""
    for stage in stages:
        if stage.notes.made_by:
            raise ConfigError(
                f"stage {stage.name} must be made by its tools, `lesff train` cannot: run\n  "
                + "\n  ".join(stage.notes.made_by)
            )
    names = [n for stage in stages for n in (*stage.data_files(), *stage.calibration_files())]
    path = run.recipe / LOCK_FILE
    lock = {} if run.unlocked and not path.is_file() else read_data_lock(path)
    checked = check_data(names, run.data, lock)
    if not run.unlocked:
        require_locked(checked, path)
    for line in checked.differing.values():
        run.report(f"not as locked: {line}")
    for name in checked.unverifiable:
        run.report(f"{name}: the lock has no sha256; that of this file is recorded")
    return checked


def _run_stage(stage: Stage, checked: CheckedData, run: ChainRun) -> None:
    """Train, resume or skip a stage."""
    folder = run.output / stage.name
    start = _start_of(stage, run)
    record = _record(stage, start, checked, run)
    before = read_json(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else None
    if before is not None:
        _require_same(before, record, folder)
        if _is_finished(folder):
            run.report(f"  done before: {folder / 'model'}")
            return
    _barrier()  # no process writes before all have read
    if _is_first():
        write_json(folder / RECORD_FILE, record)
    if stage.recipe is None:
        _average(stage, run)
    else:
        _note_processes(stage, run)
        data = run.data / stage.notes.folder
        run_recipe(stage.recipe, data, folder, start=start, progress=run.progress)
    if _is_first():
        model = sha256_of(folder / "model" / WEIGHTS_FILE)
        write_json(folder / RECORD_FILE, {**record, "model": model})
    _barrier()


def _calibrate(stage: Stage, checked: CheckedData, run: ChainRun) -> None:
    """Calibrate the result of a stage in the first process, unless that is done."""
    config = stage.calibration
    if config is None or run.calibrate is None or not _is_first():
        return
    folder = run.output / stage.name
    record, model = read_json(folder / RECORD_FILE), folder / "model"
    files = {name: checked.sha256[name] for name in stage.calibration_files()}
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    wanted = {"options": options, "data": files, "model": record["model"]}
    before = record.get("calibration") or {}
    is_there = (model / UNCERTAINTY_FILE).is_file()
    if is_there and {key: before.get(key) for key in wanted} == wanted:
        run.report(f"{stage.name}: calibrated before")
        return
    run.report(f"{stage.name}: calibration")
    elements = load_model(model).config.elements
    train, validation = calibration_frames(stage, config, run.data, elements)
    result = run.calibrate(model, train, validation, config)
    write_json(folder / RECORD_FILE, {**record, "calibration": {**wanted, "result": result}})


def _start_of(stage: Stage, run: ChainRun) -> Path | None:
    """Model folder that a stage goes on from.

    Raises:
        ConfigError: if it is a stage that the run folder does not hold.
    """
    if stage.start is None:
        return None
    if stage.starts_from_model:
        return run.find_model(stage.start)
    return _model_of(stage.start, stage, run)


def _model_of(name: str, stage: Stage, run: ChainRun) -> Path:
    folder = run.output / name
    if not _is_finished(folder):
        raise ConfigError(
            f"stage {stage.name} needs {name}, which {folder} does not hold finished: train it "
            "first, or leave out `--only`"
        )
    return folder / "model"


def _is_finished(folder: Path) -> bool:
    """Whether the folder of a stage holds the model that its record names."""
    path, weights = folder / RECORD_FILE, folder / "model" / WEIGHTS_FILE
    if not (path.is_file() and weights.is_file()):
        return False
    return read_json(path).get("model") == sha256_of(weights)


def _can_start(stage: Stage, run: ChainRun) -> bool:
    """Whether there is what a stage goes on from."""
    if stage.start is None or stage.starts_from_model:
        return True
    return _is_finished(run.output / stage.start)


def _record(
    stage: Stage, start: Path | None, checked: CheckedData, run: ChainRun
) -> dict[str, Any]:
    """What a stage is made from; ``model`` is None until it is done."""
    names = stage.data_files()
    models = [] if start is None else [start]
    if stage.notes.average is not None:
        models.append(_model_of(stage.notes.average.earlier, stage, run))
    return {
        "stage": stage.name,
        "from": stage.start,
        "why": stage.notes.why,
        "recipe": identity(stage.recipe or stage.notes.average),
        "data": {name: checked.sha256[name] for name in names},
        "unlocked": [n for n in names if n in checked.differing],
        "start": [sha256_of(model / WEIGHTS_FILE) for model in models],
        "processes": _n_processes(),
        "model": None,
    }


def _require_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a stage that was made from something else."""
    changed = [key for key in _IDENTITY if before.get(key) != now[key]]
    if not changed:
        return
    text = ", ".join(changed)
    if "data" in changed:
        old, new = before.get("data", {}), now["data"]
        files = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        text += f" ({', '.join(files)})"
    raise IntegrityError(
        f"{folder} was made with another {text}; use the same to go on, or another run folder"
    )


def _average(stage: Stage, run: ChainRun) -> None:
    average = stage.notes.average
    start = _start_of(stage, run)
    if average is None or start is None:
        raise ConfigError(f"stage {stage.name} must have a recipe or `average`")
    earlier = load_model(_model_of(average.earlier, stage, run))
    model = average_weights(earlier, load_model(start), average.share)
    if _is_first():
        card = unreleased_card(stage.name, f"Average of {average.earlier} and {stage.start}", model)
        folder = run.output / stage.name / "model"
        save_model(model, folder, card=card, license_text="Not licensed.\n", overwrite=True)


def _note_processes(stage: Stage, run: ChainRun) -> None:
    if _n_processes() != stage.notes.processes:
        run.report(
            f"  note: the stage is for {stage.notes.processes} process(es), {_n_processes()} share "
            "a step here: atoms per step differ by that"
        )


def _n_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
