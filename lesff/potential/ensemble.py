"""Several potentials as one: means of what they predict, and spreads.

``x = sum_k x_k / N``, ``s^2 = sum_k (x_k - x)^2 / (N - 1)`` for every component of a quantity. What
is predicted is linear in the energies and moments of the members, so that means belong together:
forces are the slope of the mean energy. Members share a graph, and with it the search for
neighbours; each has its own features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lesff.atoms.graph import AtomGraph
from lesff.errors import ConfigError, PropertyError
from lesff.potential.plan import StepPlan
from lesff.potential.potential import Potential
from lesff.potential.properties import Traits, check_available
from lesff.potential.response import BornOptions
from lesff.quantities import SPREADS

_SHARED = (
    "elements", "total_charge", "spin_multiplicity", "energy_reference", "level_of_theory", "dtype",
)  # fmt: skip
"""What the configurations of all members must have in common."""


class NoOnePartError(PropertyError, AttributeError):
    """Something was asked of an ensemble that only each of its members has."""


class Ensemble(Potential):
    """The mean of several potentials, with the spread as an uncertainty.

    Of a single potential it has what prediction, calculators and engines need. What members have
    each for themselves (architecture, heads, calibration) it has not: asking raises.

    Args:
        members: At least two potentials of the same elements, cutoff, states, energy zero, level of
            theory, type and device, that give the same quantities.

    Attributes:
        members: The potentials.

    Raises:
        ConfigError: for fewer than two, or naming all that they do not have in common.
    """

    def __init__(self, members: Sequence[Potential]) -> None:
        nn.Module.__init__(self)  # the parts of a potential are those of the members
        _check_alike(members)
        self.config = members[0].config
        self.radial = members[0].radial
        self.uncertainty = None
        self.members = nn.ModuleList(members)

    def __getattr__(self, name: str) -> Any:
        """What nn.Module keeps; PropertyError for parts of a single potential."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not any(hasattr(p, name) for p in self.potentials):
                raise
        raise NoOnePartError(
            f"an ensemble has no `{name}`, its members have: take one of `potential.members`"
        )

    @property
    def potentials(self) -> list[Potential]:
        """The members."""
        # not by attribute, which asks here in turn while there are none yet
        return list(self.__dict__.get("_modules", {}).get("members", ()))

    @property
    def cutoff(self) -> float:
        """Distance up to which atoms are neighbours, A."""
        return self.potentials[0].cutoff

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.potentials[0].device

    @property
    def can_plan(self) -> bool:
        """False: a plan holds the decisions for one potential."""
        return False

    @property
    def plans_molecules_only(self) -> bool:
        """True: nothing can be planned."""
        return True

    @property
    def traits(self) -> Traits:
        """What the members have in common, see :class:`lesff.potential.properties.Traits`."""
        return traits_of(self.potentials[0], is_ensemble=True)

    def forward(
        self,
        graph: AtomGraph,
        properties: Collection[str] = ("energy", "forces"),
        *,
        create_graph: bool = False,
        born: BornOptions | None = None,
        plan: StepPlan | None = None,
    ) -> dict[str, Tensor]:
        """Means and spreads of a batch; see :meth:`Potential.forward`.

        Args:
            graph: The batch, which all members see.
            properties: Names from :data:`lesff.quantities.QUANTITIES`.
            create_graph: As there.
            born: As there.
            plan: Must be None.

        Raises:
            PropertyError, UnsupportedInputError: as there; for a plan, too.
        """
        if plan is not None:
            raise PropertyError("`plan` must be None for an ensemble: steps cannot be planned")
        wanted = list(properties)
        check_available(wanted, self.traits)
        asked = {SPREADS.get(name, name) for name in wanted}
        rows = []
        for member in self.potentials:
            member.radial = self.radial
            rows.append(member(graph, asked, create_graph=create_graph, born=born))
        # x[k, ...] of member k
        stacked = {name: torch.stack([row[name] for row in rows]) for name in asked}
        return {
            name: stacked[SPREADS[name]].std(dim=0, correction=1)
            if name in SPREADS
            else stacked[name].mean(dim=0)
            for name in wanted
        }


def members_of(potential: Potential) -> list[Potential]:
    """The members of an ensemble; of another potential itself."""
    return potential.potentials if isinstance(potential, Ensemble) else [potential]


def traits_of(potential: Potential, *, is_ensemble: bool) -> Traits:
    """Traits without calibration, which is that of one member's errors."""
    return replace(potential.traits, has_uncertainty=False, is_ensemble=is_ensemble)


def _check_alike(members: Sequence[Potential]) -> None:
    """Refuse members whose mean has no meaning, with all reasons in one error."""
    if len(members) < 2:
        raise ConfigError(f"`members` must be at least two models, got {len(members)}")
    rows = [_identity(member) for member in members]
    reasons = []
    for name, first in rows[0].items():
        other = next((i for i, row in enumerate(rows) if row[name] != first), None)
        if other is not None:
            reasons.append(f"`{name}` is {first} in the first and {rows[other][name]} in member "
                           f"{other}")  # fmt: skip
    if reasons:
        raise ConfigError(
            f"members of an ensemble must be alike, but {'; '.join(reasons)}: take models that "
            "were trained for the same, or average what they predict yourself"
        )


def _identity(potential: Potential) -> dict[str, Any]:
    """What members must have in common."""
    config = potential.config
    return {name: getattr(config, name) for name in _SHARED} | {
        "cutoff": potential.cutoff,
        "device": potential.device,
        "precision": potential.dtype,
        "properties": traits_of(potential, is_ensemble=False),
    }
