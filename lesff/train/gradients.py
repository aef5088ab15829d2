"""Parameter gradients of a loss on energies, forces and dipoles.

Two ways, tested against each other:

* ``"double_backward"``: autograd through the forces. Exact; slower and memory hungry.
* ``"central_difference"``: with ``v = dL/dF`` the force part of the gradient is the derivative
  along ``v`` of first-order gradients,
  ``dL/dtheta = -[g(r + h v) - g(r - h v)] / 2h + O(h^2)``, ``g = dE/dtheta``
  (Pearlmutter's product by differences, Neural Computation 6, 147 (1994)); for stresses a strain
  is displaced in the same pass, and Born charges, derivatives of a polarisation, have three passes
  of their own over the frames that have them. Needs first-order backward only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from lesff.atoms.cell import cell_volume
from lesff.atoms.graph import AtomGraph, collate, one_system, strained
from lesff.atoms.segments import segment_sum
from lesff.autograd import gradients
from lesff.electrostatics.moments.field import (
    check_field,
    dipole_field_energy,
    field_energy,
    has_field,
)
from lesff.electrostatics.moments.totals import dipole_moment, moment_origin, neutralised
from lesff.errors import ConfigError
from lesff.potential.energy import EnergyTerms
from lesff.potential.potential import Potential
from lesff.train.batches import LabelledBatch
from lesff.train.loss import BatchPrediction, LossConfig, loss_value

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
    terms = ("dipole", "charges", "born_effective_charges", "total_charge", "charge_transfer")
    asked = [f"`loss.{name}`" for name in terms if getattr(config, name)]
    if potential.charge_head is None and asked:
        raise ConfigError(f"{' and '.join(asked)} must be 0 for a model without `long_range`")
    if config.charge_transfer and potential.reference_charges(batch.graph) is None:
        raise ConfigError(
            "`loss.charge_transfer` must be 0 for a model without `long_range.reference_charges`"
        )
    for name in ("charge_guess", "part_states"):
        if getattr(config, name) and potential.local_state is None:
            raise ConfigError(f"`loss.{name}` must be 0 for a model without `local_state`")
    if method == "double_backward":
        return _double_backward(potential, batch, config)
    return _central_difference(potential, batch, config)


def _outputs(
    potential: Potential,
    graph: AtomGraph,
    config: LossConfig,
    origin: Tensor,
    *,
    dispersion: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Energy of every system and what else the loss needs of :class:`Prediction`, with graph."""
    terms = potential.energy_terms(graph, dispersion=dispersion)
    extras: dict[str, Tensor] = {}
    if terms.charges is not None and terms.local_charges is not None:
        charges = neutralised(terms.charges, graph)
        if config.charges:
            extras["charges"] = charges
        if config.dipole:
            extras["dipole"] = dipole_moment(charges, graph, origin, terms.dipoles)
        if config.total_charge:
            total = segment_sum(terms.local_charges, graph.batch, graph.n_systems)
            extras["charge_excess"] = total - graph.total_charge
        references = potential.reference_charges(graph) if config.charge_transfer else None
        if references is not None:
            extras["charge_transfer"] = terms.local_charges - references
    if config.charge_guess and terms.states is not None:
        extras["charge_guess"] = terms.states.raw
    if config.part_states and terms.states is not None:
        extras["part_states"] = torch.stack([terms.states.charges, terms.states.spins], dim=1)
    energy = terms.energy_sr + terms.energy_lr
    if graph.external_field is not None:
        energy = energy + _field_share(terms, graph)
    return energy, extras


def _field_share(terms: EnergyTerms, graph: AtomGraph) -> Tensor:
    """Share ``-E.P`` of a field in the energies, (n_systems,) in eV: labels in a field hold it."""
    if terms.charges is None:
        raise ConfigError("frames in an external field need a model with charges: leave them out")
    if bool((has_field(graph) & graph.pbc.all(1)).any()):
        raise ConfigError(
            "crystals in an external field have no energy and cannot be trained on: leave them out"
        )
    check_field(graph)
    work = field_energy(neutralised(terms.charges, graph), graph)
    if terms.dipoles is not None:
        work = work + dipole_field_energy(terms.dipoles, graph)
    return segment_sum(work, graph.batch, graph.n_systems)


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
        stress = grads[1] / _volume(graph)
    part = _with_born_charges(batch) if config.born_effective_charges else None
    if part is not None:
        extras["born_effective_charges"] = _born_charges(potential, batch, *part, create_graph=True)
    loss = loss_value(BatchPrediction(energy, -grads[0], stress=stress, **extras), batch, config)
    loss.backward()
    return float(loss.detach())


def _with_born_charges(batch: LabelledBatch) -> tuple[AtomGraph, Tensor] | None:
    """Graph of the systems with Born charges as labels, and their atoms in the batch, if any."""
    graph = batch.graph
    is_known = ~batch.born_effective_charges.isnan().any(2).any(1)
    systems = graph.batch[is_known].unique()
    if not len(systems):
        return None
    rows = torch.nonzero(torch.isin(graph.batch, systems))[:, 0]
    return collate([one_system(graph, i) for i in systems.tolist()]), rows


def _polarization(potential: Potential, graph: AtomGraph) -> Tensor:
    """(n_systems, 3) in e A, whose derivatives are Born charges, with graph."""
    if potential.has_polarization and potential.multipole_head is None:
        return potential.polarization(graph)
    if bool(graph.pbc.any()):
        raise ConfigError(
            "`loss.born_effective_charges` must be 0 for crystals with such labels and this model: "
            "only charges that neighbours transfer, all of them, are trained on them (mat-*, or a "
            "new model with `long_range.head` 'edge', without `residual` and `local_state`)"
        )
    terms = potential.energy_terms(graph, dispersion=False)
    if terms.charges is None:
        raise ConfigError("`loss.born_effective_charges` must be 0 for a model without charges")
    charges = neutralised(terms.charges, graph)
    # about a point that does not move with the atoms
    return dipole_moment(charges, graph, moment_origin(graph).detach(), terms.dipoles)


def _born_charges(
    potential: Potential,
    batch: LabelledBatch,
    graph: AtomGraph,
    rows: Tensor,
    *,
    create_graph: bool,
) -> Tensor:
    """Born charges of the batch, (n_atoms, 3, 3) in e; zero but for the atoms ``rows`` of graph."""
    positions = graph.positions.detach().requires_grad_()
    polarization = _polarization(potential, graph.replace(positions=positions))
    # Z[n, i, j] = dP_i / dr_nj
    columns = [
        gradients(polarization[:, i], [positions], create_graph=create_graph, keep_graph=i < 2)[0]
        for i in range(3)
    ]
    born = torch.stack(columns, dim=1)
    return torch.zeros_like(batch.born_effective_charges).index_copy(0, rows, born)


def _born_surrogate(potential: Potential, graph: AtomGraph, slope: Tensor) -> Tensor:
    """A scalar whose gradient is that of ``sum(slope * Z)``, slope held fixed.

    ``sum_nj slope_nij dP_i / dr_nj`` is the derivative of P_i along row i of the slope: the
    difference of two displaced copies for each of the three.

    Args:
        potential: The model.
        graph: Systems.
        slope: (n_atoms, 3, 3) derivatives of the loss by Born charges.
    """
    copies, factors = [], []
    for i in range(3):
        along = slope[:, i]  # (n, j)
        step = _STEP / _largest_move(graph, along, None).clamp(min=1e-12)
        shift = step[graph.batch, None] * along
        for sign in (1.0, -1.0):
            copies.append(graph.replace(positions=graph.positions + sign * shift))
            factor = graph.positions.new_zeros(graph.n_systems, 3)
            factor[:, i] = sign * 0.5 / step
            factors.append(factor)
    return (torch.cat(factors) * _polarization(potential, collate(copies))).sum()


def _central_difference(potential: Potential, batch: LabelledBatch, config: LossConfig) -> float:
    graph = batch.graph
    origin = moment_origin(graph)
    volume = _volume(graph)
    with _frozen(potential):
        positions = graph.positions.detach().requires_grad_()
        moved, inputs = graph.replace(positions=positions), [positions]
        if config.stress:
            strain = torch.zeros_like(graph.cell).requires_grad_()
            moved = strained(moved, strain)
            inputs.append(strain)
        energy, extras = _outputs(potential, moved, config, origin)
        grads = gradients(energy, inputs, create_graph=False)
        part = _with_born_charges(batch) if config.born_effective_charges else None
        if part is not None:
            extras["born_effective_charges"] = _born_charges(
                potential, batch, *part, create_graph=False
            )

    # derivatives of the loss with respect to the predictions
    leaves = [x.detach().requires_grad_() for x in (energy, -grads[0])]
    if config.stress:
        extras["stress"] = grads[1] / volume
    extras = {name: value.detach().requires_grad_() for name, value in extras.items()}
    loss = loss_value(BatchPrediction(leaves[0], leaves[1], **extras), batch, config)
    d_energy, v, *d_extras = torch.autograd.grad(loss, [*leaves, *extras.values()])
    by_extra = dict(zip(extras, d_extras, strict=True))
    along_strain = -by_extra.pop("stress") / volume if config.stress else None
    if part is not None:
        slope = by_extra.pop("born_effective_charges")[part[1]]
        _born_surrogate(potential, part[0], slope).backward()

    # one pass over both displaced copies of the batch
    step = _STEP / _largest_move(graph, v, along_strain).clamp(min=1e-12)
    shift = step[graph.batch, None] * v
    copies = []
    for sign in (1.0, -1.0):
        copy = graph.replace(positions=graph.positions + sign * shift)
        if along_strain is not None:
            copy = strained(copy, sign * step[:, None, None] * along_strain)
        copies.append(copy)
    both = collate(copies)  # whose dispersion depends on no parameter
    origins = torch.cat([origin, origin])
    energy, moved = _outputs(potential, both, config, origins, dispersion=False)
    slope = (0.5 / step).to(energy.dtype)
    factor = torch.cat([0.5 * d_energy - slope, 0.5 * d_energy + slope])
    surrogate = (factor * energy).sum()
    for name, d_value in by_extra.items():
        surrogate = surrogate + 0.5 * (torch.cat([d_value, d_value]) * moved[name]).sum()
    surrogate.backward()
    return float(loss.detach())


def _volume(graph: AtomGraph) -> Tensor:
    """(n_systems, 1, 1) in A^3; one for open systems, which have no stress label."""
    volume = cell_volume(graph.cell)
    return torch.where(volume > 0, volume, 1.0)[:, None, None]


def _largest_move(graph: AtomGraph, v: Tensor, along_strain: Tensor | None) -> Tensor:
    """Longest displacement per unit step in each system, of an atom or by the strain, A."""
    largest = graph.positions.new_zeros(graph.n_systems)
    largest = largest.scatter_reduce(0, graph.batch, v.norm(dim=1), "amax")
    if along_strain is None:
        return largest
    return torch.maximum(largest, torch.bmm(graph.cell, along_strain).norm(dim=2).amax(1))


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
