"""Nequix files -> configuration and weights.

A file has no names for its arrays: they stand in the order of the model's tree, which the
configuration in front of them fixes. Every array is used, with the shape that the configuration
says, or conversion fails. The energies, forces and stresses of the published model confirm order
and normalisation (tests/test_convert_nequix.py).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from lesff.architectures.nequip.config import NequIPConfig
from lesff.convert.ledger import Tensors
from lesff.convert.nequix.options import NequixOptions
from lesff.convert.nequix.reader import NqxFile
from lesff.errors import UnsupportedInputError
from lesff.nn.coupling import convolution_paths
from lesff.nn.grouped_convolution import channel_groups
from lesff.potential.config import DTYPES, ModelConfig
from lesff.potential.potential import Potential

State = dict[str, Tensor]


def convert_nequix(file: NqxFile, *, provenance: dict[str, str] | None = None) -> Potential:
    """Rebuild a Nequix model as a :class:`Potential`, weights and constants from the file.

    Args:
        file: From :func:`lesff.convert.nequix.reader.read_nqx`.
        provenance: Level of theory, training data and software to write into the configuration
            (keys ``level_of_theory``, ``training_data``, ``source``).

    Raises:
        UnsupportedInputError: naming what this version cannot represent.
    """
    options = NequixOptions.of(file.config)
    architecture, n_elements = options.architecture, len(options.elements)
    tensors = Tensors(_named(file.arrays, _shapes(architecture, n_elements)))
    reference = tensors.take("atom_energies").double() + options.shift
    state = {"architecture.readouts.layers.0.weight": tensors.take(_READOUT)}
    for index in range(architecture.n_layers):
        channels = architecture.hidden_channels if index else (n_elements,)
        state |= _layer(tensors, architecture, channels, index)
    dtype = state["architecture.readouts.layers.0.weight"].dtype
    tensors.finish()
    facts = provenance or {}
    config = ModelConfig(
        architecture={"type": "nequip", **asdict(architecture)},
        elements=options.elements,
        reference_energies=tuple(reference.tolist()),
        energy_scale=options.scale,
        dtype="float64" if dtype == torch.float64 else "float32",
        energy_reference="total energy of the published model",
        level_of_theory=facts.get("level_of_theory", "see the publication of the model"),
        training_data=facts.get("training_data", "see the publication of the model"),
        software={"source": facts.get("source", "nequix")},
    )
    potential = Potential(config)
    potential.cast_parameters(DTYPES[config.dtype])
    potential.load_state_dict(state)
    return potential.requires_grad_(requires_grad=False).eval()


_READOUT = "readout.0"


def _shapes(config: NequIPConfig, n_elements: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of the arrays of a file in their order."""
    hidden, sizes = config.hidden_channels, (config.n_radial, *config.radial_mlp)
    shapes: dict[str, tuple[int, ...]] = {"atom_energies": (n_elements,)}
    for index in range(config.n_layers):
        channels = hidden if index else (n_elements,)
        outputs = hidden[:1] if index == config.n_layers - 1 else hidden
        # one more scalar for each channel above is its gate
        gated = (sum(outputs), *outputs[1:])
        paths = convolution_paths(len(channels) - 1, config.max_ell, len(outputs) - 1)
        messages = [
            sum(channels[path.l1] for path in paths if path.l3 == order)
            for order in range(len(outputs))
        ]
        widths = zip(sizes, (*sizes[1:], sum(messages)), strict=True)
        parts: dict[str, list[tuple[int, ...]]] = {
            "radial": list(widths),
            "linear_1": [(n, n) for n in channels],
            "linear_2": list(zip(messages, gated, strict=True)),
            "skip": list(zip(channels, gated, strict=False)),
            "norm": [(n,) for n in gated] if config.layer_norm else [],
        }
        for part, rows in parts.items():
            shapes |= {f"layers.{index}.{part}.{k}": shape for k, shape in enumerate(rows)}
    return shapes | {_READOUT: (hidden[0], 1)}


def _named(arrays: tuple[Tensor, ...], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    if len(arrays) < len(shapes):
        raise UnsupportedInputError(f"the file lacks the array {list(shapes)[len(arrays)]}")
    if len(arrays) > len(shapes):
        found = ", ".join(str(tuple(x.shape)) for x in arrays[len(shapes) :][:4])
        raise UnsupportedInputError(
            f"the file has {len(arrays) - len(shapes)} arrays beyond those of a Nequix model of "
            f"its configuration, of shapes {found}"
        )
    for array, (name, shape) in zip(arrays, shapes.items(), strict=True):
        if tuple(array.shape) != shape:
            raise UnsupportedInputError(
                f"the array {name} must have shape {shape}, got {tuple(array.shape)}"
            )
    kinds = {x.dtype for x in arrays}
    if len(kinds) != 1:
        raise UnsupportedInputError(f"all arrays must have one type, got {sorted(map(str, kinds))}")
    return dict(zip(shapes, arrays, strict=True))


def _layer(tensors: Tensors, config: NequIPConfig, channels: tuple[int, ...], index: int) -> State:
    """Arrays of one layer; weights of messages from (path, channel) to (group, path, channel)."""
    source, target = f"layers.{index}", f"architecture.layers.{index}"
    n_orders = 1 if index == config.n_layers - 1 else len(config.hidden_channels)
    columns, rows = _places(channels, config.max_ell, n_orders - 1)
    state: State = {}
    depth = len(config.radial_mlp)
    for k in range(depth + 1):
        state[f"{target}.radial.weights.{k}"] = tensors.take(f"{source}.radial.{k}")
    last = f"{target}.radial.weights.{depth}"
    state[last] = state[last][:, columns]
    for order in range(len(channels)):
        state[f"{target}.linear_up.weights.{order}"] = tensors.take(f"{source}.linear_1.{order}")
    for order in range(n_orders):
        mixed = tensors.take(f"{source}.linear_2.{order}")
        state[f"{target}.linear.weights.{order}"] = mixed[rows[order]]
        if config.layer_norm:
            state[f"{target}.norm.weights.{order}"] = tensors.take(f"{source}.norm.{order}")
    for order in range(min(n_orders, len(channels))):
        own = tensors.take(f"{source}.skip.{order}")
        state[f"{target}.self_connection.weights.{order}"] = own
    return state


def _places(
    channels: tuple[int, ...], max_ell: int, message_l: int
) -> tuple[list[int], list[list[int]]]:
    """Where the file has what :class:`GroupedConvolution` has in its own order.

    Returns:
        Columns of the radial weights, and rows of the messages by order.
    """
    # the file: path by path, each with the channels of its sender order
    start, total = {}, 0
    for path in convolution_paths(len(channels) - 1, max_ell, message_l):
        start[path] = total
        total += channels[path.l1]
    ours = [
        (path.l3, start[path] + channel)
        for group in channel_groups(channels)
        for path in convolution_paths(group.feature_l, max_ell, message_l)
        for channel in range(group.start, group.stop)
    ]
    columns = [place for _, place in ours]
    rows = []
    for order in range(message_l + 1):
        own = [place for l3, place in ours if l3 == order]
        rows.append([place - min(own) for place in own])
    return columns, rows
