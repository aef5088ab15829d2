"""Weights of a MACE checkpoint under the names of our parameters."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from lesff.convert.ledger import Tensors
from lesff.convert.mace.shape import CONTRACTIONS, MACEShape, class_name
from lesff.convert.record import Record
from lesff.errors import UnsupportedInputError
from lesff.nn.coupling import convolution_paths, monomials
from lesff.potential.config import ModelConfig

_ROUNDING = 1e-5
"""Files hold coupling coefficients in float32, and up to six of them are added here."""

State = dict[str, Tensor]


def mace_weights(root: Record, tensors: Tensors, shape: MACEShape, config: ModelConfig) -> State:
    """State dictionary of our potential; takes what it uses from ``tensors``.

    Raises:
        UnsupportedInputError: for a tensor that is missing or of another size than the blocks say.
    """
    c, z = shape.channels, shape.n_elements
    state = {"architecture.embedding": tensors.take("node_embedding.linear.weight", z, c)}
    for index in range(shape.n_layers):
        state |= _interaction(tensors, shape, index)
        state |= _product(tensors, shape, index)
    state |= _readouts(root, tensors, "readouts", "architecture.readouts", shape)
    if config.long_range is not None:
        state |= _readouts(root, tensors, "les_readouts", "charge_head.readouts", shape)
    if config.joint_embedding:
        state |= _joint_embedding(tensors, config, c)
    if config.architecture["state_readout"]:
        weight = tensors.take("embedding_readout.linear.weight", c, shape.n_heads)
        state["architecture.state_readout.weight"] = _column(weight, shape)
    return state


@dataclass(frozen=True)
class _Paths:
    """Paths of the file's convolution, some with sender features that are always zero.

    Attributes:
        live: Positions of the others among all.
        rows: The same by message order, among the paths of that order.
        totals: Number of paths of each message order.
        channels: Channels of the convolution.
    """

    live: list[int]
    rows: list[list[int]]
    totals: list[int]
    channels: int

    @staticmethod
    def of(shape: MACEShape, index: int) -> _Paths:
        """Paths of a layer."""
        l_in = shape.l_in(index)
        every = convolution_paths(max(shape.edge_l[index], l_in), shape.max_ell)
        orders = [[p for p in every if p.l3 == order] for order in range(shape.max_ell + 1)]
        return _Paths(
            live=[i for i, path in enumerate(every) if path.l1 <= l_in],
            rows=[[i for i, path in enumerate(row) if path.l1 <= l_in] for row in orders],
            totals=[len(row) for row in orders],
            channels=shape.edge_channels[index],
        )

    def columns(self, weight: Tensor) -> Tensor:
        """(..., all paths * channels) without the columns of dead paths."""
        split = weight.reshape(*weight.shape[:-1], -1, self.channels)
        if split.shape[-2] != sum(self.totals):
            raise UnsupportedInputError(
                f"the radial network must give {sum(self.totals)} x {self.channels} weights, "
                f"got {weight.shape[-1]}"
            )
        return split[..., self.live, :].reshape(*weight.shape[:-1], -1)

    def mixing(self, flat: Tensor, target: str, outputs: list[int]) -> State:
        """Linear map that mixes paths and channels, without the rows of dead paths."""
        sizes = [(total * self.channels, n) for total, n in zip(self.totals, outputs, strict=True)]
        state = _blocks(flat, target, sizes)
        for order, rows in enumerate(self.rows):
            key = f"{target}.weights.{order}"
            weight = state[key].reshape(self.totals[order], self.channels, outputs[order])
            state[key] = weight[rows].reshape(-1, outputs[order])
        return state


def _interaction(tensors: Tensors, shape: MACEShape, index: int) -> State:
    """Interaction block of one layer."""
    source, target = f"interactions.{index}", f"architecture.layers.{index}"
    c, edge, l_in = shape.channels, shape.edge_channels[index], shape.l_in(index)
    paths = _Paths.of(shape, index)
    up = tensors.take(f"{source}.linear_up.weight")
    state = _blocks(up, f"{target}.linear_up", [(c, edge)] * (l_in + 1))
    if shape.first.interaction == "gated":
        return state | _gated(tensors, shape, index, paths)
    mixing = tensors.take(f"{source}.linear.weight")
    state |= paths.mixing(mixing, f"{target}.linear", [c] * (shape.max_ell + 1))
    if shape.first.interaction == "attention":
        down = tensors.take(f"{source}.linear_down.weight", c, -1)
        state[f"{target}.linear_down.weights.0"] = down
        state |= _skip(tensors.take(f"{source}.skip_linear.weight"), shape, index, (c, c))
    else:
        skip = tensors.take(f"{source}.skip_tp.weight")
        state |= _skip(skip, shape, index, (c, shape.n_elements, c))
    if shape.first.normalization == "density":
        name = f"{source}.density_fn.layer0.weight"
        state[f"{target}.density.weights.0"] = tensors.take(name)
    depth = 0
    while (name := f"{source}.conv_tp_weights.layer{depth}.weight") in tensors:
        state[f"{target}.radial.weights.{depth}"] = tensors.take(name)
        depth += 1
    last = f"{target}.radial.weights.{depth - 1}"
    if last in state:
        state[last] = paths.columns(state[last])
    return state


def _gated(tensors: Tensors, shape: MACEShape, index: int, paths: _Paths) -> State:
    """Rest of a block with a gated nonlinearity."""
    source, target = f"interactions.{index}", f"architecture.layers.{index}"
    c, edge = shape.channels, shape.edge_channels[index]
    gates = [c * (1 + shape.max_ell)] + [c] * shape.max_ell
    state = {
        f"{target}.source": tensors.take(f"{source}.source_embedding.weight", shape.n_elements, c),
        f"{target}.target": tensors.take(f"{source}.target_embedding.weight", shape.n_elements, c),
        f"{target}.alpha": tensors.take(f"{source}.alpha"),
        f"{target}.beta": tensors.take(f"{source}.beta"),
    }
    state |= _perceptron(tensors, f"{source}.conv_tp_weights.net", f"{target}.radial", paths)
    state |= _perceptron(tensors, f"{source}.density_fn.net", f"{target}.density", None)
    mixing = tensors.take(f"{source}.linear_1.weight")
    state |= paths.mixing(mixing, f"{target}.linear_1", gates)
    live = min(shape.l_in(index), shape.max_ell) + 1
    residual = tensors.take(f"{source}.linear_res.weight")
    sizes = [(edge, n) for n in gates[: min(shape.edge_l[index], shape.max_ell) + 1]]
    blocks = _blocks(residual, f"{target}.linear_residual", sizes)
    # features of higher orders are always zero, and so is what these weights make of them
    state |= {key: blocks[key] for key in list(blocks)[:live]}
    second = tensors.take(f"{source}.linear_2.weight")
    state |= _blocks(second, f"{target}.linear_2", [(c, c)] * (shape.max_ell + 1))
    return state | _skip(tensors.take(f"{source}.skip_tp.weight"), shape, index, (c, c))


def _perceptron(tensors: Tensors, source: str, target: str, paths: _Paths | None) -> State:
    """Linear and layer-norm modules, which alternate with an activation between."""
    state: State = {}
    depth = 0
    while f"{source}.{3 * depth}.weight" in tensors:
        for part in ("weight", "bias"):
            key = f"{target}.linears.{depth}.{part}"
            state[key] = tensors.take(f"{source}.{3 * depth}.{part}")
            if f"{source}.{3 * depth + 1}.{part}" in tensors:
                norm = tensors.take(f"{source}.{3 * depth + 1}.{part}")
                state[f"{target}.norms.{depth}.{part}"] = norm
        depth += 1
    if paths is not None and depth:
        last = f"{target}.linears.{depth - 1}"
        state[f"{last}.weight"] = paths.columns(state[f"{last}.weight"].T).T.contiguous()
        state[f"{last}.bias"] = paths.columns(state[f"{last}.bias"])
    return state


def _skip(flat: Tensor, shape: MACEShape, index: int, size: tuple[int, ...]) -> State:
    """Self-connection; orders that leave the last layer and that nothing reads are left out."""
    is_residual = shape.is_residual(index)
    top = min(shape.l_in(index), shape.l_out(index)) if is_residual else shape.max_ell
    target = f"architecture.layers.{index}.self_connection"
    return _blocks(flat, target, [size] * (top + 1), may_rest=is_residual)


def _product(tensors: Tensors, shape: MACEShape, index: int) -> State:
    """Product block of one layer."""
    c, l_out = shape.channels, shape.l_out(index)
    source, target = f"products.{index}", f"architecture.layers.{index}"
    state = {}
    for order in range(l_out + 1):
        prefix = f"{source}.{CONTRACTIONS}.{order}"
        for degree in range(1, shape.correlation + 1):
            # the file counts degrees downwards: weights_max, weights.0, weights.1
            below = shape.correlation - degree
            name = f"{prefix}.weights_max" if below == 0 else f"{prefix}.weights.{below - 1}"
            key = f"{target}.contractions.{order}"
            state[f"{key}.weights.{degree - 1}"] = tensors.take(name)
            basis = _basis(tensors.take(f"{prefix}.U_matrix_{degree}"), shape, order, degree)
            state[f"{key}.basis_{degree}"] = basis
    linear = tensors.take(f"{source}.linear.weight")
    # a last layer may keep higher orders that nothing reads: they do not touch the energy
    state |= _blocks(linear, f"{target}.product_linear", [(c, c)] * (l_out + 1), may_rest=True)
    unused = "|".join(str(order) for order in range(l_out + 1, 5))
    tensors.drop(rf"{re.escape(source)}\.{re.escape(CONTRACTIONS)}\.({unused})\..*")
    return state


def _basis(found: Tensor, shape: MACEShape, order: int, degree: int) -> Tensor:
    """Coefficients of our monomials from the file's basis.

    Its columns must lie in the space of all equivariant polynomials, which ours span: they may
    differ in sign (e3nn changed the phase of some 3j symbols after 0.4.4), number and mixture.
    """
    n_lm, n_paths = (shape.max_ell + 1) ** 2, found.shape[-1]
    dims = (2 * order + 1, *(n_lm,) * degree, n_paths)
    if found.numel() != math.prod(dims):
        raise UnsupportedInputError(
            f"the coupling basis of order {order} and degree {degree} must have shape {dims}, "
            f"got {tuple(found.shape)}"
        )
    theirs = found.double().numpy().reshape(dims)
    axes = range(1, degree + 1)
    symmetric = np.sum(
        [theirs.transpose(0, *order_, degree + 1) for order_ in permutations(axes)], axis=0
    )
    ours = monomials(shape.max_ell, order, degree)
    rows = (ours.component, *ours.index.T)
    # a monomial collects distinct orders of its factors; the sum above counts each order of equal
    # factors anew
    repeats = np.array([_equal_orders(index) for index in ours.index.tolist()])
    basis = symmetric[rows] / repeats[:, None]
    for order_ in permutations(axes):
        symmetric[(ours.component, *(ours.index[:, axis - 1] for axis in order_))] = 0.0
    weights, *_ = np.linalg.lstsq(ours.basis, basis, rcond=None)
    foreign = max(np.abs(ours.basis @ weights - basis).max(), np.abs(symmetric).max())
    if foreign > _ROUNDING * max(np.abs(basis).max(), 1.0):
        raise UnsupportedInputError(
            f"the coupling basis of order {order} and degree {degree} is not equivariant in our "
            f"convention (deviation {foreign:.1e})"
        )
    return torch.from_numpy(basis)


def _equal_orders(index: list[int]) -> int:
    """Permutations of the factors that leave a monomial's index as it is."""
    return math.prod(math.factorial(index.count(value)) for value in set(index))


def _blocks(
    flat: Tensor, target: str, shapes: list[tuple[int, ...]], *, may_rest: bool = False
) -> State:
    """Cut e3nn's concatenated weights, one block per order."""
    sizes = [math.prod(shape) for shape in shapes]
    total = sum(sizes)
    if flat.numel() < total or (flat.numel() != total and not may_rest):
        raise UnsupportedInputError(
            f"weights of {target} must have {total} values, got {flat.numel()}"
        )
    parts = torch.split(flat.reshape(-1)[:total], sizes)
    pairs = zip(parts, shapes, strict=True)
    return {f"{target}.weights.{i}": part.reshape(s) for i, (part, s) in enumerate(pairs)}


def _column(weight: Tensor, shape: MACEShape) -> Tensor:
    """Column of our head of a (rows, n_heads) matrix, as (rows, 1)."""
    return weight[:, shape.head : shape.head + 1].clone()


def _readouts(root: Record, tensors: Tensors, source: str, target: str, shape: MACEShape) -> State:
    """Readouts of our head; hidden units come head by head."""
    state: State = {}
    for index, name in enumerate(root.submodule(source).attributes().get("_modules", {})):
        prefix, key = f"{source}.{name}", f"{target}.layers.{index}"
        if class_name(root.submodule(prefix)) == "LinearReadoutBlock":
            weight = tensors.take(f"{prefix}.linear.weight", shape.channels, shape.n_heads)
            state[f"{key}.weight"] = _column(weight, shape)
            continue
        first = tensors.take(f"{prefix}.linear_1.weight", shape.channels, shape.n_heads, -1)
        hidden = first.shape[-1]
        units = slice(shape.head * hidden, (shape.head + 1) * hidden)
        state[f"{key}.weight_1"] = first[:, shape.head].clone()
        second = tensors.take(f"{prefix}.linear_2.weight", shape.n_heads * hidden, shape.n_heads)
        state[f"{key}.weight_2"] = _column(second[units], shape)
        if f"{prefix}.linear_mid.weight" in tensors:
            size = shape.n_heads * hidden
            middle = tensors.take(f"{prefix}.linear_mid.weight", size, size)
            state[f"{key}.weight_mid"] = middle[units, units].clone()
            state[f"{key}.bias_mid"] = tensors.take(f"{prefix}.linear_mid.bias")[units].clone()
            bias = tensors.take(f"{prefix}.linear_2.bias")
            state[f"{key}.bias_2"] = bias[shape.head : shape.head + 1].clone()
    return state


def _joint_embedding(tensors: Tensors, config: ModelConfig, channels: int) -> State:
    """Embedding of charge and spin; the file names its parts, in the order of the input."""
    names = {"total_charge": "total_charge", "spin_multiplicity": "total_spin"}
    state: State = {}
    for index, state_input in enumerate(config.joint_embedding):
        source = f"joint_embedding.embedders.{names[state_input.name]}"
        target = f"joint_embedding.embedders.{index}"
        keys = ["weight"]
        if state_input.kind == "continuous":
            parts = ("weight", "bias") if state_input.has_bias else ("weight",)
            keys = [f"{layer}.{part}" for layer in (0, 2) for part in parts]
        state |= {f"{target}.{key}": tensors.take(f"{source}.{key}") for key in keys}
    state["joint_embedding.project.weight"] = tensors.take(
        "joint_embedding.project.0.weight", channels, -1
    )
    return state
