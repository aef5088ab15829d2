"""What kernels are called with: tables of tensors, and their C structures."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lesff.errors import KernelError


class ConvolutionPath(ctypes.Structure):
    """One tensor-product path, see ``LesffPath``."""

    _fields_ = [
        (name, c_int32)
        for name in ("rows", "cols", "feature_row", "kernel_col", "order", "block", "odd")
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_nodes", "n_pairs", "n_edges", "channels", "feature_rows")],
        ("kernel_cols", c_int64),
        ("n_paths", c_int32),
        ("n_threads", c_int32),
        ("paths", c_void_p),
        ("message_cols", c_int64 * 4),
        *[(n, c_void_p) for n in ("node_start", "edge_sender", "edge_pair", "edge_sign")],
        *[(n, c_void_p) for n in ("pair_sender", "pair_receiver", "features", "kernel", "weights")],
        ("weight_rows", c_int64),
        ("distance", c_void_p),
        ("table", c_void_p),
        ("n_intervals", c_int64),
        ("table_start", c_double),
        ("table_inverse_step", c_double),
        ("messages", c_void_p * 4),
        *[(n, c_void_p) for n in ("grad_features", "grad_kernel", "grad_weights", "grad_distance")],
    ]


class _Contraction(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_nodes", "channels", "n_rows", "n_components", "n_terms")],
        *[(n, c_int64) for n in ("n_groups", "n_slices", "n_elements")],
        ("n_threads", c_int32),
        *[(n, c_void_p) for n in ("slices", "groups", "last", "features", "table")],
        *[(n, c_void_p) for n in ("output", "grad", "grad_features", "grad_table")],
    ]


class _Harmonics(ctypes.Structure):
    _fields_ = [
        ("n_pairs", c_int64),
        ("max_ell", c_int32),
        ("n_threads", c_int32),
        *[(n, c_void_p) for n in ("vectors", "distance", "harmonics", "grad_distance")],
        *[(n, c_void_p) for n in ("grad_harmonics", "grad_vectors")],
    ]


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


@dataclass(frozen=True)
class ContractionTerms:
    """Monomials of a symmetric contraction, int32.

    Attributes:
        groups: (n_groups, 4): leading factors i <= j, output component, end of the group's terms.
        last: (n_terms,) last factor k of each term. Factor 0 is the constant 1.
        n_components: Components of the output.
    """

    groups: Tensor
    last: Tensor
    n_components: int
    _on_device: dict[tuple[torch.device, int], DeviceTerms] = field(
        default_factory=dict, compare=False
    )

    def on(self, device: torch.device, n_rows: int) -> DeviceTerms:
        """Term by term for Triton kernels, made once per device; for ``n_rows`` feature rows."""
        key = device, n_rows
        if key not in self._on_device:
            self._on_device[key] = self._expanded(device, n_rows)
        return self._on_device[key]

    def _expanded(self, device: torch.device, n_rows: int) -> DeviceTerms:
        groups = self.groups.long()
        ends = groups[:, 3]
        count = torch.diff(ends, prepend=ends.new_zeros(1))
        lead = groups[:, :3].repeat_interleave(count, 0)
        factors = torch.cat([lead[:, :2], self.last[:, None].long()], 1)
        component = lead[:, 2].contiguous()
        start = torch.searchsorted(component, torch.arange(self.n_components + 1))
        term = torch.arange(len(factors))
        uses = [
            torch.stack([factors[:, k], term, component, factors[:, i], factors[:, j]], 1)
            for k, i, j in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
        ]
        all_uses = torch.cat(uses)
        all_uses = all_uses[all_uses[:, 0] > 0]
        all_uses = all_uses[all_uses[:, 0].argsort(stable=True)]
        rows = torch.arange(1, n_rows + 2)
        use_start = torch.searchsorted(all_uses[:, 0].contiguous(), rows)
        return DeviceTerms(
            factors=factors.to(device),
            component=component.to(device),
            start=start.to(device),
            uses=all_uses[:, 1:].contiguous().to(device),
            use_start=use_start.to(device),
        )


class _Inputs:
    """Contiguous tensors, kept alive while the kernels use their memory."""

    def __init__(
        self, features: Tensor, kernel: Tensor, radial: Tensor | tuple[Tensor, RadialTable]
    ) -> None:
        self.features = features.contiguous()
        self.kernel = kernel.contiguous()
        self.weights = self.distance = self.table = None
        if isinstance(radial, Tensor):
            self.weights = radial.contiguous()
        else:
            self.distance, self.table = radial[0].contiguous(), radial[1]
        for tensor in (self.kernel, self.weights, self.distance):
            if tensor is not None and tensor.dtype != features.dtype:
                raise KernelError(f"inputs must be {features.dtype}, got {tensor.dtype}")


@dataclass(frozen=True)
class DeviceTerms:
    """Monomials term by term, int64.

    Attributes:
        factors: (n_terms, 3) factors; factor 0 is the constant 1.
        component: (n_terms,) output component, ascending.
        start: (n_components + 1,) first term of each component.
        uses: (n_uses, 4) for every factor of every term, by factor: the term, its component, and
            the other two factors.
        use_start: (n_rows + 1,) first use of each feature row.
    """

    factors: Tensor
    component: Tensor
    start: Tensor
    uses: Tensor
    use_start: Tensor
