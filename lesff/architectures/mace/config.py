"""Hyper-parameters of the MACE architecture, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lesff.errors import ConfigError
from lesff.nn.activations import SIGMOID_NORM, SILU_NORM
from lesff.nn.irreps import multiplicities
from lesff.nn.readout import ReadoutConfig


@dataclass(frozen=True, kw_only=True)
class MACEConfig:
    """Hyper-parameters of the short-range model.

    Attributes:
        cutoff: Edge cutoff in A.
        hidden_irreps: Node features between layers, e.g. ``"64x0e"`` or ``"96x0e+96x1o"``; equal
            multiplicities, natural parity, orders 0..L without gaps, L <= 2.
        n_layers: Message-passing layers. The last one keeps only invariants.
        max_ell: Highest order of the harmonics, 0..3.
        correlation: Degree of the symmetric contraction, 1..3.
        radial_basis: Kind of radial functions.
        n_radial: Number of radial functions.
        radial_frequencies: Frequencies of the Bessel functions in 1/A; n pi / cutoff if not given.
        radial_prefactor: Factor of the Bessel functions; sqrt(2 / cutoff) if not given.
        radial_centers: Centres of Gaussians.
        radial_exponent: Exponent of Gaussians.
        cutoff_power: p of the polynomial cutoff.
        envelope_on: Whether the polynomial cutoff multiplies the radial functions, or the weights
            that the radial network makes of them.
        radial_mlp: Hidden sizes of the radial network.
        readout_hidden: Hidden units of the last readout, or None for a linear one.
        readout_bias: Whether the last readout has two hidden layers with biases.
        last_layer_readout_only: Whether only the last layer has a readout.
        readout_heads: Heads a published readout was trained with (its normalisation).
        state_readout: Whether the embedding of element, charge and spin has a linear readout.
        interaction: ``"linear"``: messages of MACE; ``"gated"``: with a gated nonlinearity and
            element-dependent radial networks (MACE-OMOL, MACE-MH); ``"attention"``: the radial
            network reads the node features.
        edge_channels: Channels of the convolution; as the node features if not given.
        first_edge_channels: Likewise, of the first layer.
        edge_l: Highest order that the normalisation of messages counts; that of the node features
            if not given. Published models count orders that are always zero.
        gate_norms: Factors of silu and sigmoid of the gates (unit second moment).
        first_residual: Whether the first layer adds a self-connection of the embedding; if not,
            an element-wise map acts on its message instead ("agnostic" block of MACE).
        avg_num_neighbors: Divisor of the summed messages.
        message_normalization: ``"neighbors"``: divide by ``avg_num_neighbors``; ``"density"``: by
            one plus a learned local density of neighbours. Gated messages have a density always.
        agnostic_product: Whether all elements share the weights of the contraction.
        agnesi: Parameters (a, q, p) of the Agnesi transform of distances in front of the radial
            basis, or None.
        soft_transform: Steepness of the soft transform of distances, or None.
        repulsion: Whether to add the ZBL pair repulsion, cut off with the same power.
        inner_cutoff: Share of the sum of covalent radii below which radial functions level off
            (:class:`lesff.nn.contacts.InnerCutoff`), or None.
        stores_couplings: Whether the coupling coefficients of the contraction are stored with the
            weights; published models were trained with coefficients in single precision.
        coupling_paths: Number of paths [order][degree - 1] of stored coefficients; those of our
            basis if not given.
    """

    cutoff: float
    hidden_irreps: str
    n_layers: int = 2
    max_ell: int = 3
    correlation: int = 3
    radial_basis: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    n_radial: int = 8
    radial_frequencies: tuple[float, ...] | None = None
    radial_prefactor: float | None = None
    radial_centers: tuple[float, ...] | None = None
    radial_exponent: float | None = None
    cutoff_power: int = 5
    envelope_on: Literal["basis", "weights"] = "basis"
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_hidden: int | None = 16
    readout_bias: bool = False
    last_layer_readout_only: bool = False
    readout_heads: int = 1
    state_readout: bool = False
    interaction: Literal["linear", "gated", "attention"] = "linear"
    edge_channels: int | None = None
    first_edge_channels: int | None = None
    edge_l: int | None = None
    gate_norms: tuple[float, float] = (SILU_NORM, SIGMOID_NORM)
    first_residual: bool = True
    avg_num_neighbors: float = 1.0
    message_normalization: Literal["neighbors", "density"] = "neighbors"
    agnostic_product: bool = False
    agnesi: tuple[float, float, float] | None = None
    soft_transform: float | None = None
    repulsion: bool = False
    inner_cutoff: float | None = None
    stores_couplings: bool = False
    coupling_paths: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: naming the field.
        """
        # name of the field -> whether it is right, and what it must be
        checks = {
            "cutoff": (0.0 < self.cutoff <= 20.0, "in (0, 20] A"),
            "n_layers": (1 <= self.n_layers <= 8, "from 1 to 8"),
            "max_ell": (0 <= self.max_ell <= 3, "from 0 to 3"),
            "correlation": (1 <= self.correlation <= 3, "from 1 to 3"),
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
            "readout_hidden": (
                self.readout_hidden is None or 1 <= self.readout_hidden <= 4096,
                "null or from 1 to 4096",
            ),
            "avg_num_neighbors": (self.avg_num_neighbors > 0, "positive"),
            "readout_heads": (1 <= self.readout_heads <= 1024, "from 1 to 1024"),
            "radial_centers": (
                (self.radial_basis == "gaussian") == (self.radial_centers is not None)
                and len(self.radial_centers or range(self.n_radial)) == self.n_radial,
                f"{self.n_radial} values for Gaussians, null for others",
            ),
            "radial_exponent": (
                (self.radial_basis == "gaussian") == (self.radial_exponent is not None)
                and (self.radial_exponent or 1.0) > 0.0,
                "positive for Gaussians, null for others",
            ),
            "soft_transform": (
                self.soft_transform is None or self.agnesi is None,
                "null with an Agnesi transform",
            ),
            "inner_cutoff": (
                self.inner_cutoff is None or 0.2 <= self.inner_cutoff <= 1.0,
                "null or from 0.2 to 1",
            ),
            "first_residual": (
                self.first_residual or self.interaction == "linear",
                f"true for {self.interaction} interactions",
            ),
            "edge_l": (
                self.edge_l is None or self.feature_l <= self.edge_l <= 4,
                f"null or from {self.feature_l} to 4",
            ),
            "coupling_paths": (
                self._are_good_paths(),
                "counts of at most 4096 [order][degree - 1]",
            ),
        }
        for name in ("edge_channels", "first_edge_channels"):
            n = getattr(self, name)
            checks[name] = (n is None or 1 <= n <= 4096, "null or from 1 to 4096")
        for name, (is_good, expected) in checks.items():
            if not is_good:
                raise ConfigError(
                    f"`architecture.{name}` must be {expected}, got {getattr(self, name)!r}"
                )
        # raises for irreps that are none of ours
        _ = self.channels, self.feature_l

    def _are_good_paths(self) -> bool:
        if self.coupling_paths is None:
            return True
        # [order][degree - 1], for as many orders and degrees as there are contractions
        return (
            self.stores_couplings
            and len(self.coupling_paths) == self.feature_l + 1
            and all(len(row) == self.correlation for row in self.coupling_paths)
            and all(1 <= n <= 4096 for row in self.coupling_paths for n in row)
        )

    def _parsed(self) -> tuple[int, int]:
        try:
            found = multiplicities(self.hidden_irreps)
        except ValueError as error:
            raise ConfigError(f"`architecture.hidden_irreps` {error}") from None
        # one multiplicity, orders 0, 1, .. L
        if not found or len(found) > 3 or len(set(found)) != 1 or not 0 < max(found) <= 4096:
            raise ConfigError(
                "`architecture.hidden_irreps` must list orders 0..L (L <= 2) once each, natural "
                "parity, with one multiplicity of at most 4096, like '64x0e+64x1o'; "
                f"got {self.hidden_irreps!r}"
            )
        return max(found), len(found) - 1

    @property
    def channels(self) -> int:
        """Multiplicity of the hidden irreps."""
        return self._parsed()[0]

    @property
    def feature_l(self) -> int:
        """Highest order L of the hidden irreps."""
        return self._parsed()[1]

    @property
    def readouts(self) -> ReadoutConfig:
        """Energy readouts."""
        return ReadoutConfig(
            hidden=self.readout_hidden,
            has_bias=self.readout_bias,
            last_layer_only=self.last_layer_readout_only,
            n_heads=self.readout_heads,
        )
