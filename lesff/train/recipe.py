"""Recipes: one TOML file says everything about a training run.

A file may take over what another one says: ``extends = "../base.toml"``. Then only what differs is
written down:

- ``seed``, ``model``, ``loss``, ``optimizer``, ``data`` and ``calibration`` are taken over, tables
  key by key; a file with ``from`` goes on from another model and takes over no ``model``. What
  happens to a model in one run (``name``, ``dispersion``, ``head``, ``training_data``,
  ``level_of_theory``) is not.
- ``data.sources`` may be a table of files instead of a list: ``"water.npz" = { fraction = 0.3 }``.
  Files keep the order in which they are first named, which is the order of their frames; ``false``
  leaves a file out, and keeps its place for a file that extends this one.

The stages of a chain of runs are such files (:mod:`lesff.train.stages`).
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ase.data import atomic_numbers

from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import ConfigError
from lesff.heads import HeadName, LongRangeConfig
from lesff.plain_data import from_dict
from lesff.potential.config import Wall
from lesff.potential.edit import Redesign
from lesff.train.composites import CompositesConfig
from lesff.train.gradients import GradientMethod
from lesff.train.loss import LossConfig


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data file.

    Attributes:
        path: File, relative to the data folder of the run.
        weight: Weight of its frames in the loss.
        fraction: Share of its training frames that one epoch visits, drawn anew each time; above 1
            frames are visited more than once.
        elements: Symbols; frames with other elements are left out. Empty: all frames.
        without: Another file of the data folder; frames of the same composition as one of its
            frames are left out, so that none of its molecules is trained on.
        energy_states: Pairs of total charge and spin multiplicity whose energies count, for labels
            whose energy zero depends on the charge; frames of other states keep their forces and
            dipoles. Empty: all.
        energies: Whether energies count at all; forces and dipoles do.
        only_counts: Whether no label counts, only the electrons of closed shells
            (``charge_guess``): for structures that nothing is known of but that.
        closed_shells: Whether its singlets are closed shells. Of others, bonds pulled apart, the
            loss takes no count of electrons (``charge_guess``).
        closed_within: Of a source whose singlets are not closed shells: those whose atoms all hang
            together by pairs up to this many sums of covalent radii are, all the same. A bond on
            its way apart has no ions in it, while a part far from the other may look like one
            (OH, whose electrons are counted like those of hydroxide). 0: none.
    """

    path: str
    weight: float = 1.0
    fraction: float = 1.0
    elements: tuple[str, ...] = ()
    without: str | None = None
    energy_states: tuple[tuple[int, int], ...] = ()
    energies: bool = True
    only_counts: bool = False
    closed_shells: bool = True
    closed_within: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a share that visits nothing and options that exclude each other."""
        if self.energy_states and not self.energies:
            raise ConfigError(
                f"`energy_states` of {self.path} must be left out where `energies` is false"
            )
        rest = self.energy_states or not self.energies or not self.closed_shells
        if self.only_counts and rest:
            raise ConfigError(
                f"`energy_states`, `energies` and `closed_shells` of {self.path} must be left out "
                "where `only_counts` is true: only electrons of closed shells count"
            )
        if not 0.0 <= self.closed_within < math.inf:
            raise ConfigError(
                f"`closed_within` of {self.path} must be at least 0, got {self.closed_within}"
            )
        if self.closed_within and self.closed_shells:
            raise ConfigError(
                f"`closed_within` of {self.path} needs `closed_shells = false`: without it all "
                "singlets are closed shells"
            )
        if not 0.0 < self.fraction < math.inf:
            raise ConfigError(f"`fraction` of {self.path} must be above 0, got {self.fraction}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data of a run.

    Attributes:
        sources: Files. Frames that a file marks as validation are held out.
        max_atoms: Atoms per batch and process.
        validation_frames: Frames drawn from the held-out ones for the checks during the run.
        composites: Training frames put together far from each other; None for none.
    """

    sources: tuple[SourceConfig, ...]
    max_atoms: int = 400
    validation_frames: int = 400
    composites: CompositesConfig | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimiser and schedule.

    The learning rate rises linearly over ``warmup_steps`` and then follows a cosine down to
    ``final_lr`` times its peak at the end of the run.

    Attributes:
        lr: Peak learning rate of AdamW.
        trunk_rate: Factor of the rate of the architecture's weights; below 1 where they are
            pretrained, and what is laid on them is new.
        final_lr: Last learning rate as a share of the peak.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the average of weights that is validated and saved.
        max_steps: Steps of the run.
        time_limit_minutes: The run ends after this much training time; the schedule then runs on
            time. 0 for none.
        stop_after_minutes: Stop before the end of the schedule, after this much training time, for
            a following stage with another recipe. 0 for none.
        validate_every: Steps between validations and resume points.
        accumulate: Batches per step over all processes; 0 for one per process.
        patience: Validations without a better score after which the run stops. 0 for none.
        gradients: How parameter gradients are made.
    """

    lr: float = 0.003
    trunk_rate: float = 1.0
    final_lr: float = 0.01
    warmup_steps: int = 200
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    ema_decay: float = 0.999
    max_steps: int = 10_000
    time_limit_minutes: float = 0.0
    stop_after_minutes: float = 0.0
    validate_every: int = 1000
    accumulate: int = 0
    patience: int = 0
    gradients: GradientMethod = "central_difference"


@dataclass(frozen=True, kw_only=True)
class RecipeModel:
    """The model to train; see :class:`lesff.potential.config.ModelConfig`.

    Elements, reference energies, energy scale, average neighbour number and charge range are
    taken from the data.

    Attributes:
        reference_charges: ``long_range.reference_charges`` by chemical symbol, in e; at least those
            of the elements of the data.
        bounded_charges: Whether charges level off towards
            :func:`lesff.heads.config.charge_limits_of` the elements of the data; nothing to
            level off in a model without charges.
    """

    architecture: dict[str, Any]
    long_range: LongRangeConfig | None = None
    reference_charges: dict[str, float] | None = None
    state_embedding: bool = False
    local_state: bool = False
    wall: Wall | None = None
    bounded_charges: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    energy_reference: str = "unspecified"
    level_of_theory: str = "unspecified"
    training_data: str = "unspecified"

    def __post_init__(self) -> None:
        """Raise ConfigError for reference charges without meaning."""
        if self.reference_charges is None:
            return
        if self.long_range is None or self.long_range.reference_charges is not None:
            raise ConfigError(
                "`model.reference_charges` need a section `model.long_range` without charges of "
                "its own"
            )
        unknown = sorted(set(self.reference_charges) - set(atomic_numbers))
        if unknown:
            raise ConfigError(
                "`model.reference_charges` must have chemical symbols as keys, got "
                f"{', '.join(unknown)}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run: model, data, loss, optimiser, seed.

    Attributes:
        name: Name of the run.
        data: Data files.
        model: The model to make; None to go on from another model, given when the run starts.
        dispersion: Dispersion of the new model, or added to the model to go on from; None leaves
            that as it is.
        redesign: Changes of the model to go on from, before `dispersion` and `head`; see
            :class:`lesff.potential.edit.Redesign`.
        head: Another charge head for the model to go on from, see
            :func:`lesff.potential.edit.with_head`; None leaves its head as it is.
        training_data: Where all labels come from, for a stage that adds data to those of the model
            to go on from; None leaves what that model says.
        level_of_theory: Level of theory after such a stage; None leaves what that model says.
        energy_reference: Zero of energies after such a stage; None leaves what that model says.
        energies: ``"refit"`` moves the reference energies of the model to go on from to those of
            the training frames, whose energies may be relative to another zero; ``"keep"`` does
            not. Model and labels are brought together by least squares on compositions.
        loss: Loss terms.
        optimizer: Optimiser and schedule.
        seed: Seed of initial weights and of the order of the data.
    """

    name: str
    data: DataConfig
    model: RecipeModel | None = None
    dispersion: DispersionConfig | None = None
    head: HeadName | None = None
    redesign: Redesign | None = None
    training_data: str | None = None
    level_of_theory: str | None = None
    energy_reference: str | None = None
    energies: Literal["keep", "refit"] = "keep"
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would have no effect; raises ConfigError."""
        if not self.loss.charge_guess:
            for source in self.data.sources:
                if source.only_counts:
                    raise ConfigError(
                        f"`only_counts` of {source.path} needs `loss.charge_guess` above 0: "
                        "nothing else of its frames counts"
                    )
        if self.loss.part_states and self.data.composites is None:
            raise ConfigError(
                "`loss.part_states` needs `data.composites`, whose parts it is about, or be 0"
            )
        if self.model is None:
            return
        for name in self.described():
            raise ConfigError(f"`{name}` of a new model belongs into the `model` section")
        if self.energies != "keep":
            raise ConfigError("`energies` is for a model to go on from: those of a new one are fit")
        if self.redesign is not None:
            raise ConfigError("`redesign` is for a model to go on from, not for a new one")
        if self.head is not None:
            raise ConfigError("`head` of a new model belongs into the `model.long_range` section")

    def described(self) -> dict[str, str]:
        """What the recipe says anew of the model to go on from."""
        names = ("training_data", "level_of_theory", "energy_reference")
        given = {name: getattr(self, name) for name in names}
        return {name: text for name, text in given.items() if text is not None}


STAGE_KEYS = (
    "from",
    "why",
    "folder",
    "processes",
    "steps",
    "released",
    "average",
    "made_by",
    "calibration",
)
"""Keys of a recipe file that say how it stands among others, see
:class:`lesff.train.stages.Stage`."""

_TAKEN_OVER = ("seed", "model", "loss", "optimizer", "data", "calibration")
"""Keys of a file that files that extend it take over."""


def read_recipe(path: Path) -> Recipe:
    """Parse a recipe file.

    Args:
        path: The file; a stage of a chain is read as the recipe of its run alone.

    Raises:
        ConfigError: naming the file, if it or one that it extends is missing, not TOML, or extends
            itself, or has unknown or missing keys.
    """
    tables = read_tables(path)
    return recipe_of({k: v for k, v in tables.items() if k not in STAGE_KEYS}, path)


def read_tables(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Content of a recipe file together with that of the files it extends.

    Args:
        path: The file.
        extended_by: Files on the way here, for the message about a circle.

    Raises:
        ConfigError: if a file is missing, not TOML, or extends itself.
    """
    own = _parse(path, extended_by)
    if "extends" not in own:
        return own
    name = own.pop("extends")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: `extends` must be the path of a recipe file, got {name!r}")
    way = (*extended_by, path)
    base = path.parent / name
    if base.resolve() in {file.resolve() for file in way}:
        circle = " -> ".join(file.name for file in (*way, base))
        raise ConfigError(f"{path}: `extends` must not lead back to a file, got {circle}")
    inherited = read_tables(base, way)
    kept = {key: inherited[key] for key in _TAKEN_OVER if key in inherited}
    if "from" in own:
        kept.pop("model", None)
    return _merged(kept, own)


def _parse(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        reason = f", which {extended_by[-1]} extends," if extended_by else ""
        raise ConfigError(f"recipe {path}{reason} does not exist")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {path} must be TOML: {error}") from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``changes``; tables key by key, in the order of ``base``."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merged(old, value)
        result[key] = value
    return result


def recipe_of(tables: dict[str, Any], path: Path) -> Recipe:
    """Recipe of the content of a file, without the keys of stages.

    Raises:
        ConfigError: naming the file, for unknown or missing keys and bad values.
    """
    try:
        data = tables.get("data")
        if isinstance(data, dict) and isinstance(data.get("sources"), dict):
            tables = {**tables, "data": {**data, "sources": _source_list(data["sources"])}}
        return from_dict(Recipe, tables, "recipe")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def identity(value: Any) -> str:
    """Hash of a recipe, or of a part of one, by what differs from the defaults.

    An option that a later version of lesff adds changes the hash of no recipe that lacks it: runs
    that are under way can be resumed.
    """
    return hashlib.sha256(json.dumps(_said(value)).encode()).hexdigest()


def _said(value: Any) -> Any:
    """Plain data of a dataclass without fields that have their default."""
    if isinstance(value, tuple | list):
        return [_said(item) for item in value]
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items()}
    if not is_dataclass(value):
        return value
    said = {}
    for field_ in fields(value):
        default = field_.default
        if field_.default_factory is not MISSING:
            default = field_.default_factory()
        if (item := getattr(value, field_.name)) != default:
            said[field_.name] = _said(item)
    return said


def _source_list(sources: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of files as the list that a recipe has, without those that are left out."""
    rows = []
    for name, options in sources.items():
        if options is False:
            continue
        if not isinstance(options, dict):
            raise ConfigError(
                f'`data.sources."{name}"` must be a table of options, or false to leave the file '
                f"out, got {options!r}"
            )
        rows.append({"path": name, **options})
    return rows
