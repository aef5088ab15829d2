"""Errors of a potential on labelled frames, per subset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from lesff.potential import Potential
from lesff.train.data import Frame, make_batch
from lesff.units import EA_TO_DEBYE


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors over some frames.

    Attributes:
        n_frames: Number of frames.
        energy_mae: meV/atom.
        energy_rmse: meV/atom.
        forces_mae: meV/A, over components.
        forces_rmse: meV/A, over components.
        dipole_mae: Debye, over components; NaN without labels.
    """

    n_frames: int
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    dipole_mae: float


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
    sizes = np.array([len(frame.structure) for frame in frames])
    order = np.argsort(sizes, kind="stable")
    energy_errors: dict[str, list[float]] = defaultdict(list)
    force_errors: dict[str, list[np.ndarray]] = defaultdict(list)
    dipole_errors: dict[str, list[np.ndarray]] = defaultdict(list)
    has_dipole = "dipole" in potential.available_properties()
    bar = tqdm(total=len(frames), disable=not progress, unit="frame", desc="evaluate")
    start = 0
    while start < len(order):
        stop = start + max(1, int(max_atoms // sizes[order[start]]))
        while stop > start + 1 and sizes[order[start:stop]].sum() > max_atoms:
            stop -= 1
        part = [frames[i] for i in order[start:stop]]
        batch = make_batch(part, potential.architecture.cutoff, potential.dtype)
        wanted = ["energy", "forces"]
        if has_dipole and not bool(batch.graph.pbc.any()):
            wanted.append("dipole")
        out = potential(batch.graph, wanted)
        error_e = (out["energy"] - batch.energy).numpy()
        counts = batch.graph.atoms_per_system().tolist()
        error_f = torch.split(out["forces"] - batch.forces, counts)
        for i, frame in enumerate(part):
            for key in (frame.subset, "all"):
                energy_errors[key].append(1e3 * error_e[i] / counts[i])
                force_errors[key].append(1e3 * error_f[i].numpy().ravel())
            neutral = frame.structure.total_charge == 0
            if "dipole" in out and frame.dipole is not None and neutral:
                error_d = (out["dipole"][i].numpy() - frame.dipole) * EA_TO_DEBYE
                for key in (frame.subset, "all"):
                    dipole_errors[key].append(error_d)
        bar.update(len(part))
        start = stop
    bar.close()
    return {
        key: _summary(energy_errors[key], force_errors[key], dipole_errors.get(key))
        for key in sorted(energy_errors, key=lambda name: (name == "all", name))
    }


def _summary(
    energy: list[float], forces: list[np.ndarray], dipole: list[np.ndarray] | None
) -> Errors:
    e, f = np.array(energy), np.concatenate(forces)
    return Errors(
        n_frames=len(e),
        energy_mae=float(np.abs(e).mean()),
        energy_rmse=float(np.sqrt((e**2).mean())),
        forces_mae=float(np.abs(f).mean()),
        forces_rmse=float(np.sqrt((f**2).mean())),
        dipole_mae=float(np.abs(np.stack(dipole)).mean()) if dipole else float("nan"),
    )
