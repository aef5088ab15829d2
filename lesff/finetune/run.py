"""From a base model and labelled frames to a better model, or to the base model and the news."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from lesff.atoms.elements import elements_of
from lesff.errors import DataError
from lesff.finetune.card import finetuned_card
from lesff.finetune.options import DIPOLE_WEIGHT, GUESS_WEIGHT, FinetuneOptions
from lesff.finetune.rehearsal import own_frames, probe_structures, replay_structures, shifted
from lesff.finetune.report import Outcome, write_report
from lesff.finetune.start import (
    Base,
    EnergyShift,
    check_elements,
    check_start,
    energy_shift,
    make_trainables,
    part_of,
    untrained,
    with_shift,
)
from lesff.finetune.unit_check import check_units
from lesff.model_folder.folder import save_model
from lesff.plain_data import write_json
from lesff.potential.edit import with_head, with_multipoles
from lesff.potential.potential import Potential
from lesff.train.data import Frame, Source, has_label, read_labelled
from lesff.train.labels import LabelSummary
from lesff.train.loss import LossConfig, check_labels
from lesff.train.metrics import Errors, FramePrediction, errors_of, predict_frames
from lesff.train.recipe import DataConfig, Recipe
from lesff.train.splits import Split, make_split
from lesff.train.trainer import Trainer, TrainingPlan
from lesff.train.training_data import TrainingData
from lesff.uncertainty.calibration import calibrate

MODEL_FOLDER = "model"
"""Name of the model folder inside the output folder."""

_SCORED = {
    "energy": "energy_rmse",
    "forces": "forces_rmse",
    "dipole": "dipole_rmse",
    "stress": "stress_rmse",
    "charges": "charges_rmse",
    "born_effective_charges": "born_effective_charges_rmse",
}
_VALIDATIONS = 10
"""Points of the learning curve of a run that ends by time, at least."""


def finetune(
    base: Base,
    data: Source,
    output: Path | str,
    options: FinetuneOptions | None = None,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    probe: Source | None = None,
    command: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train a model further on labelled frames; it or the base model is written, by the verdict.

    The output folder holds the model folder ``model``, ``report.html``, ``report.json``,
    ``split.json``, the log ``log.jsonl`` and the resume point. Run again with the same arguments to
    resume. The weights of the step with the lowest mean ratio of validation errors (root mean
    square, of every label in the loss) to those of the base model with refitted reference energies
    are judged label by label against the untouched and the refitted base model
    (:mod:`lesff.finetune.verdict`). If the mean verdict is not better, the untouched base model is
    written.

    Args:
        base: The base model.
        data: A file or database that ASE reads, an npz shard, or a list of Atoms.
        output: Folder of the run.
        options: How; the defaults if not given.
        validation: Frames to validate on; drawn from ``data`` if not given.
        test: Frames to report on only.
        probe: Labelled frames of what must not be forgotten, for the report.
        command: Command line to write into the report.
        progress: Whether to show progress bars.
        say: Called with every line of the summary; nothing is printed if not given.

    Returns:
        The model folder.

    Raises:
        DataError: if the data cannot be used.
        ConfigError: for a bad option.
        IntegrityError: if the folder belongs to a run with other data or options.
    """
    settings = options or FinetuneOptions()
    run = _Run(base, Path(output), settings, progress=progress, say=say or (lambda line: None))
    split = run.read(data, validation, test)
    known = run.read_probe(probe)
    return run.go(split, known, command or _python_call(base, data, output, settings))


def _python_call(base: Base, data: Source, output: Path | str, options: FinetuneOptions) -> str:
    source = repr(str(data)) if isinstance(data, (str, Path)) else "frames"
    extra = "".join(f", {key}={value!r}" for key, value in options.changed().items())
    return f"lesff.load({base.name!r}).finetune({source}, {str(output)!r}{extra})"


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """The model to train and what it is compared with."""

    potential: Potential
    shift: EnergyShift
    start_error: dict[str, float]
    start_errors: Errors
    before: dict[str, list[FramePrediction]]
    replay: list[Frame]


class _Run:
    """One finetuning run."""

    def __init__(
        self,
        origin: Base,
        output: Path,
        options: FinetuneOptions,
        *,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self.origin, self.output, self.options = origin, output, options
        self.is_first = not dist.is_initialized() or dist.get_rank() == 0
        self.progress = progress and self.is_first
        self.say = say if self.is_first else (lambda line: None)
        self.summary: dict[str, LabelSummary] = {}
        self.loss = options.loss
        self.base = origin.potential
        if options.head:
            self.base = with_head(self.base, options.head)
        if options.multipoles is not None:
            self.base = with_multipoles(self.base, options.multipoles)
        if options.random_start:
            self.base = untrained(self.base, options.seed)
        self.probe = own_frames(self.base, probe_structures(self.base.config), subset="probe")

    def read(self, data: Source, validation: Source | None, test: Source | None) -> Split:
        """Read, report and divide the data."""
        parts = {"data": data, "validation": validation, "test": test}
        frames = {name: self._read(name, x) for name, x in parts.items() if x is not None}
        split = make_split(
            frames["data"],
            self.options.split,
            self.options.seed,
            validation=frames.get("validation"),
            test=frames.get("test"),
        )
        counts = f"{len(split.train)} train, {len(split.validation)} validation"
        self.say(f"split: {counts}, {len(split.test)} test")
        self.loss = self._used_loss(split)
        self._check_loss(split)
        return split

    def _used_loss(self, split: Split) -> LossConfig:
        """The loss; dipoles count by default where there are labels and charges to train.

        The guess of a local state counts by default where there is one.
        """
        loss = self.options.loss
        if loss.charge_guess == GUESS_WEIGHT and self.base.local_state is None:
            loss = replace(loss, charge_guess=0.0)
        if loss.dipole != DIPOLE_WEIGHT:
            return loss
        has_labels = any(has_label(frame, "dipole") for frame in split.train)
        if not has_labels or self.base.charge_head is None:
            return replace(loss, dipole=0.0)
        self.say(
            f"dipole labels are trained on (`loss.dipole` = {loss.dipole:g}; 0 only compares them)"
        )
        return loss

    def _read(self, name: str, source: Source) -> list[Frame]:
        frames, summary = read_labelled(
            source, keys=self.options.labels, group_key=self.options.split.group_key
        )
        self.summary[name] = summary
        self.say(f"{name}: " + "\n".join(summary.lines()))
        summary.check_results()
        check_elements(self.base, frames)
        return frames

    def read_probe(self, probe: Source | None) -> list[Frame]:
        """Labelled frames of what must not be forgotten; elements that are not covered drop out."""
        if probe is None:
            return []
        frames, _ = read_labelled(probe)
        known = set(self.base.config.elements)
        kept = [f for f in frames if elements_of(f.structure) <= known]
        self.say(f"probe: {len(kept)} of {len(frames)} frames have elements of the base model")
        return kept

    def _check_loss(self, split: Split) -> None:
        """Every term of the loss has labels; labels that are not used are named."""
        loss = self.loss
        for name in _SCORED:
            has = any(has_label(frame, name) for frame in split.train)
            if has and not getattr(loss, name):
                self.say(f"{name} labels are not trained on: `loss.{name}` is 0 (only compared)")
        check_labels(loss, split.train)
        names = ("energy", "forces")
        if not any(has_label(f, n) and getattr(loss, n) for f in split.train for n in names):
            raise DataError("training frames must have energies or forces to train on, got neither")

    def go(self, split: Split, known: list[Frame], command: str) -> Path:
        """Prepare, train, compare, write."""
        prepared = self._prepare(split, known)
        self.output.mkdir(parents=True, exist_ok=True)
        if self.is_first:
            write_json(
                self.output / "split.json",
                split.to_dict(self.options.split, self.options.seed),
            )
        trainer = self._trainer(split, prepared)
        began = time.monotonic()
        trainer.train()
        if self.is_first:
            self._finish(split, known, prepared, trainer, command, time.monotonic() - began)
        if dist.is_initialized():
            dist.barrier()
        return self.output / MODEL_FOLDER

    def _prepare(self, split: Split, known: list[Frame]) -> _Prepared:
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        parts = {name: frames for name, frames in (parts | {"known": known}).items() if frames}
        before = {
            name: predict_frames(self.base, frames, progress=self.progress)
            for name, frames in parts.items()
        }
        if self.options.checks_units and not self.options.random_start:
            check_units(before["train"], dipole=self.loss.dipole > 0.0)
        shift = energy_shift(self.base, before["train"], self.options)
        self.say(f"reference energies ({self.options.energies}): {shift.text()}")
        potential = with_shift(self.base, shift)
        some = [*before["train"][:20], *predict_frames(self.base, self.probe[:20])]
        start_error = check_start(some, potential, shift)
        self.say(
            "before training the model gives the base model's answers to "
            f"{start_error['energy']:.0e} eV/atom and {start_error['forces']:.0e} eV/A"
        )
        moved = [
            replace(p, energy=p.energy + shift.of(p.frame.structure.numbers))
            for p in before["validation"]
        ]
        replay = self.options.replay
        structures = replay_structures(self.base.config, replay.frames, self.options.seed + 1)
        frames = own_frames(self.base, structures, subset="replay", weight=replay.weight)
        return _Prepared(
            potential=potential,
            shift=shift,
            start_error=start_error,
            start_errors=errors_of(moved),
            before=before,
            replay=shifted(frames, shift),
        )

    def _trainer(self, split: Split, prepared: _Prepared) -> Trainer:
        options = self.options
        apart = ("split", "uncertainty", "returns")
        plain = {k: v for k, v in options.changed().items() if k not in apart}
        parts = [
            plain,
            split.data_hash,
            split.indices,
            self.base.config.to_dict(),
            _weights(self.base),
        ]
        if self.loss.dipole and self.loss == options.loss:
            parts.append({"dipole": self.loss.dipole})
        key = json.dumps(parts, sort_keys=True)
        data = TrainingData(
            train=[*split.train, *prepared.replay],
            validation=split.validation,
            recipe_hash=hashlib.sha256(key.encode()).hexdigest(),
        )
        recipe = Recipe(
            name="finetune",
            data=DataConfig(
                sources=(), max_atoms=options.max_atoms, validation_frames=len(split.validation)
            ),
            loss=self.loss,
            optimizer=options.optimizer,
            seed=options.seed,
        )
        readouts = prepared.potential.architecture.readout_names
        plan = TrainingPlan(
            rate=lambda name: options.rates.get(part_of(name.split("/")[0], readouts), 1.0),
            anchor=options.anchor,
            score=score_against(prepared.start_errors, self.loss),
            keeps_best=True,
            start_score=1.0,
            validations=_VALIDATIONS,
        )
        return Trainer(
            recipe,
            data,
            prepared.potential,
            self.output,
            plan=plan,
            trainables=make_trainables(prepared.potential, options),
            progress=self.progress,
        )

    def _finish(
        self,
        split: Split,
        known: list[Frame],
        prepared: _Prepared,
        trainer: Trainer,
        command: str,
        seconds: float,
    ) -> None:
        potential = trainer.potential.requires_grad_(requires_grad=False).eval()
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        parts = {name: frames for name, frames in (parts | {"known": known}).items() if frames}
        after = {
            name: predict_frames(potential, frames, progress=self.progress)
            for name, frames in parts.items()
        }
        outcome = Outcome(
            base_name=self.origin.name,
            options=asdict(self.options),
            split=split.to_dict(self.options.split, self.options.seed),
            labels={name: summary.lines() for name, summary in self.summary.items()},
            before=prepared.before,
            after=after,
            shift=prepared.shift,
            start_error=prepared.start_error,
            probe_before=self.probe,
            probe_after=predict_frames(potential, self.probe) if self.probe else [],
            start_errors=prepared.start_errors,
            best_step=trainer.progress.best_step,
            steps=trainer.progress.step,
            score=trainer.progress.best,
            training_seconds=trainer.progress.seconds,
            session_seconds=seconds,
            n_processes=trainer.n_ranks,
            n_trained=sum(p.numel() for p in trainer.named.values()),
            command=command,
        )
        report = write_report(outcome, self.output)
        if report["returned"] == "base":
            potential = self.base
        self._calibrate(potential, split)
        save_model(
            potential,
            self.output / MODEL_FOLDER,
            card=finetuned_card(self.origin, outcome, report),
            license_text=self.origin.license_text,
            overwrite=True,
        )
        for line in report["verdict"]:
            self.say(line)

    def _calibrate(self, potential: Potential, split: Split) -> None:
        """Uncertainty of the result, if it is asked for."""
        if not self.options.uncertainty:
            return
        potential.uncertainty, calibration = calibrate(
            potential, split.train, split.validation, progress=self.progress
        )
        for line in calibration.lines():
            self.say(f"uncertainty, validation frames: {line}")


def score_against(start: Errors, loss: LossConfig) -> Callable[[Errors], float]:
    """Mean ratio of validation errors to those at the start, over the labels of the loss."""
    names = [
        field
        for label, field in _SCORED.items()
        if getattr(loss, label) and getattr(start, field) == getattr(start, field)
    ]
    floor = 1e-6

    def score(errors: Errors) -> float:
        ratios = [(getattr(errors, n) + floor) / (getattr(start, n) + floor) for n in names]
        return float(sum(ratios) / len(ratios)) if ratios else float("nan")

    return score


def _weights(potential: Potential) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(potential.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().to(torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()
