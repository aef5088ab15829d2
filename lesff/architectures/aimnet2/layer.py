r"""Parts of AIMNet2: radial basis, messages of scalars and vectors, networks.

Index letters: n receiver, m sender, w its slot among the neighbours of n, a feature, g radial
function, h vector, d one of (1, x, y, z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.nn.edge_tables import Topology


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
    """

    topology: Topology
    factors: list[Tensor]

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
        return cls(topology, factors)

    def sums(self, features: Tensor) -> Tensor:
        """``sum_m f_g(r_nm) (1, u_nm) x_m``, (n_atoms, G, 4, A) in element order.

        Args:
            features: (n_atoms, G, A) in element order, or (n_atoms, 1, A) for the same of all g.
        """
        slots = self.topology.slots
        out = []
        for chunk, factor in zip(slots.chunks, self.factors, strict=True):
            rows = slice(chunk.edge_start, chunk.edge_stop)
            sent = features.index_select(0, slots.sender[rows])
            # [n, w, g, a] -> [n, g, w, a]; then sum over w of [g, d, w] [g, w, a]
            shape = chunk.node_stop - chunk.node_start, chunk.width, *features.shape[1:]
            out.append(factor @ sent.view(shape).transpose(1, 2))
        return torch.cat(out).index_select(0, slots.chunk_rank)


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
