"""Published MACE, ScaleShiftMACE and MACELES checkpoints -> configuration and weights.

The layout of the files is described in the documentation of MACE (arXiv 2206.07697) and e3nn; our
parameters have the same order, so that conversion reshapes and never mixes. Every tensor of a file
is used, or known to carry no information, or conversion fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from lesff.convert.ledger import Tensors
from lesff.convert.mace.shape import MACEShape, class_name, mace_heads, read_shape
from lesff.convert.mace.weights import mace_weights
from lesff.convert.record import Record
from lesff.errors import UnsupportedInputError
from lesff.heads import LongRangeConfig
from lesff.nn.activations import SIGMOID_NORM, SILU_NORM
from lesff.nn.state_embedding import StateInput
from lesff.potential.config import DTYPES, ModelConfig
from lesff.potential.potential import Potential

__all__ = ["convert_mace", "mace_heads"]

_MODELS = ("MACE", "ScaleShiftMACE", "MACELES")
_LACKING = {
    "PolarMACE": "multipole source maps, field-dependent charge updates and the Fukui shift "
    "(`lr_source_maps`, `field_dependent_charges_maps`, `fukui_source_map`)",
    "AtomicDipolesMACE": "a readout of atomic dipoles",
    "EnergyDipolesMACE": "a readout of atomic dipoles",
    "AtomicDielectricMACE": "readouts of atomic dipoles and polarizabilities",
}
"""Known classes that are not converted -> what lesff lacks for them."""
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_READOUTS = {
    "LinearReadoutBlock": (False, False),
    "NonLinearReadoutBlock": (True, False),
    "NonLinearBiasReadoutBlock": (True, True),
}
"""Readout class -> (has hidden units, has biases)."""
_STATES = {"total_charge": "total_charge", "total_spin": "spin_multiplicity"}
"""Input of the joint embedding -> field of the graph."""
_UNLIMITED = (-10, 10), (1, 11)
"""Range of charge and multiplicity that a network without a table is taken to cover."""


def convert_mace(
    root: Record, *, head: str | None = None, provenance: dict[str, str] | None = None
) -> Potential:
    """Rebuild a checkpoint as a :class:`Potential`, weights and constants from the file.

    Args:
        root: The checkpoint, from :func:`lesff.convert.reader.read_checkpoint`.
        head: Which head to take; needed where there are several (:func:`mace_heads`).
        provenance: Level of theory, training data and software to write into the configuration
            (keys ``level_of_theory``, ``training_data``, ``source``).

    Raises:
        UnsupportedInputError: naming what this version cannot represent.
    """
    kind = class_name(root)
    if kind not in _MODELS:
        lack = f": lesff has no {_LACKING[kind]}" if kind in _LACKING else ""
        raise UnsupportedInputError(
            f"a checkpoint of class {root.path} cannot be converted{lack}; "
            f"classes that can: {', '.join(_MODELS)}"
        )
    tensors = Tensors(root)
    shape = read_shape(root, tensors, head)
    config = _config(root, kind, tensors, shape, provenance or {})
    state = mace_weights(root, tensors, shape, config)
    tensors.finish()
    potential = Potential(config)
    potential.cast_parameters(DTYPES[config.dtype])
    potential.load_state_dict(state)
    return potential.requires_grad_(requires_grad=False).eval()


def _config(
    root: Record, kind: str, tensors: Tensors, shape: MACEShape, provenance: dict[str, str]
) -> ModelConfig:
    _check_parts(root)
    scale, reference = _references(kind, tensors, shape)
    numbers = tensors.take("atomic_numbers").tolist()
    dtype = root.parameters_and_buffers()["node_embedding.linear.weight"].dtype
    states = _states(root)
    charge, spin = _state_ranges(states)
    return ModelConfig(
        architecture=_architecture(root, tensors, shape),
        elements=tuple(numbers),
        reference_energies=reference,
        energy_scale=scale,
        long_range=_long_range(root, shape) if kind == "MACELES" else None,
        total_charge=charge,
        spin_multiplicity=spin,
        joint_embedding=states,
        dtype="float64" if dtype == torch.float64 else "float32",
        energy_reference="total energy of the published model",
        level_of_theory=provenance.get("level_of_theory", "see the publication of the model"),
        training_data=provenance.get("training_data", "see the publication of the model"),
        software={"source": provenance.get("source", root.path)},
    )


def _architecture(root: Record, tensors: Tensors, shape: MACEShape) -> dict[str, Any]:
    """Hyper-parameters of the short-range model."""
    blocks = [root.submodule(f"interactions.{i}") for i in range(shape.n_layers)]
    neighbors = {float(block.attribute("avg_num_neighbors")) for block in blocks}
    if len(neighbors) != 1 and shape.first.normalization == "neighbors":
        raise UnsupportedInputError(f"layers differ in avg_num_neighbors: {sorted(neighbors)}")
    power = int(tensors.take("radial_embedding.cutoff_fn.p"))
    keeps_cutoff = bool(root.submodule("radial_embedding").attribute("apply_cutoff", default=True))
    architecture = {
        "type": "mace",
        "cutoff": float(tensors.take("r_max")),
        "hidden_irreps": "+".join(
            f"{shape.channels}x{order}{'eo'[order % 2]}" for order in range(shape.feature_l + 1)
        ),
        "n_layers": shape.n_layers,
        "max_ell": shape.max_ell,
        "correlation": shape.correlation,
        "cutoff_power": power,
        "envelope_on": "basis" if keeps_cutoff else "weights",
        "interaction": shape.first.interaction,
        "first_edge_channels": shape.edge_channels[0],
        "edge_channels": shape.edge_channels[-1],
        "edge_l": shape.edge_l[-1] if shape.n_layers > 1 else None,
        "first_residual": shape.first.is_residual,
        "message_normalization": shape.first.normalization,
        "agnostic_product": shape.is_agnostic,
        "repulsion": _repulsion(root, tensors, power),
        "avg_num_neighbors": max(neighbors),
        "radial_mlp": _radial_sizes(blocks, shape),
        "stores_couplings": True,
        "coupling_paths": [
            [
                root.submodule(f"products.0.symmetric_contractions.contractions.{order}")
                .attribute(f"U_matrix_{degree}")
                .shape[-1]
                for degree in range(1, shape.correlation + 1)
            ]
            for order in range(shape.feature_l + 1)
        ],
        "state_readout": _has_module(root, "embedding_readout"),
        **_radial_basis(root, tensors),
        **_transform(root, tensors),
        **_readouts(root, "readouts", shape),
    }
    if shape.first.interaction == "gated":
        architecture["gate_norms"] = _gate_norms(blocks)
    tensors.drop(r"num_interactions|radial_embedding\..*\.r_max")
    return architecture


def _has_module(root: Record, name: str) -> bool:
    return name in root.attributes().get("_modules", {})


def _check_parts(root: Record) -> None:
    """Refuse parts that change the forward pass and that we do not have."""
    expected = {
        "radial_embedding.cutoff_fn": "PolynomialCutoff",
        "node_embedding": "LinearNodeEmbeddingBlock",
    }
    for name, wanted in expected.items():
        found = class_name(root.submodule(name))
        if found != wanted:
            raise UnsupportedInputError(f"{name} must be {wanted}, got {found}")
    if root.attribute("use_so3", default=False):
        raise UnsupportedInputError("couplings that break parity (use_so3) are not supported")
    for name, module in root.named_modules():
        if "equivariant_nonlin" in name:
            continue  # its constants are read and used
        constant = module.attribute("cst", SILU_NORM)
        if abs(float(constant) - SILU_NORM) > 1e-6:
            raise UnsupportedInputError(f"activation {name} must be silu, its norm is {constant}")


def _gate_norms(blocks: list[Record]) -> list[float]:
    """Normalisation of silu and sigmoid in the gates: older files use e3nn's gate."""
    found = set()
    for block in blocks:
        gate = block.submodule("equivariant_nonlin")
        if gate.attribute("_scalar_cst", None) is not None:
            found.add((float(gate.attribute("_scalar_cst")), float(gate.attribute("_gate_cst"))))
        else:
            acts = (gate.submodule(f"{name}.acts.0") for name in ("act_scalars", "act_gates"))
            scalars, gates = (float(act.attribute("cst")) for act in acts)
            found.add((scalars, gates))
    norms = sorted(found)
    if len(norms) != 1 or not np.allclose(norms[0], (SILU_NORM, SIGMOID_NORM), rtol=1e-2):
        raise UnsupportedInputError(f"gates must be silu and sigmoid, their norms are {norms}")
    return list(norms[0])


def _radial_basis(root: Record, tensors: Tensors) -> dict[str, Any]:
    name = "radial_embedding.bessel_fn"
    kind = class_name(root.submodule(name))
    if kind == "BesselBasis":
        frequencies = tensors.take(f"{name}.bessel_weights").double().reshape(-1).tolist()
        return {
            "radial_basis": "bessel",
            "n_radial": len(frequencies),
            "radial_frequencies": frequencies,
            "radial_prefactor": float(tensors.take(f"{name}.prefactor")),
        }
    if kind == "GaussianBasis":
        centers = tensors.take(f"{name}.gaussian_weights").double().reshape(-1).tolist()
        return {
            "radial_basis": "gaussian",
            "n_radial": len(centers),
            "radial_centers": centers,
            "radial_exponent": -float(root.submodule(name).attribute("coeff")),
        }
    if kind == "ChebychevBasis":
        degrees = tensors.take(f"{name}.n").reshape(-1).tolist()
        if degrees != list(range(1, len(degrees) + 1)):
            raise UnsupportedInputError(f"{name}.n must be 1, 2, 3 ..., got {degrees}")
        return {"radial_basis": "chebyshev", "n_radial": len(degrees)}
    raise UnsupportedInputError(f"{name} must be one of {', '.join(_RADIAL)}, got {kind}")


def _transform(root: Record, tensors: Tensors) -> dict[str, Any]:
    name = "radial_embedding.distance_transform"
    if not _has_module(root.submodule("radial_embedding"), "distance_transform"):
        return {}
    kind = class_name(root.submodule(name))
    _check_radii(tensors.take(f"{name}.covalent_radii"), name)
    if kind == "AgnesiTransform":
        return {"agnesi": [float(tensors.take(f"{name}.{key}")) for key in "aqp"]}
    if kind == "SoftTransform":
        return {"soft_transform": float(tensors.take(f"{name}.alpha"))}
    raise UnsupportedInputError(f"distance transform {kind} is not supported")


def _check_radii(found: Tensor, name: str) -> None:
    values = found.double().numpy()
    ours = covalent_radii[: len(values)]
    if values.shape != ours.shape or not np.allclose(values, ours, rtol=1e-6):
        raise UnsupportedInputError(f"covalent radii of {name} differ from those of ASE")


def _repulsion(root: Record, tensors: Tensors, power: int) -> bool:
    """ZBL with the constants that everyone uses; others are refused."""
    name = "pair_repulsion_fn"
    if not _has_module(root, name):
        return False
    expected = {"c": (0.1818, 0.5099, 0.2802, 0.02817), "a_exp": (0.3,), "a_prefactor": (0.4543,)}
    for key, values in expected.items():
        found = tensors.take(f"{name}.{key}").double().reshape(-1).tolist()
        if len(found) != len(values) or not np.allclose(found, values, rtol=1e-4):
            raise UnsupportedInputError(f"{name}.{key} must be {values}, got {found}")
    if int(tensors.take(f"{name}.p")) != power:
        raise UnsupportedInputError(f"{name}.p must be that of the radial cutoff, {power}")
    _check_radii(tensors.take(f"{name}.covalent_radii"), name)
    tensors.drop(rf"{name}\.(.*r_max|.*\.p)")
    return True


def _radial_sizes(blocks: list[Record], shape: MACEShape) -> list[int]:
    if shape.first.interaction == "attention":
        return [1]  # not used: the sizes of this block are fixed
    sizes = {tuple(b.submodule("conv_tp_weights").attribute("hs")[1:-1]) for b in blocks}
    if len(sizes) != 1:
        raise UnsupportedInputError(f"layers differ in their radial networks: {sorted(sizes)}")
    return [int(size) for size in sizes.pop()]


def _references(kind: str, tensors: Tensors, shape: MACEShape) -> tuple[float, tuple[float, ...]]:
    """Energy scale, and atomic energies with the shift added."""
    table = tensors.take("atomic_energies_fn.atomic_energies").double()
    energies = table.reshape(-1, shape.n_elements)
    if len(energies) not in (1, shape.n_heads):
        raise UnsupportedInputError(
            f"atomic energies must have {shape.n_heads} rows, got {len(energies)}"
        )
    scale, shift = 1.0, 0.0
    if kind != "MACE":
        scale, shift = (
            _of_head(tensors.take(f"scale_shift.{k}"), shape) for k in ("scale", "shift")
        )
    row = energies[shape.head if len(energies) > 1 else 0]
    return scale, tuple((row + shift).tolist())


def _of_head(values: Tensor, shape: MACEShape) -> float:
    flat = values.double().reshape(-1)
    if len(flat) not in (1, shape.n_heads):
        raise UnsupportedInputError(f"scale and shift must have {shape.n_heads} values")
    return float(flat[shape.head if len(flat) > 1 else 0])


def _readouts(root: Record, name: str, shape: MACEShape) -> dict[str, Any]:
    """Options of the readouts of energies or charges."""
    modules = list(root.submodule(name).attributes().get("_modules", {}).values())
    if len(modules) not in (1, shape.n_layers):
        raise UnsupportedInputError(f"{name} must be one or {shape.n_layers}, got {len(modules)}")
    kinds = [class_name(module) for module in modules]
    if any(kind != "LinearReadoutBlock" for kind in kinds[:-1]) or kinds[-1] not in _READOUTS:
        raise UnsupportedInputError(f"{name} {', '.join(kinds)} are not supported")
    has_hidden, has_bias = _READOUTS[kinds[-1]]
    hidden = None
    if has_hidden:
        first = modules[-1].submodule("linear_1").parameters_and_buffers()["weight"]
        hidden = first.numel() // (shape.channels * shape.n_heads)
    return {
        "readout_hidden": hidden,
        "readout_bias": has_bias,
        "last_layer_readout_only": len(modules) == 1 and shape.n_layers > 1,
        "readout_heads": shape.n_heads,
    }


def _long_range(root: Record, shape: MACEShape) -> LongRangeConfig:
    """Constants of the latent Coulomb energy, from the file and never from defaults."""
    les, ewald = root.submodule("les"), root.submodule("les.ewald")
    if les.attribute("use_atomwise", default=False):
        raise UnsupportedInputError("charges from an atom-wise network are not supported")
    options = ("use_fixed_atomic_charges", "use_atomic_alpha", "use_epsilon_r_scaling")
    later = ("use_dipole", "use_quad", "use_induced_charge", "use_induced_dipole")
    for name in (*options, *later):
        if les.attribute(name, default=False) or ewald.attribute(name, default=False):
            raise UnsupportedInputError(f"the latent Ewald option {name} is not supported")
    for name in ("output_scale", "output_scaling_factor"):
        factor = root.attribute(name, None)
        if factor not in (None, 1.0):
            raise UnsupportedInputError(f"the latent Ewald option {name} must be 1, got {factor}")
    readouts = _readouts(root, "les_readouts", shape)
    if readouts.pop("readout_bias"):
        raise UnsupportedInputError("charge readouts with biases are not supported")
    return LongRangeConfig(
        head="latent",
        sigma=float(ewald.attribute("sigma")),
        dl=float(ewald.attribute("dl")),
        remove_self_interaction=bool(ewald.attribute("remove_self_interaction")),
        prefactor=float(ewald.attribute("norm_factor")),
        **readouts,
    )


def _states(root: Record) -> tuple[StateInput, ...]:
    """Inputs of the embedding of charge and spin, in the order of the file."""
    if not _has_module(root, "joint_embedding"):
        return ()
    specs = root.attribute("embedding_specs")
    if not isinstance(specs, dict):
        raise UnsupportedInputError("`embedding_specs` of the checkpoint must be a table")
    inputs = []
    for name, spec in specs.items():
        kind, per = spec.get("type"), spec.get("per")
        if name not in _STATES or per != "graph" or kind not in ("categorical", "continuous"):
            raise UnsupportedInputError(
                f"the embedded feature {name!r} ({kind} per {per}) is not supported; "
                f"those that are: {', '.join(_STATES)} per graph"
            )
        if kind == "continuous" and spec.get("in_dim", 1) != 1:
            raise UnsupportedInputError(f"the embedded feature {name!r} must be one number")
        inputs.append(
            StateInput(
                name=_STATES[name],  # pyright: ignore[reportArgumentType]
                kind=kind,
                size=int(spec["emb_dim"]),
                n_classes=int(spec.get("num_classes", 0)) if kind == "categorical" else 0,
                offset=int(spec.get("offset", 0)),
                has_bias=bool(spec.get("use_bias", True)),
            )
        )
    return tuple(inputs)


def _state_ranges(states: tuple[StateInput, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Charges and multiplicities that the embedding has a place for."""
    ranges = {"total_charge": (0, 0), "spin_multiplicity": (1, 1)}
    for state, unlimited in zip(_STATES.values(), _UNLIMITED, strict=True):
        for found in (item for item in states if item.name == state):
            low, high = -found.offset, found.n_classes - 1 - found.offset
            ranges[state] = (low, high) if found.kind == "categorical" else unlimited
    low, high = ranges["spin_multiplicity"]
    return ranges["total_charge"], (max(low, 1), high)
