"""The same kernels for GPUs, in Triton.

One program sums over the neighbours of one node for one path (or one feature), or over the
monomials of one component, so that as on a CPU nothing of size edges x channels x (l, m) is
written, and no two programs write to one place: results do not depend on the order of execution.
Without a GPU, Triton's interpreter (``TRITON_INTERPRET=1``) runs the same code for the tests.
"""

# Triton's language is not the Python that a type checker knows:
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from lesff.errors import KernelError
from lesff.kernels.arguments import (
    ContactTables,
    ContactValues,
    ContractionTerms,
    ConvolutionEdges,
    ConvolutionPaths,
    PairAtoms,
    PairKind,
    RadialWeights,
    ShareInputs,
    StateConstants,
    StateInputs,
    TransferLimits,
)

_BLOCK = 32
"""Channels per program: a warp's width."""
_ORDER = tl.constexpr(8)
"""Components of one order, rounded up to a power of two: orders up to 3."""
_FIELDS = tl.constexpr(8)
"""Numbers per path in its table."""


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

    @staticmethod
    def of(terms: ContractionTerms, n_rows: int, device: torch.device) -> DeviceTerms:
        """The monomials for ``n_rows`` feature rows."""
        # groups (i, j, component, end) -> one row (i, j, k) per monomial t
        groups = terms.groups.long()
        ends = groups[:, 3]
        count = torch.diff(ends, prepend=ends.new_zeros(1))
        lead = groups[:, :3].repeat_interleave(count, 0)
        factors = torch.cat([lead[:, :2], terms.last[:, None].long()], 1)
        component = lead[:, 2].contiguous()
        # components are ascending: first monomial of each, and the end of the last
        start = torch.searchsorted(component, torch.arange(terms.n_components + 1))
        term = torch.arange(len(factors))
        # every monomial read from each of its factors: d/da_f of a_f a_g a_h is a_g a_h
        uses = [
            torch.stack([factors[:, k], term, component, factors[:, i], factors[:, j]], 1)
            for k, i, j in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
        ]
        all_uses = torch.cat(uses)
        # the constant 1 has no gradient; the rest by factor, monomials in their order
        all_uses = all_uses[all_uses[:, 0] > 0]
        all_uses = all_uses[all_uses[:, 0].argsort(stable=True)]
        # first use of every feature row (factor f is row f - 1), and the end of the last
        rows = torch.arange(1, n_rows + 2)
        use_start = torch.searchsorted(all_uses[:, 0].contiguous(), rows)
        return DeviceTerms(
            factors=factors.to(device),
            component=component.to(device),
            start=start.to(device),
            uses=all_uses[:, 1:].contiguous().to(device),
            use_start=use_start.to(device),
        )


class GPUBackend:
    """Triton kernels; see :class:`lesff.kernels.Backend` for the methods.

    It keeps its tables of paths and of monomials on every device where they were used, and drops
    them with what they were made from.
    """

    has_tables = False
    has_contacts = False
    has_open_pairs = False

    def __init__(self) -> None:
        self._paths: WeakKeyDictionary[ConvolutionPaths, dict[torch.device, Tensor]] = (
            WeakKeyDictionary()
        )
        self._terms: WeakKeyDictionary[
            ContractionTerms, dict[tuple[torch.device, int], DeviceTerms]
        ] = WeakKeyDictionary()

    def has_harmonics(self, max_ell: int) -> bool:
        """None: see :class:`lesff.kernels.Backend`."""
        return False

    def convolve(
        self,
        features: Tensor,
        kernel: Tensor,
        radial: RadialWeights,
        paths: ConvolutionPaths,
        edges: ConvolutionEdges,
    ) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`."""
        weights = _weights(radial, features, kernel)
        n_nodes, n_rows, channels = features.shape
        # messages of all orders in one piece of memory: [order, n, m, (path, c)]
        sizes = [n_nodes * (2 * order + 1) * cols for order, cols in enumerate(paths.message_cols)]
        out = features.new_empty(sum(sizes))
        table = self._path_table(paths, features.device)
        # one program per node, path and block of channels
        grid = (n_nodes, len(paths.paths), triton.cdiv(channels, _BLOCK))
        if out.numel():
            _convolve[grid](
                features.contiguous(), kernel.contiguous(), weights, edges.node_start, edges.sender,
                edges.pair, edges.sign, table, out, n_nodes, len(kernel), channels, n_rows,
                kernel.shape[1], weights.shape[1], len(weights) != len(kernel), _BLOCK,
            )  # fmt: skip
        # flat -> one [n, m, (path, c)] per order
        parts = out.split(sizes)
        return tuple(
            part.view(n_nodes, 2 * order + 1, cols)
            for (order, cols), part in zip(enumerate(paths.message_cols), parts, strict=True)
        )

    def convolve_backward(
        self,
        grads: Sequence[Tensor],
        features: Tensor,
        kernel: Tensor,
        radial: RadialWeights,
        paths: ConvolutionPaths,
        edges: ConvolutionEdges,
        *,
        need_features: bool,
        need_pairs: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See :class:`lesff.kernels.Backend`."""
        weights = _weights(radial, features, kernel)
        features, kernel = features.contiguous(), kernel.contiguous()
        n_nodes, n_rows, channels = features.shape
        table = self._path_table(paths, features.device)
        n_paths = len(paths.paths)
        # gradients of the messages in the layout of the forward
        grad = torch.cat([g.reshape(-1) for g in grads])
        is_directed = len(weights) != len(kernel)
        sizes = (n_nodes, len(kernel), channels, n_rows, kernel.shape[1], weights.shape[1])
        grad_features = grad_kernel = grad_weights = None
        if need_features:
            grad_features = torch.zeros_like(features)
            # one program per node, feature row and block of channels
            grid = (n_nodes, n_rows, triton.cdiv(channels, _BLOCK))
            if grad_features.numel():
                _convolve_features[grid](
                    kernel, weights, edges.node_start, edges.sender, edges.pair, edges.sign, table,
                    grad, grad_features, *sizes, n_paths, is_directed, _BLOCK,
                )  # fmt: skip
        if need_pairs:
            grad_kernel, grad_weights = torch.zeros_like(kernel), torch.zeros_like(weights)
            # one program per pair and path: it alone writes their weights and kernel columns
            if len(kernel):
                _convolve_pairs[(len(kernel), n_paths)](
                    features, kernel, weights, edges.pair_sender, edges.pair_receiver, table, grad,
                    grad_kernel, grad_weights, *sizes, is_directed, _BLOCK,
                )  # fmt: skip
        return grad_features, grad_kernel, grad_weights

    def contract(
        self, features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`."""
        _check_dtype(features, table)
        n_nodes, n_rows, channels = features.shape
        output = features.new_empty(n_nodes, terms.n_components, channels)
        found = self._device_terms(terms, n_rows, features.device)
        # one program per node, component and block of channels
        grid = (n_nodes, terms.n_components, triton.cdiv(channels, _BLOCK))
        if output.numel():
            _contract[grid](
                features.contiguous(), table.contiguous(), _element(slices, n_nodes), found.factors,
                found.start, output, channels, n_rows, terms.n_components, len(terms.last), _BLOCK,
            )  # fmt: skip
        return output

    def contract_backward(
        self,
        grad: Tensor,
        features: Tensor,
        table: Tensor,
        slices: Tensor,
        terms: ContractionTerms,
        *,
        need_features: bool,
        need_table: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See :class:`lesff.kernels.Backend`."""
        _check_dtype(features, table)
        grad, features, table = grad.contiguous(), features.contiguous(), table.contiguous()
        n_nodes, n_rows, channels = features.shape
        found = self._device_terms(terms, n_rows, features.device)
        n_blocks = triton.cdiv(channels, _BLOCK)
        sizes = (channels, n_rows, terms.n_components, len(terms.last))
        grad_features = torch.empty_like(features) if need_features else None
        grad_table = torch.zeros_like(table) if need_table else None
        # features by node and row; the table by element slice and monomial
        if grad_features is not None and grad_features.numel():
            _contract_features[(n_nodes, n_rows, n_blocks)](
                features, table, _element(slices, n_nodes), found.uses, found.use_start, grad,
                grad_features, *sizes, _BLOCK,
            )  # fmt: skip
        if grad_table is not None and len(slices):
            _contract_table[(len(slices), len(terms.last), n_blocks)](
                features, slices, found.factors, found.component, grad, grad_table, *sizes, _BLOCK
            )
        return grad_features, grad_table

    def contacts(
        self,
        distance: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        tables: ContactTables,
        *,
        inner: bool = False,
        wall: bool = False,
        bonds: bool = False,
    ) -> ContactValues:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no contacts in Triton: use plain PyTorch on a GPU")

    def shared_bonds_backward(
        self,
        grad: Tensor,
        distance: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        tables: ContactTables,
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no contacts in Triton: use plain PyTorch on a GPU")

    def transfers(
        self, transfers: Tensor, distance: Tensor, pairs: PairAtoms, limits: TransferLimits
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no transfers in Triton: use plain PyTorch on a GPU")

    def transfers_backward(
        self,
        grad: Tensor,
        transfers: Tensor,
        distance: Tensor,
        pairs: PairAtoms,
        limits: TransferLimits,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no transfers in Triton: use plain PyTorch on a GPU")

    def open_pairs(
        self, charges: Tensor, positions: Tensor, kind: PairKind, sigma: float, *, forces: bool
    ) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no open pairs in Triton: use plain PyTorch on a GPU")

    def shares(self, x: ShareInputs) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no shares in Triton: use plain PyTorch on a GPU")

    def shares_backward(
        self, grads: Sequence[Tensor], x: ShareInputs, potential: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`; there are none."""
        raise KernelError("there are no shares in Triton: use plain PyTorch on a GPU")

    def local_state(self, x: StateInputs, constants: StateConstants) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`; there is none."""
        raise KernelError("there is no local state in Triton: use plain PyTorch on a GPU")

    def local_state_backward(
        self, grads: Sequence[Tensor], x: StateInputs, found: Tensor, constants: StateConstants
    ) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`; there is none."""
        raise KernelError("there is no local state in Triton: use plain PyTorch on a GPU")

    def harmonics(self, vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
        """Raises KernelError: plain PyTorch computes them."""
        raise KernelError("there are no harmonics in Triton: use plain PyTorch on a GPU")

    def harmonics_backward(
        self, grad_distance: Tensor, grad_harmonics: Tensor, vectors: Tensor, max_ell: int
    ) -> Tensor:
        """Raises KernelError: plain PyTorch computes them."""
        raise KernelError("there are no harmonics in Triton: use plain PyTorch on a GPU")

    def _path_table(self, paths: ConvolutionPaths, device: torch.device) -> Tensor:
        """(n_paths, 8) int64, made once per device.

        Rows, columns, first feature row, first kernel column, values per node before those of the
        path's order, channels of that order, block, whether the kernel is odd.
        """
        # found by the identity of the paths, then by device
        tables = self._paths.setdefault(paths, {})
        if device not in tables:
            cols = paths.message_cols
            # values per node of all orders below: where an order starts in the flat messages
            before = [0]
            for order, count in enumerate(cols):
                before.append(before[-1] + (2 * order + 1) * count)
            rows = [
                (p.rows, p.cols, p.feature_row, p.kernel_col, before[p.order], cols[p.order])
                + (p.block, int(p.is_odd))
                for p in paths.paths
            ]
            tables[device] = torch.tensor(rows, dtype=torch.int64, device=device)
        return tables[device]

    def _device_terms(
        self, terms: ContractionTerms, n_rows: int, device: torch.device
    ) -> DeviceTerms:
        tables = self._terms.setdefault(terms, {})
        key = device, n_rows
        if key not in tables:
            tables[key] = DeviceTerms.of(terms, n_rows, device)
        return tables[key]


GPU = GPUBackend()
"""The one of this process."""


def _weights(radial: RadialWeights, features: Tensor, kernel: Tensor) -> Tensor:
    if not isinstance(radial, Tensor):
        raise KernelError("radial tables are for compiled CPU kernels; got one for a GPU")
    _check_dtype(features, radial)
    _check_dtype(features, kernel)
    return radial.contiguous()


def _check_dtype(features: Tensor, other: Tensor) -> None:
    if other.dtype != features.dtype:
        raise KernelError(f"inputs must be {features.dtype} like the features, got {other.dtype}")


def _element(slices: Tensor, n_nodes: int) -> Tensor:
    """Row of the weight table of every node, (n_nodes,)."""
    return slices[:, 2].repeat_interleave(slices[:, 1] - slices[:, 0], output_size=n_nodes)


@triton.jit
def _message_place(path, node, n_nodes, c, channels, m):
    """Offsets of a path's (m, c) tile of one node in the joined messages."""
    # start of the order + start of the node + block of the path, then m by m and c by c
    cols = tl.load(path + 1)
    width = tl.load(path + 5)
    start = tl.load(path + 4) * n_nodes + node * cols * width + tl.load(path + 6) * channels
    return start + m[:, None] * width + c[None, :]


@triton.jit
def _convolve(
    features,
    kernel,
    weights,
    node_start,
    senders,
    pairs,
    signs,
    paths,
    out,
    n_nodes,
    n_pairs,
    channels,
    n_rows,
    n_cols,
    n_weights,
    is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Messages of one node, path and block of channels: sum over the edges it receives."""
    node = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    path = paths + index * _FIELDS
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    m = tl.arange(0, _ORDER)
    inside = c < channels
    rows, cols = tl.load(path), tl.load(path + 1)
    first, column, odd = tl.load(path + 2), tl.load(path + 3), tl.load(path + 7)
    # A[m, c] of this node and path stays in registers
    total = tl.zeros((_ORDER, BLOCK), dtype=out.dtype.element_ty)
    for edge in range(tl.load(node_start + node), tl.load(node_start + node + 1)):
        pair = tl.load(pairs + edge).to(tl.int64)
        sender = tl.load(senders + edge).to(tl.int64)
        is_against = tl.load(signs + edge) < 0
        # row of the radial weights: the pair's, or that of the direction
        row = pair
        if is_directed:
            row = tl.where(is_against, pair + n_pairs, pair)
        # R[row, (path, c)]; rows of the features and columns of the kernel are those of the path
        r = tl.load(weights + row * n_weights + index * channels + c, mask=inside, other=0.0)
        # K(-r) = -K(r) for odd l2: the sign goes to the radial weight
        r = tl.where(is_against & (odd != 0), -r, r)
        for a in range(rows):
            # h[sender, a, c] and K[pair, (a, m)]
            h = tl.load(features + (sender * n_rows + first + a) * channels + c, mask=inside,
                        other=0.0)  # fmt: skip
            k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols, other=0.0)
            # A[m, c] += K[a, m] R[c] h[a, c], component a by component
            total += k[:, None] * (r * h)[None, :]
    place = _message_place(path, node, n_nodes, c, channels, m)
    tl.store(out + place, total, mask=(m < cols)[:, None] & inside[None, :])


@triton.jit
def _convolve_features(
    kernel,
    weights,
    node_start,
    senders,
    pairs,
    signs,
    paths,
    grad,
    grad_features,
    n_nodes,
    n_pairs,
    channels,
    n_rows,
    n_cols,
    n_weights,
    n_paths,
    is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of one feature row of a node: sum over paths and over the edges it sends."""
    # the edges that a node sends are those that it receives, the other way round
    node = tl.program_id(0).to(tl.int64)
    row_of_node = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    m = tl.arange(0, _ORDER)
    inside = c < channels
    total = tl.zeros((BLOCK,), dtype=grad_features.dtype.element_ty)
    for index in range(n_paths):
        path = paths + index * _FIELDS
        # paths that read this row of the features, as their component a
        a = row_of_node - tl.load(path + 2)
        if (a >= 0) & (a < tl.load(path)):
            cols, column, odd = tl.load(path + 1), tl.load(path + 3), tl.load(path + 7)
            for edge in range(tl.load(node_start + node), tl.load(node_start + node + 1)):
                pair = tl.load(pairs + edge).to(tl.int64)
                receiver = tl.load(senders + edge).to(tl.int64)
                # the other way round, so the sign is that of the opposite edge
                is_against = tl.load(signs + edge) > 0
                row = pair
                if is_directed:
                    row = tl.where(is_against, pair + n_pairs, pair)
                r = tl.load(weights + row * n_weights + index * channels + c, mask=inside,
                            other=0.0)  # fmt: skip
                r = tl.where(is_against & (odd != 0), -r, r)
                k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols,
                            other=0.0)  # fmt: skip
                place = _message_place(path, receiver, n_nodes, c, channels, m)
                # G[m, c] of the receiver's message
                g = tl.load(grad + place, mask=(m < cols)[:, None] & inside[None, :], other=0.0)
                # dh[a, c] += R[c] sum_m K[a, m] G[m, c], G at the receiver
                total += r * tl.sum(k[:, None] * g, axis=0)
    tl.store(grad_features + (node * n_rows + row_of_node) * channels + c, total, mask=inside)


@triton.jit
def _convolve_pairs(
    features,
    kernel,
    weights,
    pair_sender,
    pair_receiver,
    paths,
    grad,
    grad_kernel,
    grad_weights,
    n_nodes,
    n_pairs,
    channels,
    n_rows,
    n_cols,
    n_weights,
    is_directed: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the angular kernel and the radial weights of one pair and path."""
    pair = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    path = paths + index * _FIELDS
    m = tl.arange(0, _ORDER)
    rows, cols = tl.load(path), tl.load(path + 1)
    first, column, odd = tl.load(path + 2), tl.load(path + 3), tl.load(path + 7)
    # both directions of the pair in one program: no other one writes to its rows
    ends = tl.load(pair_sender + pair).to(tl.int64), tl.load(pair_receiver + pair).to(tl.int64)
    of_kernel = tl.zeros((_ORDER, _ORDER), dtype=grad_kernel.dtype.element_ty)
    for block in range(0, channels, BLOCK):
        c = block + tl.arange(0, BLOCK)
        inside = c < channels
        of_weight = tl.zeros((BLOCK,), dtype=grad_weights.dtype.element_ty)
        # along the pair's edge, then against it with the ends exchanged
        for against in tl.static_range(2):
            sender, receiver = ends[against], ends[1 - against]
            row = pair
            if is_directed:
                row = pair + against * n_pairs
            place = row * n_weights + index * channels + c
            r = tl.load(weights + place, mask=inside, other=0.0)
            at = _message_place(path, receiver, n_nodes, c, channels, m)
            g = tl.load(grad + at, mask=(m < cols)[:, None] & inside[None, :], other=0.0)
            # seen from the other end K changes sign for odd l2
            if against:
                g = tl.where(odd != 0, -g, g)
            part = tl.zeros((BLOCK,), dtype=grad_weights.dtype.element_ty)
            for a in range(rows):
                # h[sender, a, c] and K[pair, (a, m)] of the pair's edge, whose sign g carries
                h = tl.load(features + (sender * n_rows + first + a) * channels + c, mask=inside,
                            other=0.0)  # fmt: skip
                k = tl.load(kernel + pair * n_cols + column + a * cols + m, mask=m < cols,
                            other=0.0)  # fmt: skip
                # dR[c] += sum_a h[a, c] sum_m K[a, m] G[m, c]
                part += h * tl.sum(k[:, None] * g, axis=0)
                # dK[a, m] += sum_c G[m, c] R[c] h[a, c], line a of the tile
                line = tl.sum(g * (r * h)[None, :], axis=1)
                of_kernel += tl.where((m == a)[:, None], line[None, :], 0.0)
            # weights of a direction are its own, those of a pair get both contributions
            if is_directed:
                tl.store(grad_weights + place, part, mask=inside)
            else:
                of_weight += part
        if not is_directed:
            tl.store(grad_weights + pair * n_weights + index * channels + c, of_weight, mask=inside)
    # dK[pair, (a, m)]: all channels and both directions are in
    place = pair * n_cols + column + m[:, None] * cols + m[None, :]
    tl.store(grad_kernel + place, of_kernel, mask=(m < rows)[:, None] & (m < cols)[None, :])


@triton.jit
def _factor(features, node, row, channels, n_rows, c, inside):
    """One factor of a monomial; row 0 is the constant 1."""
    # factor f is feature row f - 1; where f is 0 nothing is loaded and 1 stands in
    known = inside & ((c * 0 + row) > 0)
    return tl.load(features + (node * n_rows + row - 1) * channels + c, mask=known, other=1.0)


@triton.jit
def _contract(
    features,
    table,
    elements,
    factors,
    starts,
    out,
    channels,
    n_rows,
    n_components,
    n_terms,
    BLOCK: tl.constexpr,
):
    """One component of the contraction of a node: sum over its monomials."""
    node = tl.program_id(0).to(tl.int64)
    component = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    element = tl.load(elements + node)
    total = tl.zeros((BLOCK,), dtype=out.dtype.element_ty)
    for term in range(tl.load(starts + component), tl.load(starts + component + 1)):
        # W[z, t, c] a[i, c] a[j, c] a[k, c]
        value = tl.load(table + (element * n_terms + term) * channels + c, mask=inside, other=0.0)
        for k in tl.static_range(3):
            row = tl.load(factors + term * 3 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    tl.store(out + (node * n_components + component) * channels + c, total, mask=inside)


@triton.jit
def _contract_features(
    features,
    table,
    elements,
    uses,
    use_start,
    grad,
    grad_features,
    channels,
    n_rows,
    n_components,
    n_terms,
    BLOCK: tl.constexpr,
):
    """Gradient of one feature row of a node: sum over the monomials that it is in."""
    node = tl.program_id(0).to(tl.int64)
    row_of_node = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    element = tl.load(elements + node)
    total = tl.zeros((BLOCK,), dtype=grad_features.dtype.element_ty)
    # sum over the monomials that this row is a factor of: W G times the other two factors
    for use in range(tl.load(use_start + row_of_node), tl.load(use_start + row_of_node + 1)):
        term = tl.load(uses + use * 4)
        component = tl.load(uses + use * 4 + 1)
        value = tl.load(table + (element * n_terms + term) * channels + c, mask=inside, other=0.0)
        value *= tl.load(grad + (node * n_components + component) * channels + c, mask=inside,
                         other=0.0)  # fmt: skip
        for k in tl.static_range(2, 4):
            row = tl.load(uses + use * 4 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    tl.store(grad_features + (node * n_rows + row_of_node) * channels + c, total, mask=inside)


@triton.jit
def _contract_table(
    features,
    slices,
    factors,
    components,
    grad,
    grad_table,
    channels,
    n_rows,
    n_components,
    n_terms,
    BLOCK: tl.constexpr,
):
    """Gradient of one monomial's weight: sum over the nodes of an element."""
    part = tl.program_id(0)
    term = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    component = tl.load(components + term)
    total = tl.zeros((BLOCK,), dtype=grad_table.dtype.element_ty)
    # dW[z, t, c] = sum over the nodes of the element of G and all three factors
    for node in range(tl.load(slices + part * 3), tl.load(slices + part * 3 + 1)):
        value = tl.load(grad + (node * n_components + component) * channels + c, mask=inside,
                        other=0.0)  # fmt: skip
        for k in tl.static_range(3):
            row = tl.load(factors + term * 3 + k)
            value *= _factor(features, node, row, channels, n_rows, c, inside)
        total += value
    # a slice holds all nodes of its table row, so this is the only program that writes there
    element = tl.load(slices + part * 3 + 2)
    tl.store(grad_table + (element * n_terms + term) * channels + c, total, mask=inside)
