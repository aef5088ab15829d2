r"""Parts of AIMNet2: radial basis, messages of scalars and vectors, networks.

Index letters: n receiver, m sender, w its slot among the neighbours of n, a feature, g radial
function, h vector, d one of (1, x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.nn.double_backward import recorded_gradients
from lesff.nn.edge_tables import Chunk, Slots, Topology


class GaussianShells(nn.Module):
    """``exp(-eta (r - s_g)^2) (1 + cos(pi r / rc)) / 2``, zero from the cutoff on."""

    def __init__(self, config: AIMNet2Config) -> None:
        super().__init__()
        centers = torch.tensor(config.centers, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)
        self.centers: Tensor
        self.cutoff, self.exponent = config.cutoff, config.exponent

    def forward(self, distance: Tensor) -> Tensor:
        """(n_pairs,) distances in A to (n_pairs, G)."""
        centers = self.centers.to(distance.dtype)
        shell = torch.exp(-self.exponent * (distance[:, None] - centers).square())
        # smooth to first order at the cutoff
        x = (distance / self.cutoff).clamp(max=1.0)
        return shell * (0.5 * torch.cos(math.pi * x) + 0.5)[:, None]


@dataclass(frozen=True)
class Messages:
    """What the edges of a batch do to features, in all passes alike.

    Attributes:
        topology: Index tables.
        factors: Of each chunk of receivers, (n, G, 4, w): radial function times (1, x, y, z) of the
            unit vector from receiver to sender.
        rows: Of each chunk, (n G w,): where its neighbours stand in a table of (n_atoms G) rows.
    """

    topology: Topology
    factors: list[Tensor]
    rows: list[Tensor]

    @classmethod
    def of(cls, shells: Tensor, directions: Tensor, topology: Topology) -> Messages:
        """From radial functions (n_pairs, G) and unit vectors of pairs, sender to receiver."""
        slots = topology.slots
        # [p, g, d]: both directions of a pair share the radial functions
        scalar = torch.ones_like(directions[:, :1])
        kinds = torch.cat([scalar, -directions], dim=1)
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
        rows = [_rows(slots, chunk, shells.shape[1]) for chunk in slots.chunks]
        return cls(topology, factors, rows)

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


class Mixing(nn.Module):
    """Invariants of messages: the scalars, and squared norms of combinations of the vectors.

    Args:
        n_features: A.
        config: Numbers of radial functions and vectors.
    """

    def __init__(self, n_features: int, config: AIMNet2Config) -> None:
        super().__init__()
        size = (n_features, config.n_radial, config.n_vectors)
        self.weight = nn.Parameter(torch.randn(size) * config.n_radial**-0.5)

    def forward(self, sums: Tensor) -> Tensor:
        """(n, G, 4, A) to (n, A (G + H))."""
        scalars = sums[:, :, 0].transpose(1, 2)  # [n, a, g]
        # v[n, a, d, h] = sum_g s[n, g, d, a] W[a, g, h]
        vectors = torch.einsum("ngda,agh->nadh", sums[:, :, 1:], self.weight)
        norms = vectors.square().sum(2)  # [n, a, h]
        return torch.cat([scalars.flatten(1), norms.flatten(1)], dim=1)


class Network(nn.Module):
    """Linear maps with the activation x Phi(x) (GELU) between them.

    Args:
        sizes: Of the input, the hidden layers and the output.
        is_active: Whether the output has the activation, too.
    """

    def __init__(self, sizes: tuple[int, ...], *, is_active: bool = False) -> None:
        super().__init__()
        self.is_active = is_active
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def hidden(self, x: Tensor) -> Tensor:
        """(n, inputs) to the last hidden layer, which the output's linear map reads."""
        for linear in self.linears[:-1]:
            x = functional.gelu(linear(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        x = self.linears[-1](self.hidden(x))
        return functional.gelu(x) if self.is_active else x
