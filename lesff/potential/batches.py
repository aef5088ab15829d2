"""Running a potential: batches, checks of the trained domain, numpy results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from lesff.atoms.graph import AtomGraph
from lesff.errors import PropertyError
from lesff.potential.potential import Potential
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
