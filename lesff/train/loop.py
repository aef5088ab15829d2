"""The training loop: one process, or several under ``torchrun`` that share each step."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from lesff.errors import DataError
from lesff.potential import ModelConfig, Potential
from lesff.structures import build_graph
from lesff.train.data import (
    Frame,
    LabelledBatch,
    batch_indices,
    fit_reference_energies,
    make_batch,
    read_frames,
)
from lesff.train.gradients import accumulate_gradients
from lesff.train.metrics import Errors, evaluate_frames
from lesff.train.recipe import OptimizerConfig, Recipe, RecipeModel
from lesff.train.state import Progress, load_state, save_state


class TrainingData:
    """Frames of a recipe, split into training and validation.

    Args:
        recipe: The recipe.
        folder: Folder that the recipe's paths are relative to.

    Raises:
        DataError: if a file cannot be used or nothing is left to train on.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.train: list[Frame] = []
        self.validation: list[Frame] = []
        self.fractions: list[float] = []
        digest = hashlib.sha256(repr(recipe).encode())
        for source in recipe.data.sources:
            path = folder / source.path
            frames = read_frames(path, weight=source.weight)
            digest.update(f"{source.path}:{path.stat().st_size}".encode())
            kept = [frame for frame in frames if not frame.is_validation]
            self.train += kept
            self.fractions += [source.fraction] * len(kept)
            self.validation += [frame for frame in frames if frame.is_validation]
        if not self.train:
            raise DataError("no training frames: every frame is marked as validation")
        self.sizes = np.array([len(frame.structure) for frame in self.train])
        self.recipe_hash = digest.hexdigest()

    def validation_sample(self, count: int) -> list[Frame]:
        """A fixed sample of the held-out frames."""
        order = np.random.default_rng(0).permutation(len(self.validation))
        return [self.validation[i] for i in order[:count]]

    def epoch(self, epoch: int, seed: int, max_atoms: int) -> list[np.ndarray]:
        """Batches of one epoch as arrays of frame indices; a function of epoch and seed only."""
        rng = np.random.default_rng([seed, epoch])
        chosen = np.flatnonzero(rng.random(len(self.train)) < np.array(self.fractions))
        batches = batch_indices(self.sizes[chosen], max_atoms=max_atoms, rng=rng)
        return [chosen[batch] for batch in batches]


def model_config(model: RecipeModel, data: TrainingData, software: dict[str, str]) -> ModelConfig:
    """Model configuration of a recipe, with what is read off the data filled in."""
    elements = sorted({int(z) for frame in data.train for z in np.unique(frame.structure.numbers)})
    architecture = dict(model.architecture)
    rng = np.random.default_rng(0)
    sample = [data.train[i] for i in rng.permutation(len(data.train))[:2000]]
    edges = sum(build_graph(frame.structure, architecture["cutoff"]).n_edges for frame in sample)
    atoms = sum(len(frame.structure) for frame in sample)
    architecture["avg_num_neighbors"] = round(edges / atoms, 3)
    forces = np.concatenate([frame.forces.ravel() for frame in sample])
    charges = [frame.structure.total_charge for frame in data.train]
    spins = [frame.structure.spin_multiplicity for frame in data.train]
    return ModelConfig(
        architecture=architecture,
        elements=tuple(elements),
        reference_energies=fit_reference_energies(data.train, elements),
        energy_scale=round(float(np.sqrt(np.mean(forces**2))), 4),
        long_range=model.long_range,
        total_charge=trained_range(charges),
        spin_multiplicity=trained_range(spins),
        state_embedding=model.state_embedding,
        dtype=model.dtype,
        energy_reference=model.energy_reference,
        level_of_theory=model.level_of_theory,
        training_data=model.training_data,
        software=software,
    )


def trained_range(values: Sequence[int]) -> tuple[int, int]:
    """Lowest and highest value that at least one frame in a thousand has."""
    kept = [v for v, count in Counter(values).items() if count >= 1e-3 * len(values)]
    return min(kept), max(kept)


class Trainer:
    """A resumable run.

    Files in the run folder: ``state.safetensors`` (resume point), ``log.jsonl`` (one line per
    validation), ``training.png`` (learning curves).

    Args:
        recipe: What to do.
        data: Frames.
        potential: The model; its weights are changed.
        run: Folder of the run.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        potential: Potential,
        run: Path,
        *,
        progress: bool = True,
    ) -> None:
        self.recipe, self.data, self.potential, self.run = recipe, data, potential, run
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.n_ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.show = progress and self.rank == 0
        options = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            potential.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self.average = {n: p.detach().clone() for n, p in potential.named_parameters()}
        self.progress = Progress()
        self.sample = data.validation_sample(recipe.data.validation_frames)
        run.mkdir(parents=True, exist_ok=True)
        self.state_file = run / "state.safetensors"
        if self.state_file.exists():
            self._resume()

    def _resume(self) -> None:
        self.progress, weights, self.average = load_state(
            self.state_file, self.data.recipe_hash, self.optimizer
        )
        self.potential.load_state_dict(weights)

    def train(self) -> None:
        """Run to the end of the schedule; leaves the averaged weights in the potential.

        Interrupting (Ctrl-C, kill) loses at most the steps since the last resume point.
        """
        options = self.recipe.optimizer
        bar = tqdm(
            initial=self.progress.step,
            total=None if options.time_limit_minutes else options.max_steps,
            disable=not self.show,
            unit="step",
            desc=self.recipe.name,
        )
        losses: list[float] = []
        last = time.monotonic()
        while not self._is_over():
            batches = self.data.epoch(
                self.progress.epoch, self.recipe.seed, self.recipe.data.max_atoms
            )
            n_steps = len(batches) // self.n_ranks
            if n_steps == 0:
                raise DataError(f"{len(batches)} batches cannot feed {self.n_ranks} processes")
            while self.progress.batch < n_steps and not self._is_over():
                chosen = batches[self.progress.batch * self.n_ranks + self.rank]
                losses.append(self._step(self._batch(chosen)))
                now = time.monotonic()
                self.progress.seconds += now - last
                last = now
                bar.update(1)
                if self.progress.step % options.validate_every == 0:
                    self._checkpoint(losses, bar)
                    losses, last = [], time.monotonic()
            if self.progress.batch >= n_steps:
                self.progress.epoch += 1
                self.progress.batch = 0
        self._checkpoint(losses, bar)
        bar.close()
        self.potential.load_state_dict(self.average)

    def _batch(self, chosen: np.ndarray) -> LabelledBatch:
        frames = [self.data.train[i] for i in chosen]
        return make_batch(frames, self.potential.architecture.cutoff, self.potential.dtype)

    def _fraction_done(self) -> float:
        options, progress = self.recipe.optimizer, self.progress
        done = progress.step / options.max_steps
        if options.time_limit_minutes:
            done = max(done, self._shared_seconds() / (60.0 * options.time_limit_minutes))
        return done

    def _is_over(self) -> bool:
        stop = 60.0 * self.recipe.optimizer.stop_after_minutes
        return self._fraction_done() >= 1.0 or 0.0 < stop <= self._shared_seconds()

    def _shared_seconds(self) -> float:
        """Training time of the first process, so that all stop at the same step."""
        if self.n_ranks == 1:
            return self.progress.seconds
        seconds = torch.tensor([self.progress.seconds], dtype=torch.float64)
        dist.broadcast(seconds, 0)
        return float(seconds)

    def _step(self, batch: LabelledBatch) -> float:
        options = self.recipe.optimizer
        rate = options.lr * learning_rate_factor(self.progress.step, self._fraction_done(), options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=False)
        loss = accumulate_gradients(self.potential, batch, self.recipe.loss, options.gradients)
        parameters = list(self.potential.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.n_ranks > 1:
            self._average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise DataError(
                f"the gradient is not finite at step {self.progress.step + 1}: check the labels or "
                "lower `optimizer.lr`; the run resumes from its last resume point"
            )
        self.optimizer.step()
        self.progress.step += 1
        self.progress.batch += 1
        decay = min(options.ema_decay, (1.0 + self.progress.step) / (10.0 + self.progress.step))
        with torch.no_grad():
            for name, parameter in self.potential.named_parameters():
                self.average[name].lerp_(parameter, 1.0 - decay)
        return loss

    def _average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        flat = torch.cat([p.grad.view(-1) for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.n_ranks
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.grad = flat[start:stop].view_as(parameter)
            start = stop

    def _checkpoint(self, losses: Sequence[float], bar: tqdm) -> None:
        """Validate the averaged weights, log, and write a resume point (first process)."""
        if self.rank == 0:
            weights = {n: p.detach().clone() for n, p in self.potential.named_parameters()}
            errors = self._validate(weights)
            entry = {
                "step": self.progress.step,
                "epoch": self.progress.epoch,
                "minutes": round(self.progress.seconds / 60.0, 3),
                "loss": float(np.mean(losses)) if losses else math.nan,
                "validation": {key: asdict(value) for key, value in errors.items()},
            }
            with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            if "all" in errors:
                total = errors["all"]
                self.progress.best = min(self.progress.best, total.forces_mae)
                bar.set_postfix(
                    loss=f"{entry['loss']:.4f}", F=f"{total.forces_mae:.1f} meV/A",
                    E=f"{total.energy_mae:.2f} meV/atom",
                )  # fmt: skip
            save_state(
                self.state_file, self.progress, self.data.recipe_hash, weights, self.average,
                self.optimizer,
            )  # fmt: skip
        if self.n_ranks > 1:
            dist.barrier()

    def _validate(self, weights: dict[str, Tensor]) -> dict[str, Errors]:
        if not self.sample:
            return {}
        self.potential.load_state_dict(self.average)
        try:
            return evaluate_frames(self.potential, self.sample)
        finally:
            self.potential.load_state_dict(weights)


def learning_rate_factor(step: int, fraction_done: float, options: OptimizerConfig) -> float:
    """Share of the peak rate: linear warm-up, then cosine to ``final_lr``."""
    warmup = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction_done, 1.0)))
    return warmup * (options.final_lr + (1.0 - options.final_lr) * cosine)
