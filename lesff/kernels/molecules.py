"""Charges shared out in molecules by the compiled library, without autograd.

The structure mirrors ``csrc/arguments.h``. What is computed:
:mod:`lesff.electrostatics.charges.sharing`.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lesff.errors import KernelError
from lesff.kernels.library import call


class _Molecules(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_atoms", "n_pairs")],
        *[(n, c_double) for n in ("full", "floor")],
        *[(n, c_void_p) for n in ("charges", "weights", "targets", "bond", "first", "second")],
        *[(n, c_void_p) for n in ("shared", "g_shared")],
        *[(n, c_void_p) for n in ("g_charges", "g_weights", "g_targets", "g_bond")],
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeInputs:
    """What :func:`lesff.electrostatics.charges.sharing.shared_in_molecules` takes.

    Attributes:
        charges: (n_atoms,) in e.
        weights: (n_atoms,).
        targets: (n_atoms,) in e.
        bond: (n_pairs,) from zero to one.
        first: (n_pairs,) an atom of each pair.
        second: (n_pairs,) the other one.
        full: Bonds from here on have no resistance.
        floor: Added to the sum of the weights of a group.
    """

    charges: Tensor
    weights: Tensor
    targets: Tensor
    bond: Tensor
    first: Tensor
    second: Tensor
    full: float
    floor: float


def molecule_charges(x: MoleculeInputs) -> Tensor:
    """Charges after sharing, (n_atoms,) in e.

    Raises:
        KernelError: if types differ.
    """
    kept = _contiguous(x)
    arguments, out = _arguments(kept), torch.empty_like(kept.charges)
    arguments.shared = out.data_ptr()
    call("molecules", out.dtype, arguments)
    return out


def molecule_charges_backward(
    grad: Tensor, x: MoleculeInputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of charges, weights, targets and bonds from that of the charges after sharing."""
    kept, grad = _contiguous(x), grad.contiguous()
    arguments = _arguments(kept)
    arguments.g_shared = grad.data_ptr()
    out = tuple(torch.empty_like(t) for t in (kept.charges, kept.weights, kept.targets, kept.bond))
    names = ("g_charges", "g_weights", "g_targets", "g_bond")
    for name, tensor in zip(names, out, strict=True):
        setattr(arguments, name, tensor.data_ptr())
    call("molecules_backward", grad.dtype, arguments)
    return out  # pyright: ignore[reportReturnType]


_ARRAYS = ("charges", "weights", "targets", "bond", "first", "second")


def _contiguous(x: MoleculeInputs) -> MoleculeInputs:
    for name in ("weights", "targets", "bond"):
        if getattr(x, name).dtype != x.charges.dtype:
            got = getattr(x, name).dtype
            raise KernelError(f"`{name}` must be {x.charges.dtype} like the charges, got {got}")
    return replace(x, **{name: getattr(x, name).contiguous() for name in _ARRAYS})


def _arguments(x: MoleculeInputs) -> _Molecules:
    return _Molecules(
        n_atoms=len(x.charges),
        n_pairs=len(x.bond),
        full=x.full,
        floor=x.floor,
        **{name: getattr(x, name).data_ptr() for name in _ARRAYS},
    )
