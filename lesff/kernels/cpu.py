"""Compiled kernels on CPU tensors, without autograd.

The structures mirror ``csrc/arguments.h`` field by field; all that ctypes knows stays in this file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import fields, replace
from weakref import WeakKeyDictionary

import torch
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
from lesff.kernels.library import call

_MAX_ELL = 3
"""Highest order of harmonics that is compiled in."""


class _Path(ctypes.Structure):
    _fields_ = [
        (name, c_int32)
        for name in ("rows", "cols", "feature_row", "kernel_col", "order", "block", "odd")
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        # sizes, names and order as in the C structure
        *[(n, c_int64) for n in ("n_nodes", "n_pairs", "n_edges", "channels", "feature_rows")],
        ("kernel_cols", c_int64),
        ("n_paths", c_int32),
        ("n_threads", c_int32),
        # paths, index tables, values that come in
        ("paths", c_void_p),
        ("message_cols", c_int64 * 4),
        *[(n, c_void_p) for n in ("node_start", "edge_sender", "edge_pair", "edge_sign")],
        *[(n, c_void_p) for n in ("pair_sender", "pair_receiver", "features", "kernel", "weights")],
        # radial weights are given, or looked up in a table at the distances
        ("weight_rows", c_int64),
        ("distance", c_void_p),
        ("table", c_void_p),
        ("n_intervals", c_int64),
        ("table_start", c_double),
        ("table_inverse_step", c_double),
        # messages go out of the forward; in the backward their gradients come in
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


class _Contacts(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_pairs", "n_atoms", "n_elements")],
        *[(n, c_void_p) for n in ("distance", "first", "second", "atomic_number")],
        *[(n, c_void_p) for n in ("radius", "valence", "onium", "most", "counted")],
        *[(n, c_double) for n in ("inner_start", "inner_width", "bond_full", "bond_none")],
        *[(n, c_double) for n in ("open_from", "open_full", "crowding", "wall_from")],
        *[(n, c_double) for n in ("wall_stiffness", "sharing_width")],
        *[(n, c_void_p) for n in ("inner", "d_inner", "wall", "d_wall")],
        *[(n, c_void_p) for n in ("openness", "bonded", "lacks", "d_bond", "d_open")],
        *[(n, c_void_p) for n in ("d_bonded", "d_crowd", "count", "shared")],
        *[(n, c_void_p) for n in ("grad_count", "grad_distance")],
    ]


class _Transfers(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_pairs", "n_atoms")],
        *[(n, c_void_p) for n in ("transfers", "distance", "first", "second", "atomic_number")],
        *[(n, c_void_p) for n in ("radius", "valence", "limits")],
        ("has_bonds", c_int32),
        *[(n, c_double) for n in ("bond_full", "bond_none", "between", "soft")],
        *[(n, c_void_p) for n in ("moved", "grad_moved", "grad_transfers", "grad_distance")],
        *[(n, c_void_p) for n in ("total", "factor", "slope")],
    ]


class _Shares(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_atoms", "n_systems")],
        ("n_steps", c_int32),
        *[(n, c_double) for n in ("least", "tiny")],
        *[(n, c_void_p) for n in ("p", "weights", "limits", "totals", "batch")],
        *[(n, c_void_p) for n in ("charges", "potential", "g_charges", "g_potential")],
        *[(n, c_void_p) for n in ("g_p", "g_weights", "g_totals", "work")],
    ]


class _OpenPairs(ctypes.Structure):
    _fields_ = [
        *[(n, c_int64) for n in ("n_systems", "n_atoms")],
        *[(n, c_int32) for n in ("kind", "n_threads")],
        ("sigma", c_double),
        *[(n, c_void_p) for n in ("charges", "positions", "potential", "slope")],
    ]


_STATE_CONSTANTS = tuple(field.name for field in fields(StateConstants))


class _LocalState(ctypes.Structure):
    _fields_ = [
        ("n_atoms", c_int64),
        ("n_systems", c_int64),
        ("given", c_int32),
        *[(n, c_void_p) for n in ("values", "base", "openness", "bonded", "lacks")],
        *[(n, c_void_p) for n in ("batch", "charge", "unpaired")],
        *[(n, c_double) for n in _STATE_CONSTANTS],
        *[(n, c_void_p) for n in ("charges", "spins", "raw", "guess", "potentials")],
        *[(n, c_void_p) for n in ("g_charges", "g_spins", "g_raw", "g_guess", "g_potentials")],
        *[(n, c_void_p) for n in ("g_values", "g_base", "g_openness", "g_bonded", "work")],
    ]


class _Inputs:
    """Contiguous tensors, kept alive while the kernels use their memory."""

    def __init__(self, features: Tensor, kernel: Tensor, radial: RadialWeights) -> None:
        # kernels index raw memory: C order, one type
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


class _TransferArrays:
    """Arguments of the transfers, and the tensors whose memory they name."""

    def __init__(
        self, transfers: Tensor, distance: Tensor, pairs: PairAtoms, limits: TransferLimits
    ) -> None:
        self.transfers, self.distance = transfers.contiguous(), distance.contiguous()
        self.index = [x.contiguous() for x in (pairs.first, pairs.second, pairs.z)]
        self.limits = None if limits.atoms is None else limits.atoms.contiguous()
        for tensor in (self.distance, self.limits):
            if tensor is not None and tensor.dtype != transfers.dtype:
                raise KernelError(f"inputs must be {transfers.dtype}, got {tensor.dtype}")
        self.work = torch.empty(3, len(pairs.z), dtype=torch.float64)
        first, second, z = self.index
        self.arguments = _Transfers(
            n_pairs=len(first),
            n_atoms=len(z),
            transfers=self.transfers.data_ptr(),
            distance=self.distance.data_ptr(),
            first=first.data_ptr(),
            second=second.data_ptr(),
            atomic_number=z.data_ptr(),
            radius=limits.radius.data_ptr(),
            valence=limits.valence.data_ptr(),
            limits=None if self.limits is None else self.limits.data_ptr(),
            has_bonds=limits.has_bonds,
            bond_full=limits.bond_full,
            bond_none=limits.bond_none,
            between=limits.between,
            soft=limits.soft,
            total=self.work[0].data_ptr(),
            factor=self.work[1].data_ptr(),
            slope=self.work[2].data_ptr(),
        )


class CPUBackend:
    """The compiled library; see :class:`lesff.kernels.Backend` for the methods.

    It keeps one C array per table of paths, made at the first call with that table and dropped with
    it.
    """

    has_tables = True
    has_contacts = True
    has_open_pairs = True

    def __init__(self) -> None:
        self._arrays: WeakKeyDictionary[ConvolutionPaths, ctypes.Array[_Path]] = WeakKeyDictionary()

    def has_harmonics(self, max_ell: int) -> bool:
        """See :class:`lesff.kernels.Backend`."""
        return max_ell <= _MAX_ELL

    def convolve(
        self,
        features: Tensor,
        kernel: Tensor,
        radial: RadialWeights,
        paths: ConvolutionPaths,
        edges: ConvolutionEdges,
    ) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`."""
        n_nodes = features.shape[0]
        # A[i, m, (path, c)] of every order, not yet filled
        messages = tuple(
            features.new_empty(n_nodes, 2 * order + 1, cols)
            for order, cols in enumerate(paths.message_cols)
        )
        inputs = _Inputs(features, kernel, radial)
        arguments = _convolution(inputs, self._array(paths), edges, messages)
        call("convolve", features.dtype, arguments)
        return messages

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
        # the places of the messages now hold their gradients
        grads = tuple(grad.contiguous() for grad in grads)
        inputs = _Inputs(features, kernel, radial)
        arguments = _convolution(inputs, self._array(paths), edges, grads)
        grad_features = grad_kernel = grad_radial = None
        # kernels add to what is there: rows that no edge reaches stay zero
        if need_features:
            grad_features = torch.zeros_like(inputs.features)
            arguments.grad_features = grad_features.data_ptr()
        if need_pairs:
            grad_kernel = torch.zeros_like(inputs.kernel)
            arguments.grad_kernel = grad_kernel.data_ptr()
            # weights are written in full, gradients of distances added up path by path
            if inputs.weights is not None:
                grad_radial = torch.empty_like(inputs.weights)
                arguments.grad_weights = grad_radial.data_ptr()
            elif inputs.distance is not None:
                grad_radial = torch.zeros_like(inputs.distance)
                arguments.grad_distance = grad_radial.data_ptr()
        call("convolve_backward", features.dtype, arguments)
        return grad_features, grad_kernel, grad_radial

    def _array(self, paths: ConvolutionPaths) -> ctypes.Array[_Path]:
        # looked up by identity: the same module asks with the same table at every call
        array = self._arrays.get(paths)
        if array is None:
            rows = [
                _Path(
                    rows=path.rows,
                    cols=path.cols,
                    feature_row=path.feature_row,
                    kernel_col=path.kernel_col,
                    order=path.order,
                    block=path.block,
                    odd=int(path.is_odd),
                )
                for path in paths.paths
            ]
            array = self._arrays[paths] = (_Path * len(rows))(*rows)
        return array

    def contract(
        self, features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`."""
        features, table = features.contiguous(), table.contiguous()
        # B[n, m, c]
        output = features.new_empty(features.shape[0], terms.n_components, features.shape[2])
        arguments = _contraction(features, table, slices, terms)
        arguments.output = output.data_ptr()
        call("contract", features.dtype, arguments)
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
        grad, features, table = grad.contiguous(), features.contiguous(), table.contiguous()
        arguments = _contraction(features, table, slices, terms)
        arguments.grad = grad.data_ptr()
        # features are written in full; in the table, elements without nodes stay zero
        grad_features = torch.empty_like(features) if need_features else None
        grad_table = torch.zeros_like(table) if need_table else None
        if grad_features is not None:
            arguments.grad_features = grad_features.data_ptr()
        if grad_table is not None:
            arguments.grad_table = grad_table.data_ptr()
        call("contract_backward", features.dtype, arguments)
        return grad_features, grad_table

    def harmonics(self, vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`."""
        vectors = vectors.contiguous()
        # r[p] and Y[p, (l, m)]
        distance = vectors.new_empty(len(vectors))
        values = vectors.new_empty(len(vectors), (max_ell + 1) ** 2)
        arguments = _Harmonics(
            n_pairs=len(vectors),
            max_ell=max_ell,
            n_threads=torch.get_num_threads(),
            vectors=vectors.data_ptr(),
            distance=distance.data_ptr(),
            harmonics=values.data_ptr(),
        )
        call("harmonics", vectors.dtype, arguments)
        return distance, values

    def harmonics_backward(
        self, grad_distance: Tensor, grad_harmonics: Tensor, vectors: Tensor, max_ell: int
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`."""
        vectors, grad_distance = vectors.contiguous(), grad_distance.contiguous()
        # dr[p] and dY[p, (l, m)] -> one gradient of the vector [p, 3]
        grad_harmonics, grad_vectors = grad_harmonics.contiguous(), torch.empty_like(vectors)
        arguments = _Harmonics(
            n_pairs=len(vectors),
            max_ell=max_ell,
            n_threads=torch.get_num_threads(),
            vectors=vectors.data_ptr(),
            grad_distance=grad_distance.data_ptr(),
            grad_harmonics=grad_harmonics.data_ptr(),
            grad_vectors=grad_vectors.data_ptr(),
        )
        call("harmonics_backward", vectors.dtype, arguments)
        return grad_vectors

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
        """See :class:`lesff.kernels.Backend`."""
        distance, first, second, z = (x.contiguous() for x in (distance, first, second, z))
        n_pairs, n_atoms = len(distance), len(z)
        # arrays of what is asked for; no address for the rest
        pair = {"inner": inner, "d_inner": inner, "d_wall": wall, "d_bond": bonds}
        atom = {"wall": wall, "openness": bonds, "bonded": bonds, "lacks": bonds}
        atom |= {"d_open": bonds, "d_bonded": bonds, "d_crowd": bonds and wall}
        out = {name: distance.new_empty(n_pairs * is_on) for name, is_on in pair.items()}
        out |= {name: distance.new_empty(n_atoms * is_on) for name, is_on in atom.items()}
        asked = pair | atom
        count = torch.empty(n_atoms * bonds, dtype=torch.float64)
        shared = _shared_bonds(z, tables) if bonds else count
        arguments = _contacts(distance, (first, second, z), tables)
        arguments.count, arguments.shared = count.data_ptr(), shared.data_ptr()
        for name, tensor in out.items():
            if asked[name]:
                setattr(arguments, name, tensor.data_ptr())
        call("contacts", distance.dtype, arguments)
        return ContactValues(**out)

    def shared_bonds_backward(
        self,
        grad: Tensor,
        distance: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        tables: ContactTables,
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`."""
        distance, first, second, z = (x.contiguous() for x in (distance, first, second, z))
        if grad.dtype != distance.dtype:
            raise KernelError(f"inputs must be {distance.dtype}, got {grad.dtype}")
        grad, out, shared = grad.contiguous(), torch.empty_like(distance), _shared_bonds(z, tables)
        arguments = _contacts(distance, (first, second, z), tables)
        arguments.shared, arguments.grad_count = shared.data_ptr(), grad.data_ptr()
        arguments.grad_distance = out.data_ptr()
        call("shared_bonds_backward", distance.dtype, arguments)
        return out

    def transfers(
        self, transfers: Tensor, distance: Tensor, pairs: PairAtoms, limits: TransferLimits
    ) -> Tensor:
        """See :class:`lesff.kernels.Backend`."""
        kept = _TransferArrays(transfers, distance, pairs, limits)
        moved = transfers.new_empty(len(pairs.z))
        kept.arguments.moved = moved.data_ptr()
        call("transfers", transfers.dtype, kept.arguments)
        return moved

    def transfers_backward(
        self,
        grad: Tensor,
        transfers: Tensor,
        distance: Tensor,
        pairs: PairAtoms,
        limits: TransferLimits,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`."""
        kept = _TransferArrays(transfers, distance, pairs, limits)
        grad = grad.contiguous()
        out = torch.empty_like(kept.transfers), torch.empty_like(kept.transfers)
        kept.arguments.grad_moved = grad.data_ptr()
        kept.arguments.grad_transfers, kept.arguments.grad_distance = (x.data_ptr() for x in out)
        call("transfers_backward", transfers.dtype, kept.arguments)
        return out

    def open_pairs(
        self, charges: Tensor, positions: Tensor, kind: PairKind, sigma: float, *, forces: bool
    ) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`."""
        if positions.dtype != charges.dtype:
            raise KernelError(f"inputs must be {charges.dtype}, got {positions.dtype}")
        charges, positions = charges.contiguous(), positions.contiguous()
        potential = torch.empty_like(charges)
        slope = torch.empty_like(positions) if forces else torch.zeros_like(positions)
        arguments = _OpenPairs(
            n_systems=charges.shape[0],
            n_atoms=charges.shape[1],
            kind=("gaussian", "dispersion").index(kind),
            n_threads=torch.get_num_threads(),
            sigma=sigma,
            charges=charges.data_ptr(),
            positions=positions.data_ptr(),
            potential=potential.data_ptr(),
            slope=slope.data_ptr() if forces else None,
        )
        call("open_pairs", charges.dtype, arguments)
        return potential, slope

    def shares(self, x: ShareInputs) -> tuple[Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`."""
        kept = _ShareArrays(x)
        charges, potential = torch.empty_like(kept.x.p), torch.empty_like(kept.x.totals)
        kept.arguments.charges, kept.arguments.potential = charges.data_ptr(), potential.data_ptr()
        call("shares", x.p.dtype, kept.arguments)
        return charges, potential

    def shares_backward(
        self, grads: Sequence[Tensor], x: ShareInputs, potential: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`lesff.kernels.Backend`."""
        kept = _ShareArrays(x)
        charges, potentials = (g.contiguous() for g in grads)
        potential = potential.contiguous()
        out = torch.empty_like(kept.x.p), torch.empty_like(kept.x.p), torch.empty_like(potential)
        kept.arguments.potential = potential.data_ptr()
        kept.arguments.g_charges = charges.data_ptr()
        kept.arguments.g_potential = potentials.data_ptr()
        for name, tensor in zip(("g_p", "g_weights", "g_totals"), out, strict=True):
            setattr(kept.arguments, name, tensor.data_ptr())
        call("shares_backward", x.p.dtype, kept.arguments)
        return out

    def local_state(self, x: StateInputs, constants: StateConstants) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`."""
        x = _contiguous(x)
        n_systems, dtype = len(x.charge), x.values.dtype
        given = x.potentials
        potentials = x.values.new_empty(n_systems, 3) if given is None else given.clone()
        charges, spins, guess, raw = (torch.empty_like(x.openness) for _ in range(4))
        work = torch.empty(n_systems, 16, dtype=torch.float64)
        arguments = _state(x, potentials, work, constants)
        arguments.charges, arguments.spins = charges.data_ptr(), spins.data_ptr()
        arguments.guess, arguments.raw = guess.data_ptr(), raw.data_ptr()
        call("local_state", dtype, arguments)
        return charges, spins, guess, raw, potentials

    def local_state_backward(
        self, grads: Sequence[Tensor], x: StateInputs, found: Tensor, constants: StateConstants
    ) -> tuple[Tensor, ...]:
        """See :class:`lesff.kernels.Backend`."""
        x, found = _contiguous(x), found.contiguous()
        given = [g.contiguous() for g in grads]
        work = torch.empty(len(x.charge), 16, dtype=torch.float64)
        arguments = _state(x, found, work, constants)
        names = ("g_charges", "g_spins", "g_guess", "g_raw", "g_potentials")
        for name, grad in zip(names, given, strict=True):
            setattr(arguments, name, grad.data_ptr())
        out = [torch.empty_like(y) for y in (x.values, x.base, x.openness, x.bonded)]
        names = ("g_values", "g_base", "g_openness", "g_bonded")
        for name, grad in zip(names, out, strict=True):
            setattr(arguments, name, grad.data_ptr())
        call("local_state_backward", x.values.dtype, arguments)
        return tuple(out)


class _ShareArrays:
    """Arguments of a call, and what has to live as long."""

    def __init__(self, x: ShareInputs) -> None:
        self.x = x = replace(
            x,
            p=x.p.contiguous(),
            weights=x.weights.contiguous(),
            limits=x.limits.contiguous(),
            totals=x.totals.contiguous(),
        )
        self.work = torch.empty(len(x.totals), 8, dtype=torch.float64)
        self.arguments = _Shares(
            n_atoms=len(x.p),
            n_systems=len(x.totals),
            n_steps=x.n_steps,
            least=x.least,
            tiny=x.tiny,
            p=x.p.data_ptr(),
            weights=x.weights.data_ptr(),
            limits=x.limits.data_ptr(),
            totals=x.totals.data_ptr(),
            batch=x.batch.data_ptr(),
            work=self.work.data_ptr(),
        )


CPU = CPUBackend()
"""The one of this process."""


def _shared_bonds(z: Tensor, tables: ContactTables) -> Tensor:
    """Work space of bonds that hydrogens share."""
    return torch.empty(2 * len(z) * (tables.sharing_width > 0.0), dtype=torch.float64)


def _contacts(
    distance: Tensor, atoms: tuple[Tensor, Tensor, Tensor], tables: ContactTables
) -> _Contacts:
    """What all functions of close pairs read; contiguous tensors, which the caller keeps alive."""
    first, second, z = atoms
    return _Contacts(
        n_pairs=len(distance),
        n_atoms=len(z),
        n_elements=len(tables.radius),
        distance=distance.data_ptr(),
        first=first.data_ptr(),
        second=second.data_ptr(),
        atomic_number=z.data_ptr(),
        radius=tables.radius.data_ptr(),
        valence=tables.valence.data_ptr(),
        onium=tables.onium.data_ptr(),
        most=tables.most.data_ptr(),
        counted=tables.counted.data_ptr(),
        inner_start=tables.inner_start,
        inner_width=tables.inner_width,
        bond_full=tables.bond_full,
        bond_none=tables.bond_none,
        open_from=tables.open_from,
        open_full=tables.open_full,
        crowding=tables.crowding,
        wall_from=tables.wall_from,
        wall_stiffness=tables.wall_stiffness,
        sharing_width=tables.sharing_width,
    )


def _convolution(
    inputs: _Inputs, paths: ctypes.Array[_Path], edges: ConvolutionEdges, messages: Sequence[Tensor]
) -> _Convolution:
    n_nodes, feature_rows, channels = inputs.features.shape
    # nothing is copied: the structure holds addresses, the caller keeps the tensors alive
    arguments = _Convolution(
        n_nodes=n_nodes,
        n_pairs=len(edges.pair_sender),
        n_edges=len(edges.sender),
        channels=channels,
        feature_rows=feature_rows,
        kernel_cols=inputs.kernel.shape[1],
        n_paths=len(paths),
        n_threads=torch.get_num_threads(),
        paths=ctypes.addressof(paths),
        node_start=edges.node_start.data_ptr(),
        edge_sender=edges.sender.data_ptr(),
        edge_pair=edges.pair.data_ptr(),
        edge_sign=edges.sign.data_ptr(),
        pair_sender=edges.pair_sender.data_ptr(),
        pair_receiver=edges.pair_receiver.data_ptr(),
        features=inputs.features.data_ptr(),
        kernel=inputs.kernel.data_ptr(),
    )
    # one message tensor per order, its columns are (path of that order, channel)
    for order, message in enumerate(messages):
        arguments.message_cols[order] = message.shape[2]
        arguments.messages[order] = message.data_ptr()
    # weight_rows tells one row per pair from one per direction
    if inputs.weights is not None:
        arguments.weights = inputs.weights.data_ptr()
        arguments.weight_rows = inputs.weights.shape[0]
    elif inputs.table is not None and inputs.distance is not None:
        arguments.distance = inputs.distance.data_ptr()
        arguments.table = inputs.table.splines.data_ptr()
        arguments.n_intervals = inputs.table.n_intervals
        arguments.table_start = inputs.table.start
        arguments.table_inverse_step = inputs.table.inverse_step
    return arguments


def _contraction(
    features: Tensor, table: Tensor, slices: Tensor, terms: ContractionTerms
) -> _Contraction:
    if table.dtype != features.dtype:
        raise KernelError(f"weights must be {features.dtype} like the features, got {table.dtype}")
    # a[n, i, c], W[z, t, c]; slices say which nodes n have the table row z
    n_nodes, n_rows, channels = features.shape
    return _Contraction(
        n_nodes=n_nodes,
        channels=channels,
        n_rows=n_rows,
        n_components=terms.n_components,
        n_terms=len(terms.last),
        n_groups=len(terms.groups),
        n_slices=len(slices),
        n_elements=len(table),
        n_threads=torch.get_num_threads(),
        slices=slices.data_ptr(),
        groups=terms.groups.data_ptr(),
        last=terms.last.data_ptr(),
        features=features.data_ptr(),
        table=table.data_ptr(),
    )


def _contiguous(x: StateInputs) -> StateInputs:
    given = {n: getattr(x, n) for n in x.__dataclass_fields__ if n != "potentials"}
    potentials = None if x.potentials is None else x.potentials.contiguous()
    return StateInputs(potentials=potentials, **{n: t.contiguous() for n, t in given.items()})


def _state(
    x: StateInputs, potentials: Tensor, work: Tensor, constants: StateConstants
) -> _LocalState:
    return _LocalState(
        n_atoms=len(x.values),
        n_systems=len(x.charge),
        given=int(x.potentials is not None),
        values=x.values.data_ptr(),
        base=x.base.data_ptr(),
        openness=x.openness.data_ptr(),
        bonded=x.bonded.data_ptr(),
        lacks=x.lacks.data_ptr(),
        batch=x.batch.data_ptr(),
        charge=x.charge.data_ptr(),
        unpaired=x.unpaired.data_ptr(),
        potentials=potentials.data_ptr(),
        work=work.data_ptr(),
        **{name: getattr(constants, name) for name in _STATE_CONSTANTS},
    )
