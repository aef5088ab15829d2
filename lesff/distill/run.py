"""From a teacher and some structures to a student, and a report of it against the teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lesff.atoms.structure import Structure, to_structures
from lesff.distill.labelling import (
    LABELS_FILE,
    SHARDS,
    check_parts,
    dropped_frames,
    label_structures,
    pack_shards,
)
from lesff.distill.options import DistillOptions, small_student, with_schedule
from lesff.distill.report import Result, student_card, write_student_report
from lesff.electrostatics.sums.pair_sum import check_boundaries
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.hub.resolve import ResolvedModel
from lesff.methods import Method, open_method
from lesff.model import Model
from lesff.model_folder.folder import load_model, save_model
from lesff.plain_data import from_dict
from lesff.potential.config import DTYPES
from lesff.potential.potential import Potential
from lesff.train.metrics import predict_frames
from lesff.train.recipe import Recipe, SourceConfig
from lesff.train.trainer import Trainer
from lesff.train.training_data import model_config, read_training_data

MODEL_FOLDER = "model"


def distill(
    teacher: str,
    structures: Any,
    output: Path | str,
    *,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    accept_license: bool = False,
    command: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Train a student on what a teacher says around given structures.

    The output folder holds the labelled shards, the model folder ``model``, ``report.html`` and
    ``report.json``. Run again with the same arguments to resume, whether labelling or training was
    cut short. Frames of held-out structures are only reported on: they choose nothing.

    Args:
        teacher: lesff model or calculator, see :func:`lesff.methods.open_method`.
        structures: Atoms, a list of them, or the path of a structure file; at least two different.
        output: Folder of the run.
        recipe: The student, its loss and optimiser; a small one if not given.
        minutes: Training time, instead of the recipe's.
        steps: Training steps, instead of the recipe's.
        accept_license: Accept the licence of a lesff teacher.
        command: Command line for report and card.
        progress: Whether to show progress bars.
        say: Called with every line of the summary.
        options: Fields of :class:`lesff.distill.options.DistillOptions`.

    Raises:
        ConfigError: for a teacher that cannot be made or a bad option.
        DataError: for structures or labels that cannot be used.
        UnsupportedInputError: for structures that teacher or student cannot hold.
        IntegrityError: if the folder belongs to another run.
    """
    tell = say or (lambda line: None)
    folder = Path(output)
    sources = to_structures(structures)[0]
    states = {(s.total_charge, s.spin_multiplicity) for s in sources}
    has_states = states != {(0, 1)}
    student = with_schedule(recipe or small_student(has_states=has_states), minutes, steps)
    check_student(student, sources)
    source, settings, shards = _labelled(
        teacher, sources, folder, options, tell, accept_license=accept_license, progress=progress
    )
    check_parts(shards)
    student = replace(
        student,
        data=replace(
            student.data, sources=tuple(SourceConfig(path=f"{SHARDS}/{p.name}") for p in shards)
        ),
    )
    return _train(student, source, settings, folder, command, tell, progress=progress)


def label(
    teacher: str,
    structures: Any,
    output: Path | str,
    *,
    accept_license: bool = False,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """The first half of :func:`distill`: sampled and labelled frames, and no student.

    Run again with the same arguments to resume, or :func:`distill` in the same folder to train.

    Args:
        teacher: As for :func:`distill`.
        structures: As for :func:`distill`.
        output: Folder of the run.
        accept_license: Accept the licence of a lesff teacher.
        progress: Whether to show a progress bar.
        say: Called with every line of the summary.
        options: Fields of :class:`lesff.distill.options.DistillOptions`.

    Returns:
        ``labels.npz`` in the output folder, a source for ``lesff train`` and ``lesff finetune``.

    Raises:
        ConfigError: for a teacher that cannot be made or a bad option.
        DataError: for structures or labels that cannot be used.
        UnsupportedInputError: for structures that the teacher cannot hold.
        IntegrityError: if the folder belongs to another run.
    """
    tell = say or (lambda line: None)
    folder = Path(output)
    sources = to_structures(structures)[0]
    *_, shards = _labelled(
        teacher, sources, folder, options, tell, accept_license=accept_license, progress=progress
    )
    return pack_shards(shards, folder / LABELS_FILE)


def _labelled(
    teacher: str,
    sources: list[Structure],
    folder: Path,
    options: Mapping[str, Any] | None,
    tell: Callable[[str], None],
    *,
    accept_license: bool,
    progress: bool,
) -> tuple[Method, DistillOptions, list[Path]]:
    """Method, options and labelled shards."""
    settings = from_dict(DistillOptions, dict(options or {}), "distill")
    source = open_method(teacher, accept_license=accept_license)
    driver = None
    if settings.driver is not None:
        driver = open_method(settings.driver, accept_license=accept_license)
    shards = label_structures(source, sources, settings, folder, driver=driver, progress=progress)
    dropped = dropped_frames(folder / SHARDS)
    tell(f"{len(shards)} shards in {folder / SHARDS}; {dropped} frames dropped for their forces")
    return source, settings, shards


def check_student(recipe: Recipe, structures: list[Structure]) -> None:
    """Refuse structures that the student cannot hold, before anything is labelled.

    Raises:
        ConfigError: for a recipe without a model.
        UnsupportedInputError: for wires and long-range electrostatics, or for several charge or
            spin states of a student that does not see them.
    """
    if recipe.model is None:
        raise ConfigError(f"recipe {recipe.name} must have a `model` section: a student is new")
    if recipe.model.long_range is not None or recipe.dispersion is not None:
        check_boundaries(torch.from_numpy(np.stack([s.pbc for s in structures])))
    states = sorted({(s.total_charge, s.spin_multiplicity) for s in structures})
    has_radical = any(spin > 2 for _, spin in states)
    sees_states = recipe.model.state_embedding or recipe.model.local_state
    if not sees_states and (len({q for q, _ in states}) > 1 or has_radical):
        raise UnsupportedInputError(
            f"structures have the states (total charge, 2S+1) {states}, which a student with "
            "`model.state_embedding = false` cannot tell apart"
        )


def _train(
    recipe: Recipe,
    teacher: Method,
    options: DistillOptions,
    folder: Path,
    command: str | None,
    tell: Callable[[str], None],
    *,
    progress: bool,
) -> Model:
    data = read_training_data(recipe, folder)
    if not any(frame.dipole is not None for frame in data.train):
        recipe = replace(recipe, loss=replace(recipe.loss, dipole=0.0))
    tell(f"{len(data.train)} frames to train on, {len(data.validation)} held out")
    model = recipe.model
    if model is None:
        raise ConfigError(f"recipe {recipe.name} must have a `model` section")
    model = replace(
        model,
        level_of_theory=f"distilled from {teacher.level_of_theory}",
        energy_reference=f"that of {teacher.name}",
        training_data=f"labels of {teacher.name}",
    )
    software = {name: version(name) for name in ("lesff", "torch", "numpy", "ase")}
    torch.manual_seed(recipe.seed)
    potential = Potential(model_config(model, data, software, recipe.dispersion))
    potential.cast_parameters(DTYPES[potential.config.dtype])
    trainer = Trainer(recipe, data, potential, folder, progress=progress)
    trainer.train()
    potential.requires_grad_(requires_grad=False).eval()
    began = time.monotonic()
    parts = {
        name: predict_frames(potential, frames, progress=progress)
        for name, frames in (("held out", data.validation), ("train", data.train))
    }
    result = Result(
        teacher=teacher.name,
        license=teacher.license,
        options=asdict(options),
        recipe=asdict(recipe) | {"data": {"max_atoms": recipe.data.max_atoms}},
        parts=parts,
        dropped=dropped_frames(folder / SHARDS),
        steps=trainer.progress.step,
        training_seconds=trainer.progress.seconds,
        evaluation_seconds=time.monotonic() - began,
        n_parameters=sum(p.numel() for p in potential.parameters()),
        command=command or f"lesff.distill.distill({teacher.name!r}, ...)",
    )
    report = write_student_report(result, folder)
    save_model(
        potential, folder / MODEL_FOLDER, card=student_card(result, report, potential.config),
        license_text=teacher.license_text or _NO_LICENSE, overwrite=True,
    )  # fmt: skip
    for line in report["verdict"]:
        tell(line)
    target = folder / MODEL_FOLDER
    resolved = ResolvedModel(folder=target, name=folder.name, version=None, origin="folder")
    return Model(load_model(target), resolved)


_NO_LICENSE = """Not licensed.

The terms of the teacher that labelled the training data apply; they are not known to lesff.
"""
