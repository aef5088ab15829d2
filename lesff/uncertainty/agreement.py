"""How uncertainties and errors agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm

from lesff.atoms.batching import batches_by_kind
from lesff.errors import DataError
from lesff.potential.potential import Potential
from lesff.potential.uncertainty import Uncertainty
from lesff.train.batches import LabelledBatch, make_batch
from lesff.train.data import Frame
from lesff.train.frame_stream import Frames, pieces_of


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


def evaluate_uncertainty(
    potential: Potential, frames: Sequence[Frame], *, progress: bool = False
) -> Calibration:
    """How uncertainties and errors of a calibrated model agree on labelled frames.

    Raises:
        DataError: if the model has no uncertainty or a frame lacks labels.
    """
    if potential.uncertainty is None:
        raise DataError("the model has no uncertainty to evaluate; run `lesff calibrate` first")
    check_labels(frames, "evaluated")
    return observe(potential, potential.uncertainty, frames, progress=progress).summary()


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
        return rms(self.energy_error / self.energy_sigma)

    def forces_z(self) -> float:
        """Root mean square of error over uncertainty, of the atoms that have one."""
        known = self.force_sigma > 0.0  # a lone atom has neither force nor uncertainty
        return rms(self.force_error[known] / self.force_sigma[known, None])

    def summary(self) -> Calibration:
        """How they agree."""
        size = np.sqrt((self.force_error**2).mean(1))
        return Calibration(
            n_frames=len(self.frames),
            energy_rmse=rms(self.energy_error),
            energy_sigma=rms(self.energy_sigma),
            energy_z=self.energy_z(),
            energy_rank=rank_correlation(np.abs(self.energy_error), self.energy_sigma),
            forces_rmse=rms(self.force_error),
            forces_sigma=rms(self.force_sigma),
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
        for chosen, batch in batches_of(
            potential, frames, "validate", total=len(frames), progress=progress
        ):
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


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((np.asarray(values) ** 2).mean()))


_MAX_ATOMS = 400


def batches_of(
    potential: Potential, frames: Frames, title: str, *, total: int, progress: bool
) -> Iterator[tuple[list[int], LabelledBatch]]:
    """Batches of similar sizes with the indices of their frames; never crystals with molecules.

    Args:
        potential: The model.
        frames: The frames; of a stream, batches are made piece by piece.
        title: Beside the progress bar.
        total: Number of frames.
        progress: Whether there is one.
    """
    cutoff, dtype = potential.architecture.cutoff, potential.dtype
    start = 0
    with tqdm(total=total, disable=not progress, unit="frame", desc=title) as bar:
        for piece in pieces_of(frames):
            sizes = np.array([len(frame.structure) for frame in piece])
            periodic = np.array([bool(frame.structure.pbc.any()) for frame in piece])
            for chosen in batches_by_kind(sizes, [periodic], max_atoms=_MAX_ATOMS):
                batch = make_batch([piece[i] for i in chosen], cutoff, dtype)
                graph = batch.graph.to(dtype=dtype, device=potential.device)
                yield (start + chosen).tolist(), replace(batch, graph=graph)
                bar.update(len(chosen))
            start += len(piece)


def check_labels(frames: Sequence[Frame], name: str) -> None:
    """Raise DataError for a frame without energy or forces."""
    for index, frame in enumerate(frames):
        if not (np.isfinite(frame.energy) and np.isfinite(frame.forces).all()):
            raise DataError(f"{name} frame {index} must have energy and forces, got no label")
