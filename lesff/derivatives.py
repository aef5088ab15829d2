"""Strain and gradients: the only place where autograd is called for physics."""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.graph import AtomGraph


def strained(graph: AtomGraph, strain: Tensor) -> AtomGraph:
    """Apply ``r -> r (1 + eps)`` and ``h -> h (1 + eps)`` with the symmetric part of ``strain``.

    Args:
        graph: The batch.
        strain: (n_systems, 3, 3), dimensionless.
    """
    eps = 0.5 * (strain + strain.transpose(1, 2))
    moved = torch.einsum("ni,nij->nj", graph.positions, eps[graph.batch])
    cell = graph.cell + torch.bmm(graph.cell, eps)
    return graph.replace(positions=graph.positions + moved, cell=cell)


def gradients(
    output: Tensor, inputs: list[Tensor], *, create_graph: bool, keep_graph: bool = False
) -> list[Tensor]:
    """d(sum of output)/d(inputs), zeros where the output does not depend on an input."""
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(
        output.sum(),
        inputs,
        create_graph=create_graph,
        retain_graph=create_graph or keep_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]


def jacobian_rows(vector: Tensor, positions: Tensor) -> Tensor:
    """``J[a, i, j] = d vector_i / d positions_aj`` with ``vector`` summed over systems.

    Args:
        vector: (n_systems, 3); each system depends on its own atoms only.
        positions: (n_atoms, 3).
    """
    rows = [
        gradients(vector[:, i], [positions], create_graph=False, keep_graph=True)[0]
        for i in range(vector.shape[1])
    ]
    return torch.stack(rows, dim=1)
