"""Calibration of uncertainty: one pass over training frames, a scale from held-out ones.

See :mod:`lesff.potential.uncertainty` for the formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lesff.atoms.segments import segment_sum
from lesff.errors import DataError
from lesff.model import Model
from lesff.model_folder.folder import (
    CARD_FILE,
    LICENSE_FILE,
    load_model,
    save_model,
    weights_digest,
)
from lesff.potential.potential import Potential
from lesff.potential.uncertainty import Uncertainty
from lesff.train.frames import Frame, LabelledBatch, make_batch, structure_hash

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
_MAX_ATOMS = 400


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well uncertainties and errors of some frames agree.

    Attributes:
        n_frames: Number of frames.
        energy_rmse: Root mean square error of energies in eV.
        energy_sigma: Root mean square predicted uncertainty in eV.
        energy_z: Root mean square of error over uncertainty; 1 is calibrated.
        energy_rank: Spearman's rank correlation of absolute error and uncertainty.
        forces_rmse: Error of force components in eV/A.
        forces_sigma: Root mean square predicted uncertainty in eV/A.
        forces_z: As ``energy_z``, over force components.
        forces_rank: As ``energy_rank``, over atoms.
        n_unknown: Frames flagged for their geometry.
    """

    n_frames: int
    energy_rmse: float
    energy_sigma: float
    energy_z: float
    energy_rank: float
    forces_rmse: float
    forces_sigma: float
    forces_z: float
    forces_rank: float
    n_unknown: int

    def lines(self) -> list[str]:
        """For people."""
        row = "{}: RMS error {:.4g} {}, RMS uncertainty {:.4g} {}, RMS of their ratio {:.2f}, "
        row += "rank correlation {:.2f}"
        return [
            row.format("energy", self.energy_rmse, "eV", self.energy_sigma, "eV", self.energy_z,
                       self.energy_rank),
            row.format("forces", self.forces_rmse, "eV/A", self.forces_sigma, "eV/A",
                       self.forces_z, self.forces_rank),
            f"{self.n_unknown} of {self.n_frames} frames have surroundings beyond the known ones",
        ]  # fmt: skip


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
    if not _rms(raw.force_error) > _NO_ERROR:
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


def evaluate_uncertainty(
    potential: Potential, frames: Sequence[Frame], *, progress: bool = False
) -> Calibration:
    """How uncertainties and errors of a calibrated model agree on labelled frames.

    Raises:
        DataError: if the model has no uncertainty or a frame lacks labels.
    """
    if potential.uncertainty is None:
        raise DataError("the model has no uncertainty to evaluate; run `lesff calibrate` first")
    _check_labels(frames, "evaluated")
    return observe(potential, potential.uncertainty, frames, progress=progress).summary()


def calibrate_model(
    model: Model,
    train: Sequence[Frame],
    validation: Sequence[Frame],
    output: Path,
    *,
    directions: int = DIRECTIONS,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[Model, Calibration]:
    """Calibrate a model and write it as a folder with ``uncertainty.safetensors``.

    Args:
        model: The model.
        train: See :func:`calibrate`, as for the other arguments.
        validation: Held-out frames.
        output: Model folder to write.
        directions: Backward passes of a force uncertainty.
        overwrite: Replace a model folder that is there.
        progress: Whether to show progress bars.

    Raises:
        DataError: as :func:`calibrate`.
        ConfigError: if the folder exists.
    """
    # the stored weights: rounding of another dtype is not theirs to answer for
    potential = load_model(model.source.folder, device=model.potential.device)
    potential.uncertainty, result = calibrate(
        potential, train, validation, directions=directions, progress=progress
    )
    card = (model.source.folder / CARD_FILE).read_text(encoding="utf-8")
    license_text = (model.source.folder / LICENSE_FILE).read_text(encoding="utf-8")
    save_model(
        potential,
        output,
        card=with_section(card, len(train), result),
        license_text=license_text,
        overwrite=overwrite,
    )
    source = replace(
        model.source, folder=Path(output), name=Path(output).name, version=None, origin="folder"
    )
    dtype = model.potential.dtype
    return Model(load_model(output, dtype=dtype, device=potential.device), source), result


_TITLE = "## Uncertainty"


def with_section(card: str, n_train: int, result: Calibration) -> str:
    """The card with a section on its uncertainty, in the place of an earlier one."""
    rest = re.sub(rf"\n*{_TITLE}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL).rstrip()
    lines = "\n".join(f"- {line}" for line in result.lines())
    return (
        f"{rest}\n\n{_TITLE}\n\nLast-layer uncertainty (LLPR) from {n_train} training frames, "
        f"scaled on {result.n_frames} validation frames, on which:\n\n{lines}\n"
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
    for chosen, batch in _batches(potential, frames, "features", progress=progress):
        graph = batch.graph
        with torch.no_grad():
            terms = potential.energy_terms(graph, tabulated=potential.radial == "table")
            features = potential.architecture.last_layer_features(terms.invariants)
        summed = segment_sum(features.to(torch.float64), graph.batch, graph.n_systems)
        scaled = summed / graph.atoms_per_system().to(torch.float64).sqrt()[:, None]
        for index, row in zip(chosen, scaled.cpu(), strict=True):
            rows[index] = row
    return torch.stack(rows)


def _batches(
    potential: Potential, frames: Sequence[Frame], title: str, *, progress: bool
) -> Iterator[tuple[list[int], LabelledBatch]]:
    """Batches of similar sizes with the indices of their frames; never crystals with molecules."""
    sizes = [len(frame.structure) for frame in frames]
    order = sorted(range(len(frames)), key=lambda i: (frames[i].structure.pbc.any(), sizes[i]))
    with tqdm(total=len(frames), disable=not progress, unit="frame", desc=title) as bar:
        start = 0
        while start < len(order):
            stop, kind = start + 1, frames[order[start]].structure.pbc.any()
            while (
                stop < len(order)
                and sum(sizes[i] for i in order[start : stop + 1]) <= _MAX_ATOMS
                and frames[order[stop]].structure.pbc.any() == kind
            ):
                stop += 1
            chosen = order[start:stop]
            batch = make_batch(
                [frames[i] for i in chosen], potential.architecture.cutoff, potential.dtype
            )
            yield chosen, replace(batch, graph=batch.graph.to(
                dtype=potential.dtype, device=potential.device
            ))  # fmt: skip
            bar.update(len(chosen))
            start = stop


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
        for _, batch in _batches(potential, frames, "calibrate", progress=progress):
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


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Errors beside uncertainties.

    Attributes:
        frames: The frames.
        energy_error: (n_frames,) eV.
        energy_sigma: (n_frames,) eV.
        force_error: (n_atoms, 3) eV/A.
        force_sigma: (n_atoms,) eV/A.
        farthest: (n_frames,) largest distance of an atom to the known ones.
    """

    frames: Sequence[Frame]
    energy_error: np.ndarray
    energy_sigma: np.ndarray
    force_error: np.ndarray
    force_sigma: np.ndarray
    farthest: np.ndarray

    def energy_z(self) -> float:
        """Root mean square of error over uncertainty."""
        return _rms(self.energy_error / self.energy_sigma)

    def forces_z(self) -> float:
        """Root mean square of error over uncertainty, of the atoms that have one."""
        known = self.force_sigma > 0.0  # a lone atom has neither force nor uncertainty
        return _rms(self.force_error[known] / self.force_sigma[known, None])

    def summary(self) -> Calibration:
        """How they agree."""
        size = np.sqrt((self.force_error**2).mean(1))
        return Calibration(
            n_frames=len(self.frames),
            energy_rmse=_rms(self.energy_error),
            energy_sigma=_rms(self.energy_sigma),
            energy_z=self.energy_z(),
            energy_rank=rank_correlation(np.abs(self.energy_error), self.energy_sigma),
            forces_rmse=_rms(self.force_error),
            forces_sigma=_rms(self.force_sigma),
            forces_z=self.forces_z(),
            forces_rank=rank_correlation(size, self.force_sigma),
            n_unknown=int((self.farthest > 1.0).sum()),
        )


def observe(
    potential: Potential, uncertainty: Uncertainty, frames: Sequence[Frame], *, progress: bool
) -> Observations:
    """Errors and uncertainties of labelled frames."""
    before, potential.uncertainty = potential.uncertainty, uncertainty.to(potential.device)
    names = ("energy", "forces", "energy_uncertainty", "forces_uncertainty", "novelty")
    energy, sigma, farthest = (np.empty(len(frames)) for _ in range(3))
    force_error, force_sigma = ([np.empty(0)] * len(frames) for _ in range(2))
    try:
        for chosen, batch in _batches(potential, frames, "validate", progress=progress):
            out = {k: v.cpu().numpy() for k, v in potential(batch.graph, names).items()}
            counts = np.cumsum(batch.graph.atoms_per_system().tolist())[:-1]
            parts = {k: np.split(out[k], counts) for k in ("forces", *names[3:])}
            for row, index in enumerate(chosen):
                energy[index] = out["energy"][row] - frames[index].energy
                sigma[index] = out["energy_uncertainty"][row]
                force_error[index] = parts["forces"][row] - frames[index].forces
                force_sigma[index] = parts["forces_uncertainty"][row]
                farthest[index] = parts["novelty"][row].max()
    finally:
        potential.uncertainty = before
    return Observations(
        frames=frames,
        energy_error=energy,
        energy_sigma=sigma,
        force_error=np.concatenate(force_error),
        force_sigma=np.concatenate(force_sigma),
        farthest=farthest,
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN if one does not vary."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - 0.5 * (counts + 1))[inverse])
    x, y = (r - r.mean() for r in ranks)
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0.0 else float("nan")


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((np.asarray(values) ** 2).mean()))


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
            if not set(frame.structure.numbers.tolist()) <= known:
                raise DataError(
                    f"{name} frame {index} has elements that the model does not cover; leave such "
                    "frames out"
                )
    _check_labels(validation, "validation")
    seen = {structure_hash(frame) for frame in train}
    both = [i for i, frame in enumerate(validation) if structure_hash(frame) in seen]
    if both:
        raise DataError(
            f"{len(both)} validation frames (the first is frame {both[0]}) are training frames "
            "too: the scale would be too small; remove them from one of the files"
        )


def _check_labels(frames: Sequence[Frame], name: str) -> None:
    for index, frame in enumerate(frames):
        if not (np.isfinite(frame.energy) and np.isfinite(frame.forces).all()):
            raise DataError(f"{name} frame {index} must have energy and forces, got no label")


def _check_zero(raw: Observations) -> None:
    """Refuse labels whose energies differ from the model's by a sum over atoms."""
    elements = sorted({int(z) for f in raw.frames for z in f.structure.numbers})
    if len(raw.frames) < len(elements) + 5:
        return
    counts = np.array([[(f.structure.numbers == z).sum() for z in elements] for f in raw.frames])
    size = counts.sum(1)
    per_atom = raw.energy_error / size
    design = counts / size[:, None]
    shift, *_ = np.linalg.lstsq(design, per_atom, rcond=1e-8)
    rest = _rms(per_atom - design @ shift)
    if rest < 0.1 * _rms(per_atom) and _rms(per_atom) > 0.1:
        raise DataError(
            f"energies of the validation frames differ from the model's by {_rms(per_atom):.3g} "
            f"eV/atom, of which reference energies of atoms explain all but {rest:.2g}: they have "
            "another energy zero; finetune the model on such frames first (`lesff finetune` refits "
            "reference energies)"
        )
