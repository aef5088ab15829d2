r"""Total charge and spin as a local state: who carries the charge is read off the environment.

A guess of every atom's charge from its surroundings, and what is missing to the totals shared out
by positive weights of local features (as AIMNet2, Anstine, Zubatyuk, Isayev, Chem. Sci. 2025, and
AIMNet-NSE, arXiv 2009.13265, share out charges and spins; MACE-POLAR-1, arXiv 2602.19411, between
layers):

.. math::
    q_i = g_i - \frac{A_i}{\sum_j A_j} m^+ - \frac{D_i}{\sum_j D_j} m^-, \qquad
    s_i = \frac{W_i}{\sum_j W_j} 2S, \qquad m = \sum_j g_j - Q

with the electrons ``m`` that a system has beyond the guess. They are added by the acceptor weights
A and taken away by the donor weights D, ``m = m+ + m-`` with the smooth
``m+- = (m +- m^2 / sqrt(m^2 + c^2)) / 2``; spins have weights W. The populations of the two spin
channels are ``n_alpha, n_beta = (-q_i +- s_i) / 2``.

Electrons are counted first. The openness ``o_i`` of an atom is zero where its bonds are full, which
a smooth count of covalent bonds says (:mod:`lesff.nn.contacts`):

.. math::
    g_i = R(o_i\, x_i), \quad A_i = e^{\kappa g_i} v(o_i, a_i), \quad
    D_i = e^{-\kappa g_i} v(o_i, d_i), \quad W_i = v(o'_i, w_i), \quad
    v(o, a) = o\, e^{\mathrm{sat}(a; 3)} + \frac{\epsilon}{1 + e^{-a}}

with ``epsilon = 0.0002`` (``full_weight`` of the configuration), ``kappa = 6``, ``o'_i`` zero for
atoms with more bonds than their valence (ammonium), and x, a, d, w read off the features of the
first layer and the element, x of an atom without bonds off the element alone. ``R`` is a smooth
staircase of half charges, flat within 1/8 e of each: a neutral closed-shell system without ions has
``q = s = 0`` exactly, so has every such molecule beside an ion, and ions keep their charge beside
others. kappa lets an anion be the first to lose an electron, a cation the first to gain one:
radicals whose bonds look like those of an ion. Where protons are shared
(:mod:`lesff.nn.contacts`) the guess is ``o_i R(x_i)``: the charge then goes over with the share,
while ``R(o_i x_i)`` jumps by half a charge within 0.1 A of a proton's way.

No atom is given more than it can hold, however large its weight is: shares level off
(:func:`lesff.nn.saturation.saturated`, the identity up to 0.8 of a limit) where the charge of the
atom would pass 4 e (``state_charge``), or its spin 8 unpaired electrons, and the others take the
rest:

.. math::
    q_i = g_i + \mathrm{sat}(A_i a; 4 + g_i) + \mathrm{sat}(D_i d; 4 - g_i), \qquad
    s_i = \mathrm{sat}(W_i w; 8)

with the potentials a, d and w of a system that give the sums ``-m+``, ``-m-`` and ``2S``; there is
one of each as long as the total charge is less than 4 e an atom. Without shares near a limit this
is the formula above.

What a global label alone can settle remains shared: between equal fragments alike, and two radicals
far apart in a singlet are taken for closed shells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lesff import kernels
from lesff.atoms.segments import segment_sum
from lesff.autograd import recorded_gradients
from lesff.kernels import StateConstants, StateInputs
from lesff.nn.activations import normalised_silu
from lesff.nn.contacts import AtomContacts
from lesff.nn.saturation import LINEAR_SHARE, saturated, saturation_slope, smooth_step

CONSTANTS = StateConstants(
    max_guess=3.0,
    max_log_weight=3.0,
    faint=2e-4,
    soft=0.1,
    pull=6.0,
    max_charge=4.0,
    max_spin=8.0,
    proportional=False,
)
"""Largest guess in e, largest size of a, d and w, epsilon, c in e, kappa in 1/e, and of an atom the
largest charge in e and number of unpaired electrons."""

_GUESS_SHARE = 0.75
"""Of the largest charge: no guess leaves an atom without anything to take."""
_MOST_LEARNED = (2.5, 4.0)
"""Limits of charges in e and spins that the features get."""
_HIDDEN = 16
_N_VALUES = 4
"""x, a, d, w."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a batch's charges and spins add up to.

    Attributes:
        batch: (n_atoms,) system of each atom.
        charge: (n_systems,) total charge in e.
        unpaired: (n_systems,) 2S.
        potentials: (n_systems, 3) that are given instead; None: those that the totals ask for.
    """

    batch: Tensor
    charge: Tensor
    unpaired: Tensor
    potentials: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LocalStates:
    """Charge and spin of every atom before the second layer.

    Attributes:
        charges: (n_atoms,) in e, which sum to the total charge.
        spins: (n_atoms,) unpaired electrons, which sum to 2S.
        guess: (n_atoms,) what the environment alone says, in e.
        raw: (n_atoms,) the same before the staircase; training needs its slope.
        potentials: (n_systems, 3) factors of A, D and W.
    """

    charges: Tensor
    spins: Tensor
    guess: Tensor
    raw: Tensor
    potentials: Tensor


def constants_of(
    charge: float | None, full_weight: float | None, *, shares_protons: bool = False
) -> StateConstants:
    """:data:`CONSTANTS` with another largest charge in e, and another epsilon; None for no change.

    Guesses level off at three quarters of the largest charge, as 3 e are of 4 e. With protons that
    are shared they are proportional to the openness.
    """
    found = replace(CONSTANTS, proportional=shares_protons)
    if charge is not None:
        found = replace(found, max_charge=charge, max_guess=_GUESS_SHARE * charge)
    return found if full_weight is None else replace(found, faint=full_weight)


class LocalState(nn.Module):
    """See the module's text; without any effect on energies at the start.

    Args:
        n_elements: Rows of element tables.
        channels: Channels of the node features.
        constants: See :func:`constants_of`.
    """

    N_POTENTIALS: ClassVar[int] = 3

    def __init__(
        self, *, n_elements: int, channels: int, constants: StateConstants = CONSTANTS
    ) -> None:
        super().__init__()
        self.constants = constants
        # one hidden layer gives x, a, d, w [n, 4]; zero at the start
        self.hidden = nn.Parameter(torch.randn(channels, _HIDDEN))
        self.out = nn.Parameter(torch.zeros(_HIDDEN, _N_VALUES))
        self.element = nn.Parameter(torch.zeros(n_elements, _N_VALUES))
        # increments of the features by q, q^2 and s: of the element, and of the features
        self.table = nn.Parameter(torch.zeros(n_elements, 3, channels))
        self.mix = nn.Parameter(torch.zeros(3, channels, channels))

    def forward(
        self, features: Tensor, element: Tensor, contacts: AtomContacts, totals: Totals
    ) -> LocalStates:
        """Charges and spins.

        Args:
            features: (n_atoms, channels) invariants of the first layer.
            element: (n_atoms,) rows of element tables.
            contacts: Openness and bonds of every atom.
            totals: What they add up to.
        """
        hidden = normalised_silu(features @ (self.hidden * self.hidden.shape[0] ** -0.5))
        x = StateInputs(
            values=hidden @ (self.out * _HIDDEN**-0.5),
            base=self.element.index_select(0, element),
            openness=contacts.openness,
            bonded=contacts.bonded,
            lacks=contacts.lacks,
            batch=totals.batch,
            charge=totals.charge,
            unpaired=totals.unpaired,
            potentials=totals.potentials,
        )
        fused = kernels.backend(features)
        if fused is None or not fused.has_contacts:
            found = plain_states(x, self.constants)
        else:
            found = _FusedStates.apply(
                x.values, x.base, x.openness, x.bonded, x, self.constants, fused
            )
        charges, spins, guess, raw, potentials = found  # pyright: ignore[reportGeneralTypeIssues]
        return LocalStates(
            charges=charges, spins=spins, guess=guess, raw=raw, potentials=potentials
        )

    def increment(self, states: LocalStates, features: Tensor, element: Tensor) -> Tensor:
        """Increment of the features by charges and spins, (n_atoms, channels); zero without any.

        What is learned of charges and spins levels off beyond 2 e and 3.2 unpaired electrons.
        """
        q, s = (
            saturated(states.charges, _MOST_LEARNED[0]),
            saturated(states.spins, _MOST_LEARNED[1]),
        )
        u = torch.stack([q, q.square(), s], dim=1)
        # u[n, k] (T[z_n, k, c] + sum_d x[n, d] M[k, d, c])
        channels = features.shape[1]
        out = (u[:, :, None] * self.table.index_select(0, element)).sum(1)
        inner = (u[:, :, None] * features[:, None, :]).reshape(len(u), 3 * channels)
        return out + inner @ (self.mix.view(3 * channels, channels) * channels**-0.5)


def staircase(x: Tensor) -> Tensor:
    """Half charges: ``x`` at multiples of 1/2, flat within 1/8 of them, two derivatives."""
    twice = 2.0 * x.abs()
    whole = twice.detach().floor()
    return torch.sign(x) * 0.5 * (whole + smooth_step((twice - whole - 0.25) * 2.0))


def plain_states(x: StateInputs, c: StateConstants = CONSTANTS) -> tuple[Tensor, ...]:
    """Charges, spins, guess, raw guess and potentials of :class:`LocalStates`, plain PyTorch."""
    # g[i]: none for full atoms, and none for small values
    values = x.base[:, 0] + x.bonded * x.values[:, 0]
    level = saturated(values, c.max_guess)
    raw = x.openness * level
    guess = x.openness * staircase(level) if c.proportional else staircase(raw)
    # w[i, (A, D, W)]: cations take electrons first, anions give them first
    pull = c.pull * guess
    pulled = torch.stack([pull, -pull, torch.zeros_like(pull)], dim=1)
    read = x.base[:, 1:] + x.values[:, 1:]
    is_open = torch.stack([x.openness, x.openness, x.lacks * x.openness], dim=1)
    # full atoms: a faint weight, never more
    weights = is_open * torch.exp(saturated(read, c.max_log_weight) + pulled)
    weights = weights + c.faint * torch.sigmoid(read) * torch.exp(pulled)
    potentials = x.potentials
    if potentials is None:
        potentials = _potentials(guess, weights, x, c)
    # q[i] = g[i] + A a + D d, s[i] = W w, each within what the atom can hold
    limits = _limits(guess, c)
    own = saturated(weights * potentials.index_select(0, x.batch), limits)
    return guess + own[:, 0] + own[:, 1], own[:, 2], guess, raw, potentials


def _limits(guess: Tensor, c: StateConstants) -> Tensor:
    """Largest shares of A, D and W, (n_atoms, 3)."""
    most = c.max_charge
    spin = torch.full_like(guess, c.max_spin)
    return torch.stack([most + guess, most - guess, spin], dim=1)


def _potentials(guess: Tensor, weights: Tensor, x: StateInputs, c: StateConstants) -> Tensor:
    """Factors of A, D and W with which charges and spins have their totals, (n_systems, 3)."""
    n_systems = len(x.charge)
    sums = segment_sum(torch.cat([guess[:, None], weights], dim=1), x.batch, n_systems)
    # m[s]: electrons beyond the guess, divided into those added and those taken away
    m = sums[:, 0] - x.charge
    size = m.square() * torch.rsqrt(m.square() + c.soft**2)
    parts = torch.stack([-0.5 * (m + size), -0.5 * (m - size), x.unpaired], dim=1)
    linear = parts / sums[:, 1:]
    # where shares are beyond what is linear, a sum that levels off is solved for the potential
    limits = _limits(guess, c)
    shares = (weights * linear.index_select(0, x.batch)).detach()
    is_beyond = shares.abs() > LINEAR_SHARE * limits.detach()
    is_recorded = shares.is_cuda and torch.cuda.is_current_stream_capturing()
    if not is_recorded and not bool(is_beyond.any()):
        return linear
    found = _levelled_potentials(weights, limits, parts, linear, x.batch)
    return torch.where(segment_sum(is_beyond.to(m.dtype), x.batch, n_systems) > 0, found, linear)


_HALVINGS = 40
"""Of the logarithm of a potential, within a factor of e^60."""


def _levelled_potentials(
    weights: Tensor, limits: Tensor, parts: Tensor, linear: Tensor, batch: Tensor
) -> Tensor:
    """Potentials with which ``sum_i sat(w_i lambda; L_i)`` are the given parts, (n_systems, 3)."""
    n_systems = len(parts)

    def shared(potential: Tensor) -> tuple[Tensor, Tensor]:
        argument = weights * potential.index_select(0, batch)
        return argument, segment_sum(saturated(argument, limits), batch, n_systems)

    with torch.no_grad():
        # levelling off only lowers a sum: the size of the linear potential is the least
        sign = torch.sign(linear)
        low = torch.log(linear.abs().clamp(min=1e-30))
        high = low + 60.0
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            is_less = shared(sign * torch.exp(middle))[1].abs() < parts.abs()
            low, high = torch.where(is_less, middle, low), torch.where(is_less, high, middle)
        potential = sign * torch.exp(0.5 * (low + high))
    # two Newton steps: derivatives up to the second are those of the solution
    for _ in range(2):
        argument, total = shared(potential)
        slope = weights * saturation_slope(argument.detach(), limits.detach())
        by = segment_sum(slope, batch, n_systems).clamp(min=1e-30)
        potential = potential + (parts - total) / by
    return potential


class _FusedStates(torch.autograd.Function):
    """Compiled :func:`plain_states`, which gives second derivatives."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        values: Tensor,
        base: Tensor,
        openness: Tensor,
        bonded: Tensor,
        x: StateInputs,
        constants: StateConstants,
        fused: kernels.Backend,
    ) -> tuple[Tensor, ...]:
        found = fused.local_state(x, constants)
        ctx.save_for_backward(values, base, openness, bonded, found[-1])
        ctx.rest = replace(x, values=None, base=None, openness=None, bonded=None), constants, fused
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inputs, found = ctx.saved_tensors
        rest, constants, fused = ctx.rest
        names = ("values", "base", "openness", "bonded")

        def with_inputs(*given: Tensor) -> StateInputs:
            return replace(rest, **dict(zip(names, given, strict=True)))

        if torch.is_grad_enabled():
            # potentials that are given are no function of the inputs
            n_used = 5 if rest.potentials is None else 4
            out = recorded_gradients(
                lambda *given: plain_states(with_inputs(*given), constants)[:n_used],
                inputs,
                (True,) * 4,
                grads[:n_used],
            )
        else:
            out = fused.local_state_backward(grads, with_inputs(*inputs), found, constants)
        return *out, None, None, None
