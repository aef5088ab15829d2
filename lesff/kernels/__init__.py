"""Fused kernels behind one protocol: compiled ones for CPUs, Triton ones for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from lesff.kernels.arguments import (
    ContactTables,
    ContactValues,
    ContractionTerms,
    ConvolutionEdges,
    ConvolutionPath,
    ConvolutionPaths,
    PairAtoms,
    PairKind,
    RadialTable,
    RadialWeights,
    ShareInputs,
    StateConstants,
    StateInputs,
    TransferLimits,
)
from lesff.kernels.cpu import CPU
from lesff.kernels.library import (
    TABLE_BLOCK,
    KernelStatus,
    device_kernels_wanted,
    is_active,
    kernel_status,
)
from lesff.kernels.near_pairs import NearPairs

__all__ = [
    "TABLE_BLOCK",
    "Backend",
    "ContactTables",
    "ContactValues",
    "ContractionTerms",
    "ConvolutionEdges",
    "ConvolutionPath",
    "ConvolutionPaths",
    "KernelStatus",
    "NearPairs",
    "PairAtoms",
    "PairKind",
    "RadialTable",
    "RadialWeights",
    "StateConstants",
    "ShareInputs",
    "StateInputs",
    "TransferLimits",
    "backend",
    "is_active",
    "kernel_status",
]


class Backend(Protocol):
    """What the blocks in :mod:`lesff.nn` ask of fused kernels: calls on tensors, without autograd.

    A backend gives values and first derivatives; second derivatives go through the plain PyTorch
    form of the same block. All floating-point tensors of one call have the same type; index tables
    (``edges``, ``slices``) are where the features are, ``paths`` and ``terms`` on the host. What a
    backend makes of ``paths`` and ``terms`` it keeps for itself, as long as they live.
    """

    @property
    def has_tables(self) -> bool:
        """Whether radial weights may be given as distances and a :class:`RadialTable`."""
        ...

    def has_harmonics(self, max_ell: int) -> bool:
        """Whether :meth:`harmonics` and its backward exist up to an order."""
        ...

    @property
    def has_contacts(self) -> bool:
        """Whether :meth:`contacts`, :meth:`transfers` and :meth:`local_state` exist."""
        ...

    def convolve(
        self,
        features: Tensor,
        kernel: Tensor,
        radial: RadialWeights,
        paths: ConvolutionPaths,
        edges: ConvolutionEdges,
    ) -> tuple[Tensor, ...]:
        """Messages of every node, one tensor (n_nodes, 2 l + 1, message_cols[l]) per order l.

        Args:
            features: (n_nodes, (feature_l + 1)^2, channels).
            kernel: (n_pairs, kernel_cols) angular kernel along the pair's edge.
            radial: Weights, one row per pair or per direction of a pair, or distances and a table.
            paths: The paths.
            edges: Index tables.

        Raises:
            KernelError: if types differ, or for a table where :attr:`has_tables` is false.
        """
        ...

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
        """Gradients of features, angular kernel and radial weights (or distances).

        Args:
            grads: Gradients of the messages.
            features: As for :meth:`convolve`, like the next four.
            kernel: See there.
            radial: See there.
            paths: See there.
            edges: See there.
            need_features: Whether the gradient of the features is computed.
            need_pairs: Whether those of kernel and radial weights are.

        Raises:
            KernelError: as :meth:`convolve`.
        """
        ...

    def contract(
        self, features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms
    ) -> Tensor:
        """Value of a symmetric contraction, (n_nodes, n_components, channels).

        Args:
            features: (n_nodes, n_rows, channels).
            table: (n_elements, n_terms, channels) weight of every monomial.
            slices: (n_slices, 3) int64: nodes ``start:stop`` have row ``element`` of the table;
                every row at most once.
            terms: The monomials.

        Raises:
            KernelError: if types differ.
        """
        ...

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
        """Gradients of features and table.

        Args:
            grad: (n_nodes, n_components, channels) gradient of the value.
            features: As for :meth:`contract`, like the next three.
            table: See there.
            slices: See there.
            terms: See there.
            need_features: Whether the gradient of the features is computed.
            need_table: Whether that of the table is.

        Raises:
            KernelError: if types differ.
        """
        ...

    def harmonics(self, vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
        """Lengths (n,) in A and real harmonics (n, (max_ell + 1)^2) of vectors (n, 3) in A.

        Raises:
            KernelError: where :meth:`has_harmonics` is false.
        """
        ...

    def harmonics_backward(
        self, grad_distance: Tensor, grad_harmonics: Tensor, vectors: Tensor, max_ell: int
    ) -> Tensor:
        """Gradient of the vectors, (n, 3), from those of lengths and harmonics.

        Raises:
            KernelError: where :meth:`has_harmonics` is false.
        """
        ...

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
        """Functions of close pairs, see :mod:`lesff.nn.contacts`.

        Args:
            distance: (n_pairs,) in A.
            first: (n_pairs,) an atom of each pair.
            second: (n_pairs,) the other one.
            z: (n_atoms,) atomic numbers.
            tables: By atomic number.
            inner: Whether distances that level off are asked for.
            wall: Whether the repulsion of the nuclei is.
            bonds: Whether the openness of atoms is.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def shared_bonds_backward(
        self,
        grad: Tensor,
        distance: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        tables: ContactTables,
    ) -> Tensor:
        """Gradient of distances from that of the bonds of atoms, where hydrogens share theirs.

        Args:
            grad: (n_atoms,) of the counts.
            distance: (n_pairs,) in A.
            first: (n_pairs,) an atom of each pair.
            second: (n_pairs,) the other one.
            z: (n_atoms,) atomic numbers.
            tables: By atomic number, with a ``sharing_width``.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    @property
    def has_open_pairs(self) -> bool:
        """Whether :meth:`open_pairs` exists."""
        ...

    def open_pairs(
        self, charges: Tensor, positions: Tensor, kind: PairKind, sigma: float, *, forces: bool
    ) -> tuple[Tensor, Tensor]:
        """Sums over all pairs, see :mod:`lesff.electrostatics.sums.open_boundary`.

        Args:
            charges: (n_systems, n_atoms), zero for padding.
            positions: (n_systems, n_atoms, 3) in A.
            kind: The kernel K.
            sigma: Its width in A.
            forces: Whether derivatives in positions are asked for; zero otherwise.

        Returns:
            ``sum_j q_j K``, (n_systems, n_atoms), and the derivative of ``1/2 sum q_i q_j K`` in
            positions, (n_systems, n_atoms, 3).

        Raises:
            KernelError: where :attr:`has_open_pairs` is false.
        """
        ...

    def transfers(
        self, transfers: Tensor, distance: Tensor, pairs: PairAtoms, limits: TransferLimits
    ) -> Tensor:
        """What each atom takes from the others within limits, see :mod:`lesff.heads.edge`.

        Args:
            transfers: (n_pairs,) charge that the second atom of a pair takes from the first in e.
            distance: (n_pairs,) in A.
            pairs: Whose.
            limits: What limits them.

        Returns:
            (n_atoms,) in e.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def transfers_backward(
        self,
        grad: Tensor,
        transfers: Tensor,
        distance: Tensor,
        pairs: PairAtoms,
        limits: TransferLimits,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of transfers and distances, (n_pairs,) each.

        Args:
            grad: (n_atoms,) gradient of what :meth:`transfers` returned.
            transfers: As for :meth:`transfers`, like the rest.
            distance: In A.
            pairs: Whose.
            limits: What limits them.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def shares(self, x: ShareInputs) -> tuple[Tensor, Tensor]:
        """Charges that sum to totals within limits, and the potential of each system.

        See :func:`lesff.heads.sharing.plain_shares`.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def shares_backward(
        self, grads: Sequence[Tensor], x: ShareInputs, potential: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of ``p``, weights and totals.

        Args:
            grads: Gradients of charges and potentials.
            x: As for :meth:`shares`.
            potential: (n_systems,) that :meth:`shares` returned.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def local_state(self, x: StateInputs, constants: StateConstants) -> tuple[Tensor, ...]:
        """Results and arguments of :func:`lesff.nn.local_state.plain_states`.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...

    def local_state_backward(
        self, grads: Sequence[Tensor], x: StateInputs, found: Tensor, constants: StateConstants
    ) -> tuple[Tensor, ...]:
        """Gradients of values, base, openness and ``bonded``.

        Args:
            grads: Gradients of the five results.
            x: As for :meth:`local_state`; potentials that are given have no gradient.
            found: (n_systems, 3) potentials that :meth:`local_state` returned.
            constants: As for :meth:`local_state`.

        Raises:
            KernelError: where :attr:`has_contacts` is false.
        """
        ...


def backend(tensor: Tensor) -> Backend | None:
    """What computes on a tensor's device and type.

    The compiled library on CPUs, Triton on CUDA devices where it is installed, None for plain
    PyTorch.
    """
    if is_active(tensor):
        return CPU
    if tensor.is_cuda and tensor.is_floating_point() and device_kernels_wanted():
        return _device_backend()
    return None


@cache
def _device_backend() -> Backend | None:
    if find_spec("triton") is None:
        return None
    from lesff.kernels.gpu import GPU  # Triton is optional, and is not imported without a GPU

    return GPU
