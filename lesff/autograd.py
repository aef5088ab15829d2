"""Strain and gradients: the only place where autograd is called for physics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from lesff.errors import PropertyError


@contextmanager
def plain_arithmetic(device: torch.device | str = "cpu") -> Iterator[None]:
    """Computing as if no mode of PyTorch were set by the caller.

    ``torch.inference_mode`` would leave derivatives without a graph, ``torch.autocast`` would
    round to 16 bits, and a default device would mix devices. Whether gradients are recorded stays
    as it was, except that they are outside inference mode.

    Args:
        device: Where the computation takes place.
    """
    kinds = {torch.device(device).type, "cpu"}
    has_mode = torch.is_inference_mode_enabled() or torch.get_default_device().type != "cpu"
    if not has_mode and not any(_casts(kind) for kind in kinds):
        yield
        return
    with ExitStack() as stack:
        # each is entered only where it is needed: they are not free
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        for kind in filter(_casts, kinds):
            stack.enter_context(torch.autocast(kind, enabled=False))
        # tensors that name no device are made on the host
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _casts(kind: str) -> bool:
    """Whether autocast is on for a kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def gradients(
    output: Tensor, inputs: list[Tensor], *, create_graph: bool, keep_graph: bool = False
) -> list[Tensor]:
    """d(sum of output)/d(inputs), zeros where the output does not depend on an input.

    Raises:
        PropertyError: if there can be no graph, because an input records no gradients.
    """
    if not all(x.requires_grad for x in inputs):
        raise PropertyError(
            "derivatives need arguments that record gradients; compute them outside "
            "torch.no_grad() and torch.inference_mode()"
        )
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


def recomputed(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor | None) -> Any:
    """``function(*inputs)``, evaluated again in backward passes instead of keeping its tables.

    Differentiable any number of times. :func:`torch.utils.checkpoint.checkpoint` does the same and
    imports torch._dynamo, 1.8 s of CPU.

    Args:
        function: Gives tensors that all depend on inputs, and differentiably.
        inputs: What it is differentiated by, and None; anything else is bound to the function.
    """
    return _Recomputed.apply(function, *inputs)


class _Recomputed(torch.autograd.Function):
    """Keeps inputs only."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_recorded, need = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        with torch.enable_grad():
            # a graph of its own: new views, or new leaves if nobody differentiates further
            inputs = [
                x if x is None or not needed else x.view_as(x) if is_recorded
                else x.detach().requires_grad_()
                for x, needed in zip(ctx.saved_tensors, need, strict=True)
            ]  # fmt: skip
            outputs = ctx.function(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            wanted = [x for x, needed in zip(inputs, need, strict=True) if needed and x is not None]
            found = iter(
                torch.autograd.grad(
                    outputs, wanted, list(grads), create_graph=is_recorded, allow_unused=True
                )
            )
        return (None, *(next(found) if needed else None for needed in need))


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
