"""What kernels are called with: tables of plain numbers and tensors, the same for all backends.

What a backend makes of them for itself (C arrays, tables on a device) is made when it is needed and
kept by the backend, found by the identity of the table; so the tables can be pickled and copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ConvolutionPath:
    """One tensor-product path: sender order l1, harmonic order l2, message order l3.

    Attributes:
        rows: Sender components, 2 l1 + 1.
        cols: Message components, 2 l3 + 1.
        feature_row: First of the (l, m) rows of order l1 in the sender features.
        kernel_col: First column of the path's (m1, m3) block in the angular kernel.
        order: l3: which message tensor.
        block: Position among the paths of the same l3.
        is_odd: Whether the angular kernel changes sign with the edge's direction.
    """

    rows: int
    cols: int
    feature_row: int
    kernel_col: int
    order: int
    block: int
    is_odd: bool

    @property
    def features(self) -> slice:
        """Rows of the sender features that the path reads."""
        return slice(self.feature_row, self.feature_row + self.rows)

    @property
    def kernel(self) -> slice:
        """Columns of the angular kernel that the path reads, (m1, m3) flattened."""
        return slice(self.kernel_col, self.kernel_col + self.rows * self.cols)

    def columns(self, channels: int) -> slice:
        """Channels of the message that the path fills."""
        return slice(self.block * channels, (self.block + 1) * channels)


@dataclass(frozen=True, eq=False)
class ConvolutionPaths:
    """The paths of one convolution; equal to itself only.

    Attributes:
        paths: In the order of the radial weights.
        message_cols: Channels of each order's message, one block per path of that order.
    """

    paths: tuple[ConvolutionPath, ...]
    message_cols: tuple[int, ...]


@dataclass(frozen=True)
class ConvolutionEdges:
    """Edges grouped by receiver, int32 but for the sign.

    Attributes:
        node_start: (n_nodes + 1,) first edge of each receiver.
        sender: (n_edges,) sending node.
        pair: (n_edges,) undirected pair.
        sign: (n_edges,) int8, +1 along the pair's edge, -1 against it.
        pair_sender, pair_receiver: (n_pairs,) nodes.
    """

    node_start: Tensor
    sender: Tensor
    pair: Tensor
    sign: Tensor
    pair_sender: Tensor
    pair_receiver: Tensor


@dataclass(frozen=True)
class RadialTable:
    """Piecewise quintic radial weights.

    Attributes:
        knots: (n_paths, n_blocks, n_intervals + 3, 3, 16): value, slope and curvature in units of
            the step at every knot; two more knots, of zeros, stand for all beyond the cutoff.
        start: First knot in A.
        inverse_step: Intervals per A.
    """

    knots: Tensor
    start: float
    inverse_step: float

    @property
    def n_intervals(self) -> int:
        """Intervals below the cutoff."""
        return self.knots.shape[2] - 3


RadialWeights = Tensor | tuple[Tensor, RadialTable]
"""Weights (n_pairs or 2 n_pairs, n_paths * channels), or distances (n_pairs,) in A and a table."""


@dataclass(frozen=True, eq=False)
class ContractionTerms:
    """Monomials of a symmetric contraction, int32, on the host; equal to itself only.

    Attributes:
        groups: (n_groups, 4): leading factors i <= j, output component, end of the group's terms.
        last: (n_terms,) last factor k of each term. Factor 0 is the constant 1.
        n_components: Components of the output.
    """

    groups: Tensor
    last: Tensor
    n_components: int
