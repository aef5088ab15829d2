"""Embeddings of total charge and spin: ours, and the one of published MACE models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.atoms.segments import segment_sum
from lesff.errors import ConfigError, UnsupportedInputError

_N_STATES = 3


class StateEmbedding(nn.Module):
    """``e_i = sum_k u_k w_ik T[z_i, k]`` with ``u = (max(Q, 0), max(-Q, 0), 2S)``.

    ``w_ik = softplus(a[z_i, k]) / sum_j softplus(a[z_j, k])`` shares each state out over the atoms
    of its system, so the total perturbation does not grow with the number of atoms. The weights
    are normalised over the whole system: a model with a charge on one of two distant fragments
    is therefore not size consistent. After SpookyNet (arXiv 2105.00304, eq. 10); bias-free, so
    that Q = 0, S = 0 adds exactly zero. ``T`` starts at zero.

    Args:
        n_elements: Rows of the element tables.
        channels: Channels of the node features.
    """

    def __init__(self, *, n_elements: int, channels: int) -> None:
        super().__init__()
        self.affinity = nn.Parameter(torch.zeros(n_elements, _N_STATES))
        self.table = nn.Parameter(torch.zeros(n_elements, _N_STATES, channels))

    def forward(
        self, element: Tensor, batch: Tensor, total_charge: Tensor, spin_multiplicity: Tensor
    ) -> Tensor:
        """Feature increment of every node, (n_nodes, channels).

        Args:
            element: (n_nodes,) element table rows.
            batch: (n_nodes,) system of each node.
            total_charge: (n_systems,) in e.
            spin_multiplicity: (n_systems,) 2S + 1.
        """
        charge = total_charge.to(self.table.dtype)
        unpaired = (spin_multiplicity - 1).to(self.table.dtype)
        # u[s, k]: electrons missing, electrons in excess, unpaired electrons; never negative
        states = torch.stack([charge.clamp(min=0), (-charge).clamp(min=0), unpaired], dim=1)
        # w[n, k] / total[s, k]: shares of an atom in each state of its system s, sum one
        weight = functional.softplus(self.affinity)[element]
        total = segment_sum(weight, batch, len(total_charge))
        share = weight * (states / total)[batch]  # (n_nodes, k)
        # e[n, c] = sum_k share[n, k] T[z_n, k, c]
        return torch.einsum("nk,nkc->nc", share, self.table[element])


@dataclass(frozen=True, kw_only=True)
class StateInput:
    """One input of a :class:`JointEmbedding`.

    Attributes:
        name: Which state of a system it reads: its charge in e, or 2S + 1.
        kind: ``"categorical"``: a table row per value; ``"continuous"``: a small network.
        size: Width of its embedding.
        n_classes: Rows of the table.
        offset: Table row of the value zero.
        has_bias: Whether the small network has biases.
    """

    name: Literal["total_charge", "spin_multiplicity"]
    kind: Literal["categorical", "continuous"] = "categorical"
    size: int
    n_classes: int = 0
    offset: int = 0
    has_bias: bool = True

    def __post_init__(self) -> None:
        """Check sizes; raises ConfigError."""
        if not 0 < self.size <= 4096 or not 0 <= self.n_classes <= 4096:
            raise ConfigError(
                f"`size` of {self.name} must be 1..4096 and `n_classes` 0..4096, "
                f"got {self.size} and {self.n_classes}"
            )


class JointEmbedding(nn.Module):
    """``silu(W [e_1(Q), e_2(2S+1), ...])``, the same for all atoms of a system.

    The embedding of MACE models with charge and spin states (MACE-OMOL, arXiv 2510.25380). Not zero
    for a neutral singlet, and not size consistent.

    Args:
        inputs: What enters, in this order.
        channels: Channels of the node features.
    """

    def __init__(self, *, inputs: tuple[StateInput, ...], channels: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.embedders = nn.ModuleList(_embedder(state) for state in inputs)
        self.project = nn.Linear(sum(state.size for state in inputs), channels, bias=False)

    def forward(self, batch: Tensor, total_charge: Tensor, spin_multiplicity: Tensor) -> Tensor:
        """Feature increment of every node, (n_nodes, channels).

        Args:
            batch: (n_nodes,) system of each node.
            total_charge: (n_systems,) in e.
            spin_multiplicity: (n_systems,) 2S + 1.

        Raises:
            UnsupportedInputError: for a charge or multiplicity beyond the tables.
        """
        values = {"total_charge": total_charge, "spin_multiplicity": spin_multiplicity}
        # one embedding per system and state, side by side: [s, (state, size)]
        parts = [
            self._embed(state, embedder, values[state.name])
            for state, embedder in zip(self.inputs, self.embedders, strict=True)
        ]
        # mixed to [s, c], then handed to all atoms of the system
        return functional.silu(self.project(torch.cat(parts, dim=1)))[batch]

    def _embed(self, state: StateInput, embedder: nn.Module, value: Tensor) -> Tensor:
        if state.kind == "continuous":
            return embedder(value.to(self.project.weight.dtype)[:, None])
        # a table row per value; negative charges start at row 0 through the offset
        row = value.round().to(torch.int64) + state.offset
        if bool(((row < 0) | (row >= state.n_classes)).any()):
            raise UnsupportedInputError(
                f"`{state.name}` must be from {-state.offset} to "
                f"{state.n_classes - 1 - state.offset} for this model, got {value.tolist()}"
            )
        return embedder(row)


def _embedder(state: StateInput) -> nn.Module:
    if state.kind == "categorical":
        return nn.Embedding(state.n_classes, state.size)
    return nn.Sequential(
        nn.Linear(1, state.size, bias=state.has_bias),
        nn.SiLU(),
        nn.Linear(state.size, state.size, bias=state.has_bias),
    )
