"""``ModelConfig``: everything that defines a potential apart from its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch

from lesff.architectures import read_architecture
from lesff.electrostatics.d3 import D3Config
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import ConfigError
from lesff.heads import LongRangeConfig
from lesff.nn.state_embedding import StateInput

Wall = Literal["zbl", "zbl-inner"]
"""See :class:`ModelConfig`."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
"""Types that a model can compute in, by their names in configurations."""

FORMAT_VERSION = 1

MAX_STATES = 8
"""Inputs of a joint embedding."""
MAX_STATE = 1000
"""Largest total charge in e, either sign, and largest multiplicity of a range."""


MAX_FLOOR = 1000.0
"""eV."""
MAX_STIFFNESS = 1e5
"""eV."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that defines a potential apart from its weights; ``config.json`` of a model.

    Attributes:
        architecture: Short-range model: ``type`` and its hyper-parameters.
        elements: Atomic numbers covered, ascending.
        reference_energies: Energy of each element in eV, same order; part of ``energy``.
        energy_scale: Factor of the interaction energy, eV.
        long_range: Latent electrostatics, or None for a short-range model.
        dispersion: Dispersion between all atoms, or None for a model without.
        d3: Dispersion D3(BJ) instead, with tables among the weights.
        total_charge: Lowest and highest trained total charge in e.
        spin_multiplicity: Lowest and highest trained multiplicity.
        state_embedding: Whether total charge and spin enter the node features.
        local_state: Whether total charge and spin enter as a local, size-consistent state
            (:mod:`lesff.nn.local_state`) instead.
        shared_protons: Whether a hydrogen between two atoms is shared by them when bonds are
            counted for it, instead of a whole bond of both (:mod:`lesff.nn.contacts`). Guesses of
            such a model are proportional to how open an atom is (:mod:`lesff.nn.local_state`), and
            charges within limits are solved for (:mod:`lesff.heads.sharing`).
        state_charge: Largest charge in e that the local state gives an atom; guesses level off at
            3/4 of it. None for 4 e.
        full_weight: Weight with which it gives charge and spin to an atom whose bonds are full,
            beside open ones, whose weights are about one. None for 2e-4.
        wall: Repulsion of the nuclei, and of atoms with too many bonds, below everything learned:
            ``"zbl"``; ``"zbl-inner"``, whose repulsion is that of ``"zbl"`` minus what it is at the
            distances where the inner cutoff of the architecture levels off: nothing from there
            outwards, for pretrained weights; or None (:mod:`lesff.nn.contacts`).
        wall_stiffness: k in eV of an energy ``k ((r' - r) / R)^2`` that a pair has in addition
            under the wall ``"zbl-inner"``, with the distance r' that the network sees and the sum
            R of covalent radii: the repulsion of light nuclei alone hardly rises there.
        crowding: Whether the wall counts bonds; not in models of solids, whose atoms have more
            neighbours than any molecule.
        energy_floor: eV below the reference energy from which what is learned of an atom levels
            off, one number for all elements or one for each in the order of ``elements``, or
            None: no atom gains more than that, and one eV, from any environment.
        joint_embedding: Inputs of the embedding of published models with charge and spin states,
            instead of ours.
        dtype: Type of the stored weights.
        energy_reference: What energy zero means.
        level_of_theory: Reference method.
        training_data: Where the labels come from.
        software: Versions that made the weights.
        format_version: Version of this layout; :mod:`lesff.potential.upgrade` reads older ones.
    """

    architecture: dict[str, Any]
    elements: tuple[int, ...]
    reference_energies: tuple[float, ...]
    energy_scale: float = 1.0
    long_range: LongRangeConfig | None = None
    dispersion: DispersionConfig | None = None
    d3: D3Config | None = None
    total_charge: tuple[int, int] = (0, 0)
    spin_multiplicity: tuple[int, int] = (1, 1)
    state_embedding: bool = False
    local_state: bool = False
    shared_protons: bool = False
    state_charge: float | None = None
    full_weight: float | None = None
    wall: Wall | None = None
    crowding: bool = True
    wall_stiffness: float = 0.0
    energy_floor: float | tuple[float, ...] | None = None
    joint_embedding: tuple[StateInput, ...] = ()
    dtype: Literal["float32", "float64"] = "float32"
    energy_reference: str = "unspecified"
    level_of_theory: str = "unspecified"
    training_data: str = "unspecified"
    software: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check ranges and agreement of fields; raises ConfigError naming the field."""
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"`format_version` must be {FORMAT_VERSION}, got {self.format_version}; "
                "other versions are upgraded when a folder is read, see lesff.potential.upgrade"
            )
        z = self.elements
        if not z or list(z) != sorted(set(z)) or z[0] < 1 or z[-1] > 118:
            raise ConfigError(f"`elements` must be ascending atomic numbers 1..118, got {z}")
        if len(self.joint_embedding) > MAX_STATES:
            raise ConfigError(
                f"`joint_embedding` must have at most {MAX_STATES} inputs, got "
                f"{len(self.joint_embedding)}"
            )
        if len(self.reference_energies) != len(z):
            raise ConfigError(
                f"`reference_energies` must have one value per element ({len(z)}), "
                f"got {len(self.reference_energies)}"
            )
        for name in ("total_charge", "spin_multiplicity"):
            low, high = getattr(self, name)
            if low > high or low < -MAX_STATE or high > MAX_STATE:
                raise ConfigError(
                    f"`{name}` must be [lowest, highest] within {MAX_STATE}, got {[low, high]}"
                )
        self._check_parts()
        self.architecture_config()
        if self.dispersion is not None:
            self.dispersion.of_elements(self.elements)

    def _check_parts(self) -> None:
        """Raise ConfigError for parts that exclude each other or do not fit the elements."""
        states = ("state_embedding", "local_state", "joint_embedding")
        given = [name for name in states if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(
                f"`{given[0]}` and `{given[1]}` exclude each other, got both: a model has one "
                "input for total charge and spin"
            )
        if self.dispersion is not None and self.d3 is not None:
            raise ConfigError(
                "`dispersion` and `d3` exclude each other, got both: each is all of the dispersion"
            )
        self._check_wall()
        if self.shared_protons and not self.local_state:
            raise ConfigError(
                "`shared_protons` must be left out without `local_state`, whose count of bonds it "
                "is about"
            )
        for name, most in (("state_charge", 10.0), ("full_weight", 0.01)):
            value = getattr(self, name)
            if value is not None and not (self.local_state and 0.0 < value <= most):
                raise ConfigError(
                    f"`{name}` must be null, or in (0, {most:g}] with `local_state`, whose it is, "
                    f"got {value!r}"
                )
        if self.architecture.get("local_charges") and not self.local_state:
            raise ConfigError(
                "`architecture.local_charges` must be false without `local_state`, whose charges "
                "they begin with"
            )
        chosen = self.long_range
        if self.local_state and chosen is not None and chosen.reference_charges is not None:
            raise ConfigError(
                "`local_state` and `long_range.reference_charges` exclude each other, got both: "
                "each says what charges transfers start from"
            )
        limits = None if chosen is None else chosen.charge_limits
        if limits is not None and len(limits) != len(self.elements):
            raise ConfigError(
                "`long_range.charge_limits` must have one value per element "
                f"({len(self.elements)}), got {len(limits)}"
            )

    def _check_wall(self) -> None:
        """Raise ConfigError for a wall that is none, and for parts of it that do not fit."""
        if self.wall not in (None, *get_args(Wall)):
            raise ConfigError(f"`wall` must be null, 'zbl' or 'zbl-inner', got {self.wall!r}")
        if self.wall is None and not self.crowding:
            raise ConfigError("`crowding` must be left out without `wall`, which it is a part of")
        if self.wall == "zbl-inner" and self.architecture.get("inner_cutoff") is None:
            raise ConfigError(
                "`wall` must not be 'zbl-inner' without `architecture.inner_cutoff`: there is no "
                "distance from which on what is learned levels off; use 'zbl'"
            )
        if not 0.0 <= self.wall_stiffness <= MAX_STIFFNESS:
            raise ConfigError(
                f"`wall_stiffness` must be in [0, {MAX_STIFFNESS:g}] eV, got "
                f"{self.wall_stiffness!r}"
            )
        if self.wall_stiffness and self.wall != "zbl-inner":
            raise ConfigError(
                "`wall_stiffness` must be left out or 0 without `wall` = 'zbl-inner', which it is "
                f"a part of, got {self.wall_stiffness!r} with `wall` = {self.wall!r}"
            )
        floor = self.energy_floor
        floors = floor if isinstance(floor, tuple) else () if floor is None else (floor,)
        if isinstance(floor, tuple) and len(floor) != len(self.elements):
            raise ConfigError(
                "`energy_floor` must be one number or have one value per element "
                f"({len(self.elements)}), got {len(floor)}"
            )
        if not all(0.0 < value <= MAX_FLOOR for value in floors):
            raise ConfigError(
                f"`energy_floor` must be null or in (0, {MAX_FLOOR}] eV, got {floor!r}"
            )

    @property
    def charge_width(self) -> float | None:
        """Sigma of the Gaussian charges in A, or None for a model without charges."""
        return None if self.long_range is None else self.long_range.sigma

    def architecture_config(self) -> Any:
        """The architecture's own configuration object.

        Raises:
            ConfigError: for an unknown architecture or hyper-parameter.
        """
        return read_architecture(self.architecture)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, every hyper-parameter spelled out."""
        data = asdict(self)
        # what most models lack is left out: an earlier lesff reads such a folder, too
        if self.long_range is not None:
            for name in ("bases", "charge_limits", "onset", "charge_elements"):
                if not data["long_range"][name]:
                    del data["long_range"][name]
            if self.long_range.in_energy:
                del data["long_range"]["in_energy"]
        if self.crowding:
            del data["crowding"]
        for name in (
            "local_state",
            "shared_protons",
            "state_charge",
            "full_weight",
            "wall",
            "wall_stiffness",
            "energy_floor",
            "d3",
        ):
            if not data[name]:
                del data[name]
        data["architecture"] = {
            "type": self.architecture["type"],
            **asdict(self.architecture_config()),
        }
        for name in ("inner_cutoff", "local_charges", "join_until"):
            if data["architecture"].get(name, 1.0) in (None, False):
                del data["architecture"][name]
        return data
