"""Hyper-parameters of the AIMNet2 architecture, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesff.errors import ConfigError

MAX_SIZE = 4096
"""Features, radial functions, vectors and hidden units."""
MAX_PASSES = 16


@dataclass(frozen=True, kw_only=True)
class AIMNet2Config:
    """Hyper-parameters of the short-range model; the defaults are those of the published models.

    Attributes:
        cutoff: Edge cutoff in A.
        n_features: Rows A of the atomic features.
        n_radial: Radial functions, and columns G of the atomic features.
        n_vectors: Combinations H of the radial functions whose vectors give invariants.
        radial_centers: Centres of the Gaussians in A; if not given, even steps from 0.8 A that end
            one step before the cutoff.
        radial_exponent: Their exponent in 1/A^2; one over the squared step if not given.
        hidden: Hidden units of the network of each message pass; their number is that of passes.
        active_outputs: Whether the network of each pass ends with its activation.
        energy_hidden: Hidden units of the network of the energy.
        share_floor: Added to the sum of the weights that share out charge; published weights have
            1e-6, with which charges miss the total by that share of what is shared out.
        local_charges: Whether each molecule is brought to its charge in the local state
            (:mod:`lesff.nn.local_state`), and not all atoms together to the total charge: nothing
            then depends on atoms that neither bonds nor edges lead to.
        join_until: Share of the sum of covalent radii from which atoms of B, C, N and O are not
            joined to one molecule, up to 2, or None for 1.55 as of all others; strong bonds lose
            their charge over a longer way when they break.
        inner_cutoff: Share of the sum of covalent radii below which radial functions level off
            (:class:`lesff.nn.contacts.InnerCutoff`), or None.
    """

    cutoff: float = 5.0
    n_features: int = 16
    n_radial: int = 16
    n_vectors: int = 12
    radial_centers: tuple[float, ...] | None = None
    radial_exponent: float | None = None
    hidden: tuple[tuple[int, ...], ...] = ((512, 380), (512, 380), (512, 380, 380))
    active_outputs: tuple[bool, ...] = (False, True, True)
    energy_hidden: tuple[int, ...] = (128, 128)
    share_floor: float = 0.0
    local_charges: bool = False
    join_until: float | None = None
    inner_cutoff: float | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: naming the field.
        """
        sizes = (self.n_features, self.n_radial, self.n_vectors, *self.energy_hidden)
        sizes += tuple(units for layer in self.hidden for units in layer)
        centers = self.radial_centers
        checks = {
            "cutoff": (0.8 < self.cutoff < 100.0, "in (0.8, 100) A"),
            "n_features`, `n_radial`, `n_vectors`, `hidden` and `energy_hidden": (
                all(1 <= size <= MAX_SIZE for size in sizes),
                f"sizes from 1 to {MAX_SIZE}",
            ),
            "hidden": (2 <= len(self.hidden) <= MAX_PASSES, f"of 2 to {MAX_PASSES} passes"),
            "energy_hidden": (len(self.energy_hidden) >= 1, "at least one layer"),
            "active_outputs": (
                len(self.active_outputs) == len(self.hidden),
                "one for each pass of `hidden`",
            ),
            "radial_centers": (
                centers is None
                or (len(centers) == self.n_radial and all(map(math.isfinite, centers))),
                f"null or {self.n_radial} finite numbers in A",
            ),
            "radial_exponent": (
                self.radial_exponent is None or 0.0 < self.radial_exponent < 1e6,
                "null or in (0, 1e6) 1/A^2",
            ),
            "inner_cutoff": (
                self.inner_cutoff is None or 0.2 <= self.inner_cutoff <= 1.0,
                "null or in [0.2, 1]",
            ),
            "join_until": (
                self.join_until is None or (self.local_charges and 1.55 <= self.join_until <= 2.0),
                "null, or with `local_charges` in [1.55, 2]",
            ),
            "share_floor": (0.0 <= self.share_floor <= 1.0, "in [0, 1]"),
        }
        for name, (is_good, expected) in checks.items():
            if not is_good:
                got = getattr(self, name, sizes)
                raise ConfigError(f"`architecture.{name}` must be {expected}, got {str(got)[:80]}")

    @property
    def centers(self) -> tuple[float, ...]:
        """Centres of the Gaussians in A."""
        if self.radial_centers is not None:
            return self.radial_centers
        step = (self.cutoff - 0.8) / self.n_radial
        return tuple(0.8 + step * k for k in range(self.n_radial))

    @property
    def exponent(self) -> float:
        """Exponent of the Gaussians in 1/A^2."""
        if self.radial_exponent is not None:
            return self.radial_exponent
        return (self.n_radial / (self.cutoff - 0.8)) ** 2

    @property
    def channels(self) -> int:
        """Atomic features, A G."""
        return self.n_features * self.n_radial

    def inputs(self, index: int) -> int:
        """Inputs of the network of a pass: features and messages; from the second on, charges."""
        own = self.n_features * (2 * self.n_radial + self.n_vectors)
        return own if index == 0 else own + 1 + self.n_radial + self.n_vectors

    def outputs(self, index: int) -> int:
        """Outputs of the network of a pass: features; before the last, a charge and a weight."""
        return self.channels + (2 if index < len(self.hidden) - 1 else 0)
