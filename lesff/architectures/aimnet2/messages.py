r"""What the edges of a batch do in the message passes of AIMNet2.

``S_nd[g, a] = sum_m f_g(r_nm) (1, u_nm)_d x_m[a, g]`` with the unit vector u from receiver n to
sender m. A pass of the compiled library goes from features and charges to the inputs of its
network; second derivatives, and sums that are asked for themselves, take plain PyTorch.

Index letters: n receiver, m sender, w its slot among the neighbours of n, p pair, a feature, g
radial function, h vector, d one of (1, x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lesff import kernels
from lesff.architectures.aimnet2.layer import GaussianShells, invariants
from lesff.autograd import recorded_gradients
from lesff.kernels.passes import (
    PassInputs,
    gaussian_shells,
    gaussian_shells_backward,
    message_pass,
    message_pass_backward,
)
from lesff.nn.edge_tables import Chunk, Slots, Topology


def pair_shells(vectors: Tensor, shells: GaussianShells) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths, directions and radial functions of pairs.

    Args:
        vectors: (n_pairs, 3) in A, from sender to receiver.
        shells: The radial functions.

    Returns:
        Lengths (n_pairs,) in A, unit vectors from receiver to sender (n_pairs, 3), and
        (n_pairs, G).
    """
    if kernels.is_active(vectors):
        return _Shells.apply(vectors, shells)  # pyright: ignore[reportReturnType]
    return _plain_shells(vectors, shells)


def _plain_shells(vectors: Tensor, shells: GaussianShells) -> tuple[Tensor, Tensor, Tensor]:
    """The same, differentiable to any order."""
    distance = vectors.square().sum(1).sqrt()
    return distance, -vectors / distance[:, None], shells(distance)


class _Shells(torch.autograd.Function):
    """:func:`pair_shells` of the compiled library."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, vectors: Tensor, shells: GaussianShells
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(vectors)
        ctx.shells = shells
        return gaussian_shells(vectors, shells.constants)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (vectors,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            need = (ctx.needs_input_grad[0],)
            plain = lambda v: _plain_shells(v, ctx.shells)  # noqa: E731
            return *recorded_gradients(plain, (vectors,), need, grads), None
        return gaussian_shells_backward(grads, vectors, ctx.shells.constants), None


@dataclass(frozen=True)
class Messages:
    """What the edges of a batch do to features, in all passes alike.

    Attributes:
        topology: Index tables.
        shells: (n_pairs, G) radial functions.
        units: (n_pairs, 3) unit vectors from receiver to sender of each pair.
    """

    topology: Topology
    shells: Tensor
    units: Tensor

    @cached_property
    def rows(self) -> list[Tensor]:
        """Of each chunk, (n G w,): where its neighbours stand in a table of (n_atoms G) rows."""
        slots = self.topology.slots
        return [_rows(slots, chunk, self.shells.shape[1]) for chunk in slots.chunks]

    @cached_property
    def factors(self) -> list[Tensor]:
        """Of each chunk of receivers, (n, G, 4, w): radial function times (1, x, y, z)."""
        return _factors(self.shells, self.units, self.topology.slots)

    def inputs(
        self, features: Tensor, charges: Tensor | None, weight: Tensor, charge_weight: Tensor
    ) -> Tensor:
        """Inputs of the network of a pass: features and their messages, then those of charges.

        Args:
            features: (n_atoms, A, G) in element order.
            charges: (n_atoms,), or None.
            weight: (A, G, H) of :class:`.layer.Mixing`.
            charge_weight: (1, G, H), of charges.
        """
        given = None if charges is None else charge_weight
        if kernels.is_active(features):
            x = (features, charges, self.shells, self.units, weight, given)
            return _Pass.apply(self.topology, *x)  # pyright: ignore[reportReturnType]
        return self.plain_inputs(features, charges, weight, given)[0]

    def plain_inputs(
        self, features: Tensor, charges: Tensor | None, weight: Tensor, charge_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`inputs`, and the sums of features, (n_atoms, G, 4, A), in plain PyTorch."""
        # [n, a, g] -> [n, g, a]
        sums = self.sums(features.transpose(1, 2).contiguous())
        parts = [features.flatten(1), invariants(sums, weight)]
        if charges is not None and charge_weight is not None:
            of_charges = self.sums_of_charges(charges)
            parts += [charges[:, None], invariants(of_charges, charge_weight)]
        return torch.cat(parts, dim=1), sums

    def sums(self, features: Tensor) -> Tensor:
        """``sum_m f_g(r_nm) (1, u_nm) x_m``, (n_atoms, G, 4, A) in element order.

        Args:
            features: (n_atoms, G, A) in element order.
        """
        return _Sums.apply(features, self.topology.slots, self.rows, *self.factors)  # pyright: ignore[reportReturnType]

    def sums_of_charges(self, charges: Tensor) -> Tensor:
        """The same of charges (n_atoms,), which all of g see alike, (n_atoms, G, 4, 1)."""
        slots = self.topology.slots
        sizes = [chunk.edge_stop - chunk.edge_start for chunk in slots.chunks]
        sent = torch.split(charges.index_select(0, slots.sender), sizes)
        out = []
        for part, factor in zip(sent, self.factors, strict=True):
            n, g, d, w = factor.shape
            # sum over w of [(g, d), w] [w]
            out.append((factor.view(n, g * d, w) @ part.view(n, w, 1)).view(n, g, d, 1))
        return torch.cat(out).index_select(0, slots.chunk_rank)


def _factors(shells: Tensor, units: Tensor, slots: Slots) -> list[Tensor]:
    """See :attr:`Messages.factors`."""
    # [p, g, d]: both directions of a pair share the radial functions
    kinds = torch.cat([torch.ones_like(units[:, :1]), units], dim=1)
    factors = []
    for chunk in slots.chunks:
        rows = slice(chunk.edge_start, chunk.edge_stop)
        pair, sign = slots.pair[rows], slots.sign[rows].to(shells.dtype)
        # (1, x, y, z): padding has sign 0, the other direction the opposite vector
        flip = torch.stack([sign.abs(), sign, sign, sign], dim=1)
        kind = kinds.index_select(0, pair) * flip
        value = shells.index_select(0, pair)[:, :, None] * kind[:, None, :]
        shape = chunk.node_stop - chunk.node_start, chunk.width, *value.shape[1:]
        # [n, w, g, d] -> [n, g, d, w]
        factors.append(value.view(shape).permute(0, 2, 3, 1).contiguous())
    return factors


class _Pass(torch.autograd.Function):
    """:meth:`Messages.inputs` of the compiled library."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, topology: Topology, *inputs: Tensor | None
    ) -> Tensor:
        x = _contiguous(inputs)
        out, sums, vectors = message_pass(x, topology.edges)
        # sums are for the gradients of weights
        of_weights = any(ctx.needs_input_grad[5:])
        ctx.save_for_backward(*inputs, vectors, sums if of_weights else None)
        ctx.topology = topology
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inputs, vectors, sums = ctx.saved_tensors
        need = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            given = [x is not None for x in inputs]
            found = recorded_gradients(
                lambda *some: _plain_pass(ctx.topology, given, some),
                [x for x in inputs if x is not None],
                [needed for needed, is_given in zip(need, given, strict=True) if is_given],
                (grad,),
            )
            rest = iter(found)
            return None, *(next(rest) if is_given else None for is_given in given)
        x = _contiguous(inputs)
        found = message_pass_backward(grad, vectors, x, ctx.topology.edges)
        weights = _weight_gradients(grad, vectors, sums, x) if sums is not None else (None, None)
        return None, *found, *weights


def _contiguous(inputs: Sequence[Tensor | None]) -> PassInputs:
    arrays: list[Any] = [None if x is None else x.contiguous() for x in inputs]
    features, charges, shells, units, weight, charge_weight = arrays
    return PassInputs(
        features=features,
        charges=charges,
        shells=shells,
        units=units,
        weight=weight,
        charge_weight=charge_weight,
    )


def _plain_pass(topology: Topology, given: Sequence[bool], inputs: Sequence[Tensor]) -> Tensor:
    """A pass of those inputs that are given, in plain PyTorch."""
    rest = iter(inputs)
    found: list[Any] = [next(rest) if is_given else None for is_given in given]
    features, charges, shells, units, weight, charge_weight = found
    messages = Messages(topology, shells, units)
    return messages.plain_inputs(features, charges, weight, charge_weight)[0]


def _weight_gradients(
    grad: Tensor, vectors: Tensor, sums: Tensor, x: PassInputs
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the weights of features, (A, G, H), and of charges, (1, G, H)."""
    n_features, n_radial, n_vectors = x.weight.shape
    start = 2 * n_features * n_radial
    norms = grad[:, start : start + n_features * n_vectors].view(-1, n_features, n_vectors)
    if x.charges is not None:
        norms = torch.cat([norms, grad[:, None, -n_vectors:]], dim=1)
    # dL/dW[a, g, h] = sum_nd S[n, a, d, g] 2 v[n, a, d, h] dL/d|v|^2[n, a, h]
    slopes = 2.0 * vectors[..., :n_vectors] * norms[:, :, None]
    found = torch.einsum("nadg,nadh->agh", sums[:, :, 1:, :n_radial], slopes)
    return found[:n_features], None if x.charges is None else found[n_features:]


def _rows(slots: Slots, chunk: Chunk, n_radial: int) -> Tensor:
    """Rows (m, g) of the neighbours of a chunk's receivers in a flat table, (n G w,)."""
    sender = slots.sender[chunk.edge_start : chunk.edge_stop]
    sender = sender.view(chunk.node_stop - chunk.node_start, 1, chunk.width)
    shell = torch.arange(n_radial, device=sender.device)
    return (sender * n_radial + shell[:, None]).view(-1)


def _sent(features: Tensor, chunk: Chunk, rows: Tensor) -> Tensor:
    """Features of the neighbours of a chunk's receivers, (n, G, w, A)."""
    n_radial, n_features = features.shape[1:]
    shape = chunk.node_stop - chunk.node_start, n_radial, chunk.width, n_features
    return features.view(-1, n_features).index_select(0, rows).view(shape)


def plain_sums(
    features: Tensor, slots: Slots, rows: Sequence[Tensor], factors: Sequence[Tensor]
) -> Tensor:
    """See :meth:`Messages.sums`; differentiable to any order."""
    # sum over w of [g, d, w] [g, w, a]
    parts = zip(slots.chunks, rows, factors, strict=True)
    out = [factor @ _sent(features, chunk, row) for chunk, row, factor in parts]
    return torch.cat(out).index_select(0, slots.chunk_rank)


class _Sums(torch.autograd.Function):
    """:func:`plain_sums` that keeps no features of neighbours for its gradient."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, features: Tensor, slots: Slots, rows: list[Tensor], *factors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(features, *factors)
        ctx.tables = slots, rows
        return plain_sums(features, slots, rows, factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, *factors = ctx.saved_tensors
        slots, rows = ctx.tables
        needed = ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            need = (needed, *ctx.needs_input_grad[3:])
            inputs = (features, *factors)
            found = recorded_gradients(
                lambda x, *f: plain_sums(x, slots, rows, f), inputs, need, (grad,)
            )
            return found[0], None, None, *found[1:]
        # rows in chunk order
        ordered = torch.empty_like(grad).index_copy_(0, slots.chunk_rank, grad)
        of_features = torch.zeros_like(features) if needed else None
        of_factors = []
        for chunk, row, factor in zip(slots.chunks, rows, factors, strict=True):
            part = ordered[chunk.node_start : chunk.node_stop]
            # dE/df[g, d, w] = sum_a dE/dS[g, d, a] x[g, w, a]
            of_factors.append(part @ _sent(features, chunk, row).transpose(2, 3))
            if of_features is None:
                continue
            # dE/dx[g, w, a] = sum_d f[g, d, w] dE/dS[g, d, a], added up at the senders
            back = (factor.transpose(2, 3) @ part).flatten(0, 2)
            of_features.view(len(of_features) * of_features.shape[1], -1).index_add_(0, row, back)
        return of_features, None, None, *of_factors
