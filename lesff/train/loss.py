"""Loss functions and their first derivatives with respect to the predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lesff.atoms.molecules import find_molecules
from lesff.atoms.segments import segment_sum
from lesff.errors import ConfigError, DataError
from lesff.train.batches import LabelledBatch
from lesff.train.data import Frame, has_label

_WEIGHTS = (
    *("energy", "forces", "net_forces", "dipole", "stress", "charges", "born_effective_charges"),
    *("total_charge", "charge_transfer", "charge_guess", "part_states"),
)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; each term is a weighted mean over its labels.

    Attributes:
        kind: ``"huber"`` or ``"mse"``.
        energy: Weight of the energy error per atom.
        forces: Weight of the error of force components.
        net_forces: Weight of the error of the net force on each molecule of frames with several:
            forces between molecules, small beside those inside.
        dipole: Weight of the error of dipole components per square root of the atom count.
        stress: Weight of the error of stress components.
        charges: Weight of the error of atomic charges.
        born_effective_charges: Weight of the error of Born charge components; those of crystals
            need the head ``"edge"`` of a model made with it: without another head below it,
            ``residual`` or a local state. Charges of the model are screened: labels of crystals are
            ``Z* / sqrt(eps_inf)``.
        total_charge: Weight of the squared residual of the local charges' sum per atom.
        charge_transfer: Weight of the squared charge that an atom takes from its neighbours (head
            ``"edge"`` with ``reference_charges``), e: keeps charges near those of the elements as
            far as the labels do not ask for others.
        charge_guess: Weight of the guess of a local state: of closed shells, the squared residual
            of its sum per system, and of neutral ones a fiftieth of the sum of its squares.
            Its gradient may be that of forces a hundred times over at the same weight, which
            keeps a pretrained trunk from learning forces: ``lesff train --dry-run`` prints both.
            Half of the squared distance of each guess to the nearest step is part of it, too: a sum
            that is right of guesses between steps is not.
        part_states: Weight of the squared residuals of the charges and spins that a local state
            gives the parts of a composite, summed over each part.
        energy_delta: Huber threshold in eV/atom.
        forces_delta: Huber threshold in eV/A, also for net forces.
        forces_scale: eV/A; residuals of forces, and of net forces, are divided by
            ``1 + |F| / forces_scale`` with the label F of their atom or molecule. Forces of atoms
            that are pressed together change with the weights as much as they are large, and their
            gradient would drown that of molecules at rest. 0 divides by one.
        dipole_delta: Huber threshold in e A.
        stress_delta: Huber threshold in eV/A^3.
        charges_delta: Huber threshold in e; also for Born charges.
    """

    kind: Literal["huber", "mse"] = "huber"
    energy: float = 1.0
    forces: float = 1.0
    net_forces: float = 0.0
    dipole: float = 0.0
    stress: float = 0.0
    charges: float = 0.0
    born_effective_charges: float = 0.0
    total_charge: float = 0.0
    charge_transfer: float = 0.0
    charge_guess: float = 0.0
    part_states: float = 0.0
    energy_delta: float = 0.01
    forces_delta: float = 0.01
    forces_scale: float = 0.0
    dipole_delta: float = 0.01
    stress_delta: float = 0.001
    charges_delta: float = 0.01

    def __post_init__(self) -> None:
        """Raise ConfigError for a scale that would change the sign of residuals."""
        if self.forces_scale < 0.0:
            raise ConfigError(f"`loss.forces_scale` must be at least 0, got {self.forces_scale!r}")

    def parts(self) -> dict[str, LossConfig]:
        """The same with one weight alone, by the names of the weights that are not zero."""
        weights = {name: getattr(self, name) for name in _WEIGHTS}
        none = dict.fromkeys(_WEIGHTS, 0.0)
        return {n: replace(self, **(none | {n: w})) for n, w in weights.items() if w}


def check_labels(config: LossConfig, frames: Iterable[Frame]) -> None:
    """Every term of the loss that needs labels has some.

    Raises:
        DataError: if no frame has those of a term whose weight is not zero.
    """
    wanted = {n for n in ("dipole", "stress", "charges", "born_effective_charges")
              if getattr(config, n)}  # fmt: skip
    for frame in frames:
        wanted -= {name for name in wanted if has_label(frame, name)}
        if not wanted:
            break
    if wanted:
        name = min(wanted)
        raise DataError(
            f"`loss.{name}` is {getattr(config, name):g}, but no training frame has {name} labels"
        )


@dataclass(frozen=True)
class BatchPrediction:
    """Differentiable predictions for one batch.

    Attributes:
        energy: (n_systems,) eV.
        forces: (n_atoms, 3) eV/A.
        dipole: (n_systems, 3) e A about the centre of nuclear charge, or None.
        stress: (n_systems, 3, 3) eV/A^3, or None.
        charge_excess: (n_systems,) sum of the local charges minus the total charge, or None.
        charge_transfer: (n_atoms,) local charges minus those of the elements, e, or None.
        charges: (n_atoms,) e, summing to the total charge, or None.
        charge_guess: (n_atoms,) e, what a local state reads off the environment, or None.
        part_states: (n_atoms, 2) charges in e and spins of a local state, or None.
        born_effective_charges: (n_atoms, 3, 3) e, or None.
    """

    energy: Tensor
    forces: Tensor
    dipole: Tensor | None = None
    stress: Tensor | None = None
    charge_excess: Tensor | None = None
    charge_transfer: Tensor | None = None
    charges: Tensor | None = None
    charge_guess: Tensor | None = None
    part_states: Tensor | None = None
    born_effective_charges: Tensor | None = None


def loss_value(prediction: BatchPrediction, batch: LabelledBatch, config: LossConfig) -> Tensor:
    """The loss, a scalar.

    Args:
        prediction: Predictions.
        batch: Labels.
        config: Weights.
    """
    graph = batch.graph
    counts = graph.atoms_per_system().to(prediction.forces.dtype)
    weight = batch.weight

    def term(error: Tensor, delta: float, w: Tensor) -> Tensor:
        """Weighted mean over rows of the mean over components; NaN labels drop out."""
        rows = error.reshape(len(error), -1)
        known = ~rows.isnan().any(1)
        w = torch.where(known, w, torch.zeros_like(w))
        rows = torch.where(known[:, None], rows, torch.zeros_like(rows))
        if config.kind == "mse":
            values = rows.square()
        else:
            values = (
                functional.huber_loss(rows, torch.zeros_like(rows), delta=delta, reduction="none")
                / delta
            )
        return (w * values.mean(1)).sum() / w.sum().clamp(min=1e-12)

    energy = (prediction.energy - batch.energy).to(counts.dtype) / counts
    total = config.energy * term(energy, config.energy_delta, weight)
    error = prediction.forces - batch.forces
    scaled = _relative(error, batch.forces, config)
    total = total + config.forces * term(scaled, config.forces_delta, weight[graph.batch])
    if config.net_forces:
        molecules = find_molecules(graph)
        w = weight[molecules.system] * molecules.has_others
        scaled = _relative(molecules.net(error), molecules.net(batch.forces), config)
        total = total + config.net_forces * term(scaled, config.forces_delta, w)
    if config.dipole and prediction.dipole is not None:
        error = (prediction.dipole - batch.dipole) * counts[:, None].rsqrt()
        total = total + config.dipole * term(error, config.dipole_delta, weight)
    if config.stress and prediction.stress is not None:
        error = prediction.stress - batch.stress
        total = total + config.stress * term(error, config.stress_delta, weight)
    for name in ("charges", "born_effective_charges"):
        predicted, w = getattr(prediction, name), getattr(config, name)
        if w and predicted is not None:
            error = predicted - getattr(batch, name)
            total = total + w * term(error, config.charges_delta, weight[graph.batch])
    if config.total_charge and prediction.charge_excess is not None:
        squared = prediction.charge_excess.square() / counts
        total = total + config.total_charge * (weight * squared).sum() / weight.sum()
    return total + _penalties(prediction, batch, config)


def _relative(error: Tensor, label: Tensor, config: LossConfig) -> Tensor:
    """See :attr:`LossConfig.forces_scale`; rows (n, 3) in eV/A."""
    if not config.forces_scale:
        return error
    # rows without a label are NaN and drop out later: nothing of them may reach a gradient
    size = label.nan_to_num().norm(dim=1, keepdim=True)
    return error / (1.0 + size / config.forces_scale)


def _penalties(prediction: BatchPrediction, batch: LabelledBatch, config: LossConfig) -> Tensor:
    """What the charges of the parts of a model cost, apart from labels."""
    total = batch.weight.new_zeros(())
    for name, penalty in _PENALTIES.items():
        value, w = getattr(prediction, name), getattr(config, name)
        if w and value is not None:
            total = total + w * penalty(value, batch, config)
    return total


def _transfer_penalty(transfer: Tensor, batch: LabelledBatch, _config: LossConfig) -> Tensor:
    """See :attr:`LossConfig.charge_transfer`."""
    w = batch.weight[batch.graph.batch]
    return (w * transfer.square()).sum() / w.sum()


_NEUTRAL_SHARE, _STEP_SHARE = 0.02, 0.5


def _guess_penalty(guess: Tensor, batch: LabelledBatch, _config: LossConfig) -> Tensor:
    """See :attr:`LossConfig.charge_guess`; which charge a radical has is no matter of its bonds."""
    graph = batch.graph
    off = guess - 0.5 * (2.0 * guess.detach()).round()
    sums = torch.stack([guess, guess.square(), off.square()], dim=1)
    sums = segment_sum(sums, graph.batch, graph.n_systems)
    squared = (sums[:, 0] - graph.total_charge).square()
    squared = squared + _NEUTRAL_SHARE * torch.where(graph.total_charge == 0, sums[:, 1], 0.0)
    squared = squared + _STEP_SHARE * sums[:, 2]
    w = torch.where((graph.spin_multiplicity == 1) & batch.is_closed, batch.weight, 0.0)
    return (w * squared).sum() / w.sum().clamp(min=1e-12)


def _part_penalty(states: Tensor, batch: LabelledBatch, _config: LossConfig) -> Tensor:
    """See :attr:`LossConfig.part_states`; whole systems have their totals by construction."""
    n_parts = len(batch.part_states)
    error = segment_sum(states, batch.part, n_parts) - batch.part_states
    squared = torch.nan_to_num(error).square().sum(1)
    # w[p]: of the part's system
    first = torch.searchsorted(batch.part, torch.arange(n_parts, device=batch.part.device))
    w = batch.weight[batch.graph.batch[first]] * batch.is_composite
    return (w * squared).sum() / w.sum().clamp(min=1e-12)


_PENALTIES = {
    "part_states": _part_penalty,
    "charge_transfer": _transfer_penalty,
    "charge_guess": _guess_penalty,
}
