"""Predictions and errors of a potential on labelled frames, per subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from lesff.atoms.batching import batches_by_kind
from lesff.potential.potential import Potential
from lesff.train.batches import make_batch
from lesff.train.data import Frame
from lesff.units import EA_TO_DEBYE


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors over some frames; NaN where no frame has the label.

    Attributes:
        n_frames: Number of frames.
        energy_mae: meV/atom.
        energy_rmse: meV/atom.
        forces_mae: meV/A, over components.
        forces_rmse: meV/A, over components.
        dipole_mae: Debye, over components; neutral molecules.
        dipole_rmse: Debye, over components; neutral molecules.
        stress_rmse: meV/A^3, over components.
        charges_rmse: e.
    """

    n_frames: int
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    dipole_mae: float
    dipole_rmse: float = float("nan")
    stress_rmse: float = float("nan")
    charges_rmse: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class FramePrediction:
    """Predictions for one frame, beside its labels.

    Attributes:
        frame: The labelled frame.
        energy: eV.
        forces: (n_atoms, 3) eV/A.
        dipole: (3,) e A, or None for charged or periodic systems and models without charges.
        charges: (n_atoms,) e, or None for models without charges.
        stress: (3, 3) eV/A^3, or None for systems without stress label.
    """

    frame: Frame
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    charges: np.ndarray | None = None
    stress: np.ndarray | None = None

    def energy_error(self) -> float:
        """Error in meV/atom, NaN without label."""
        return 1e3 * (self.energy - self.frame.energy) / len(self.frame.structure)

    def force_error(self) -> np.ndarray:
        """Errors in meV/A, (n_atoms, 3), NaN without label."""
        return 1e3 * (self.forces - self.frame.forces)


def predict_frames(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    max_atoms: int = 1000,
    progress: bool = False,
) -> list[FramePrediction]:
    """Predictions for every frame, in the order of the frames.

    Args:
        potential: The model.
        frames: Labelled frames.
        max_atoms: Atoms per batch.
        progress: Whether to show a progress bar.
    """
    sizes = np.array([len(frame.structure) for frame in frames], dtype=np.int64)
    periodic = np.array([bool(frame.structure.pbc.any()) for frame in frames], dtype=bool)
    stress = np.array([frame.stress is not None for frame in frames], dtype=bool)
    results: dict[int, FramePrediction] = {}
    bar = tqdm(total=len(frames), disable=not progress, unit="frame", desc="evaluate")
    for chosen in batches_by_kind(sizes, [periodic, stress], max_atoms=max_atoms):
        part = _predict_batch(potential, [frames[i] for i in chosen])
        results.update(zip(chosen.tolist(), part, strict=True))
        bar.update(len(chosen))
    bar.close()
    return [results[i] for i in range(len(frames))]


def _predict_batch(potential: Potential, frames: Sequence[Frame]) -> list[FramePrediction]:
    """One batch, all of it periodic or not, with or without stress labels."""
    batch = make_batch(frames, potential.architecture.cutoff, potential.dtype)
    has_charges = potential.charge_head is not None
    wanted = ["energy", "forces"] + (["charges"] if has_charges else [])
    if has_charges and not bool(batch.graph.pbc.any()):
        wanted.append("dipole")
    if frames[0].stress is not None:
        wanted.append("stress")
    out = {name: value.cpu() for name, value in potential(batch.graph, wanted).items()}
    counts = batch.graph.atoms_per_system().tolist()
    forces = torch.split(out["forces"], counts)
    charges = torch.split(out["charges"], counts) if has_charges else None
    return [
        FramePrediction(
            frame=frame,
            energy=float(out["energy"][i]),
            forces=forces[i].numpy(),
            dipole=out["dipole"][i].numpy()
            if "dipole" in out and frame.structure.total_charge == 0
            else None,
            charges=None if charges is None else charges[i].numpy(),
            stress=out["stress"][i].numpy() if "stress" in out else None,
        )
        for i, frame in enumerate(frames)
    ]


def evaluate_frames(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    max_atoms: int = 1000,
    progress: bool = False,
) -> dict[str, Errors]:
    """Errors per subset and, under ``"all"``, over all frames.

    Args:
        potential: The model.
        frames: Labelled frames.
        max_atoms: Atoms per batch.
        progress: Whether to show a progress bar.
    """
    return errors_by(
        predict_frames(potential, frames, max_atoms=max_atoms, progress=progress),
        lambda frame: frame.subset,
    )


def errors_by(
    predictions: Sequence[FramePrediction], key: Callable[[Frame], str]
) -> dict[str, Errors]:
    """Errors per value of ``key`` and, under ``"all"``, over all predictions."""
    if not predictions:
        return {}
    parts: dict[str, list[FramePrediction]] = {}
    for prediction in predictions:
        parts.setdefault(key(prediction.frame), []).append(prediction)
    table = {name: errors_of(parts[name]) for name in sorted(parts)}
    return table | {"all": errors_of(predictions)}


def errors_of(predictions: Sequence[FramePrediction]) -> Errors:
    """Errors over some predictions."""
    energy = np.array([p.energy_error() for p in predictions])
    forces = np.concatenate([p.force_error().ravel() for p in predictions])
    dipole = _differences(predictions, "dipole", EA_TO_DEBYE)
    return Errors(
        n_frames=len(predictions),
        energy_mae=_mae(energy),
        energy_rmse=_rmse(energy),
        forces_mae=_mae(forces),
        forces_rmse=_rmse(forces),
        dipole_mae=_mae(dipole),
        dipole_rmse=_rmse(dipole),
        stress_rmse=_rmse(_differences(predictions, "stress", 1e3)),
        charges_rmse=_rmse(_differences(predictions, "charges", 1.0)),
    )


def labelled_values(
    predictions: Sequence[FramePrediction], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of one quantity, flattened over the frames that have both.

    Args:
        predictions: Predictions beside their labels.
        name: ``"dipole"``, ``"stress"`` or ``"charges"``.
    """
    pairs = [
        (np.asarray(getattr(p.frame, name)).ravel(), np.asarray(getattr(p, name)).ravel())
        for p in predictions
        if getattr(p, name) is not None and getattr(p.frame, name) is not None
    ]
    if not pairs:
        return np.empty(0), np.empty(0)
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def _differences(predictions: Sequence[FramePrediction], name: str, factor: float) -> np.ndarray:
    label, model = labelled_values(predictions, name)
    return factor * (model - label)


def _mae(errors: np.ndarray) -> float:
    known = errors[~np.isnan(errors)]
    return float(np.abs(known).mean()) if len(known) else float("nan")


def _rmse(errors: np.ndarray) -> float:
    known = errors[~np.isnan(errors)]
    return float(np.sqrt((known**2).mean())) if len(known) else float("nan")
