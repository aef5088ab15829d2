"""What the host finds out about a batch once, for many steps that differ in positions only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lesff.electrostatics.sums.plan import CoulombPlan
from lesff.nn.edge_tables import Topology

PLANNED = frozenset(
    ("energy", "energy_sr", "energy_lr", "energy_dispersion", "forces", "stress")
    + ("charges", "latent_charges", "novelty")
)
"""What a planned step computes."""


@dataclass(frozen=True)
class StepPlan:
    """Made by :meth:`lesff.potential.potential.Potential.plan`.

    Attributes:
        topology: Index tables.
        coulomb: Groups of the Coulomb sums, or None without latent charges.
        dispersion: Groups of the sums of dispersion, or None without.
        known: Atoms by known element, see :meth:`lesff.potential.uncertainty.Uncertainty.known`;
            None without calibration.
    """

    topology: Topology
    coulomb: CoulombPlan | None
    dispersion: CoulombPlan | None = None
    known: tuple[tuple[int, Tensor], ...] | None = None
