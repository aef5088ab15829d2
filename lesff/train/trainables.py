"""What the optimiser moves: parameters of the potential, or low-rank updates of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from lesff.potential.potential import Potential


class Trainables(Protocol):
    """Tensors to optimise, and how they make the weights of the potential."""

    def named(self) -> dict[str, nn.Parameter]:
        """Tensors to optimise, by name."""
        ...

    def write(self) -> None:
        """Put the current values into the potential."""
        ...

    def collect_gradients(self) -> None:
        """Turn gradients of the potential's weights into gradients of the tensors."""
        ...


class DirectTrainables:
    """The parameters of the potential that require gradients, themselves.

    Args:
        potential: The model.
    """

    def __init__(self, potential: Potential) -> None:
        self._named = {n: p for n, p in potential.named_parameters() if p.requires_grad}

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters by name."""
        return self._named

    def write(self) -> None:
        """Nothing to do."""

    def collect_gradients(self) -> None:
        """Zeros where a parameter did not take part."""
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


class LowRankTrainables:
    """Low-rank updates of weight matrices (LoRA, arXiv 2106.09685), merged at all times.

    A weight ``W`` of shape (n_in, ..., n_out) becomes ``W0 + A @ B`` with ``A`` (n_in, ..., rank)
    and ``B`` (..., rank, n_out); in between, one pair per element. ``B`` starts at zero, so the
    model starts unchanged. The potential always holds the sum: nothing has to be merged to save it.

    Args:
        potential: The model.
        adapted: Names of the weights with a low-rank update.
        rank: Rank of the updates.
        seed: Seed of ``A``.
    """

    def __init__(
        self, potential: Potential, adapted: Mapping[str, nn.Parameter], rank: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._base: dict[str, Tensor] = {}
        self._weights = dict(adapted)
        self._factors: dict[str, nn.Parameter] = {}
        self._direct = {
            n: p for n, p in potential.named_parameters() if p.requires_grad and n not in adapted
        }
        for name, weight in adapted.items():
            base = _stacked(weight.detach())
            *lead, n_in, n_out = base.shape
            a = torch.randn(*lead, n_in, rank, generator=generator, dtype=weight.dtype)
            b = torch.zeros(*lead, rank, n_out, dtype=weight.dtype)
            self._base[name] = weight.detach().clone()
            self._factors[f"{name}/a"] = nn.Parameter(a.to(weight.device) * rank**-0.5)
            self._factors[f"{name}/b"] = nn.Parameter(b.to(weight.device))

    def named(self) -> dict[str, nn.Parameter]:
        """Factors, and the parameters that are trained in full."""
        return self._direct | self._factors

    def write(self) -> None:
        """Weights of the potential from the factors."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                a, b = self._factors[f"{name}/a"], self._factors[f"{name}/b"]
                weight.copy_(self._base[name] + _unstacked(a @ b))

    def collect_gradients(self) -> None:
        """Chain rule through ``A @ B``."""
        for parameter in self._direct.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            for name, weight in self._weights.items():
                a, b = self._factors[f"{name}/a"], self._factors[f"{name}/b"]
                grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                slope = _stacked(grad)
                a.grad, b.grad = slope @ b.mT, a.mT @ slope
                weight.grad = None


def _stacked(weight: Tensor) -> Tensor:
    """(n_in, n_elements, n_out) as (n_elements, n_in, n_out); matrices as they are."""
    return weight if weight.ndim == 2 else weight.transpose(0, 1)


def _unstacked(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 2 else weight.transpose(0, 1)
