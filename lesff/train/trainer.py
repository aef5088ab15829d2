"""The training loop: one process, or several under ``torchrun`` that share each step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from lesff.disk import write_atomically
from lesff.errors import ConfigError, DataError
from lesff.potential.potential import Potential
from lesff.train.batches import LabelledBatch, make_batch
from lesff.train.gradients import accumulate_gradients
from lesff.train.metrics import Errors, evaluate_frames
from lesff.train.recipe import OptimizerConfig, Recipe
from lesff.train.resume import Progress, ResumePoint, load_state, save_state
from lesff.train.trainables import DirectTrainables, Trainables
from lesff.train.training_data import TrainingData, Visits


def forces_mae(errors: Errors) -> float:
    """Mean absolute force error in meV/A."""
    return errors.forces_mae


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run does beyond its recipe.

    Attributes:
        rate: Factor of the learning rate by parameter name.
        anchor: Strength of a pull towards the weights at the start: ``anchor / 2 |w - w0|^2`` joins
            the loss.
        score: Validation score; the lower the better.
        keeps_best: Whether the run ends with the weights of the best score instead of the last.
        start_score: Score of the model at the start, which a kept model must beat.
        validations: Validations of a run that ends by time, at least, spread over it.
    """

    rate: Callable[[str], float] = lambda name: 1.0
    anchor: float = 0.0
    score: Callable[[Errors], float] = forces_mae
    keeps_best: bool = False
    start_score: float = math.inf
    validations: int = 0


class Trainer:
    """A resumable run.

    Files in the run folder: ``state.safetensors`` (resume point), ``log.jsonl`` (one line per
    validation), ``training.png`` (learning curves).

    Args:
        recipe: What to do.
        data: Frames.
        potential: The model; its weights are changed.
        run: Folder of the run.
        plan: Learning rates, penalty, score.
        trainables: What the optimiser moves; the potential's own parameters if not given.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        potential: Potential,
        run: Path,
        *,
        plan: TrainingPlan | None = None,
        trainables: Trainables | None = None,
        progress: bool = True,
    ) -> None:
        self.recipe, self.data, self.potential, self.run = recipe, data, potential, run
        self.plan = plan or TrainingPlan()
        self.trainables = trainables or DirectTrainables(potential)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.n_ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.show = progress and self.rank == 0
        options = recipe.optimizer
        self.per_step = options.accumulate or self.n_ranks
        if self.per_step % self.n_ranks:
            raise ConfigError(
                f"`optimizer.accumulate` must be a multiple of the number of processes "
                f"({self.n_ranks}), got {options.accumulate}"
            )
        self.named = self.trainables.named()
        trunk = {
            n: options.trunk_rate if n.startswith("architecture.") else 1.0 for n in self.named
        }
        rates = {name: self.plan.rate(name) * trunk[name] for name in self.named}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p], "rate": rates[name]} for name, p in self.named.items()],
            lr=options.lr, weight_decay=options.weight_decay,
        )  # fmt: skip
        self.average = {n: p.detach().clone() for n, p in potential.named_parameters()}
        self.start = {n: p.detach().clone() for n, p in self.named.items()}
        self.best: dict[str, Tensor] = {}
        self.progress = Progress(best=self.plan.start_score)
        if self.plan.keeps_best:
            self.best = {n: p.clone() for n, p in self.average.items()}
        self.sample = data.validation_sample(recipe.data.validation_frames)
        self.validated_at = 0.0
        run.mkdir(parents=True, exist_ok=True)
        self.state_file = run / "state.safetensors"
        if self.state_file.exists():
            self._resume()

    def _resume(self) -> None:
        self.progress, snapshot = load_state(self.state_file, self.data.recipe_hash, self.optimizer)
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(snapshot.weights[name])
        self.average, self.best = snapshot.average, snapshot.best
        self.trainables.write()
        if self.rank == 0:
            self._forget_later_entries()

    def _forget_later_entries(self) -> None:
        """Drop log entries of steps that will be repeated."""
        log = self.run / "log.jsonl"
        if not log.exists():
            return
        kept = []
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self.progress.step:
                    kept.append(line + "\n")
            except ValueError:  # the line being written when the run was killed
                continue
        write_atomically(log, "".join(kept))

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
            batches = self.data.batches(
                self.progress.epoch, self.recipe.seed, self.recipe.data.max_atoms
            )
            n_steps = len(batches) // self.per_step
            if n_steps == 0:
                raise DataError(
                    f"{len(batches)} batches per epoch cannot fill a step of {self.per_step}: "
                    "lower the atoms per batch, or use fewer processes or less accumulation"
                )
            while self.progress.batch < n_steps and not self._is_over():
                start = self.progress.batch * self.per_step
                chosen = batches[start : start + self.per_step][self.rank :: self.n_ranks]
                losses.append(self._step([self._batch(visits) for visits in chosen]))
                now = time.monotonic()
                self.progress.seconds += now - last
                last = now
                bar.update(1)
                if self.progress.step % options.validate_every == 0 or self._is_due():
                    self._checkpoint(losses, bar)
                    losses, last = [], time.monotonic()
            if self.progress.batch >= n_steps:
                self.progress.epoch += 1
                self.progress.batch = 0
        if self.progress.validated != self.progress.step:
            self._checkpoint(losses, bar)
        bar.close()
        final = self.best if self.plan.keeps_best else self.average
        self.potential.load_state_dict(final, strict=False)

    def _batch(self, visits: Visits) -> LabelledBatch:
        frames = self.data.frames_of(visits)
        return make_batch(frames, self.potential.architecture.cutoff, self.potential.dtype)

    def _fraction_done(self) -> float:
        options, progress = self.recipe.optimizer, self.progress
        done = progress.step / options.max_steps
        if options.time_limit_minutes:
            done = max(done, self._shared_seconds() / (60.0 * options.time_limit_minutes))
        return done

    def _is_due(self) -> bool:
        """Whether a run that ends by time has gone on for long without a validation.

        Early stopping counts validations: they then keep to the steps that were asked for.
        """
        options, wanted = self.recipe.optimizer, self.plan.validations
        if not wanted or not options.time_limit_minutes or options.patience:
            return False
        return self._fraction_done() - self.validated_at >= 1.0 / wanted

    def _is_over(self) -> bool:
        stop = 60.0 * self.recipe.optimizer.stop_after_minutes
        patience = self.recipe.optimizer.patience
        if 0 < patience <= self.progress.since_best:
            return True
        return self._fraction_done() >= 1.0 or 0.0 < stop <= self._shared_seconds()

    def _shared_seconds(self) -> float:
        """Training time of the first process, so that all stop at the same step."""
        if self.n_ranks == 1:
            return self.progress.seconds
        seconds = torch.tensor([self.progress.seconds], dtype=torch.float64)
        dist.broadcast(seconds, 0)
        return float(seconds)

    def _step(self, batches: Sequence[LabelledBatch]) -> float:
        """One step of the optimiser on this process's batches; returns their mean loss."""
        options = self.recipe.optimizer
        rate = options.lr * learning_rate_factor(self.progress.step, self._fraction_done(), options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.potential.zero_grad(set_to_none=False)
        loss = sum(
            accumulate_gradients(self.potential, batch, self.recipe.loss, options.gradients)
            for batch in batches
        )
        self.trainables.collect_gradients()
        parameters = list(self.named.values())
        self._average_gradients(parameters)
        self._add_anchor()
        norm = nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise DataError(
                f"the gradient is not finite at step {self.progress.step + 1}: check the labels or "
                "lower `optimizer.lr`; the run resumes from its last resume point"
            )
        self.optimizer.step()
        self.trainables.write()
        self.progress.step += 1
        self.progress.batch += 1
        decay = min(options.ema_decay, (1.0 + self.progress.step) / (10.0 + self.progress.step))
        with torch.no_grad():
            for name, parameter in self.potential.named_parameters():
                self.average[name].lerp_(parameter, 1.0 - decay)
        return loss / len(batches)

    def _add_anchor(self) -> None:
        """Gradient of the pull towards the weights at the start."""
        if self.plan.anchor == 0.0:
            return
        for name, parameter in self.named.items():
            if parameter.grad is not None:
                parameter.grad += self.plan.anchor * (parameter.detach() - self.start[name])

    def _average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Mean over the batches of a step, over all processes."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.n_ranks > 1:
            flat = torch.cat([grad.view(-1) for grad in grads])
            dist.all_reduce(flat)
            start = 0
            for grad in grads:
                grad.copy_(flat[start : start + grad.numel()].view_as(grad))
                start += grad.numel()
        for grad in grads:
            grad /= self.per_step

    def _checkpoint(self, losses: Sequence[float], bar: tqdm) -> None:
        """Validate the averaged weights, log, and write a resume point (first process)."""
        self.progress.validated = self.progress.step
        self.validated_at = self._fraction_done()
        if self.rank == 0:
            errors = self._validate()
            entry = {
                "step": self.progress.step,
                "epoch": self.progress.epoch,
                "minutes": round(self.progress.seconds / 60.0, 3),
                "loss": float(np.mean(losses)) if losses else math.nan,
                "validation": {key: asdict(value) for key, value in errors.items()},
            }
            if "all" in errors:
                total = errors["all"]
                entry["score"] = self._judge(total)
                bar.set_postfix(
                    loss=f"{entry['loss']:.4f}", F=f"{total.forces_mae:.1f} meV/A",
                    E=f"{total.energy_mae:.2f} meV/atom",
                )  # fmt: skip
            with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            weights = {n: p.detach() for n, p in self.named.items()}
            snapshot = ResumePoint(weights=weights, average=self.average, best=self.best)
            save_state(
                self.state_file, self.progress, self.data.recipe_hash, snapshot, self.optimizer
            )
        if self.n_ranks > 1:
            self._share_verdict()

    def _judge(self, errors: Errors) -> float:
        """Compare with the best validation so far; returns the score."""
        score = self.plan.score(errors)
        if score < self.progress.best:
            self.progress.best, self.progress.best_step = score, self.progress.step
            self.progress.since_best = 0
            if self.plan.keeps_best:
                self.best = {n: p.clone() for n, p in self.average.items()}
        else:
            self.progress.since_best += 1
        return score

    def _share_verdict(self) -> None:
        """All processes stop at the same step and end with the same weights."""
        shared = torch.tensor([float(self.progress.since_best)], dtype=torch.float64)
        dist.broadcast(shared, 0)
        self.progress.since_best = int(shared)
        for value in self.best.values():
            dist.broadcast(value, 0)

    def _validate(self) -> dict[str, Errors]:
        """Errors of the averaged weights."""
        if not self.sample:
            return {}
        weights = {n: p.detach().clone() for n, p in self.potential.named_parameters()}
        self.potential.load_state_dict(self.average, strict=False)
        try:
            return evaluate_frames(self.potential, self.sample)
        finally:
            self.potential.load_state_dict(weights, strict=False)


def learning_rate_factor(step: int, fraction_done: float, options: OptimizerConfig) -> float:
    """Share of the peak rate: linear warm-up, then cosine to ``final_lr``."""
    warmup = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction_done, 1.0)))
    return warmup * (options.final_lr + (1.0 - options.final_lr) * cosine)
