"""Electrostatic embedding: a model among point charges that move along, such as a force field's.

The energy is the enthalpy of :mod:`lesff.electrostatics.moments.point_charges`: one function of the
positions of atoms and point charges, whose derivatives are the forces on both. Interactions among
the point charges, and all that is no electrostatics, are the engine's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.point_charges import PointCharges
from lesff.atoms.structure import Structure
from lesff.electrostatics.moments.point_charges import forces_on_points
from lesff.errors import UnsupportedInputError
from lesff.model import Model
from lesff.potential.evaluator import Evaluator


class EmbeddedEvaluator(Evaluator):
    """An evaluator for one trajectory of atoms among point charges.

    Args:
        model: A model with charges.
        charges: (n_points,) in e.
        **options: Those of the evaluator; steps are not replayed.

    Raises:
        UnsupportedInputError: for a model without charges, and charges that are not finite.
    """

    def __init__(self, model: Model, charges: np.ndarray, **options: Any) -> None:
        options = {**options, "replay": False, "caveats": model.source.caveats}
        super().__init__(model.potential, **options)
        if not model.potential.traits.has_charges:
            raise UnsupportedInputError(
                f"electrostatic embedding needs a model with charges, and {model.name} has none "
                "(trained without LES): use mechanical embedding"
            )
        charges = np.asarray(charges, dtype=np.float64)
        if charges.ndim != 1 or not np.isfinite(charges).all():
            raise UnsupportedInputError(
                f"`charges` must be finite numbers, (n_points,), got shape {charges.shape}"
            )
        self._charges = torch.from_numpy(charges)
        self._points: np.ndarray = np.zeros((len(charges), 3))
        self._changes = 0

    def among(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        points: np.ndarray,
        cell: np.ndarray | None = None,
        *,
        periodic: bool = False,
        properties: Collection[str] = ("energy", "forces"),
    ) -> dict[str, Any]:
        """Properties of the atoms, and the forces on the point charges.

        Args:
            numbers: (n_atoms,) atomic numbers.
            positions: (n_atoms, 3) in A.
            points: (n_points, 3) positions of the point charges in A.
            cell: (3, 3) in A, rows are lattice vectors; for a box.
            periodic: Whether there is a box.
            properties: Names from :data:`lesff.quantities.QUANTITIES`, of the atoms; the energy is
                the enthalpy.

        Returns:
            Results by name, with ``"point_forces"``, (n_points, 3) in eV/A, among them.

        Raises:
            StructureError: for points that are not finite, and as :meth:`Evaluator.__call__`.
        """
        points = np.array(points, dtype=np.float64).reshape(-1, 3)
        if not np.array_equal(points, self._points):
            self._points = points
            self._changes += 1
        structure = self.structure(numbers, positions, cell, periodic)
        moments = ["charges"]
        traits = self.potential.traits
        moments += ["atomic_dipoles"] if traits.has_atomic_dipoles else []
        moments += ["atomic_quadrupoles"] if traits.has_atomic_quadrupoles else []
        out = self.evaluate(structure, properties, moments)
        out["point_forces"] = self._point_forces(structure, out)
        return out

    def model_state(self) -> tuple:
        """As of any evaluator; other positions of the charges make other results, too."""
        return (*super().model_state(), self._changes)

    def _graph(self, structure: Structure, slot: int) -> AtomGraph:
        return super()._graph(structure, slot).replace(point_charges=self._point_charges())

    def _point_charges(self) -> PointCharges:
        return PointCharges(
            positions=torch.from_numpy(self._points),
            charges=self._charges,
            batch=torch.zeros(len(self._points), dtype=torch.int64),
        )

    def _point_forces(self, structure: Structure, out: dict[str, Any]) -> np.ndarray:
        """(n_points, 3) in eV/A, by Hellmann and Feynman: the moments stay as they are."""
        settings = self.potential.ewald
        if settings is None or len(self._points) == 0:
            return np.zeros((len(self._points), 3))
        # physical charges sum to the total charge
        q = torch.from_numpy(out["charges"])
        q = q + (structure.total_charge - q.sum()) / len(q)
        names = ("atomic_dipoles", "atomic_quadrupoles")
        u, quadrupoles = (torch.from_numpy(out[x]) if x in out else None for x in names)
        # no edges are needed
        graph = build_graph(structure, 0.1)
        points = self._point_charges()
        return forces_on_points(points, graph, settings, q, u, quadrupoles).numpy()
