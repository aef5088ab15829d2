"""Options of a distillation, and the student that is trained if no recipe is given."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from lesff.errors import ConfigError
from lesff.heads import LongRangeConfig
from lesff.potential.edit import INNER_CUTOFF
from lesff.train.loss import LossConfig
from lesff.train.recipe import DataConfig, OptimizerConfig, Recipe, RecipeModel

SampleKind = Literal["md", "rattle"]
_OF_SAMPLE: dict[SampleKind, tuple[str, ...]] = {
    "md": ("temperatures", "timestep", "interval", "friction", "driver"),
    "rattle": ("displacement", "chunk"),
}
"""Options that one kind of sampling has and the other would ignore."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What is sampled and labelled.

    Attributes:
        sample: ``"md"``: Langevin dynamics of every structure at every temperature; ``"rattle"``:
            random displacements of every structure.
        frames: Frames per structure and temperature, or per structure.
        temperatures: K, for ``"md"``.
        timestep: fs, for ``"md"`` as the next two.
        interval: Steps of dynamics between frames.
        friction: Langevin friction in 1/fs.
        displacement: Smallest and largest standard deviation of rattled coordinates in A, for
            ``"rattle"``.
        strain: Standard deviation of the components of a random symmetric strain of crystals, once
            per trajectory or per rattled frame.
        max_force: Frames with a larger force (eV/A) are left out, and counted.
        validation: Share of the structures whose frames are held out, at least one structure.
        chunk: Frames per shard of ``"rattle"``; a trajectory is one shard.
        driver: lesff model or calculator that drives the dynamics of ``"md"``; the teacher if not
            given.
        seed: Seed of everything.
    """

    sample: SampleKind = "md"
    frames: int = 20
    temperatures: tuple[float, ...] = (300.0, 600.0)
    timestep: float = 0.5
    interval: int = 20
    friction: float = 0.02
    displacement: tuple[float, float] = (0.02, 0.12)
    strain: float = 0.02
    max_force: float = 50.0
    validation: float = 0.2
    chunk: int = 50
    driver: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges; raises ConfigError naming the option."""
        low, high = self.displacement
        checks = {
            "frames": self.frames >= 1,
            "temperatures": bool(self.temperatures) and min(self.temperatures) > 0.0,
            "timestep": 0.0 < self.timestep <= 10.0,
            "interval": self.interval >= 1,
            "friction": self.friction > 0.0,
            "displacement": 0.0 <= low <= high,
            "strain": 0.0 <= self.strain <= 0.2,
            "max_force": self.max_force > 0.0,
            "validation": 0.0 < self.validation < 1.0,
            "chunk": self.chunk >= 1,
        }
        bad = [name for name, is_good in checks.items() if not is_good]
        if bad:
            raise ConfigError(f"`{bad[0]}` is out of range: {getattr(self, bad[0])!r}")
        defaults = {field.name: field.default for field in fields(self)}
        other: SampleKind = "md" if self.sample == "rattle" else "rattle"
        for name in _OF_SAMPLE[other]:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"`{name}` must be left out unless `sample` is {other!r}")


def small_student(*, has_states: bool) -> Recipe:
    """The default student: two layers of 32 scalar channels, 4.5 A, charges that stay in bounds.

    Args:
        has_states: Whether structures differ in charge or spin, which then are inputs.
    """
    return Recipe(
        name="distill",
        data=DataConfig(sources=(), max_atoms=200, validation_frames=200),
        model=RecipeModel(
            architecture={
                "type": "mace",
                "cutoff": 4.5,
                "hidden_irreps": "32x0e",
                "n_layers": 2,
                "max_ell": 2,
                "correlation": 3,
                "radial_mlp": [32, 32],
                "inner_cutoff": INNER_CUTOFF,
            },
            long_range=LongRangeConfig(head="edge", cutoff="smooth", dl=1.0),
            local_state=has_states,
            wall="zbl",
            bounded_charges=True,
        ),
        loss=LossConfig(
            energy=3.0, forces=1.0, dipole=1.0, charge_guess=50.0 * has_states, forces_delta=0.05
        ),
        optimizer=OptimizerConfig(
            lr=0.01, clip_norm=1.0, ema_decay=0.995, warmup_steps=50, max_steps=1_000_000,
            time_limit_minutes=30.0, validate_every=200,
        ),
    )  # fmt: skip


def with_schedule(recipe: Recipe, minutes: float | None, steps: int | None) -> Recipe:
    """The recipe with another end: by time, by steps, or by whichever comes first."""
    optimizer = recipe.optimizer
    if minutes is not None:
        optimizer = replace(optimizer, time_limit_minutes=minutes, max_steps=steps or 1_000_000)
    elif steps is not None:
        optimizer = replace(optimizer, time_limit_minutes=0.0, max_steps=steps)
    if optimizer.max_steps < 1 or optimizer.time_limit_minutes < 0.0:
        raise ConfigError("`steps` must be at least 1 and `minutes` at least 0")
    return replace(recipe, optimizer=optimizer)
