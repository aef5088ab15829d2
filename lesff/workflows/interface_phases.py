"""Phases of an interface: the model's own descriptors of atoms, clustered by scikit-learn.

The descriptors of an atom are those of the model's last layer, averaged over the atoms within a
radius: atoms of a compound then have similar ones, whatever their element (averaging as by Lechner
and Dellago, J. Chem. Phys. 129, 114707 (2008)), and a cluster is a phase with a composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ase
import numpy as np
from ase.neighborlist import neighbor_list

from lesff.atoms.graph import build_graph, collate
from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError
from lesff.model import Model
from lesff.spectra.correlation import mean_and_error
from lesff.uncertainty.statistics import last_features
from lesff.workflows.extras import require

Method = Literal["kmeans", "hdbscan"]
_COMPONENTS = 8
"""Principal components that are clustered."""
_MOST = 5
"""Numbers of clusters that are tried."""
_FITTED = 5000
"""Atoms that clusters are found from, and that silhouettes are taken of."""
UNASSIGNED = -1
"""Of atoms that HDBSCAN takes for noise."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Which phase each atom belongs to, over time.

    Attributes:
        time: (n_frames,) in fs.
        labels: (n_frames, n_atoms), phases from 0, that of most atoms first; -1 for none.
        compositions: Of each phase, the share of each element.
        counts: (n_frames, n_phases) atoms.
        unassigned: Share of the atoms of all frames that are of no phase; 1 if there is none.
        silhouette: Mean silhouette of the clusters, -1 to 1: well apart towards 1; nan for less
            than two.
        thickness: (n_frames, n_phases) in A: the share of atoms times volume over area.
        growth: (n_phases,) slope of the thickness, A/ps.
        growth_error: Standard error of the slopes of blocks.
    """

    time: np.ndarray
    labels: np.ndarray
    compositions: list[dict[str, float]]
    counts: np.ndarray
    unassigned: float
    silhouette: float
    thickness: np.ndarray
    growth: np.ndarray
    growth_error: np.ndarray


def descriptors(model: Model, frames: Sequence[ase.Atoms], radius: float) -> np.ndarray:
    """Descriptors of the last layer, averaged over neighbours, (n_frames, n_atoms, n_features).

    Args:
        model: The model.
        frames: Structures of the same atoms.
        radius: Of the average, A.

    Raises:
        ConfigError: for a radius that is not positive.
    """
    if not (np.isfinite(radius) and radius > 0.0):
        raise ConfigError(f"`radius` must be positive, got {radius!r}")
    potential, found = model.potential, []
    for atoms in frames:
        graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
        batch = collate([graph]).to(dtype=potential.dtype, device=potential.device)
        features = last_features(potential, batch).cpu().numpy()
        first, second = neighbor_list("ij", atoms, radius)
        total, count = features.copy(), 1.0 + np.bincount(first, minlength=len(atoms))
        np.add.at(total, first, features[second])
        found.append(total / count[:, None])
    return np.array(found)


def find_phases(
    features: np.ndarray,
    frames: Sequence[ase.Atoms],
    time: np.ndarray,
    *,
    method: Method = "kmeans",
    n_phases: int | None = None,
    min_share: float = 0.05,
    n_blocks: int = 5,
    seed: int = 0,
) -> Phases:
    """Cluster descriptors of all frames together.

    Args:
        features: See :func:`descriptors`.
        frames: The structures.
        time: (n_frames,) in fs.
        method: ``"kmeans"``, or ``"hdbscan"``, which finds the number of phases itself.
        n_phases: Of k-means; the number from 2 to 5 of the largest silhouette if None.
        min_share: Of HDBSCAN: smallest share of atoms that is a phase.
        n_blocks: Blocks of the trajectory for errors of the growth.
        seed: Of k-means.

    Raises:
        MissingDependencyError: without scikit-learn.
        ConfigError: for a bad option.
    """
    if method not in ("kmeans", "hdbscan"):
        raise ConfigError(f"`method` must be kmeans or hdbscan, got {method!r}")
    if n_phases is not None and not 2 <= n_phases <= features.shape[1]:
        raise ConfigError(f"`n_phases` must be 2 to the number of atoms, got {n_phases}")
    n_frames, n_atoms, n_features = features.shape
    points = _reduced(features.reshape(-1, n_features), seed)
    chosen = np.random.default_rng(seed).permutation(len(points))[:_FITTED]
    labels, silhouette = (
        _kmeans(points, chosen, n_phases, seed)
        if method == "kmeans"
        else _hdbscan(points, chosen, min_share)
    )
    labels = _by_size(labels).reshape(n_frames, n_atoms)
    numbers = range(int(labels.max()) + 1)  # none if all atoms are noise
    counts = np.array([(labels == k).sum(1) for k in numbers]).reshape(-1, n_frames).T
    height = np.array(
        [a.get_volume() / np.linalg.norm(np.cross(*a.cell.array[:2])) for a in frames]
    )
    thickness = counts / n_atoms * height[:, None]
    growth, error = _slopes(time, thickness, n_blocks)
    symbols = np.array(frames[0].get_chemical_symbols())
    return Phases(
        time=time,
        labels=labels,
        compositions=[_composition(symbols, labels == k) for k in numbers],
        counts=counts,
        unassigned=float((labels == UNASSIGNED).mean()),
        silhouette=silhouette,
        thickness=thickness,
        growth=growth,
        growth_error=error,
    )


def _reduced(points: np.ndarray, seed: int) -> np.ndarray:
    """Principal components."""
    decomposition = require("sklearn.decomposition", "scikit-learn")
    n = min(_COMPONENTS, *points.shape)
    return decomposition.PCA(n_components=n, random_state=seed).fit_transform(points)


def _kmeans(
    points: np.ndarray, chosen: np.ndarray, n_phases: int | None, seed: int
) -> tuple[np.ndarray, float]:
    cluster = require("sklearn.cluster", "scikit-learn")
    tried: list[tuple[float, Any]] = []
    for k in range(2, _MOST + 1) if n_phases is None else [n_phases]:
        found = cluster.KMeans(n_clusters=k, n_init=5, random_state=seed).fit(points[chosen])
        tried.append((_silhouette(points[chosen], found.labels_), found))
    score, best = max(tried, key=lambda pair: pair[0])
    return best.predict(points), score


def _hdbscan(points: np.ndarray, chosen: np.ndarray, min_share: float) -> tuple[np.ndarray, float]:
    cluster = require("sklearn.cluster", "scikit-learn")
    neighbors = require("sklearn.neighbors", "scikit-learn")
    size = max(5, round(min_share * len(chosen)))
    found = cluster.HDBSCAN(min_cluster_size=size, copy=True).fit(points[chosen]).labels_
    # HDBSCAN has no prediction: the others are what their nearest one is
    nearest = neighbors.KNeighborsClassifier(n_neighbors=1).fit(points[chosen], found)
    inside = found != UNASSIGNED
    return nearest.predict(points), _silhouette(points[chosen][inside], found[inside])


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    metrics = require("sklearn.metrics", "scikit-learn")
    n = len(np.unique(labels))
    return float(metrics.silhouette_score(points, labels)) if 1 < n < len(labels) else float("nan")


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Labels with the largest cluster as 0; -1 stays."""
    kinds, counts = np.unique(labels[labels >= 0], return_counts=True)
    renamed = np.full_like(labels, UNASSIGNED)
    for new, old in enumerate(kinds[np.argsort(-counts, kind="stable")]):
        renamed[labels == old] = new
    return renamed


def _composition(symbols: np.ndarray, is_phase: np.ndarray) -> dict[str, float]:
    """Share of each element among the atoms of a phase, over all frames."""
    total = is_phase.sum()
    return {str(s): float(is_phase[:, symbols == s].sum() / total) for s in dict.fromkeys(symbols)}


def _slopes(
    time: np.ndarray, thickness: np.ndarray, n_blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slope of each phase's thickness in A/ps, and the standard error of those of blocks."""
    n_phases = thickness.shape[1]
    if len(time) < 2:
        return np.full(n_phases, np.nan), np.full(n_phases, np.nan)
    total = np.polyfit(1e-3 * time, thickness, 1)[0]
    blocks = [b for b in np.array_split(np.arange(len(time)), n_blocks) if len(b) > 1]
    slopes = [np.polyfit(1e-3 * time[b], thickness[b], 1)[0] for b in blocks]
    return total, mean_and_error(np.array(slopes))[1] if slopes else np.full(n_phases, np.nan)
