"""Message passes with charges in the compiled library: calls on CPU tensors, without autograd.

The structures mirror ``csrc/aimnet2.h``. What is computed: :mod:`lesff.architectures.aimnet2`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lesff.errors import KernelError
from lesff.kernels.arguments import ConvolutionEdges
from lesff.kernels.library import call

_BLOCK = 16
"""Radial functions and vectors are dealt with in blocks of so many."""
FAINT = 1e-15
"""Radial functions below this are zero in float32; the largest are about one."""


class _Shells(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_pairs", "n_radial")],
        *[(n, c_int32) for n in ("n_threads", "unused")],
        *[(n, c_double) for n in ("cutoff", "exponent")],
        *[(n, c_void_p) for n in ("centers", "vectors", "distance", "units", "shells")],
        *[(n, c_void_p) for n in ("grad_distance", "grad_units", "grad_shells", "grad_vectors")],
    ]


class _Pass(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_nodes", "n_pairs", "n_edges")],
        *[(n, c_int64) for n in ("n_features", "n_radial", "n_vectors")],
        *[(n, c_int64) for n in ("padded_radial", "padded", "width")],
        *[(n, c_int32) for n in ("n_threads", "unused")],
        *[(n, c_void_p) for n in ("node_start", "edge_sender", "edge_pair", "edge_sign")],
        *[(n, c_void_p) for n in ("features", "charges", "shells", "units")],
        *[(n, c_void_p) for n in ("weight", "charge_weight", "inputs", "sums", "vectors")],
        *[(n, c_void_p) for n in ("grad_inputs", "grad_sums", "grad_features", "grad_charges")],
        *[(n, c_void_p) for n in ("grad_shells", "grad_units")],
    ]


class _Onset(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_atoms", "n_pairs", "n_systems")],
        *[(n, c_double) for n in ("rate", "end", "constant")],
        *[(n, c_void_p) for n in ("charges", "distance", "first", "second", "batch")],
        *[(n, c_void_p) for n in ("energy", "potential", "slope", "work")],
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShellConstants:
    """Constants of Gaussian shells.

    Attributes:
        centers: (n_radial,) in A, float64.
        exponent: In 1/A^2.
        cutoff: In A.
    """

    centers: Tensor
    exponent: float
    cutoff: float


@dataclass(frozen=True, kw_only=True, eq=False)
class PassInputs:
    """What a message pass reads.

    Attributes:
        features: (n_nodes, A, G).
        charges: (n_nodes,), or None.
        shells: (n_pairs, G).
        units: (n_pairs, 3) from receiver to sender of the edge along the pair.
        weight: (A, G, H).
        charge_weight: (1, G, H), or None without charges.
    """

    features: Tensor
    charges: Tensor | None
    shells: Tensor
    units: Tensor
    weight: Tensor
    charge_weight: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, in order."""
        return (
            self.features, self.charges, self.shells, self.units, self.weight, self.charge_weight
        )  # fmt: skip


def gaussian_shells(vectors: Tensor, constants: ShellConstants) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (n_pairs,) in A, units (n_pairs, 3) and shells (n_pairs, G).

    Args:
        vectors: (n_pairs, 3) in A, from sender to receiver; units go the other way.
        constants: Of the shells.
    """
    vectors = vectors.contiguous()
    distance, units = vectors.new_empty(len(vectors)), torch.empty_like(vectors)
    shells = vectors.new_empty(len(vectors), len(constants.centers))
    arguments = _shells(vectors, constants)
    arguments.distance, arguments.units = distance.data_ptr(), units.data_ptr()
    arguments.shells = shells.data_ptr()
    call("shells", vectors.dtype, arguments)
    # numbers that no sum of float32 sees; subnormal ones cost a hundred times the time of others
    if vectors.dtype == torch.float32:
        functional.threshold(shells, FAINT, 0.0, inplace=True)
    return distance, units, shells


def gaussian_shells_backward(
    grads: Sequence[Tensor], vectors: Tensor, constants: ShellConstants
) -> Tensor:
    """Gradient of the vectors, (n_pairs, 3), from those of what :func:`gaussian_shells` gave."""
    vectors, grads = vectors.contiguous(), [g.contiguous() for g in grads]
    out = torch.empty_like(vectors)
    arguments = _shells(vectors, constants)
    names = ("grad_distance", "grad_units", "grad_shells", "grad_vectors")
    for name, tensor in zip(names, (*grads, out), strict=True):
        setattr(arguments, name, tensor.data_ptr())
    call("shells_backward", vectors.dtype, arguments)
    return out


def message_pass(x: PassInputs, edges: ConvolutionEdges) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the network of a pass, and what :func:`message_pass_backward` needs of it.

    Args:
        x: Contiguous tensors of one type.
        edges: Index tables.

    Returns:
        Features, scalars and squared norms (n_nodes, A (2 G + H)), with charges followed by the
        charge, scalars and norms of charges, (1 + G + H); sums (n_nodes, rows, 4, G) of A rows, one
        more with charges; and vectors (n_nodes, rows, 3, H). Here G and H are multiples of 16, with
        numbers without meaning behind.

    Raises:
        KernelError: if types differ.
    """
    arguments = _pass(x, edges)
    n, rows = arguments.n_nodes, arguments.n_features + (x.charges is not None)
    inputs = x.features.new_empty(n, arguments.width)
    sums = x.features.new_empty(n, rows, 4, arguments.padded_radial)
    vectors = x.features.new_empty(n, rows, 3, arguments.padded)
    arguments.inputs, arguments.sums = inputs.data_ptr(), sums.data_ptr()
    arguments.vectors = vectors.data_ptr()
    call("pass", x.features.dtype, arguments)
    return inputs, sums, vectors


def message_pass_backward(
    grad: Tensor, vectors: Tensor, x: PassInputs, edges: ConvolutionEdges
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of features, charges, shells and units.

    Args:
        grad: Gradient of the inputs that :func:`message_pass` gave.
        vectors: From there, too.
        x: As for it.
        edges: Index tables.
    """
    arguments, grad = _pass(x, edges), grad.contiguous()
    n_pairs, rows = len(x.shells), vectors.shape[1]
    of_features = torch.empty_like(x.features)
    of_charges = None if x.charges is None else torch.empty_like(x.charges)
    of_sums = grad.new_empty(len(x.features), rows, 4, arguments.padded_radial)
    # both directions of a pair, whose sum is in the first half afterwards
    of_shells = grad.new_empty(2, n_pairs, arguments.padded_radial)
    of_units = grad.new_empty(2, n_pairs, 3)
    given = {"vectors": vectors, "grad_inputs": grad, "grad_sums": of_sums}
    given |= {"grad_features": of_features, "grad_shells": of_shells, "grad_units": of_units}
    for name, tensor in given.items():
        setattr(arguments, name, tensor.data_ptr())
    arguments.grad_charges = None if of_charges is None else of_charges.data_ptr()
    call("pass_backward", grad.dtype, arguments)
    return of_features, of_charges, of_shells[0, :, : arguments.n_radial], of_units[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class OnsetPairs:
    """Pairs and constants of :mod:`lesff.electrostatics.onset`.

    Attributes:
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
        batch: (n_atoms,) system of each atom.
        n_systems: Number of systems.
        rate: One over the width of the Gaussian charges times sqrt(2), in 1/A.
        end: Where the interaction is that of point charges, in A.
        constant: In eV A.
    """

    first: Tensor
    second: Tensor
    batch: Tensor
    n_systems: int
    rate: float
    end: float
    constant: float


def onset_sums(
    charges: Tensor, distance: Tensor, pairs: OnsetPairs
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy of each system, (n_systems,) in eV, and its derivatives.

    Args:
        charges: (n_atoms,) in e.
        distance: (n_pairs,) in A, of the same type.
        pairs: Whose.

    Returns:
        The energies, their derivatives by charges (n_atoms,), and by distances (n_pairs,).

    Raises:
        KernelError: if types differ.
    """
    if distance.dtype != charges.dtype:
        raise KernelError(f"inputs must be {charges.dtype}, got {distance.dtype}")
    charges, distance = charges.contiguous(), distance.contiguous()
    index = [x.contiguous() for x in (pairs.first, pairs.second, pairs.batch)]
    energy = charges.new_empty(pairs.n_systems)
    potential, slope = torch.empty_like(charges), torch.empty_like(distance)
    work = charges.new_empty(pairs.n_systems + len(charges), dtype=torch.float64)
    arguments = _Onset(
        n_atoms=len(charges),
        n_pairs=len(distance),
        n_systems=pairs.n_systems,
        rate=pairs.rate,
        end=pairs.end,
        constant=pairs.constant,
        charges=charges.data_ptr(),
        distance=distance.data_ptr(),
        first=index[0].data_ptr(),
        second=index[1].data_ptr(),
        batch=index[2].data_ptr(),
        energy=energy.data_ptr(),
        potential=potential.data_ptr(),
        slope=slope.data_ptr(),
        work=work.data_ptr(),
    )
    call("onset", charges.dtype, arguments)
    return energy, potential, slope


def _full(size: int) -> int:
    """Size up to full blocks."""
    return -(-size // _BLOCK) * _BLOCK


def _shells(vectors: Tensor, constants: ShellConstants) -> _Shells:
    return _Shells(
        n_pairs=len(vectors),
        n_radial=len(constants.centers),
        n_threads=torch.get_num_threads(),
        cutoff=constants.cutoff,
        exponent=constants.exponent,
        centers=constants.centers.data_ptr(),
        vectors=vectors.data_ptr(),
    )


def _pass(x: PassInputs, edges: ConvolutionEdges) -> _Pass:
    for tensor in x.tensors:
        if tensor is not None and tensor.dtype != x.features.dtype:
            raise KernelError(f"inputs must be {x.features.dtype}, got {tensor.dtype}")
    n_nodes, n_features, n_radial = x.features.shape
    n_vectors = x.weight.shape[2]
    width = n_features * (2 * n_radial + n_vectors)
    if x.charges is not None:
        width += 1 + n_radial + n_vectors
    return _Pass(
        n_nodes=n_nodes,
        n_pairs=len(x.shells),
        n_edges=len(edges.sender),
        n_features=n_features,
        n_radial=n_radial,
        n_vectors=n_vectors,
        padded_radial=_full(n_radial),
        padded=_full(n_vectors),
        width=width,
        n_threads=torch.get_num_threads(),
        node_start=edges.node_start.data_ptr(),
        edge_sender=edges.sender.data_ptr(),
        edge_pair=edges.pair.data_ptr(),
        edge_sign=edges.sign.data_ptr(),
        features=x.features.data_ptr(),
        charges=None if x.charges is None else x.charges.data_ptr(),
        shells=x.shells.data_ptr(),
        units=x.units.data_ptr(),
        weight=x.weight.data_ptr(),
        charge_weight=None if x.charge_weight is None else x.charge_weight.data_ptr(),
    )
