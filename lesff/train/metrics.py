"""Predictions and errors of a potential on labelled frames, per subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm.auto import tqdm

from lesff.atoms.batching import batches_by_kind
from lesff.potential.potential import Potential
from lesff.train.batches import make_batch
from lesff.train.data import Frame
from lesff.train.reference_energies import composition, explain_by_elements
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
        dipole_mae: Debye, over components; molecules, of ions about the centre of nuclear charge.
        dipole_rmse: Debye, likewise.
        stress_rmse: meV/A^3, over components.
        charges_rmse: e.
        born_effective_charges_rmse: e, over components.
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
    born_effective_charges_rmse: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class FramePrediction:
    """Predictions for one frame, beside its labels.

    Attributes:
        frame: The labelled frame.
        energy: eV; NaN for a crystal in an external field, which has none.
        forces: (n_atoms, 3) eV/A.
        dipole: (3,) e A, of ions about the centre of nuclear charge; None for periodic systems and
            models without charges.
        charges: (n_atoms,) e, or None for models without charges.
        stress: (3, 3) eV/A^3, or None for systems without stress label.
        born_effective_charges: (n_atoms, 3, 3) e, or None for systems without such labels.
    """

    frame: Frame
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    charges: np.ndarray | None = None
    stress: np.ndarray | None = None
    born_effective_charges: np.ndarray | None = None

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
    born = np.array([_wants_born_charges(potential, frame) for frame in frames], dtype=bool)
    no_energy = np.array([_has_no_energy(frame) for frame in frames], dtype=bool)
    results: dict[int, FramePrediction] = {}
    bar = tqdm(total=len(frames), disable=not progress, unit="frame", desc="evaluate")
    for chosen in batches_by_kind(sizes, [periodic, stress, born, no_energy], max_atoms=max_atoms):
        part = _predict_batch(potential, [frames[i] for i in chosen])
        results.update(zip(chosen.tolist(), part, strict=True))
        bar.update(len(chosen))
    bar.close()
    return [results[i] for i in range(len(frames))]


def with_common_zero(
    predictions: Sequence[FramePrediction],
) -> tuple[list[FramePrediction], dict[int, float]]:
    """Predictions whose energies have the zero of the labels, and the energies taken off.

    The zero is a matter of the isolated atoms: an energy of each element is fitted to the
    differences (least squares, every frame alike per atom).

    Args:
        predictions: Of labelled frames.

    Returns:
        The predictions, in their order, and by atomic number what was taken off, in eV.
    """
    known = [p for p in predictions if p.energy_error() == p.energy_error()]
    elements = sorted({int(z) for p in known for z in p.frame.structure.numbers})
    if not known:
        return list(predictions), {}
    energies = np.array([p.energy - p.frame.energy for p in known])
    shifts, _ = explain_by_elements(composition([p.frame for p in known], elements), energies)
    by_element = dict(zip(elements, shifts.tolist(), strict=True))
    off = [sum(by_element.get(int(z), 0.0) for z in p.frame.structure.numbers) for p in predictions]
    moved = [replace(p, energy=p.energy - e) for p, e in zip(predictions, off, strict=True)]
    return moved, by_element


def _has_no_energy(frame: Frame) -> bool:
    """Whether it is a crystal in an external field."""
    return frame.structure.external_field is not None and bool(frame.structure.pbc.all())


def _predict_batch(potential: Potential, frames: Sequence[Frame]) -> list[FramePrediction]:
    """One batch of one kind: periodicity, labels beyond energy and forces."""
    batch = make_batch(frames, potential.architecture.cutoff, potential.dtype)
    has_charges = potential.charge_head is not None
    wanted = ["forces"] if _has_no_energy(frames[0]) else ["energy", "forces"]
    wanted += ["charges"] if has_charges else []
    if has_charges and not bool(batch.graph.pbc.any()):
        wanted.append("dipole")
    if frames[0].stress is not None and "energy" in wanted:
        wanted.append("stress")
    if _wants_born_charges(potential, frames[0]):
        wanted.append("born_effective_charges")
    out = {name: value.cpu() for name, value in potential(batch.graph, wanted).items()}
    counts = batch.graph.atoms_per_system().tolist()
    per_atom = {
        name: [part.numpy() for part in torch.split(out[name], counts)]
        for name in ("forces", "charges", "born_effective_charges")
        if name in out
    }
    return [
        FramePrediction(
            frame=frame,
            energy=float(out["energy"][i]) if "energy" in out else float("nan"),
            forces=per_atom["forces"][i],
            dipole=out["dipole"][i].numpy() if "dipole" in out else None,
            charges=per_atom["charges"][i] if has_charges else None,
            stress=out["stress"][i].numpy() if "stress" in out else None,
            born_effective_charges=per_atom["born_effective_charges"][i]
            if "born_effective_charges" in per_atom
            else None,
        )
        for i, frame in enumerate(frames)
    ]


def _wants_born_charges(potential: Potential, frame: Frame) -> bool:
    """Whether a frame has Born charges as labels and the model gives them."""
    pbc = frame.structure.pbc
    if frame.born_effective_charges is None or potential.charge_head is None:
        return False
    return not pbc.any() or (bool(pbc.all()) and potential.traits.has_local_charges)


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
        born_effective_charges_rmse=_rmse(_differences(predictions, "born_effective_charges", 1.0)),
    )


def labelled_values(
    predictions: Sequence[FramePrediction], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of one quantity, flattened over the frames that have both.

    Args:
        predictions: Predictions beside their labels.
        name: ``"dipole"``, ``"stress"``, ``"charges"`` or ``"born_effective_charges"``.
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
