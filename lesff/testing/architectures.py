"""The contract of a short-range model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ase
import torch
from torch import Tensor

from lesff.architectures import ARCHITECTURES
from lesff.architectures.base import Architecture, ArchitectureOutput
from lesff.architectures.registry import check_config_type
from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError
from lesff.nn.coupling import lm_slice
from lesff.nn.harmonics import solid_harmonics
from lesff.potential.potential import Potential
from lesff.potential.verify import check_structures
from lesff.testing.contract import Contract, Finding
from lesff.testing.potentials import (
    chains,
    check_potential,
    graph_of,
    model_config,
    random_potential,
    random_rotation,
    three_atoms,
    turned,
)

_NAME = "contract"
"""``architecture.type`` of what is checked, while it is."""


def check_architecture(
    config_type: type,
    module_type: Callable[[Any, tuple[int, ...]], Architecture],
    options: Mapping[str, Any] | None = None,
    *,
    elements: tuple[int, ...] = (1, 8),
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Check a short-range model.

    Args:
        config_type: Frozen dataclass of its hyper-parameters, plain data.
        module_type: Makes the module from such a configuration and the elements.
        options: Hyper-parameters without default, and others as wanted; small sizes suffice.
        elements: Atomic numbers, ascending, at least one.
        seed: Of the random weights.

    Returns:
        What was found, for a look at how close to the tolerances it is.

    Raises:
        ContractError: for the first of :data:`lesff.testing.PROMISES` that does not hold.
    """
    contract = Contract(getattr(module_type, "__name__", "the architecture"))
    config = {"type": _NAME, **(options or {})}

    def build(seed: int) -> Potential:
        return random_potential(model_config(config, elements, None), seed)

    try:
        check_config_type(config_type)
    except ConfigError as error:
        contract.fail("configuration", str(error))
    with _registered((config_type, module_type)):
        potential = build(seed)
        _check_configuration(contract, potential)
        structures = check_structures(potential)
        _check_output(contract, potential.architecture, structures["molecule"])
        _check_receptive_field(contract, potential)
        _check_long_edges(contract, potential)
        check_potential(contract, potential, build, structures)
    return tuple(contract.findings)


@contextmanager
def _registered(row: tuple[type, Callable[..., Architecture]]) -> Iterator[None]:
    """The architecture under a name of its own, for as long as it is checked."""
    ARCHITECTURES[_NAME] = row
    try:
        yield
    finally:
        del ARCHITECTURES[_NAME]


def _check_configuration(contract: Contract, potential: Potential) -> None:
    """``config.json`` is what a saved model is read from."""
    config = potential.config.architecture_config()
    data = potential.config.to_dict()["architecture"]
    again = replace(potential.config, architecture=data).architecture_config()
    if again != config:
        contract.fail("configuration", f"{data} must be read as {config}, got {again}")


def _check_output(contract: Contract, architecture: Architecture, atoms: ase.Atoms) -> None:
    """Shapes, equivariant features and the node state."""
    graph = build_graph(to_structure(atoms), architecture.cutoff)
    n_orders = len(architecture.equivariant_layers)
    out = architecture(graph, None, max_order=n_orders)
    _check_shapes(contract, architecture, out, graph.n_atoms)

    for sign in (1.0, -1.0):
        matrix = random_rotation(6, sign)
        other = build_graph(to_structure(turned(atoms, matrix)), architecture.cutoff)
        after = architecture(other, None, max_order=n_orders)
        for l, layers in enumerate(out.equivariants, start=1):
            wigner = _wigner(l, matrix)
            got = {f"order {l}": torch.stack(after.equivariants[l - 1])}
            # [layer k, atom a, component n, channel c]
            expected = torch.einsum("mn,kanc->kamc", wigner, torch.stack(layers))
            contract.same("equivariant features", "molecule", got, {f"order {l}": expected})

    zeros = graph.positions.new_zeros(graph.n_atoms, architecture.channels)
    silent = architecture(graph, zeros).node_energy
    plain = {"node_energy": out.node_energy}
    contract.same("node state", "molecule", {"node_energy": silent}, plain)
    noise = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(8)).double()
    change = architecture(graph, noise).node_energy - out.node_energy
    contract.require_effect("node state", "node_energy", float(change.abs().max()))


def _check_shapes(
    contract: Contract, architecture: Architecture, out: ArchitectureOutput, n_atoms: int
) -> None:
    orders, channels = architecture.equivariant_layers, architecture.channels
    above = architecture.equivariant_channels or (channels,) * len(orders)
    counts = {
        "layers of invariants": (len(out.invariants), architecture.n_layers),
        "orders of equivariants": (len(out.equivariants), len(orders)),
    }
    for l, layers in enumerate(out.equivariants[: len(orders)], start=1):
        counts[f"layers of order {l}"] = len(layers), orders[l - 1]
    for what, (got, expected) in counts.items():
        if got != expected:
            contract.fail("shapes and types", f"{what} must be {expected}, got {got}")
    features = architecture.last_layer_features(out.invariants)
    shapes = {
        "node_energy": (out.node_energy, (n_atoms,)),
        "last_layer_features": (features, (n_atoms, architecture.n_features)),
    }
    for k, x in enumerate(out.invariants):
        shapes[f"invariants[{k}]"] = x, (n_atoms, channels)
    for l, layers in enumerate(out.equivariants, start=1):
        for k, x in enumerate(layers):
            shapes[f"equivariants[{l - 1}][{k}]"] = x, (n_atoms, 2 * l + 1, above[l - 1])
    for what, (value, shape) in shapes.items():
        contract.require_tensor("shapes and types", what, value, shape, torch.float64)


def _wigner(l: int, matrix: Tensor) -> Tensor:
    """``Y(R x) = D Y(x)`` solved for D, (2 l + 1, 2 l + 1)."""
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    before, after = (solid_harmonics(x, l)[:, lm_slice(l)] for x in (points, points @ matrix.T))
    return torch.linalg.lstsq(before, after).solution.T


def _check_receptive_field(contract: Contract, potential: Potential) -> None:
    """An atom sees so many edges far, at given potentials of charges that layers pass on."""
    architecture = potential.architecture
    before, after = (
        {"node_energy": _at_potentials(architecture, graph_of(potential, atoms)).node_energy[:1]}
        for atoms in chains(potential, architecture.n_layers)
    )
    contract.same("receptive field", "chain of atoms", after, before)


def _at_potentials(architecture: Architecture, graph: AtomGraph) -> ArchitectureOutput:
    """Output at potentials of 0.1 e, or as it is for an architecture without."""
    if not architecture.n_potentials:
        return architecture(graph, None)
    given = torch.full_like(graph.positions[: graph.n_systems, :1], 0.1)
    return architecture(graph, None, potentials=given.expand(-1, architecture.n_potentials))  # pyright: ignore[reportCallIssue]


def _check_long_edges(contract: Contract, potential: Potential) -> None:
    architecture = potential.architecture
    atoms = three_atoms(potential, 0.1 * architecture.cutoff)
    short = {"node_energy": architecture(graph_of(potential, atoms), None).node_energy}
    graph = build_graph(to_structure(atoms), 1.2 * architecture.cutoff)
    topology = architecture.topology(graph)
    long = {"node_energy": architecture(graph, None, topology=topology).node_energy}
    contract.same("edges beyond the cutoff", "three atoms", long, short)
