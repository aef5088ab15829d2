"""Backward passes of compiled kernels that must be differentiable themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def recorded_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    need: Sequence[bool],
    grads: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of a plain, differentiable form of a compiled function, with graph.

    Args:
        function: Maps the inputs to what the compiled function gives.
        inputs: Saved inputs of the compiled function.
        need: Which of them need a gradient.
        grads: Gradients of the outputs.
    """
    # one input may be computed from another: new views separate them, and keep their history
    inputs = [x.view_as(x) for x in inputs]
    outputs = function(*inputs)
    # vector-Jacobian product of all outputs at once, with a graph of its own
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [x for x, is_needed in zip(inputs, need, strict=True) if is_needed]
    found = iter(
        torch.autograd.grad(outputs, wanted, list(grads), create_graph=True, allow_unused=True)
    )
    # None in the places of inputs that need no gradient
    return tuple(next(found) if is_needed else None for is_needed in need)
