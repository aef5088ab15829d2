"""Calibration of uncertainty: one pass over training frames, a scale from held-out ones.

See :mod:`lesff.potential.uncertainty` for the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.elements import elements_of
from lesff.atoms.segments import segment_sum
from lesff.errors import DataError
from lesff.model_folder.folder import weights_digest
from lesff.potential.potential import Potential
from lesff.potential.uncertainty import Uncertainty
from lesff.train.data import Frame, structure_hash
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.uncertainty.agreement import (
    Calibration,
    Observations,
    batches_of,
    check_labels,
    observe,
    rms,
)

DIRECTIONS = 16
"""Backward passes of a force uncertainty."""
MIN_VALIDATION = 10
"""Fewest validation frames that set a scale."""
_KNOWN_SHARE = 0.99
"""Share of the validation frames whose farthest atom counts as known."""
_RIDGE = 1e-6
"""Ridge of the covariances as a share of their largest eigenvalue."""
_NO_ERROR = 1e-5
"""Force errors (eV/A) that only labels made by the model itself can have."""


def calibrate(
    potential: Potential,
    train: Sequence[Frame],
    validation: Sequence[Frame],
    *,
    directions: int = DIRECTIONS,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Uncertainty, Calibration]:
    """Uncertainty of a model, and how it agrees with the errors that set its scale.

    Args:
        potential: The model; it is not changed.
        train: Frames like those that it was trained on; labels are not used.
        validation: Frames with energies and forces that it was not trained on.
        directions: Backward passes that a force uncertainty takes; from the number of last-layer
            features on it is exact, else its variance is estimated along as many random, equally
            weighted orthogonal directions.
        seed: Seed of the directions.
        progress: Whether to show progress bars.

    Raises:
        DataError: for no training frames, too few validation frames, missing labels, labels with
            another energy zero, elements that the model does not cover or frames on both sides.
    """
    _check_frames(potential, train, validation)
    if directions < 1:
        raise DataError(f"`directions` must be at least 1, got {directions}")
    statistics = _Statistics.of(potential, train, progress=progress)
    root = inverse_root(statistics.covariance)
    size = root.shape[0]
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    kept = min(directions, size)
    mixed = torch.eye(size, dtype=torch.float64) if kept == size else mixed[:, :kept]
    first = Uncertainty(
        {
            "energy_root": root,
            "energy_scale": torch.ones((), dtype=torch.float64),
            "force_root": (size / kept) ** 0.5 * root @ mixed,
            **statistics.environments(),
            **_seen(train),
            "weights": torch.tensor(list(weights_digest(potential)), dtype=torch.uint8),
        }
    )
    raw = observe(potential, first, validation, progress=progress)
    _check_zero(raw)
    if not rms(raw.force_error) > _NO_ERROR:
        raise DataError(
            "validation frames must have errors to set the scale of the uncertainty, but agree "
            "with the model exactly (were they labelled by it?)"
        )
    tensors = first.tensors()
    alpha = raw.energy_z()
    tensors["energy_root"] = tensors["energy_root"] * alpha
    tensors["energy_scale"] = tensors["energy_scale"] * alpha
    tensors["force_root"] = tensors["force_root"] * raw.forces_z()
    reach = float(np.quantile(raw.farthest[np.isfinite(raw.farthest)], _KNOWN_SHARE))
    tensors["whitening"] = tensors["whitening"] / reach
    final = Uncertainty(tensors)
    return final, observe(potential, final, validation, progress=False).summary()


def card_section(n_train: int, result: Calibration) -> str:
    """What a card says about the uncertainty of its model, Markdown."""
    lines = "\n".join(f"- {line}" for line in result.lines())
    return (
        f"Last-layer uncertainty (LLPR) from {n_train} training frames, scaled on "
        f"{result.n_frames} validation frames, on which:\n\n{lines}"
    )


def inverse_root(covariance: Tensor) -> Tensor:
    """``R`` with ``R R^T = (C + ridge)^-1``, symmetric."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0.0) + _RIDGE * values[-1].clamp(min=1e-30)
    return (vectors * values.rsqrt()) @ vectors.T


def frame_features(
    potential: Potential, frames: Sequence[Frame], *, progress: bool = False
) -> Tensor:
    """Last-layer features summed over atoms, over the square root of their number.

    Returns:
        (n_frames, n_features), float64.
    """
    rows: list[Tensor] = [torch.empty(0)] * len(frames)
    for chosen, batch in batches_of(potential, frames, "features", progress=progress):
        graph = batch.graph
        with torch.no_grad():
            terms = potential.energy_terms(graph, tabulated=potential.radial == "table")
            features = potential.architecture.last_layer_features(terms.invariants)
        summed = segment_sum(features.to(torch.float64), graph.batch, graph.n_systems)
        scaled = summed / graph.atoms_per_system().to(torch.float64).sqrt()[:, None]
        for index, row in zip(chosen, scaled.cpu(), strict=True):
            rows[index] = row
    return torch.stack(rows)


@dataclass
class _Statistics:
    """Sums over the training frames.

    Attributes:
        covariance: (n, n) sum of ``f f^T / N``.
        count: Atoms by atomic number.
        first: (n,) sum of atomic features by atomic number.
        second: (n, n) sum of their products by atomic number.
    """

    covariance: Tensor
    count: dict[int, int]
    first: dict[int, Tensor]
    second: dict[int, Tensor]

    @staticmethod
    def of(potential: Potential, frames: Sequence[Frame], *, progress: bool) -> _Statistics:
        """Sums over frames."""
        size = potential.architecture.n_features
        zero = torch.zeros(size, size, dtype=torch.float64)
        found = _Statistics(zero.clone(), {}, {}, {})
        for _, batch in batches_of(potential, frames, "calibrate", progress=progress):
            graph = batch.graph
            with torch.no_grad():
                terms = potential.energy_terms(graph, tabulated=potential.radial == "table")
                features = potential.architecture.last_layer_features(terms.invariants)
            features = features.to(torch.float64)
            summed = segment_sum(features, graph.batch, graph.n_systems)
            weight = graph.atoms_per_system().to(torch.float64)[:, None]
            found.covariance += ((summed / weight).T @ summed).cpu()
            for z in torch.unique(graph.atomic_numbers).tolist():
                rows = features[graph.atomic_numbers == z].cpu()
                found.count[z] = found.count.get(z, 0) + len(rows)
                found.first[z] = found.first.get(z, zero[0]) + rows.sum(0)
                found.second[z] = found.second.get(z, zero) + rows.T @ rows
        return found

    def environments(self) -> dict[str, Tensor]:
        """Mean and whitening of every element's atomic features.

        Covariances lean on the mean covariance of all elements with the weight of as many atoms as
        there are features, so that rare elements have one.
        """
        elements = sorted(self.count)
        size = len(self.covariance)
        means = {z: self.first[z] / self.count[z] for z in elements}
        spread = {
            z: self.second[z] - self.count[z] * torch.outer(means[z], means[z]) for z in elements
        }
        pooled = torch.stack(list(spread.values())).sum(0) / sum(self.count.values())
        whitening = [
            inverse_root((spread[z] + size * pooled) / (self.count[z] + size)) for z in elements
        ]
        return {
            "elements": torch.tensor(elements),
            "mean": torch.stack([means[z] for z in elements]),
            "whitening": torch.stack(whitening),
        }


def _seen(frames: Sequence[Frame]) -> dict[str, Tensor]:
    structures = [frame.structure for frame in frames]
    return {
        "total_charge": torch.tensor(sorted({s.total_charge for s in structures})),
        "spin_multiplicity": torch.tensor(sorted({s.spin_multiplicity for s in structures})),
        "periodic_directions": torch.tensor(sorted({int(s.pbc.sum()) for s in structures})),
    }


def _check_frames(
    potential: Potential, train: Sequence[Frame], validation: Sequence[Frame]
) -> None:
    if not train:
        raise DataError("training frames must be given to calibrate on, got none")
    if len(validation) < MIN_VALIDATION:
        raise DataError(
            f"at least {MIN_VALIDATION} validation frames must be given to set the scale of the "
            f"uncertainty, got {len(validation)}"
        )
    known = set(potential.config.elements)
    for name, frames in (("training", train), ("validation", validation)):
        for index, frame in enumerate(frames):
            if not elements_of(frame.structure) <= known:
                raise DataError(
                    f"{name} frame {index} has elements that the model does not cover; leave such "
                    "frames out"
                )
    check_labels(validation, "validation")
    seen = {structure_hash(frame) for frame in train}
    both = [i for i, frame in enumerate(validation) if structure_hash(frame) in seen]
    if both:
        raise DataError(
            f"{len(both)} validation frames (the first is frame {both[0]}) are training frames "
            "too: the scale would be too small; remove them from one of the files"
        )


def _check_zero(raw: Observations) -> None:
    """Refuse labels whose energies differ from the model's by a sum over atoms."""
    elements = sorted(elements_of(*(frame.structure for frame in raw.frames)))
    if len(raw.frames) < len(elements) + 5:
        return
    counts = composition(raw.frames, elements)
    per_atom = raw.energy_error / counts.sum(1)
    rest = rms(explain_by_elements(counts, raw.energy_error)[1])
    if rest < 0.1 * rms(per_atom) and rms(per_atom) > 0.1:
        raise DataError(
            f"energies of the validation frames differ from the model's by {rms(per_atom):.3g} "
            f"eV/atom, of which reference energies of atoms explain all but {rest:.2g}: they have "
            "another energy zero; finetune the model on such frames first (`lesff finetune` refits "
            "reference energies)"
        )
