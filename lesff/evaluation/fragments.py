"""Forces between molecules: what is left of the forces on each after its own bonds cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import ase
import numpy as np

from lesff.evaluation.molecules import molecules_of
from lesff.train.metrics import FramePrediction


@dataclass(frozen=True, kw_only=True)
class FragmentErrors:
    """Errors over frames of several molecules.

    Attributes:
        n_frames: Number of frames.
        net_force: Mean length of the net force on a molecule, labels, meV/A: the error of a model
            without any force between molecules.
        net_force_error: Mean length of the error of the net force on a molecule, meV/A.
        forces_mae: Mean absolute error of the force components of the atoms, meV/A.
    """

    n_frames: int
    net_force: float
    net_force_error: float
    forces_mae: float


def widest_gap(atoms: ase.Atoms, molecules: Sequence[Sequence[int]]) -> float:
    """Largest distance of a molecule to its nearest neighbour, A; 0 for a single molecule."""
    if len(molecules) == 1:
        return 0.0
    distances = atoms.get_all_distances()
    everything = np.arange(len(atoms))
    gaps = [distances[m][:, np.setdiff1d(everything, m)].min() for m in molecules]
    return float(max(gaps))


def fragment_table(
    predictions: Sequence[FramePrediction], cutoff: float
) -> dict[str, dict[str, float]]:
    """Errors of the net forces on molecules, by charge and by gap; one molecule alone drops out.

    Args:
        predictions: Predictions beside labelled forces; frames of crystals drop out.
        cutoff: A gap beyond it is beyond the reach of a short-range model, A.
    """
    parts: dict[str, list[tuple[FramePrediction, list[list[int]]]]] = {}
    for p in predictions:
        structure = p.frame.structure
        if structure.pbc.any():
            continue
        atoms = ase.Atoms(structure.numbers, structure.positions)
        molecules = molecules_of(atoms)
        gap = widest_gap(atoms, molecules)
        if gap == 0.0:
            continue
        charge = "charged" if structure.total_charge else "neutral"
        reach = f"a gap over {cutoff:g} A" if gap > cutoff else "in contact"
        parts.setdefault(f"{charge}, {reach}", []).append((p, molecules))
    return {name: asdict(_errors(parts[name])) for name in sorted(parts)}


def _errors(rows: Sequence[tuple[FramePrediction, list[list[int]]]]) -> FragmentErrors:
    net, wrong = [], []
    for p, molecules in rows:
        for inside in molecules:
            net.append(1e3 * np.linalg.norm(p.frame.forces[inside].sum(0)))
            wrong.append(np.linalg.norm(p.force_error()[inside].sum(0)))
    components = np.concatenate([p.force_error().ravel() for p, _ in rows])
    return FragmentErrors(
        n_frames=len(rows),
        net_force=float(np.mean(net)),
        net_force_error=float(np.mean(wrong)),
        forces_mae=float(np.abs(components).mean()),
    )
