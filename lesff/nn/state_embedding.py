"""Embedding of total charge and spin: element-conditioned, bias-free, zero for neutral singlets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesff.ops import segment_sum

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
        states = torch.stack([charge.clamp(min=0), (-charge).clamp(min=0), unpaired], dim=1)
        weight = functional.softplus(self.affinity)[element]
        total = segment_sum(weight, batch, len(total_charge))
        share = weight * (states / total)[batch]  # (n_nodes, k)
        return torch.einsum("nk,nkc->nc", share, self.table[element])
