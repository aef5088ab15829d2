r"""Total charge and spin as a local state: who carries the charge is read off the environment.

A guess of every atom's charge from its surroundings, and what is missing to the totals shared out
by positive weights of local features (as AIMNet2, Anstine, Zubatyuk, Isayev, Chem. Sci. 2025, and
AIMNet-NSE, arXiv 2009.13265, share out charges and spins; MACE-POLAR-1, arXiv 2602.19411, between
layers):

.. math::
    q_i = g_i - \sum_\sigma n_i^\sigma, \qquad s_i = n_i^\alpha - n_i^\beta, \qquad
    n_i^\sigma = \frac{A_i}{\sum_j A_j} m_\sigma^+ + \frac{D_i}{\sum_j D_j} m_\sigma^-

with the electrons that a system lacks or has in excess of the guess in each spin channel,
``m = (-(Q - sum g) +- 2S) / 2``. Electrons are added by the acceptor weights A and taken away by
the donor weights D; ``m = m+ + m-`` with the smooth ``m+- = (m +- m^2 / sqrt(m^2 + c^2)) / 2``.

Electrons are counted first. The openness ``o_i`` of an atom is zero where its bonds are full, which
a smooth count of covalent bonds says: ``g_i`` has the factor o_i, and weights are ``(o_i + 0.001)
exp(a_i)``. ``g_i`` is zero for small values of what is read off, so that a neutral closed-shell
system without ions has ``q = s = 0`` exactly, and so has every such molecule beside an ion.

What a global label alone can settle remains shared: between equal fragments alike, and two radicals
far apart in a singlet are taken for closed shells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.atoms.segments import segment_sum
from lesff.kernels import StateConstants
from lesff.nn.activations import normalised_silu
from lesff.nn.double_backward import recorded_gradients
from lesff.nn.saturation import saturated, smooth_step

GUESS_FROM, GUESS_FULL = 0.2, 0.5
"""Size in e of what is read off up to which the guess is zero, and from which it is all of it."""

_FAINT = 1e-3
"""Openness of full atoms when no other takes the charge."""
_MAX_GUESS = 3.0
"""e."""
_MAX_LOG_WEIGHT = 8.0
_SOFT = 0.1
"""c in e, where the electrons of a channel change from added to taken away."""
_HIDDEN = 16

CONSTANTS = StateConstants(
    max_guess=_MAX_GUESS,
    guess_from=GUESS_FROM,
    guess_full=GUESS_FULL,
    max_log_weight=_MAX_LOG_WEIGHT,
    faint=_FAINT,
    soft=_SOFT,
)
"""For the compiled library."""


@dataclass(frozen=True, kw_only=True)
class LocalStates:
    """Charge and spin of every atom before the second layer.

    Attributes:
        charges: (n_atoms,) in e, which sum to the total charge.
        spins: (n_atoms,) unpaired electrons, which sum to 2S.
        guess: (n_atoms,) what the environment alone says, in e.
        raw: (n_atoms,) the same before small values are set to zero; training needs its slope.
        potentials: (n_systems, 4) by which the weights share out what is missing: with A and D of
            charge, then of spin.
    """

    charges: Tensor
    spins: Tensor
    guess: Tensor
    raw: Tensor
    potentials: Tensor


class LocalState(nn.Module):
    """See the module's text; without any effect on energies at the start.

    Args:
        n_elements: Rows of element tables.
        channels: Channels of the node features.
    """

    N_POTENTIALS: ClassVar[int] = 4

    def __init__(self, *, n_elements: int, channels: int) -> None:
        super().__init__()
        # one hidden layer gives guess, acceptor and donor values [n, 3]; zero at the start
        self.hidden = nn.Parameter(torch.randn(channels, _HIDDEN))
        self.out = nn.Parameter(torch.zeros(_HIDDEN, 3))
        self.element = nn.Parameter(torch.zeros(n_elements, 3))
        # increments of the features by q, q^2 and s: of the element, and of the features
        self.table = nn.Parameter(torch.zeros(n_elements, 3, channels))
        self.mix = nn.Parameter(torch.zeros(3, channels, channels))

    def forward(
        self,
        features: Tensor,
        element: Tensor,
        openness: Tensor,
        batch: Tensor,
        totals: tuple[Tensor, Tensor],
        potentials: Tensor | None = None,
    ) -> LocalStates:
        """Charges and spins.

        Args:
            features: (n_atoms, channels) invariants of the first layer.
            element: (n_atoms,) rows of element tables.
            openness: (n_atoms,) of every atom.
            batch: (n_atoms,) system of each atom.
            totals: (n_systems,) total charge in e, and 2S.
            potentials: (n_systems, 4) that are given; those that the totals ask for if None.
        """
        hidden = normalised_silu(features @ (self.hidden * self.hidden.shape[0] ** -0.5))
        values = hidden @ (self.out * _HIDDEN**-0.5) + self.element.index_select(0, element)
        fused = kernels.backend(values)
        if fused is None or not fused.has_contacts:
            found = plain_states(values, openness, batch, totals, potentials)
        else:
            found = _FusedStates.apply(values, openness, batch, totals, potentials, fused)
        charges, spins, guess, raw, potentials = found  # pyright: ignore[reportGeneralTypeIssues]
        return LocalStates(
            charges=charges, spins=spins, guess=guess, raw=raw, potentials=potentials
        )

    def increment(self, states: LocalStates, features: Tensor, element: Tensor) -> Tensor:
        """Increment of the features by charges and spins, (n_atoms, channels); zero without any."""
        q, s = states.charges, states.spins
        u = torch.stack([q, q.square(), s], dim=1)
        # u[n, k] (T[z_n, k, c] + sum_d x[n, d] M[k, d, c])
        channels = features.shape[1]
        out = (u[:, :, None] * self.table.index_select(0, element)).sum(1)
        inner = (u[:, :, None] * features[:, None, :]).reshape(len(u), 3 * channels)
        return out + inner @ (self.mix.view(3 * channels, channels) * channels**-0.5)


def plain_states(
    values: Tensor,
    openness: Tensor,
    batch: Tensor,
    totals: tuple[Tensor, Tensor],
    potentials: Tensor | None,
) -> tuple[Tensor, ...]:
    """Charges, spins, guess, raw guess and potentials of :class:`LocalStates`, plain PyTorch.

    Args:
        values: (n_atoms, 3) read off the features: guess, logarithms of A and D.
        openness: As for :meth:`LocalState.forward`, like the next three.
        batch: See there.
        totals: See there.
        potentials: See there.
    """
    # g[i]: none for full atoms, and none for small values
    raw = openness * saturated(values[:, 0], _MAX_GUESS)
    guess = raw * smooth_step((raw.abs() - GUESS_FROM) / (GUESS_FULL - GUESS_FROM))
    # w[i, (A, D)]
    log_weights = saturated(values[:, 1:], _MAX_LOG_WEIGHT)
    weights = (openness[:, None] + _FAINT) * torch.exp(log_weights)
    if potentials is None:
        potentials = _potentials(guess, weights, batch, totals)
    # q[i] = g[i] + A a_q + D d_q, s[i] = A a_s + D d_s
    own = potentials.index_select(0, batch)
    charges = guess + (weights * own[:, :2]).sum(1)
    spins = (weights * own[:, 2:]).sum(1)
    return charges, spins, guess, raw, potentials


class _FusedStates(torch.autograd.Function):
    """Compiled :func:`plain_states`, which gives second derivatives."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        values: Tensor,
        openness: Tensor,
        batch: Tensor,
        totals: tuple[Tensor, Tensor],
        potentials: Tensor | None,
        fused: kernels.Backend,
    ) -> tuple[Tensor, ...]:
        found = fused.local_state(values, openness, batch, totals, potentials, CONSTANTS)
        ctx.save_for_backward(values, openness, found[-1])
        ctx.rest = batch, totals, potentials, fused
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, openness, found = ctx.saved_tensors
        batch, totals, given, fused = ctx.rest
        if torch.is_grad_enabled():

            def plain(v: Tensor, o: Tensor) -> tuple[Tensor, ...]:
                states = plain_states(v, o, batch, totals, given)
                return states if given is None else states[:4]

            chosen = grads if given is None else grads[:4]
            out = recorded_gradients(plain, (values, openness), (True, True), chosen)
        else:
            out = fused.local_state_backward(
                grads, values, openness, batch, totals, found, CONSTANTS, given=given is not None
            )
        return *out, None, None, None, None


def _potentials(
    guess: Tensor, weights: Tensor, batch: Tensor, totals: tuple[Tensor, Tensor]
) -> Tensor:
    """``(a_q, d_q, a_s, d_s)`` with which charges and spins have their totals, (n_systems, 4)."""
    charge, unpaired = totals
    n_systems = len(charge)
    sums = segment_sum(torch.cat([guess[:, None], weights], dim=1), batch, n_systems)
    # m[s, (alpha, beta)]: electrons beyond the guess in each channel
    excess = sums[:, 0] - charge
    m = 0.5 * torch.stack([excess + unpaired, excess - unpaired], dim=1)
    size = m.square() * torch.rsqrt(m.square() + _SOFT**2)
    # per unit of weight: added [s, sigma] by A, taken away by D
    added = 0.5 * (m + size) / sums[:, 1:2]
    taken = 0.5 * (m - size) / sums[:, 2:3]
    alpha = torch.stack([added[:, 0], taken[:, 0]], dim=1)
    beta = torch.stack([added[:, 1], taken[:, 1]], dim=1)
    return torch.cat([-(alpha + beta), alpha - beta], dim=1)
