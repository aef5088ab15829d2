"""Options of a finetuning run; a TOML file holds the same keys."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lesff.errors import ConfigError
from lesff.heads import MultipoleConfig
from lesff.plain_data import from_dict
from lesff.train.loss import LossConfig
from lesff.train.recipe import OptimizerConfig
from lesff.train.splits import SplitConfig

Strategy = Literal["full", "head", "last_layer", "lora"]


DIPOLE_WEIGHT = 1.0
"""Weight of dipoles in the loss where there are labels and nothing else is asked for."""

GUESS_WEIGHT = 50.0
"""Weight of the guess of a local state where nothing else is asked for: features that training
moves must not move it."""


def _loss() -> LossConfig:
    return LossConfig(
        energy=10.0, forces_delta=0.1, dipole=DIPOLE_WEIGHT, charge_guess=GUESS_WEIGHT
    )


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        lr=0.01, warmup_steps=50, ema_decay=0.995, max_steps=5000, validate_every=100
    )


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Structures with the base model's own answers among the training frames, against forgetting.

    Attributes:
        frames: Number of structures. 0 for none.
        weight: Their weight in the loss, relative to a frame of the data.
    """

    frames: int = 0
    weight: float = 0.3

    def __post_init__(self) -> None:
        """Check ranges; raises ConfigError."""
        if self.frames < 0 or self.weight < 0.0:
            raise ConfigError(
                f"`replay.frames` and `replay.weight` must be at least 0, got {self.frames} and "
                f"{self.weight}"
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """A finetuning run.

    Attributes:
        strategy: What is trained. ``"full"``: everything. ``"last_layer"``: the last layer,
            readouts and charge head. ``"head"``: readouts and charge head. ``"lora"``: low-rank
            updates of the weight matrices, readouts in full; merged into the weights.
        head: Charge head to change to; the base model's if not given.
        multipoles: Latent dipoles and quadrupoles, induced charges and dipoles to add; none if not
            given.
        energies: Reference energies: ``"refit"`` them to the training frames by least squares,
            ``"keep"`` them, or take those ``"given"``.
        given_energies: Energy of an atom in eV by chemical symbol, for ``"given"``.
        labels: Key of a label by its name, where the table of keys does not find it; ``""`` leaves
            a label out.
        split: How frames are divided.
        replay: Replay against forgetting.
        anchor: Strength of the pull towards the base model's weights (L2 to the start).
        lora_rank: Rank of ``"lora"``.
        rates: Factor of the learning rate by part: ``embedding``, ``trunk``, ``readout``,
            ``charges``.
        loss: Loss terms. Dipoles count by default if the data have such labels and the model has
            charges; 0 leaves them out.
        optimizer: Optimiser and schedule.
        random_start: Draw all weights anew: what the same frames give without the base model.
        max_atoms: Atoms per batch and process.
        uncertainty: Whether the result is calibrated (:mod:`lesff.uncertainty.calibration`) on the
            training and validation frames.
        checks_units: Whether labels in other units than the base model's answers stop the run; not
            looked at if ``random_start``.
        returns: ``"better"``: the untouched base model unless the mean verdict on the validation
            frames is better; ``"trained"``: the trained model whatever the verdict.
        seed: Seed of split, order and low-rank updates.
    """

    strategy: Strategy = "full"
    head: str | None = None
    multipoles: MultipoleConfig | None = None
    energies: Literal["refit", "keep", "given"] = "refit"
    given_energies: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    split: SplitConfig = field(default_factory=SplitConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    anchor: float = 0.0
    lora_rank: int = 8
    rates: dict[str, float] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=_loss)
    optimizer: OptimizerConfig = field(default_factory=_optimizer)
    random_start: bool = False
    max_atoms: int = 200
    uncertainty: bool = False
    checks_units: bool = True
    returns: Literal["better", "trained"] = "better"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges and agreement of options; raises ConfigError."""
        if self.energies == "given" and not self.given_energies:
            raise ConfigError("`given_energies` must name the energies for energies='given'")
        if self.given_energies and self.energies != "given":
            raise ConfigError(
                f"`energies` must be 'given' to use `given_energies`, got {self.energies!r}"
            )
        if self.lora_rank < 1 or self.max_atoms < 1 or self.anchor < 0.0:
            raise ConfigError(
                "`lora_rank` and `max_atoms` must be at least 1 and `anchor` at least 0, got "
                f"{self.lora_rank}, {self.max_atoms} and {self.anchor}"
            )
        if self.random_start and (self.anchor or self.replay.frames or self.strategy != "full"):
            raise ConfigError(
                "`random_start` must be false for an anchor, replay or a strategy other than "
                "'full': there is nothing to keep of random weights"
            )
        if self.anchor and self.strategy == "lora":
            raise ConfigError("`anchor` must be 0 for strategy 'lora': its updates start at zero")
        unknown = sorted(set(self.rates) - set(PARTS))
        if unknown:
            raise ConfigError(f"`rates` must name {', '.join(PARTS)}, got {', '.join(unknown)}")

    def changed(self) -> dict[str, Any]:
        """Options that differ from their defaults, as plain data."""
        return _difference(asdict(self), asdict(FinetuneOptions()))


PARTS = ("embedding", "trunk", "readout", "charges")
"""Parts of a model that can have a learning rate of their own."""


def _difference(data: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for key, value in data.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict) and default[key]:
            value = _difference(value, default[key])
            if value:
                result[key] = value
        elif value != default.get(key):
            result[key] = value
    return result


def read_options(path: Path | None, overrides: dict[str, Any]) -> FinetuneOptions:
    """Options of a TOML file, with some replaced.

    Args:
        path: The file, or None for defaults.
        overrides: Options that count more, nested like the file.

    Raises:
        ConfigError: if the file is missing or not TOML, for unknown keys and bad values.
    """
    data: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"configuration {path} does not exist")
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"configuration {path} must be TOML: {error}") from error
    return options_from(_merged(data, overrides))


def options_from(data: dict[str, Any]) -> FinetuneOptions:
    """Options of plain data; what a nested table leaves out keeps its default here.

    Raises:
        ConfigError: for unknown keys and bad values.
    """
    defaults = asdict(FinetuneOptions())
    full = dict(data)
    for name in ("loss", "optimizer"):
        if name in data:
            if not isinstance(data[name], dict):
                raise ConfigError(f"`{name}` must be a table of keys, got {data[name]!r}")
            full[name] = defaults[name] | data[name]
    return from_dict(FinetuneOptions, full, "finetune")


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    result = dict(low)
    for key, value in high.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result
