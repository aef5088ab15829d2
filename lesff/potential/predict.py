"""Running a potential on a batch: results of each system as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lesff.atoms.graph import AtomGraph
from lesff.autograd import plain_arithmetic
from lesff.potential.potential import Potential
from lesff.potential.response import BornOptions
from lesff.quantities import QUANTITIES


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
    with plain_arithmetic(potential.device):
        graph = graph.to(dtype=potential.dtype, device=potential.device)
        out = potential(graph, properties, born=born)
    counts = graph.atoms_per_system().tolist()
    rows: list[dict[str, Any]] = [{} for _ in counts]
    for name, value in out.items():
        parts = torch.split(value, counts) if QUANTITIES[name].level == "atom" else value
        for row, part in zip(rows, parts, strict=True):
            row[name] = part.cpu().numpy()
    return rows
