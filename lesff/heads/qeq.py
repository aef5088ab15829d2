r"""Charge equilibration heads: with the full Coulomb matrix, and its diagonal only.

Without ``residual``, ``"qeq"`` has the energy ``W = min 1/2 q^T (A + J) q + chi^T q`` at the total
charge and ``"qeq-local"`` the Coulomb energy of ``q = -(chi + lambda) / J``.

With ``residual`` both act on the change ``d = q - q0`` of the charges of a pretrained head,
``sum d = 0``, with the Coulomb energy ``E(p')`` of ``p' = q0 + a (p - q0)`` (see :mod:`.base`):

.. math::
    E_\mathrm{lr} = E(p') + \min_d \left[\frac12 d^T (A + J) d
        + \sum_i (\chi_i + c\, \Phi_i) d_i\right] + \sum_i \chi_i q_{0,i}, \qquad
    \Phi = \frac{\partial E}{\partial p'}

chi and c start at zero, so d and all new terms do, too. ``chi . q0`` gives the energy a slope in
chi at the start: without it chi = 0 would be a stationary point of any loss on energies and forces.
``c = 0``: the latent charges are taken to hold the response to their own potential already; ``c =
1``: the charges minimise the whole electrostatic energy, ``E(p' + d)`` plus hardness.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.charges.qeq import coulomb_potential, equilibrate, equilibrate_locally
from lesff.heads.base import Anchored, ChargeModel, HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import LongRangeConfig
from lesff.heads.sharing import shared_within

_START_HARDNESS = 15.0
"""eV / e^2 of all elements at the start: between hydrogen (12.8) and oxygen (13.4) of Rappe and
Goddard and what the Gaussians add of their own."""


class Hardness(nn.Module):
    """``J = softplus(table[z] + readout(x)) + min``, (n_atoms,) in eV / e^2."""

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.minimum = config.min_hardness
        # softplus(log(e^s - 1)) = s
        start = max(_START_HARDNESS - self.minimum, 1.0)
        self.table = nn.Parameter(torch.full((sizes.n_elements,), math.log(math.expm1(start))))
        self.readouts = make_readouts(config, sizes, starts_at_zero=True)

    def forward(self, x: HeadInput) -> Tensor:
        """Hardness of every atom."""
        value = self.table.index_select(0, x.element) + self.readouts(x.invariants)
        return functional.softplus(value) + self.minimum


@final
class QEqHead(ChargeModel):
    """``"qeq"``: charges at the minimum of an energy with the full Coulomb matrix."""

    responds_to_field: ClassVar[bool] = True
    asks_host: ClassVar[bool] = True

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        starts_at_zero = config.residual or bool(config.bases)
        self.electronegativity = make_readouts(config, sizes, starts_at_zero=starts_at_zero)
        self.hardness = Hardness(config, sizes)
        self.readouts = make_readouts(config, sizes) if config.residual else None
        self.anchored = None
        if starts_at_zero:
            self.anchored = Anchored(config, sizes)
            self.coupling = nn.Parameter(torch.zeros(()))

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`; not defined without ``residual``: ``-chi / J``."""
        # with `residual` or `bases`: charges of the pretrained head
        if self.base is not None:
            return self.below(x).local
        if self.readouts is not None:
            return self.read(self.readouts, x)
        hardness = self.hardness(x)
        return -self._chi(x, hardness) / hardness

    def _chi(self, x: HeadInput, hardness: Tensor) -> Tensor:
        """Electronegativities that give an atom by itself no more than its limit, in V."""
        return driving(self.electronegativity(x.invariants), hardness, x)

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; there are none."""
        return self.local(x)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        hardness = self.hardness(x)
        chi = self._chi(x, hardness)
        below = None if self.base is None else self.below(x)
        local, graph = self.local(x) if below is None else below.local, x.graph
        # without `residual`: q itself, from zero charges to the total charge
        start, base = torch.zeros_like(chi), None
        slope, totals = chi, graph.total_charge
        if self.anchored is not None:
            # with it: the change d of q0, which sums to zero, in the potential c Phi of p'
            start, excess = _start(self.anchored, local, graph, below)
            base = start + excess
            slope = chi + self.coupling * coulomb_potential(base, graph, x.settings)
            totals = torch.zeros_like(graph.total_charge)
        # chi . q0: the slope in chi at the start, see the module's text
        rest = chi * start
        if x.site_potential is not None:
            slope = slope + x.site_potential
        # (A + J) d + slope + lambda = 0, solved with the sums of d given
        found = equilibrate(slope, hardness, graph, x.settings, totals=totals)
        change = found.charges
        if x.site_potential is not None:  # whoever adds the work on all charges counts this part
            rest = rest - x.site_potential * change
        # K d + slope + lambda = 0: half of slope d and lambda d are the atoms' shares of W
        share = 0.5 * change * (slope - found.multipliers[graph.batch]) + rest
        return HeadOutput(
            local=local,
            charges=start + change,
            latent=change if base is None else base + change,
            coulomb=base,
            response_energy=found.energy + segment_sum(rest, graph.batch, graph.n_systems),
            atom_response=share,
        )


@final
class LocalQEqHead(ChargeModel):
    """``"qeq-local"``: the diagonal of the Coulomb matrix only, in closed form."""

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        starts_at_zero = config.residual or bool(config.bases)
        self.electronegativity = make_readouts(config, sizes, starts_at_zero=starts_at_zero)
        self.hardness = Hardness(config, sizes)
        self.readouts = make_readouts(config, sizes) if config.residual else None
        self.anchored = Anchored(config, sizes) if starts_at_zero else None

    def local(self, x: HeadInput) -> Tensor:
        """See :meth:`ChargeModel.local`."""
        hardness = self.hardness(x)
        local = -driving(self.electronegativity(x.invariants), hardness, x) / hardness
        if self.base is not None:
            return local + self.base.local(x)
        if self.readouts is not None:
            return local + self.read(self.readouts, x)
        return x.with_state(local)

    def at_potentials(self, x: HeadInput, potentials: Tensor | None) -> Tensor:
        """See :meth:`ChargeModel.at_potentials`; there are none."""
        return self.local(x)

    def forward(self, x: HeadInput) -> HeadOutput:
        """See :meth:`ChargeModel.forward`."""
        hardness = self.hardness(x)
        chi = driving(self.electronegativity(x.invariants), hardness, x)
        local, graph = self.local(x), x.graph
        if self.anchored is None:
            # charges of the local state enter as what the atoms have by themselves
            if x.state_charges is not None:
                chi = chi - hardness * x.state_charges
            charges = _equilibrated(chi, hardness, graph.total_charge, x)
            latent = charges
        else:
            # q = q0 + d with d = -(chi + lambda) / J, which sums to zero
            below = None if self.base is None else self.below(x)
            free = local if self.readouts is None else self.read(self.readouts, x)
            start, excess = _start(self.anchored, free, graph, below)
            totals = torch.zeros_like(graph.total_charge)
            charges = start + _equilibrated(chi, hardness, totals, x)
            latent = charges + excess
        return HeadOutput(local=local, charges=charges, latent=latent, coulomb=latent)


def _equilibrated(chi: Tensor, hardness: Tensor, totals: Tensor, x: HeadInput) -> Tensor:
    """``-(chi + lambda) / J`` with the totals as sums and within the limits, (n_atoms,) in e."""
    if x.limits is None:
        return equilibrate_locally(chi, hardness, x.graph, totals=totals)
    weights = 1.0 / hardness
    return shared_within(
        -chi * weights, weights, totals, x.limits, x.graph.batch, solved=x.solves_limits
    )[0]


def driving(chi: Tensor, hardness: Tensor, x: HeadInput) -> Tensor:
    """``chi`` levelling off where ``|chi| / J`` approaches the limit, (n_atoms,) in V."""
    return chi if x.limits is None else -hardness * x.bounded(-chi / hardness)


def _start(
    anchored: Anchored, free: Tensor, graph: AtomGraph, below: HeadOutput | None
) -> tuple[Tensor, Tensor]:
    """``q0`` and ``a (p - q0)`` of free charges, or of the head below."""
    if below is None:
        return anchored(free, graph)
    return anchored(below.charges, graph, below.latent)
