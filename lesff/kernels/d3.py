"""Dispersion D3 in the compiled library: calls on CPU tensors in float64, without autograd.

The structure mirrors ``csrc/d3.h``. What is computed: :mod:`lesff.electrostatics.d3`.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from lesff.kernels.library import call
from lesff.units import BOHR, HARTREE

_NUMBERS = ("s6", "s8", "a1", "a2", "cutoff", "fade", "steepness", "width")
_TABLES = ("c6", "counts", "radius", "size", "most")


class _D3(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_atoms", "n_open", "n_pairs", "n_elements", "n_references")],
        *[(n, c_double) for n in (*_NUMBERS, "bohr", "hartree")],
        *[(n, c_void_p) for n in (*_TABLES, "element", "open", "positions")],
        *[(n, c_void_p) for n in ("first", "second", "vectors", "shares", "grad")],
        *[(n, c_void_p) for n in ("grad_positions", "grad_vectors")],
        *[(n, c_void_p) for n in ("count", "reference", "mixed")],
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class D3Tables:
    """Constants and tables of D3(BJ), in atomic units but for the cutoff, all in float64.

    Attributes:
        s6: Scale of the ``r^-6`` term.
        s8: Scale of the ``r^-8`` term.
        a1: Share of the radius in the damping.
        a2: Constant part of the damping radius in Bohr.
        cutoff: In A, of listed pairs.
        fade: Share of it from which they fade out.
        steepness: k1 of the published form.
        width: k3.
        c6: (n_elements, n_elements, n_references, n_references).
        counts: (n_elements, n_references).
        radius: (n_elements,).
        size: (n_elements,).
        most: (n_elements,).
    """

    s6: float
    s8: float
    a1: float
    a2: float
    cutoff: float
    fade: float
    steepness: float
    width: float
    c6: Tensor
    counts: Tensor
    radius: Tensor
    size: Tensor
    most: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class D3Atoms:
    """What D3 is computed of.

    Attributes:
        element: (n_atoms,) rows of the tables.
        positions: (n_atoms, 3) in A, float64.
        systems: (n_open, 2) first atom and end of each system whose pairs all count.
        first: (n_pairs,) an atom of each other pair.
        second: (n_pairs,) the other one.
        vectors: (n_pairs, 3) in A, float64.
    """

    element: Tensor
    positions: Tensor
    systems: Tensor
    first: Tensor
    second: Tensor
    vectors: Tensor


def d3_shares(x: D3Atoms, tables: D3Tables) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Shares of the atoms in eV, (n_atoms,), and what :func:`d3_gradients` needs."""
    n_atoms, (n_elements, n_references) = len(x.element), tables.counts.shape
    # values of the forward, then space for the backward
    work = (
        x.positions.new_empty(2, n_atoms),
        x.positions.new_empty(2, n_atoms, n_references),
        x.positions.new_empty(2, n_atoms, n_elements, n_references),
    )
    shares = x.positions.new_empty(n_atoms)
    arguments = _arguments(x, tables, work)
    arguments.shares = shares.data_ptr()
    call("d3", torch.float64, arguments)
    return shares, work


def d3_gradients(
    grad: Tensor, x: D3Atoms, tables: D3Tables, work: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Gradients of positions and of vectors, from that of the shares."""
    grad = grad.contiguous()
    out = torch.empty_like(x.positions), torch.empty_like(x.vectors)
    arguments = _arguments(x, tables, work)
    arguments.grad = grad.data_ptr()
    arguments.grad_positions, arguments.grad_vectors = (part.data_ptr() for part in out)
    call("d3_backward", torch.float64, arguments)
    return out


def _arguments(x: D3Atoms, tables: D3Tables, work: tuple[Tensor, ...]) -> _D3:
    count, reference, mixed = work
    n_elements, n_references = tables.counts.shape
    return _D3(
        n_atoms=len(x.element),
        n_open=len(x.systems),
        n_pairs=len(x.vectors),
        n_elements=n_elements,
        n_references=n_references,
        bohr=BOHR,
        hartree=HARTREE,
        element=x.element.data_ptr(),
        open=x.systems.data_ptr(),
        positions=x.positions.data_ptr(),
        first=x.first.data_ptr(),
        second=x.second.data_ptr(),
        vectors=x.vectors.data_ptr(),
        count=count.data_ptr(),
        reference=reference.data_ptr(),
        mixed=mixed.data_ptr(),
        **{name: getattr(tables, name) for name in _NUMBERS},
        **{name: getattr(tables, name).data_ptr() for name in _TABLES},
    )
