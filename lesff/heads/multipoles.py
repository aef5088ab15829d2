r"""Latent dipoles and quadrupoles, induced charges and dipoles, on top of any charge head.

Dipoles and traceless quadrupoles are read off the node features of orders 1 and 2,

.. math::
    y_{lm} = \sum_{c} \Bigl(w_c + \sum_d W_{cd} x_d\Bigr) v_{c, lm},

``v`` those of the inner layers, ``x`` the invariants of the last one; ``w`` and ``W`` start at
zero. What is induced has a softness or polarizability ``|g| s``, ``s > 0`` from element tables and
invariants, and one gate ``g`` per kind that starts at zero; its slope there is that of ``g``, so
that training can open it. Anisotropic: ``|g| s (1 + T)^2`` with a traceless symmetric ``T`` from
features of order 2, never negative. A new head thus changes no energy, and has a gradient.

The energy is that of :mod:`lesff.electrostatics.moments.multipoles` and
:mod:`lesff.electrostatics.moments.induction`, with the charges that the charge head lets interact.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.atoms.segments import segment_sum
from lesff.electrostatics.moments.induction import Response, interact, respond, with_external
from lesff.electrostatics.moments.multipoles import Multipoles, multipole_energy
from lesff.errors import ConfigError
from lesff.heads.base import HeadInput, HeadOutput, HeadSizes, make_readouts
from lesff.heads.config import LongRangeConfig, MultipoleConfig
from lesff.nn.coupling import wigner_3j
from lesff.nn.saturation import saturated_norm

_SOFTNESS = 0.07
"""e^2 / eV at gate 1 before training: the inverse of an atom's hardness, some 14 eV / e^2."""
_ARM = 1.0
"""A: with ``charge_limits`` a latent dipole is no longer than the limit times this, and the norm of
a quadrupole no larger than the limit times its square."""
_POLARIZABILITY = 0.07
"""e^2 A^2 / eV likewise: 1 A^3 over ke, between carbon (1.7) and hydrogen (0.67 A^3)."""


class MultipoleHead(nn.Module):
    """Moments beyond charges as the configuration says; see the module's text.

    Args:
        config: The long-range part of the model.
        sizes: Sizes of the architecture.

    Raises:
        ConfigError: if the architecture lacks features of an order that is needed.
    """

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes) -> None:
        super().__init__()
        if config.multipoles is None:
            raise ConfigError("`long_range.multipoles` must be given for a multipole head")
        self.config = chosen = config.multipoles
        self.interacts = config.in_energy
        self.max_order = chosen.max_order
        self._check_orders(chosen, sizes)
        self.dipoles = OrderReadout(sizes, order=1) if chosen.dipoles else None
        self.quadrupoles = OrderReadout(sizes, order=2) if chosen.quadrupoles else None
        # softness: charge per potential; polarizability: dipole per field
        self.softness = self.polarizability = self.anisotropy = None
        if chosen.induces_charges:
            self.softness = Susceptibility(config, sizes, start=_SOFTNESS)
        if chosen.induces_dipoles:
            self.polarizability = Susceptibility(config, sizes, start=_POLARIZABILITY)
            if chosen.polarizability == "anisotropic":
                self.anisotropy = OrderReadout(sizes, order=2)
        # unit norm of each component: T:T = y.y
        basis = torch.as_tensor(math.sqrt(5.0) * wigner_3j(1, 1, 2))
        self.register_buffer("basis", basis, persistent=False)
        self.basis: Tensor

    @property
    def induces(self) -> bool:
        """Whether anything is induced, so that moments respond to a field."""
        return self.config.induced != "none"

    def forward(self, x: HeadInput, head: HeadOutput) -> HeadOutput:
        """What the charge head gave, with the moments, their energy and their response.

        Args:
            x: What the charge head read.
            head: What it gave.
        """
        if head.coulomb is None:
            raise ConfigError(
                "`long_range.multipoles` must be null for a head whose energy is a response only"
            )
        # charges of the charge head, dipoles and quadrupoles of the features
        permanent = Multipoles.of(head.coulomb, self.latent_dipoles(x), self._quadrupoles(x))
        dipoles = permanent.dipoles if self.config.has_dipoles else None
        result = replace(
            head, moments=permanent, dipoles=dipoles, quadrupoles=permanent.quadrupoles
        )
        if not self.interacts:
            return result
        if not self.induces:
            energy = multipole_energy(permanent, x.graph, x.settings)
            return replace(result, coulomb_energy=energy)
        return self._with_induced(x, result, permanent)

    def _with_induced(self, x: HeadInput, head: HeadOutput, permanent: Multipoles) -> HeadOutput:
        graph = x.graph
        # potential and field at every atom: of the permanent moments, then with the external ones
        found = interact(permanent, graph, x.settings)
        potential, field = with_external(found.potential, found.field, graph)
        if x.surroundings is not None:
            potential = potential + x.surroundings.value.to(potential)
            if x.surroundings.gradient is not None:
                field = field - x.surroundings.gradient.to(field)
        # linear response, dq = -kappa (Phi - mean Phi) and du = alpha E; half of the work is stored
        induced = respond(potential, field, graph, self.response(x))
        # the field's work on induced moments is counted with that on all moments, elsewhere
        work_potential, work_field = potential - found.potential, field - found.field
        share = induced.atomic - induced.charges * work_potential
        share = share + (induced.dipoles * work_field).sum(1)
        energy = segment_sum(share, graph.batch, graph.n_systems)
        return replace(
            head,
            coulomb_energy=found.energy,
            charges=head.charges + induced.charges,
            latent=head.latent + induced.charges,
            dipoles=permanent.dipoles + induced.dipoles if self.config.has_dipoles else None,
            response_energy=_sum(head.response_energy, energy),
            atom_response=_sum(head.atom_response, share),
        )

    def response(self, x: HeadInput) -> Response:
        """Softness and polarizability of every atom."""
        # kappa = |gate| s; the shares s alone give the mean potential where the gate is closed
        softness = shares = alpha = None
        if self.softness is not None:
            shares = self.softness(x)
            softness = self.softness.scale() * shares
        if self.polarizability is not None:
            alpha = self.polarizability.scale() * self.polarizability(x)
            if self.anisotropy is not None:
                # alpha (1 + T)^2: the square of a symmetric matrix is never negative
                root = self._tensor(self.anisotropy(x)) + torch.eye(3).to(alpha)
                alpha = alpha[:, None, None] * (root @ root)
        return Response(softness=softness, shares=shares, polarizability=alpha)

    def latent_dipoles(self, x: HeadInput) -> Tensor | None:
        """Latent dipoles within their limits, (n_atoms, 3) in e A, or None."""
        if self.dipoles is None:
            return None
        found = self.dipoles(x)
        return found if x.limits is None else saturated_norm(found, x.limits * _ARM)

    def _quadrupoles(self, x: HeadInput) -> Tensor | None:
        if self.quadrupoles is None:
            return None
        found = self.quadrupoles(x)
        if x.limits is not None:
            found = saturated_norm(found, x.limits * _ARM**2)
        return self._tensor(found)

    def _tensor(self, y: Tensor) -> Tensor:
        """(n, 5) of order 2 to traceless symmetric (n, 3, 3)."""
        # T[n, a, b] = sum_m B[a, b, m] y[n, m]
        return torch.einsum("abm,nm->nab", self.basis.to(y.dtype), y)

    @staticmethod
    def _check_orders(chosen: MultipoleConfig, sizes: HeadSizes) -> None:
        # what to write instead: irreps up to the order that is needed
        have = len(sizes.equivariant_layers)
        if have >= chosen.max_order:
            return
        needed = "+".join(f"{sizes.channels}x{ir}" for ir in ("0e", "1o", "2e"))
        if chosen.max_order == 1:
            needed = needed.rpartition("+")[0]
        raise ConfigError(
            f"`long_range.multipoles` must leave out {chosen.needing(have)} for this "
            f"architecture, which has node features up to order {have} between its layers; use "
            f"`architecture.hidden_irreps` = '{needed}' and `architecture.n_layers` of at least 2, "
            "or what needs invariants only: induced charges, and induced dipoles with an isotropic "
            "polarizability"
        )


class OrderReadout(nn.Module):
    """Features of one order to one tensor of that order per atom, zero at the start.

    Args:
        sizes: Sizes of the architecture.
        order: l.
    """

    def __init__(self, sizes: HeadSizes, *, order: int) -> None:
        super().__init__()
        n_layers, channels = sizes.equivariant_layers[order - 1], sizes.channels_of(order)
        self.order = order
        self.weight = nn.Parameter(torch.zeros(n_layers, channels))
        self.mix = nn.Parameter(torch.zeros(n_layers, sizes.channels, channels))

    def forward(self, x: HeadInput) -> Tensor:
        """(n_atoms, 2 l + 1), in e3nn's basis: x, y, z for l = 1."""
        # the means over the channels of invariants and of this order
        n_invariants, channels = self.mix.shape[1:]
        parts = []
        for weight, mix, v in zip(
            self.weight, self.mix, x.equivariants[self.order - 1], strict=True
        ):
            # w_c + sum_d W[d, c] x[n, d] of one layer, then y[n, m] = sum_c factor[n, c] v[n, m, c]
            factor = weight + x.invariants[-1] @ (mix * n_invariants**-0.5)
            parts.append((v * (factor * channels**-0.5)[:, None]).sum(2))
        return torch.stack(parts).sum(0)


class Susceptibility(nn.Module):
    """A positive number per atom, and the gate in front of it.

    Args:
        config: The long-range part of the model.
        sizes: Sizes of the architecture.
        start: The number before training.
    """

    def __init__(self, config: LongRangeConfig, sizes: HeadSizes, *, start: float) -> None:
        super().__init__()
        self.factor = start / math.log(2.0)
        self.gate = nn.Parameter(torch.zeros(()))
        self.table = nn.Parameter(torch.zeros(sizes.n_elements))
        self.readouts = make_readouts(config, sizes, starts_at_zero=True)

    def scale(self) -> Tensor:
        """``|gate|``, with slope 1 at zero: a gate that is pushed below zero comes back."""
        # torch.abs has slope 0 at zero: a closed gate would never open
        return torch.where(self.gate >= 0, self.gate, -self.gate)

    def forward(self, x: HeadInput) -> Tensor:
        """(n_atoms,), positive, without the gate."""
        # softplus(0) = log 2, which `factor` divides out: `start` before training
        value = self.table.index_select(0, x.element) + self.readouts(x.invariants)
        return self.factor * functional.softplus(value)


def _sum(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first + second
