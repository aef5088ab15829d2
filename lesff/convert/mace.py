"""Published MACE, ScaleShiftMACE and MACELES checkpoints -> configuration and weights.

The layout of the files is described in the documentation of MACE (arXiv 2206.07697) and e3nn; our
parameters have the same order, so that conversion reshapes and never mixes. Every tensor of a file
is used, or known to carry no information, or conversion fails.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesff.convert.reader import Record
from lesff.errors import UnsupportedInputError
from lesff.nn.coupling import contraction_basis, convolution_paths, sparse_form
from lesff.ops import SILU_NORM
from lesff.potential import LongRangeConfig, ModelConfig, Potential

_MODELS = ("MACE", "ScaleShiftMACE", "MACELES")
_BLOCKS = {
    "RealAgnosticInteractionBlock": (False, "neighbors"),
    "RealAgnosticResidualInteractionBlock": (True, "neighbors"),
    "RealAgnosticDensityInteractionBlock": (False, "density"),
    "RealAgnosticDensityResidualInteractionBlock": (True, "density"),
}
"""Interaction block -> (adds a self-connection, normalisation of messages)."""
_NO_INFORMATION = re.compile(r".*\.(output_mask|bias)|.*\.conv_tp\.weight|.*_zeroed")
_ROUNDING = 1e-6
"""Files hold coupling coefficients in float32."""


class _Tensors:
    """Tensors of a file, each to be taken once."""

    def __init__(self, root: Record) -> None:
        self._left = root.parameters_and_buffers()

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor, reshaped; UnsupportedInputError if it is not there or of another size."""
        if name not in self._left:
            raise UnsupportedInputError(f"the checkpoint lacks the tensor {name}")
        tensor = self._left.pop(name)
        if shape and math.prod(shape) != tensor.numel():
            raise UnsupportedInputError(
                f"tensor {name} must have {math.prod(shape)} values for shape {shape}, "
                f"got shape {tuple(tensor.shape)}"
            )
        return tensor.reshape(shape) if shape else tensor

    def drop(self, pattern: str) -> None:
        """Leave out tensors by name."""
        self._left = {k: v for k, v in self._left.items() if not re.fullmatch(pattern, k)}

    def finish(self) -> None:
        """Fail if a tensor with content was not used."""
        left = [
            name
            for name, value in self._left.items()
            if not (_NO_INFORMATION.fullmatch(name) and _is_void(name, value))
        ]
        if left:
            raise UnsupportedInputError(
                f"the checkpoint has tensors that this version cannot represent: {', '.join(left)}"
            )


def _is_void(name: str, value: Tensor) -> bool:
    return value.numel() == 0 or name.endswith(("output_mask", "_zeroed"))


@dataclass(frozen=True)
class _Shape:
    """Sizes read off a file."""

    channels: int
    feature_l: int
    max_ell: int
    correlation: int
    n_layers: int
    n_elements: int


def convert_mace(root: Record, *, provenance: dict[str, str] | None = None) -> Potential:
    """Rebuild a checkpoint as a :class:`Potential`, weights and constants from the file.

    Args:
        root: The checkpoint, from :func:`lesff.convert.reader.read_checkpoint`.
        provenance: Level of theory, training data and software to write into the configuration
            (keys ``level_of_theory``, ``training_data``, ``source``).

    Raises:
        UnsupportedInputError: naming what this version cannot represent.
    """
    kind = root.path.rsplit(".", 1)[-1]
    if kind not in _MODELS:
        raise UnsupportedInputError(
            f"a checkpoint of class {root.path} cannot be converted; "
            f"classes that can: {', '.join(_MODELS)}"
        )
    heads = root.attribute("heads", None) or ["default"]
    if len(heads) != 1:
        raise UnsupportedInputError(f"the checkpoint has several heads: {', '.join(heads)}")
    tensors = _Tensors(root)
    shape = _read_shape(root, tensors)
    config = _config(root, kind, tensors, shape, provenance or {})
    state = _weights(root, tensors, shape)
    tensors.finish()
    potential = Potential(config)
    potential.cast_parameters(torch.float64 if config.dtype == "float64" else torch.float32)
    potential.load_state_dict(state)
    return potential.requires_grad_(requires_grad=False).eval()


def _read_shape(root: Record, tensors: _Tensors) -> _Shape:
    left = root.parameters_and_buffers()
    n_elements = left["atomic_numbers"].numel()
    n_layers = int(left["num_interactions"])
    channels = left["node_embedding.linear.weight"].numel() // n_elements
    prefix = "products.0.symmetric_contractions.contractions"
    n_contractions = sum(f"{prefix}.{order}.weights_max" in tensors for order in range(4))
    n_lm = left[f"{prefix}.0.U_matrix_1"].shape[-2]
    correlation = 1 + sum(f"{prefix}.0.weights.{k}" in tensors for k in range(3))
    is_deep = n_layers > 1
    return _Shape(
        channels=channels,
        feature_l=n_contractions - 1 if is_deep else 0,
        max_ell=math.isqrt(n_lm) - 1,
        correlation=correlation,
        n_layers=n_layers,
        n_elements=n_elements,
    )


def _config(
    root: Record, kind: str, tensors: _Tensors, shape: _Shape, provenance: dict[str, str]
) -> ModelConfig:
    blocks = [root.submodule(f"interactions.{i}") for i in range(shape.n_layers)]
    classes = [block.path.rsplit(".", 1)[-1] for block in blocks]
    kinds = [_BLOCKS.get(name, (False, "")) for name in classes]
    if any(not kind[1] for kind in kinds[:1]) or set(kinds[1:]) - {(True, kinds[0][1])}:
        raise UnsupportedInputError(f"interaction blocks {', '.join(classes)} are not supported")
    _check_parts(root)
    neighbors = {float(block.attribute("avg_num_neighbors")) for block in blocks}
    if len(neighbors) != 1:
        raise UnsupportedInputError(f"layers differ in avg_num_neighbors: {sorted(neighbors)}")
    cutoff = float(tensors.take("r_max"))
    frequencies = tensors.take("radial_embedding.bessel_fn.bessel_weights").double()
    prefactor = float(tensors.take("radial_embedding.bessel_fn.prefactor"))
    power = int(tensors.take("radial_embedding.cutoff_fn.p"))
    tensors.drop(r"num_interactions|radial_embedding\..*\.r_max")
    hidden = _readout_hidden(root, "readouts", shape.n_layers)
    sizes = blocks[0].submodule("conv_tp_weights").attribute("hs")
    scale, reference = _references(kind, tensors, shape)
    numbers = tensors.take("atomic_numbers").tolist()
    orders = "eo"
    architecture = {
        "type": "mace",
        "cutoff": cutoff,
        "hidden_irreps": "+".join(
            f"{shape.channels}x{order}{orders[order % 2]}" for order in range(shape.feature_l + 1)
        ),
        "n_layers": shape.n_layers,
        "max_ell": shape.max_ell,
        "correlation": shape.correlation,
        "n_radial": len(frequencies),
        "radial_frequencies": frequencies.tolist(),
        "radial_prefactor": prefactor,
        "cutoff_power": power,
        "radial_mlp": [int(size) for size in sizes[1:-1]],
        "readout_hidden": hidden,
        "first_residual": kinds[0][0],
        "message_normalization": kinds[0][1],
        "agnesi": _agnesi(root, tensors),
        "repulsion": _repulsion(root, tensors, power),
        "avg_num_neighbors": neighbors.pop(),
        "stores_couplings": True,
    }
    dtype = root.parameters_and_buffers()["node_embedding.linear.weight"].dtype
    return ModelConfig(
        architecture=architecture,
        elements=tuple(numbers),
        reference_energies=reference,
        energy_scale=scale,
        long_range=_long_range(root, shape) if kind == "MACELES" else None,
        dtype="float64" if dtype == torch.float64 else "float32",
        energy_reference="total energy of the published model",
        level_of_theory=provenance.get("level_of_theory", "see the publication of the model"),
        training_data=provenance.get("training_data", "see the publication of the model"),
        software={"source": provenance.get("source", root.path)},
    )


def _check_parts(root: Record) -> None:
    """Refuse parts that change the forward pass and that we do not have."""
    expected = {
        "radial_embedding.bessel_fn": "BesselBasis",
        "radial_embedding.cutoff_fn": "PolynomialCutoff",
        "node_embedding": "LinearNodeEmbeddingBlock",
    }
    for name, wanted in expected.items():
        found = root.submodule(name).path.rsplit(".", 1)[-1]
        if found != wanted:
            raise UnsupportedInputError(f"{name} must be {wanted}, got {found}")
    extra = {"joint_embedding", "embedding_readout"}
    names = {name.rsplit(".", 1)[-1] for name, _ in root.named_modules()}
    if names & extra:
        raise UnsupportedInputError(
            f"the checkpoint has {', '.join(sorted(names & extra))}, which is not supported"
        )
    for name, module in root.named_modules():
        constant = module.attribute("cst", SILU_NORM)
        if abs(float(constant) - SILU_NORM) > 1e-6:
            raise UnsupportedInputError(f"activation {name} must be silu, its norm is {constant}")


def _agnesi(root: Record, tensors: _Tensors) -> tuple[float, float, float] | None:
    name = "radial_embedding.distance_transform"
    found = {key: module.path.rsplit(".", 1)[-1] for key, module in root.named_modules()}
    if name not in found:
        return None
    if found[name] != "AgnesiTransform":
        raise UnsupportedInputError(f"distance transform {found[name]} is not supported")
    a, q, p = (float(tensors.take(f"{name}.{key}")) for key in "aqp")
    tensors.drop(rf"{re.escape(name)}\.covalent_radii")
    return a, q, p


def _repulsion(root: Record, tensors: _Tensors, power: int) -> bool:
    """ZBL with the constants that everyone uses; others are refused."""
    name = "pair_repulsion_fn"
    if name not in {key for key, _ in root.named_modules()}:
        return False
    expected = {"c": (0.1818, 0.5099, 0.2802, 0.02817), "a_exp": (0.3,), "a_prefactor": (0.4543,)}
    for key, values in expected.items():
        found = tensors.take(f"{name}.{key}").double().reshape(-1).tolist()
        if len(found) != len(values) or not np.allclose(found, values, rtol=1e-4):
            raise UnsupportedInputError(f"{name}.{key} must be {values}, got {found}")
    if int(tensors.take(f"{name}.p")) != power:
        raise UnsupportedInputError(f"{name}.p must be that of the radial cutoff, {power}")
    tensors.drop(rf"{name}\.(covalent_radii|.*r_max|.*\.p)")
    return True


def _references(kind: str, tensors: _Tensors, shape: _Shape) -> tuple[float, tuple[float, ...]]:
    """Energy scale, and atomic energies with the shift added."""
    energies = tensors.take("atomic_energies_fn.atomic_energies", shape.n_elements).double()
    scale, shift = 1.0, 0.0
    if kind != "MACE":
        scale = float(tensors.take("scale_shift.scale", 1))
        shift = float(tensors.take("scale_shift.shift", 1))
    return scale, tuple((energies + shift).tolist())


def _readout_hidden(root: Record, name: str, n_layers: int) -> int | None:
    last = root.submodule(f"{name}.{n_layers - 1}")
    kind = last.path.rsplit(".", 1)[-1]
    if kind == "LinearReadoutBlock":
        return None
    if kind != "NonLinearReadoutBlock":
        raise UnsupportedInputError(f"readout {kind} is not supported")
    return last.submodule("linear_2").parameters_and_buffers()["weight"].numel()


def _long_range(root: Record, shape: _Shape) -> LongRangeConfig:
    """Constants of the latent Coulomb energy, from the file and never from defaults."""
    les, ewald = root.submodule("les"), root.submodule("les.ewald")
    if les.attribute("use_atomwise", default=False):
        raise UnsupportedInputError("charges from an atom-wise network are not supported")
    for name in ("use_fixed_atomic_charges", "use_atomic_alpha", "use_epsilon_r_scaling"):
        if les.attribute(name, default=False) or ewald.attribute(name, default=False):
            raise UnsupportedInputError(f"the latent Ewald option {name} is not supported")
    return LongRangeConfig(
        head="latent",
        sigma=float(ewald.attribute("sigma")),
        dl=float(ewald.attribute("dl")),
        remove_self_interaction=bool(ewald.attribute("remove_self_interaction")),
        prefactor=float(ewald.attribute("norm_factor")),
        readout_hidden=_readout_hidden(root, "les_readouts", shape.n_layers),
    )


def _weights(root: Record, tensors: _Tensors, shape: _Shape) -> dict[str, Tensor]:
    c, z = shape.channels, shape.n_elements
    state = {"architecture.embedding": tensors.take("node_embedding.linear.weight", z, c)}
    for index in range(shape.n_layers):
        state |= _layer(root, tensors, shape, index)
    state |= _readouts(root, tensors, "readouts", "architecture.readouts", shape)
    if "les_readouts" in {name for name, _ in root.named_modules()}:
        state |= _readouts(root, tensors, "les_readouts", "charge_head.readouts", shape)
    return state


def _layer(root: Record, tensors: _Tensors, shape: _Shape, index: int) -> dict[str, Tensor]:
    c, z = shape.channels, shape.n_elements
    source, target = f"interactions.{index}", f"architecture.layers.{index}"
    l_in = shape.feature_l if index else 0
    l_out = shape.feature_l if index < shape.n_layers - 1 else 0
    is_residual, normalization = _BLOCKS[root.submodule(source).path.rsplit(".", 1)[-1]]
    n_paths = [
        sum(path.l3 == order for path in convolution_paths(l_in, shape.max_ell))
        for order in range(shape.max_ell + 1)
    ]
    skip_l = min(l_in, l_out) if is_residual else shape.max_ell
    state = _blocks(
        tensors.take(f"{source}.linear_up.weight"), f"{target}.linear_up", [(c, c)] * (l_in + 1)
    )
    state |= _blocks(
        tensors.take(f"{source}.linear.weight"), f"{target}.linear", [(n * c, c) for n in n_paths]
    )
    state |= _blocks(
        tensors.take(f"{source}.skip_tp.weight"),
        f"{target}.self_connection",
        [(c, z, c)] * (skip_l + 1),
    )
    depth = 0
    while (name := f"{source}.conv_tp_weights.layer{depth}.weight") in tensors:
        state[f"{target}.radial.weights.{depth}"] = tensors.take(name)
        depth += 1
    if normalization == "density":
        name = f"{source}.density_fn.layer0.weight"
        state[f"{target}.density.weights.0"] = tensors.take(name)
    state |= _product(tensors, shape, index, l_out)
    return state


def _product(tensors: _Tensors, shape: _Shape, index: int, l_out: int) -> dict[str, Tensor]:
    c = shape.channels
    source, target = f"products.{index}", f"architecture.layers.{index}"
    state = {}
    for order in range(l_out + 1):
        prefix = f"{source}.symmetric_contractions.contractions.{order}"
        for degree in range(1, shape.correlation + 1):
            # the file counts degrees downwards: weights_max, weights.0, weights.1
            below = shape.correlation - degree
            name = f"{prefix}.weights_max" if below == 0 else f"{prefix}.weights.{below - 1}"
            key = f"{target}.contractions.{order}.weights.{degree - 1}"
            state[key] = tensors.take(name)
            basis = _basis(tensors.take(f"{prefix}.U_matrix_{degree}"), shape, order, degree)
            state[f"{target}.contractions.{order}.basis_{degree}"] = basis
    linear = tensors.take(f"{source}.linear.weight")
    # a last layer may keep higher orders that nothing reads: they do not touch the energy
    state |= _blocks(linear, f"{target}.product_linear", [(c, c)] * (l_out + 1), may_rest=True)
    unused = "|".join(str(order) for order in range(l_out + 1, 4))
    tensors.drop(rf"{re.escape(source)}\.symmetric_contractions\.contractions\.({unused})\..*")
    return state


def _basis(found: Tensor, shape: _Shape, order: int, degree: int) -> Tensor:
    """Coefficients of our monomials from the file's basis.

    It must be ours up to rounding and the sign of each path: e3nn changed the phase of some 3j
    symbols after 0.4.4, with which published models were made.
    """
    ours = contraction_basis(shape.max_ell, order, degree)
    theirs = found.double().numpy()
    if ours.size == theirs.size:
        theirs = theirs.reshape(ours.shape)
        sign = np.sign((ours * theirs).sum(axis=tuple(range(ours.ndim - 1))))
        if np.abs(ours * sign - theirs).max() < _ROUNDING:
            return torch.from_numpy(sparse_form(theirs).basis)
    raise UnsupportedInputError(
        f"the coupling basis of order {order} and degree {degree} differs from ours: "
        "reduced or reordered bases are not supported"
    )


def _blocks(
    flat: Tensor, target: str, shapes: list[tuple[int, ...]], *, may_rest: bool = False
) -> dict[str, Tensor]:
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


def _readouts(
    root: Record, tensors: _Tensors, source: str, target: str, shape: _Shape
) -> dict[str, Any]:
    state = {}
    for index in range(shape.n_layers):
        prefix, key = f"{source}.{index}", f"{target}.layers.{index}"
        if root.submodule(prefix).path.endswith("NonLinearReadoutBlock"):
            first = tensors.take(f"{prefix}.linear_1.weight")
            state[f"{key}.weight_1"] = first.reshape(shape.channels, -1)
            state[f"{key}.weight_2"] = tensors.take(f"{prefix}.linear_2.weight").reshape(-1, 1)
        else:
            state[f"{key}.weight"] = tensors.take(f"{prefix}.linear.weight", shape.channels, 1)
    return state
