"""Recipes of several stages: a folder says what each run goes on from, and why.

``NAME/stages/*.toml`` are the runs, in the order of their names; ``NAME/base.toml`` is what they
have in common, ``NAME/data.lock.toml`` the bytes of their data (:mod:`lesff.train.data_lock`). A
stage is a recipe file (:mod:`lesff.train.recipe`) with ``from`` and the fields of :class:`Notes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lesff.errors import ConfigError
from lesff.plain_data import from_dict
from lesff.train.recipe import STAGE_KEYS, Recipe, SourceConfig, read_tables, recipe_of


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Average of the weights of two stages instead of training.

    Weights = earlier + share (``from`` - earlier) (Wortsman et al., arXiv 2109.01903).

    Attributes:
        earlier: The stage that ``from`` was trained on from.
        share: Share of ``from``, between 0 and 1.
    """

    earlier: str
    share: float

    def __post_init__(self) -> None:
        """Raise ConfigError for a share outside its range."""
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"`average.share` must be between 0 and 1, got {self.share}")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How the model of a stage gets its uncertainty (:mod:`lesff.uncertainty.calibration`).

    Attributes:
        train: Files whose training frames count; empty: all files of the stage.
        validation: Files whose held-out frames set the scale; of a file that the stage does not
            train on, all frames. Empty: all files of the stage.
        fraction: Share of the training frames that is drawn.
        validation_frames: Most held-out frames; as many are drawn if there are more.
        directions: Backward passes of a force uncertainty.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    fraction: float = 1.0
    validation_frames: int = 2000
    directions: int = 16

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that leave nothing."""
        if not 0.0 < self.fraction <= 1.0:
            raise ConfigError(
                f"`calibration.fraction` must be above 0 and at most 1, got {self.fraction}"
            )
        for name in ("validation_frames", "directions"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"`calibration.{name}` must be at least 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a stage says beside its recipe.

    Attributes:
        why: What the stage is for, one sentence.
        folder: Subfolder of the data folder that the paths of this stage are relative to.
        processes: Processes of the released run; each takes ``data.max_atoms`` per step.
        steps: Optimiser steps of the released run, where time and not steps were its limit.
        released: Model ``name@version`` that is the result, if it was released.
        average: Set where two stages are averaged and nothing is trained.
        made_by: Commands of ``tools/`` that make the result, where ``lesff train`` cannot.
        calibration: How the result is calibrated; None where it is not.
    """

    why: str
    folder: str = "."
    processes: int = 1
    steps: int | None = None
    released: str | None = None
    average: AverageConfig | None = None
    made_by: tuple[str, ...] = ()
    calibration: CalibrationConfig | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for an empty reason and numbers that count nothing."""
        if not self.why.strip():
            raise ConfigError("`why` must say in a sentence what the stage is for, got ''")
        for name in ("processes", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {value}")
        if self.made_by and (self.average is not None or self.calibration is not None):
            raise ConfigError(
                "a stage with `made_by` must have no `average` or `calibration`: its commands make "
                "all of the result"
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of a chain.

    Attributes:
        name: Name of its file, without ``.toml``.
        start: The stage or the model ``name@version`` that it goes on from; None for fresh weights.
        notes: What it says beside its recipe.
        recipe: What is trained; None where two stages are averaged, or tools make the result.
        trained_on: Sources of the frames that the result was trained on, relative to the data
            folder; of an average, those of the stage ``from``.
        is_shipped: Whether the result is for use: it was released, or no stage goes on from it.
    """

    name: str
    start: str | None
    notes: Notes
    recipe: Recipe | None
    trained_on: tuple[SourceConfig, ...] = ()
    is_shipped: bool = True

    @property
    def calibration(self) -> CalibrationConfig | None:
        """How the result is calibrated; None where it is not, or is only gone on from."""
        return self.notes.calibration if self.is_shipped else None

    @property
    def starts_from_model(self) -> bool:
        """Whether it goes on from a model with a name instead of a stage."""
        return self.start is not None and "@" in self.start

    def located(self, source: SourceConfig) -> SourceConfig:
        """A source of the stage with paths relative to the data folder."""
        (path,) = self._in_folder([source.path])
        without = None if source.without is None else self._in_folder([source.without])[0]
        return replace(source, path=path, without=without)

    def source_files(self) -> list[str]:
        """Files whose frames it reads, relative to the data folder."""
        sources = [] if self.recipe is None else self.recipe.data.sources
        return self._in_folder([source.path for source in sources])

    def data_files(self) -> list[str]:
        """All its files: sources, and those whose molecules are left out."""
        sources = [] if self.recipe is None else self.recipe.data.sources
        held = [source.without for source in sources if source.without is not None]
        return list(dict.fromkeys([*self.source_files(), *self._in_folder(held)]))

    def calibration_sources(self) -> tuple[list[SourceConfig], list[SourceConfig]]:
        """Sources of training and of held-out frames of the calibration.

        Raises:
            ConfigError: for a training file that the stage does not train on.
        """
        chosen = self.calibration or CalibrationConfig()
        own = {source.path: source for source in self.trained_on}
        train, held = self._in_folder(chosen.train), self._in_folder(chosen.validation)
        foreign = sorted(set(train) - set(own))
        if foreign:
            raise ConfigError(
                f"`calibration.train` of stage {self.name} must be files that it trains on, got "
                f"{', '.join(foreign)}"
            )
        return (
            [own[name] for name in train] or list(own.values()),
            [own.get(name, SourceConfig(path=name)) for name in held] or list(own.values()),
        )

    def calibration_files(self) -> list[str]:
        """Files that the calibration reads, relative to the data folder; none without."""
        if self.calibration is None:
            return []
        train, held = self.calibration_sources()
        without = [s.without for s in (*train, *held) if s.without is not None]
        return list(dict.fromkeys([*(s.path for s in (*train, *held)), *without]))

    def _in_folder(self, names: Sequence[str]) -> list[str]:
        return [str(PurePosixPath(self.notes.folder) / name) for name in names]


def read_stages(folder: Path) -> list[Stage]:
    """Stages of a recipe folder in their order.

    Raises:
        ConfigError: naming the file, if a stage cannot be read or goes on from what is not there.
    """
    paths = sorted((folder / "stages").glob("*.toml"))
    if not paths:
        raise ConfigError(
            f"{folder} must hold stages/*.toml, one file for each stage; a recipe of one run is a "
            "TOML file and is given as such"
        )
    stages: list[Stage] = []
    for path in paths:
        stages.append(_read_stage(path, {stage.name: stage for stage in stages}))
    went_on = {stage.start for stage in stages}
    went_on |= {s.notes.average.earlier for s in stages if s.notes.average is not None}
    return [
        replace(stage, is_shipped=stage.name not in went_on or stage.notes.released is not None)
        for stage in stages
    ]


def select_stages(
    stages: Sequence[Stage], *, until: str | None = None, only: str | None = None
) -> list[Stage]:
    """Stages up to and with one, or one alone; all of them if neither is given.

    Raises:
        ConfigError: if both are given, or there is no such stage.
    """
    if until is not None and only is not None:
        raise ConfigError("`until` and `only` exclude each other; give one of them")
    wanted = until if only is None else only
    names = [stage.name for stage in stages]
    if wanted is None:
        return list(stages)
    if wanted not in names:
        raise ConfigError(f"the stage must be one of {', '.join(names)}, got {wanted}")
    last = names.index(wanted) + 1
    return list(stages[:last] if only is None else stages[last - 1 : last])


def _read_stage(path: Path, stages: Mapping[str, Stage]) -> Stage:
    earlier = list(stages)
    tables = read_tables(path)
    kept = {key: tables.pop(key) for key in STAGE_KEYS if key in tables}
    start = kept.pop("from", None)
    try:
        notes = from_dict(Notes, kept, "stage")
        if not notes.made_by:
            _check_start(start, tables, earlier)
        if notes.average is not None:
            _check_average(notes.average, start, tables, earlier)
            before = stages[str(start)]
            return Stage(
                name=path.stem, start=start, notes=notes, recipe=None, trained_on=before.trained_on
            )
        if notes.made_by:
            _check_made_by(start, tables)
            return Stage(name=path.stem, start=start, notes=notes, recipe=None)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    recipe = recipe_of(tables, path)
    stage = Stage(name=path.stem, start=start, notes=notes, recipe=recipe)
    return replace(stage, trained_on=tuple(stage.located(s) for s in recipe.data.sources))


def _check_start(start: Any, tables: dict[str, Any], earlier: Sequence[str]) -> None:
    """Refuse a stage with no model, with two, or with one that no earlier stage makes."""
    if start is None:
        if "model" not in tables:
            raise ConfigError(
                "a stage must have a `model` section for fresh weights, or `from` for the stage or "
                "model to go on from"
            )
        return
    if not isinstance(start, str) or not ("@" in start or start in earlier):
        known = ", ".join(earlier) or "none"
        raise ConfigError(
            f"`from` must be an earlier stage ({known}) or a model NAME@VERSION, got {start!r}"
        )
    if "model" in tables:
        raise ConfigError("a stage with `from` must not have a `model` section, too")


def _check_average(
    average: AverageConfig, start: Any, tables: dict[str, Any], earlier: Sequence[str]
) -> None:
    """Refuse an average of what is not there, and one that would also train."""
    if start is None or "@" in start or average.earlier not in earlier:
        raise ConfigError(
            f"`from` and `average.earlier` must be earlier stages ({', '.join(earlier)}), got "
            f"{start!r} and {average.earlier!r}"
        )
    if tables:
        raise ConfigError(
            f"a stage with `average` trains nothing and must not have {', '.join(sorted(tables))}"
        )


def _check_made_by(start: Any, tables: dict[str, Any]) -> None:
    """Refuse a stage of tools that does not name its model, or that would also train."""
    if not isinstance(start, str) or "@" not in start:
        raise ConfigError(
            f"`from` of a stage with `made_by` must be a model NAME@VERSION, got {start!r}"
        )
    if tables:
        raise ConfigError(
            f"a stage with `made_by` trains nothing and must not have {', '.join(sorted(tables))}"
        )
