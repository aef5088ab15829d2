"""Strain and gradients: the only place where autograd is called for physics."""

from __future__ import annotations

import torch
from torch import Tensor


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
        vector: (n_systems, m); each system depends on its own atoms only.
        positions: (n_atoms, 3).
    """
    rows = [
        gradients(vector[:, i], [positions], create_graph=False, keep_graph=True)[0]
        for i in range(vector.shape[1])
    ]
    return torch.stack(rows, dim=1)


def system_jacobian(
    vector: Tensor, argument: Tensor, *, create_graph: bool = False
) -> Tensor | None:
    """``J[s, i, j] = d vector_si / d argument_sj``, or None if no element depends on ``argument``.

    Args:
        vector: (n_systems, m); each system depends on its own row of ``argument`` only.
        argument: (n_systems, 3), with a gradient.
        create_graph: Keep the graph for further derivatives.
    """
    if not vector.requires_grad:
        return None
    found = [
        torch.autograd.grad(
            vector[:, i].sum(),
            argument,
            create_graph=create_graph,
            retain_graph=True,
            allow_unused=True,
        )[0]
        for i in range(vector.shape[1])
    ]
    if all(row is None for row in found):
        return None
    return torch.stack([torch.zeros_like(argument) if r is None else r for r in found], dim=1)
