"""Sums over training frames, batch by batch: covariances of features, and how far atoms reach.

Memory does not grow with the number of frames: what is kept is a matrix for each element.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.potential.potential import Potential
from lesff.potential.uncertainty import Uncertainty
from lesff.train.frame_stream import Frames
from lesff.uncertainty.agreement import batches_of

_RIDGE = 1e-6
"""Ridge of the covariances as a share of their largest eigenvalue."""
_OUTLIERS = 10_000
"""One atom in so many may be an outlier, which does not say how far its element reaches."""
_LOG_LOWEST, _LOG_HIGHEST, _LOG_STEP = -7.0, 21.0, 0.01
"""Natural logarithms of distances that are told apart, and their resolution."""
_SMALLEST = 1e-12
"""A single atom is its own mean; distances are divided by this at least."""


def inverse_root(covariance: Tensor) -> Tensor:
    """``R`` with ``R R^T = (C + ridge)^-1``, symmetric."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0.0) + _RIDGE * values[-1].clamp(min=1e-30)
    return (vectors * values.rsqrt()) @ vectors.T


def last_features(potential: Potential, graph: AtomGraph) -> Tensor:
    """Last-layer features of the atoms of a batch, (n_atoms, n_features), float64."""
    with torch.no_grad():
        terms = potential.energy_terms(graph, tabulated=potential.radial == "table")
        return potential.architecture.last_layer_features(terms.invariants).to(torch.float64)


@dataclass
class Statistics:
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
    def of(potential: Potential, frames: Frames, *, total: int, progress: bool) -> Statistics:
        """Sums over frames, of which there are ``total``."""
        size = potential.architecture.n_features
        zero = torch.zeros(size, size, dtype=torch.float64)
        found = Statistics(zero.clone(), {}, {}, {})
        read = batches_of(potential, frames, "covariances", total=total, progress=progress)
        for _, batch in read:
            graph = batch.graph
            features = last_features(potential, graph)
            # sum over s of f_s f_s^T / N_s, f_s summed over the atoms of s
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

    def reach(
        self,
        potential: Potential,
        uncertainty: Uncertainty,
        frames: Frames,
        *,
        total: int,
        progress: bool,
    ) -> Tensor:
        """How far the atoms of each element are from its mean, (n_elements,).

        All atoms but one in :data:`_OUTLIERS` are within. Of an element with fewer atoms than there
        are features, at least what is usual (the median) for the others: few atoms lie close to a
        mean that they define.

        Args:
            potential: The model.
            uncertainty: Means and whitenings, :meth:`environments`.
            frames: The frames of the sums.
            total: Their number.
            progress: Whether to show a progress bar.
        """
        known = uncertainty.to(potential.device)
        elements = known.elements.tolist()
        histogram = _Histogram(len(elements))
        for _, batch in batches_of(potential, frames, "reach", total=total, progress=progress):
            numbers = batch.graph.atomic_numbers
            distance = known.distance(last_features(potential, batch.graph), numbers)
            histogram.add(known.element_row[numbers].cpu(), distance.cpu())
        far = histogram.within(1.0 / _OUTLIERS)
        is_rare = torch.tensor([self.count[z] for z in elements]) < len(self.covariance)
        usual = float(torch.quantile(far, 0.5))
        return torch.where(is_rare, far.clamp(min=usual), far)


class _Histogram:
    """Counts of distances on a logarithmic scale, and the largest, for each of several rows.

    Args:
        n_rows: Number of rows.
    """

    def __init__(self, n_rows: int) -> None:
        self.edges = torch.exp(torch.arange(_LOG_LOWEST, _LOG_HIGHEST, _LOG_STEP)).double()
        self.counts = torch.zeros(n_rows, len(self.edges) + 1, dtype=torch.int64)
        self.largest = torch.zeros(n_rows, dtype=torch.float64)

    def add(self, row: Tensor, distance: Tensor) -> None:
        """Count distances (n,) of rows (n,)."""
        place = torch.bucketize(distance, self.edges)
        flat = row * self.counts.shape[1] + place
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        self.largest.scatter_reduce_(0, row, distance, "amax")

    def within(self, share: float) -> Tensor:
        """Distance that at most a share of each row exceeds, to one step of the scale; (n_rows,).

        The largest one where the row has fewer than ``1 / share``.
        """
        total = self.counts.sum(1, keepdim=True)
        beyond = total - self.counts.cumsum(1)  # counts above the upper edge of a bin
        enough = (beyond <= share * total).int().argmax(1)
        upper = torch.cat([self.edges, self.edges.new_full((1,), torch.inf)])[enough]
        return torch.minimum(upper, self.largest).clamp(min=_SMALLEST)
