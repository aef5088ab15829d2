"""Running a potential: batches, checks of the trained domain, numpy results."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols

from lesff.atoms.graph import AtomGraph
from lesff.atoms.structure import Structure
from lesff.errors import CaveatWarning, ExtrapolationWarning, PropertyError, UnsupportedInputError
from lesff.potential.potential import ModelConfig, Potential
from lesff.potential.response import BornOptions
from lesff.quantities import QUANTITIES

_AUTO_ATOMS = 2000
"""Atoms per batch with ``batch_size="auto"``: a few hundred MB at 100 neighbours per atom."""


def predict_graph(
    potential: Potential,
    graph: AtomGraph,
    properties: Sequence[str],
    born: BornOptions | None = None,
) -> list[dict[str, Any]]:
    """Properties of each system of a graph, as numpy arrays; the domain is not checked.

    Args:
        potential: The model.
        graph: The batch, any dtype and device.
        properties: Names from :data:`lesff.quantities.QUANTITIES`.
        born: How Born effective charges are computed.
    """
    graph = graph.to(dtype=potential.dtype, device=potential.device)
    out = potential(graph, properties, born=born)
    counts = graph.atoms_per_system().tolist()
    rows: list[dict[str, Any]] = [{} for _ in counts]
    for name, value in out.items():
        parts = torch.split(value, counts) if QUANTITIES[name].level == "atom" else value
        for row, part in zip(rows, parts, strict=True):
            row[name] = part.cpu().numpy()
    return rows


def check_domain(config: ModelConfig, structures: Sequence[Structure], *, strict: bool) -> None:
    """Refuse what the model does not cover.

    Raises:
        UnsupportedInputError: for an element the model does not know; with ``strict`` also for a
            charge or spin outside the trained range (a warning otherwise), and for any charge or
            spin if the model has no input for them.
    """
    known = np.array(config.elements)
    ranges = {"total_charge": config.total_charge, "spin_multiplicity": config.spin_multiplicity}
    for index, structure in enumerate(structures):
        unknown = sorted(set(structure.numbers.tolist()) - set(known.tolist()))
        if unknown:
            raise UnsupportedInputError(
                f"structure {index} has element(s) {symbols(unknown)}, but the model covers "
                f"{symbols(config.elements)} only"
            )
        for name, (low, high) in ranges.items():
            value = getattr(structure, name)
            if low <= value <= high:
                continue
            text = (
                f"structure {index} has {name} {value}, but the model was trained on {low}..{high}"
            )
            if strict:
                raise UnsupportedInputError(text)
            warnings.warn(
                f"{text}; the result is an extrapolation", ExtrapolationWarning, stacklevel=3
            )


def check_caveats(
    model: str, caveats: Mapping[str, str], properties: Sequence[str], *, strict: bool
) -> None:
    """Warn of quantities that a model gives but that are not to be trusted.

    Raises:
        UnsupportedInputError: instead, with ``strict``.
    """
    for name in properties:
        if name not in caveats:
            continue
        text = f"{name} of {model} is not to be trusted: {caveats[name]}"
        if strict:
            raise UnsupportedInputError(text)
        warnings.warn(text, CaveatWarning, stacklevel=3)


def symbols(numbers: Sequence[int]) -> str:
    """Chemical symbols of atomic numbers, as text."""
    return " ".join(chemical_symbols[z] for z in numbers)


def plan_batches(sizes: np.ndarray, batch_size: int | Literal["auto"]) -> list[np.ndarray]:
    """Indices of structures batch by batch, similar sizes together, largest first.

    Args:
        sizes: (n_structures,) atoms of each structure.
        batch_size: Structures per batch, or ``"auto"``.

    Raises:
        PropertyError: if ``batch_size`` is neither positive nor ``"auto"``.
    """
    order = np.argsort(-sizes, kind="stable")
    if batch_size != "auto":
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise PropertyError(f"`batch_size` must be 'auto' or at least 1, got {batch_size!r}")
        n_batches = math.ceil(len(order) / batch_size)
        return [order[i * batch_size : (i + 1) * batch_size] for i in range(n_batches)]
    batches, start = [], 0
    while start < len(order):
        count = max(1, _AUTO_ATOMS // int(sizes[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches
