"""From a recipe to a model folder."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase.data import chemical_symbols

from lesff.atoms.elements import elements_of, symbols
from lesff.errors import ConfigError, DataError
from lesff.files import sha256_of
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import WEIGHTS_FILE
from lesff.plain_data import write_json
from lesff.potential.config import DTYPES, ModelConfig
from lesff.potential.edit import with_dispersion, with_head, with_reference_energies
from lesff.potential.potential import Potential
from lesff.train.batches import make_batch
from lesff.train.data import Frame
from lesff.train.gradients import accumulate_gradients
from lesff.train.loss import check_labels
from lesff.train.metrics import predict_frames
from lesff.train.recipe import Recipe
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.train.trainer import Trainer
from lesff.train.training_data import (
    TrainingData,
    model_config,
    read_training_data,
    trained_range,
)

REFIT_FRAMES = 4000
"""Frames that `energies = "refit"` compares, about."""
REFIT_ROUNDS = 3

_CARD = """# {name}

{origin}.
Not released: no licence, no evaluation, no promise.

Level of theory: {level}. Energy zero: {reference}.
"""


def run_recipe(
    recipe: Recipe,
    data_folder: Path,
    output: Path,
    *,
    start: Path | None = None,
    progress: bool = True,
) -> Path:
    """Train, or resume, and write the model folder ``output / "model"``.

    Args:
        recipe: The recipe.
        data_folder: Folder that the recipe's paths are relative to.
        output: Run folder.
        start: Model folder to go on from, for a recipe without a model of its own.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: if there is no model to train, or two.
        DataError: if the data cannot be used, or hold elements that the model to go on from lacks.
        IntegrityError: if the run folder belongs to another recipe.
    """
    data = _read_data(recipe, data_folder)
    torch.manual_seed(recipe.seed)
    potential = _first_potential(recipe, data, start)
    _check_elements(potential, data)
    trainer = Trainer(recipe, data, potential, output, progress=progress)
    trainer.train()
    folder = output / "model"
    if trainer.rank == 0:
        plot_log(output)
        origin = {
            "recipe": asdict(recipe),
            "data": data.sources,
            "start": None if start is None else sha256_of(start / WEIGHTS_FILE),
            "software": _software(),
        }
        write_json(output / "origin.json", origin)
        trained = (
            f"Trained by the recipe `{recipe.name}` on {len(data.train)} frames; "
            f"{len(data.validation)} frames were held out"
        )
        card = unreleased_card(recipe.name, trained, potential)
        save_model(potential, folder, card=card, license_text="Not licensed.\n", overwrite=True)
    if dist.is_initialized():
        dist.barrier()
    return folder


def unreleased_card(name: str, origin: str, potential: Potential) -> str:
    """Card of a model folder that a run writes.

    Args:
        name: Name of the run.
        origin: How the model was made, a sentence without its full stop.
        potential: The model.
    """
    return _CARD.format(
        name=name,
        origin=origin,
        level=potential.config.level_of_theory,
        reference=potential.config.energy_reference,
    )


def dry_run(recipe: Recipe, data_folder: Path, *, start: Path | None = None) -> dict[str, Any]:
    """Read the data, make the model and one gradient of the first batch; nothing is written.

    Arguments and errors as :func:`run_recipe`.

    Returns:
        Frames and atoms to train on, frames held out, batches of an epoch, parameters, elements,
        the loss and seconds of one batch, and the norm of the gradient of each term of the loss
        (``gradient_energy``, ...): terms a hundred times as large as others drown these.
    """
    data = _read_data(recipe, data_folder)
    torch.manual_seed(recipe.seed)
    potential = _first_potential(recipe, data, start)
    _check_elements(potential, data)
    batches = data.batches(0, recipe.seed, recipe.data.max_atoms)
    batch = make_batch(data.frames_of(batches[0]), potential.architecture.cutoff, potential.dtype)
    begin = time.perf_counter()
    loss = accumulate_gradients(potential, batch, recipe.loss, recipe.optimizer.gradients)
    seconds = time.perf_counter() - begin
    gradients = {}
    for name, part in recipe.loss.parts().items():
        potential.zero_grad()
        accumulate_gradients(potential, batch, part, recipe.optimizer.gradients)
        norms = [p.grad.norm() for p in potential.parameters() if p.grad is not None]
        gradients[f"gradient_{name}"] = float(f"{float(torch.stack(norms).norm()):.3g}")
    return {
        "frames": len(data.train),
        "atoms": int(data.sizes.sum()),
        "held_out": len(data.validation),
        "batches_per_epoch": len(batches),
        "parameters": sum(p.numel() for p in potential.parameters()),
        "elements": symbols(potential.config.elements),
        "loss_of_a_batch": round(loss, 4),
        "seconds_of_a_batch": round(seconds, 3),
        **gradients,
    }


def _read_data(recipe: Recipe, folder: Path) -> TrainingData:
    """Frames of the recipe's files, with labels for all of its loss."""
    data = read_training_data(recipe, folder)
    check_labels(recipe.loss, data.train)
    return data


def _check_elements(potential: Potential, data: TrainingData) -> None:
    known = set(potential.config.elements)
    found = elements_of(*(frame.structure for frame in data.train))
    if found - known:
        raise DataError(
            "the data hold the elements "
            f"{', '.join(chemical_symbols[z] for z in sorted(found - known))}, which the model to "
            "go on from lacks; leave such frames out with `elements` of their source"
        )


def _software() -> dict[str, str]:
    return {name: version(name) for name in ("lesff", "torch", "numpy")}


def _first_potential(recipe: Recipe, data: TrainingData, start: Path | None) -> Potential:
    """The model of the recipe with random weights, or the one to go on from."""
    if (recipe.model is None) == (start is None):
        raise ConfigError(
            f"recipe {recipe.name} must have a `model` section or be given a model to start from, "
            "and not both"
        )
    chosen = recipe.dispersion
    if start is not None:
        potential = load_model(start).requires_grad_(requires_grad=True).train()
        potential.uncertainty = None  # it belongs to the weights at the start
        potential.config = replace(potential.config, **recipe.described())
        if recipe.energies == "refit":
            potential = _with_energies_of(data.train, potential)
        if recipe.redesign is not None:
            potential = recipe.redesign.of(potential)
        if recipe.head is not None:
            potential = with_head(potential, recipe.head)
        potential.config = _widened(potential.config, data)
        return potential if chosen is None else with_dispersion(potential, chosen)
    potential = Potential(model_config(recipe.model, data, _software(), chosen))  # pyright: ignore[reportArgumentType]
    potential.cast_parameters(DTYPES[potential.config.dtype])
    return potential


def _with_energies_of(frames: list[Frame], potential: Potential) -> Potential:
    """The same model with the energy zero of the frames."""
    known = [frame for frame in frames if math.isfinite(frame.energy)]
    elements = potential.config.elements
    missing = set(elements) - elements_of(*(frame.structure for frame in known))
    if missing:
        raise DataError(
            "`energies` = 'refit' needs energies of every element of the model, but no training "
            f"frame with an energy has {', '.join(chemical_symbols[z] for z in sorted(missing))}; "
            "add such frames, or keep the energies"
        )
    # evenly spaced, so that all files are among them; rare elements in full
    rows = set(range(0, len(known), -(-len(known) // REFIT_FRAMES)))
    counts = composition(known, elements)
    for has in counts.T > 0:
        if has.sum() <= REFIT_FRAMES // 10:
            rows |= set(np.flatnonzero(has).tolist())
    chosen = sorted(rows)
    found = predict_frames(potential, [known[i] for i in chosen])
    difference = np.array([p.frame.energy - p.energy for p in found])
    used, shift = counts[chosen], np.zeros(len(elements))
    for _ in range(REFIT_ROUNDS):
        shift, left = explain_by_elements(used, difference)
        # what the model has not learned, such as atoms pressed together, says nothing of its zero
        is_usual = np.abs(left) <= 3.0 * _usual(used, np.abs(left)) + 1e-6
        used, difference = used[is_usual], difference[is_usual]
    old = potential.config.reference_energies
    return with_reference_energies(
        potential, [a + float(b) for a, b in zip(old, shift, strict=True)]
    )


def _usual(counts: np.ndarray, left: np.ndarray) -> np.ndarray:
    """What is usually left unexplained of frames with the elements of each frame, (n_frames,).

    The largest median of its elements: half of the frames of every element, at least, have no more.
    """
    medians = [np.median(left[has]) if has.any() else 0.0 for has in counts.T > 0]
    return np.where(counts > 0, medians, 0.0).max(axis=1)


def _widened(config: ModelConfig, data: TrainingData) -> ModelConfig:
    """The states that a model was trained for before, and those of the data."""
    if not (config.local_state or config.state_embedding or config.joint_embedding):
        return config
    structures = [frame.structure for frame in data.train]
    charge = trained_range([s.total_charge for s in structures])
    spin = trained_range([s.spin_multiplicity for s in structures])
    return replace(
        config,
        total_charge=_hull(config.total_charge, charge),
        spin_multiplicity=_hull(config.spin_multiplicity, spin),
    )


def _hull(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return min(first[0], second[0]), max(first[1], second[1])


def plot_log(run: Path) -> Path:
    """Learning curves of a run, ``training.png``."""
    import matplotlib as mpl  # start-up: 0.4 s of CPU
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if "all" in row["validation"]]
    steps = [row["step"] for row in rows]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2)
        series = (("forces_mae", "force MAE (meV/A)"), ("energy_mae", "energy MAE (meV/atom)"))
        for panel, (key, label) in zip(panels, series, strict=True):
            panel.plot(steps, [row["validation"]["all"][key] for row in rows], marker=".")
            panel.set(xlabel="step", ylabel=f"validation {label}", yscale="log")
        path = run / "training.png"
        figure.savefig(path, dpi=150)
    return path
