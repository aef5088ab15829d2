"""Hyper-parameters of the NequIP architecture, checked."""

from __future__ import annotations

from dataclasses import dataclass

from lesff.errors import ConfigError
from lesff.nn.activations import SILU_NORM
from lesff.nn.irreps import multiplicities


@dataclass(frozen=True, kw_only=True)
class NequIPConfig:
    """Hyper-parameters of the short-range model.

    Attributes:
        cutoff: Edge cutoff in A.
        hidden_irreps: Node features between layers, e.g. ``"128x0e+64x1o+32x2e+32x3o"``: natural
            parity, orders 0..L without gaps, L <= 3, channels that do not grow with the order.
        n_layers: Message-passing layers. The last one keeps only invariants.
        max_ell: Highest order of the harmonics, from L to 3.
        n_radial: Number of radial functions.
        radial_frequencies: Frequencies of the Bessel functions in 1/A; n pi / cutoff if not given.
        radial_prefactor: Factor of the Bessel functions; 2 / cutoff if not given.
        cutoff_power: p of the polynomial cutoff.
        radial_mlp: Hidden sizes of the radial network.
        layer_norm: Whether features are normalised before the gate.
        norm_epsilon: Constant of the layer norm.
        gate_norm: Factor of silu in the gates (unit second moment).
        avg_num_neighbors: Summed messages are divided by its square root.
        inner_cutoff: Share of the sum of covalent radii below which radial functions level off
            (:class:`lesff.nn.contacts.InnerCutoff`), or None.
    """

    cutoff: float
    hidden_irreps: str
    n_layers: int = 4
    max_ell: int = 3
    n_radial: int = 8
    radial_frequencies: tuple[float, ...] | None = None
    radial_prefactor: float | None = None
    cutoff_power: int = 6
    radial_mlp: tuple[int, ...] = (64, 64)
    layer_norm: bool = True
    norm_epsilon: float = 1e-12
    gate_norm: float = SILU_NORM
    avg_num_neighbors: float = 1.0
    inner_cutoff: float | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: naming the field.
        """
        # raises for irreps that are none of ours
        feature_l = len(self.hidden_channels) - 1
        # name of the field -> whether it is right, and what it must be
        checks = {
            "cutoff": (0.0 < self.cutoff <= 20.0, "in (0, 20] A"),
            "n_layers": (1 <= self.n_layers <= 8, "from 1 to 8"),
            "max_ell": (feature_l <= self.max_ell <= 3, f"from {feature_l} to 3"),
            "n_radial": (1 <= self.n_radial <= 64, "from 1 to 64"),
            "radial_frequencies": (
                self.radial_frequencies is None or len(self.radial_frequencies) == self.n_radial,
                f"null or {self.n_radial} values",
            ),
            "cutoff_power": (2 <= self.cutoff_power <= 20, "from 2 to 20"),
            "radial_mlp": (
                0 < len(self.radial_mlp) <= 8 and all(0 < n <= 4096 for n in self.radial_mlp),
                "1 to 8 sizes from 1 to 4096",
            ),
            "norm_epsilon": (0.0 < self.norm_epsilon <= 1.0, "in (0, 1]"),
            "gate_norm": (0.0 < self.gate_norm <= 10.0, "in (0, 10]"),
            "avg_num_neighbors": (self.avg_num_neighbors > 0, "positive"),
            "inner_cutoff": (
                self.inner_cutoff is None or 0.2 <= self.inner_cutoff <= 1.0,
                "null or from 0.2 to 1",
            ),
        }
        for name, (is_good, expected) in checks.items():
            if not is_good:
                raise ConfigError(
                    f"`architecture.{name}` must be {expected}, got {getattr(self, name)!r}"
                )

    @property
    def hidden_channels(self) -> tuple[int, ...]:
        """Channels of the orders 0, 1, .. L of the hidden irreps."""
        try:
            found = multiplicities(self.hidden_irreps)
        except ValueError as error:
            raise ConfigError(f"`architecture.hidden_irreps` {error}") from None
        if (
            not found
            or len(found) > 4
            or list(found) != sorted(found, reverse=True)
            or not 0 < min(found) <= max(found) <= 4096
        ):
            raise ConfigError(
                "`architecture.hidden_irreps` must list orders 0..L (L <= 3) once each, natural "
                "parity, with at most 4096 channels that do not grow with the order, like "
                f"'128x0e+64x1o+32x2e+32x3o'; got {self.hidden_irreps!r}"
            )
        return found

    @property
    def channels(self) -> int:
        """Channels of the invariants."""
        return self.hidden_channels[0]
