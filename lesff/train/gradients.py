"""Parameter gradients of a loss on energies, forces and dipoles.

Two ways, tested against each other:

* ``"double_backward"``: autograd through the forces. Exact; slower and memory hungry.
* ``"central_difference"``: with ``v = dL/dF`` the force part of the gradient is the derivative
  along ``v`` of first-order gradients,
  ``dL/dtheta = -[g(r + h v) - g(r - h v)] / 2h + O(h^2)``, ``g = dE/dtheta``
  (Pearlmutter's product by differences, Neural Computation 6, 147 (1994)). Needs first-order
  backward only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from lesff.derivatives import gradients, strained
from lesff.electrostatics.observables import dipole_moment, moment_origin, neutralised
from lesff.errors import ConfigError
from lesff.graph import AtomGraph, collate
from lesff.ops import segment_sum
from lesff.potential import Potential
from lesff.train.data import LabelledBatch
from lesff.train.loss import LossConfig, Prediction, loss_value

GradientMethod = Literal["central_difference", "double_backward"]
_STEP = 1e-2
"""Largest displacement of an atom in A: error h^2 against rounding of float32 differences."""


def accumulate_gradients(
    potential: Potential, batch: LabelledBatch, config: LossConfig, method: GradientMethod
) -> float:
    """Add dL/dtheta to ``.grad`` of the parameters; return L.

    Raises:
        ConfigError: if the method or the model cannot give the gradient of a loss term.
    """
    terms = ("dipole", "charges", "born_effective_charges", "total_charge")
    asked = [f"`loss.{name}`" for name in terms if getattr(config, name)]
    if potential.charge_head is None and asked:
        raise ConfigError(f"{' and '.join(asked)} must be 0 for a model without `long_range`")
    if method == "double_backward":
        return _double_backward(potential, batch, config)
    for name in ("stress", "born_effective_charges"):
        if getattr(config, name):
            raise ConfigError(
                f"`gradients` must be 'double_backward' for a loss on {name}, "
                "got 'central_difference'"
            )
    return _central_difference(potential, batch, config)


def _outputs(
    potential: Potential, graph: AtomGraph, config: LossConfig, origin: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Energy of every system and what else the loss needs of :class:`Prediction`, with graph."""
    terms = potential.energy_terms(graph)
    extras: dict[str, Tensor] = {}
    if terms.charges is not None and terms.local_charges is not None:
        charges = neutralised(terms.charges, graph)
        if config.charges:
            extras["charges"] = charges
        if config.dipole or config.born_effective_charges:
            extras["dipole"] = dipole_moment(charges, graph, origin, terms.dipoles)
        if config.total_charge:
            total = segment_sum(terms.local_charges, graph.batch, graph.n_systems)
            extras["charge_excess"] = total - graph.total_charge
    return terms.energy_sr + terms.energy_lr, extras


def _double_backward(potential: Potential, batch: LabelledBatch, config: LossConfig) -> float:
    graph = batch.graph
    positions = graph.positions.detach().requires_grad_()
    moved = graph.replace(positions=positions)
    inputs, stress = [positions], None
    if config.stress:
        strain = torch.zeros_like(graph.cell).requires_grad_()
        moved = strained(moved, strain)
        inputs.append(strain)
    origin = moment_origin(graph)
    energy, extras = _outputs(potential, moved, config, origin)
    grads = gradients(energy, inputs, create_graph=True)
    if config.stress:
        volume = torch.linalg.det(graph.cell).abs()
        # open systems have no stress label; their volume only must not be zero
        stress = grads[1] / torch.where(volume > 0, volume, 1.0)[:, None, None]
    if config.born_effective_charges:
        extras["born_effective_charges"] = _born_charges(extras["dipole"], positions, batch)
    loss = loss_value(Prediction(energy, -grads[0], stress=stress, **extras), batch, origin, config)
    loss.backward()
    return float(loss.detach())


def _born_charges(dipole: Tensor, positions: Tensor, batch: LabelledBatch) -> Tensor:
    """(n_atoms, 3, 3) derivatives of the dipoles of open systems, with graph."""
    labelled = ~batch.born_effective_charges.isnan().any(2).any(1)
    if bool((labelled & batch.graph.pbc[batch.graph.batch].any(1)).any()):
        raise ConfigError(
            "`loss.born_effective_charges` must be 0 for periodic frames with such labels: only "
            "those of molecules can be trained"
        )
    rows = [gradients(dipole[:, i], [positions], create_graph=True)[0] for i in range(3)]
    return torch.stack(rows, dim=1)


def _central_difference(potential: Potential, batch: LabelledBatch, config: LossConfig) -> float:
    graph = batch.graph
    origin = moment_origin(graph)
    with _frozen(potential):
        positions = graph.positions.detach().requires_grad_()
        energy, extras = _outputs(potential, graph.replace(positions=positions), config, origin)
        (grad,) = gradients(energy, [positions], create_graph=False)

    # derivatives of the loss with respect to the predictions
    leaves = [x.detach().requires_grad_() for x in (energy, -grad)]
    extras = {name: value.detach().requires_grad_() for name, value in extras.items()}
    loss = loss_value(Prediction(leaves[0], leaves[1], **extras), batch, origin, config)
    d_energy, v, *d_extras = torch.autograd.grad(loss, [*leaves, *extras.values()])

    # one pass over both displaced copies of the batch
    largest = graph.positions.new_zeros(graph.n_systems)
    largest = largest.scatter_reduce(0, graph.batch, v.norm(dim=1), "amax")
    step = _STEP / largest.clamp(min=1e-12)
    shift = step[graph.batch, None] * v
    both = collate(
        [graph.replace(positions=graph.positions + sign * shift) for sign in (1.0, -1.0)]
    )
    energy, moved = _outputs(potential, both, config, torch.cat([origin, origin]))
    slope = (0.5 / step).to(energy.dtype)
    factor = torch.cat([0.5 * d_energy - slope, 0.5 * d_energy + slope])
    surrogate = (factor * energy).sum()
    for name, d_value in zip(extras, d_extras, strict=True):
        surrogate = surrogate + 0.5 * (torch.cat([d_value, d_value]) * moved[name]).sum()
    surrogate.backward()
    return float(loss.detach())


@contextmanager
def _frozen(potential: Potential) -> Iterator[None]:
    """No parameter gradients inside: the blocks then skip them."""
    trainable = [p for p in potential.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
