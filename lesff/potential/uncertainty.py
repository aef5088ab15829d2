"""Uncertainty of one model: last-layer prediction rigidity, and how far atoms are from known ones.

The energy is linear in the features ``f`` of the last layer, summed over atoms. With the
covariance ``C`` of the training structures' features, each divided by the square root of its
number of atoms ``N``, and a small ridge (LLPR: Bigi, Chong, Ceriotti, Grasselli, "A prediction
rigidity formalism for low-cost uncertainties in trained neural networks", arXiv 2403.02251,
doi 10.1088/2632-2153/ad805f),

    sigma_E^2 = alpha^2 f^T C^-1 f,        C = sum_s f_s f_s^T / N_s + ridge,

and of a force component along ``r_ak`` the same with ``df/dr_ak``. ``alpha`` is set once, on
validation frames, for energies and for forces. Only the last layer of the short-range model
counts: the Coulomb energy enters through the errors that set ``alpha``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from lesff.atoms.elements import elements_of
from lesff.atoms.segments import segment_sum
from lesff.atoms.structure import Structure
from lesff.autograd import jacobian_rows

_BOUNDARIES = ("molecules", "wires", "slabs", "crystals")
"""By number of periodic directions."""


class Uncertainty(nn.Module):
    """Calibrated uncertainty of one set of weights.

    Args:
        tensors: What ``uncertainty.safetensors`` holds, see :meth:`shapes`; ``n`` features, ``m``
            directions, ``e`` elements. ``energy_root`` (n, n) in eV: sigma_E is the norm of
            ``f @ energy_root``, whose part ``alpha`` is ``energy_scale`` (). ``force_root`` (n, m)
            likewise for forces. ``elements`` (e,)
            atomic numbers seen; ``mean`` (e, n) and ``whitening`` (e, n, n) of their features:
            the distance of an atom is the norm of ``(f - mean) @ whitening``, in units of the
            largest that counts as known. ``total_charge``, ``spin_multiplicity`` and
            ``periodic_directions``: values seen. ``weights`` (32,): SHA-256 of the weights.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in self.shapes(tensors):
            self.register_buffer(name, tensors[name].detach().clone(), persistent=False)
        row = torch.full((119,), -1, dtype=torch.int64)
        row[tensors["elements"]] = torch.arange(len(tensors["elements"]))
        self.register_buffer("element_row", row, persistent=False)
        self.energy_root: Tensor
        self.energy_scale: Tensor
        self.force_root: Tensor
        self.elements: Tensor
        self.mean: Tensor
        self.whitening: Tensor
        self.total_charge: Tensor
        self.spin_multiplicity: Tensor
        self.periodic_directions: Tensor
        self.weights: Tensor
        self.element_row: Tensor
        # plain values: a look at a tensor waits for its device
        self.seen = {
            name: tuple(tensors[name].tolist())
            for name in ("elements", "total_charge", "spin_multiplicity", "periodic_directions")
        }

    @staticmethod
    def shapes(
        tensors: Mapping[str, Tensor | tuple[int, ...]],
    ) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape that every tensor must have, given those in the file.

        Args:
            tensors: Tensors or their shapes, by name; what is absent counts as empty.
        """

        def size(name: str, axis: int) -> int:
            value = tensors.get(name, ())
            shape = tuple(value.shape) if isinstance(value, Tensor) else value
            return shape[axis] if len(shape) > axis else 0

        n, m, e = size("energy_root", 0), size("force_root", 1), size("elements", 0)
        real, whole = torch.float64, torch.int64
        return {
            "energy_root": (real, (n, n)),
            "energy_scale": (real, ()),
            "force_root": (real, (n, m)),
            "elements": (whole, (e,)),
            "mean": (real, (e, n)),
            "whitening": (real, (e, n, n)),
            "total_charge": (whole, (size("total_charge", 0),)),
            "spin_multiplicity": (whole, (size("spin_multiplicity", 0),)),
            "periodic_directions": (whole, (size("periodic_directions", 0),)),
            "weights": (torch.uint8, (32,)),
        }

    @property
    def n_features(self) -> int:
        """Number of last-layer features."""
        return self.energy_root.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """What ``uncertainty.safetensors`` holds."""
        names = self.shapes({})
        return {name: getattr(self, name).cpu() for name in names}

    def energy(self, features: Tensor, batch: Tensor, n_systems: int) -> Tensor:
        """Standard deviation of the energy, (n_systems,) in eV, float64."""
        summed = segment_sum(features.to(torch.float64), batch, n_systems)
        return torch.linalg.vector_norm(summed @ self.energy_root, dim=1)

    def forces(self, features: Tensor, positions: Tensor, batch: Tensor, n_systems: int) -> Tensor:
        """Standard deviation of a force component of every atom, (n_atoms,) in eV/A.

        The root mean square over the three components: it does not change under rotation. One
        backward pass per direction.

        Args:
            features: (n_atoms, n), differentiable in ``positions``.
            positions: (n_atoms, 3).
            batch: (n_atoms,) system of each atom.
            n_systems: Number of systems.
        """
        projected = segment_sum(features.to(torch.float64) @ self.force_root, batch, n_systems)
        rows = jacobian_rows(projected, positions).to(torch.float64)
        return (rows.square().sum((1, 2)) / 3.0).sqrt()

    def known(self, atomic_numbers: Tensor) -> tuple[tuple[int, Tensor], ...]:
        """Rows of the known elements of (n_atoms,) atoms, each with the indices of its atoms."""
        element = self.element_row[atomic_numbers]
        rows = torch.unique(element[element >= 0]).tolist()
        return tuple((row, torch.nonzero(element == row)[:, 0]) for row in rows)

    def distance(
        self,
        features: Tensor,
        atomic_numbers: Tensor,
        known: tuple[tuple[int, Tensor], ...] | None = None,
    ) -> Tensor:
        """Mahalanobis distance of every atom to the known ones of its element, (n_atoms,).

        In units of the largest that counts as known; infinite for elements never seen.

        Args:
            features: (n_atoms, n).
            atomic_numbers: (n_atoms,).
            known: :meth:`known` of them, where the host must not be asked.
        """
        features = features.to(torch.float64)
        found = torch.full_like(features[:, 0], torch.inf)
        for row, atoms in self.known(atomic_numbers) if known is None else known:
            # |(f - mean) W|, [atoms of an element, features]
            offset = (features.index_select(0, atoms) - self.mean[row]) @ self.whitening[row]
            found = found.index_copy(0, atoms, torch.linalg.vector_norm(offset, dim=1))
        return found

    def reasons(self, structure: Structure, distance: np.ndarray) -> tuple[str, ...]:
        """Why a structure is unlike everything the uncertainty was calibrated on; none if it is.

        Args:
            structure: The structure.
            distance: (n_atoms,) from :meth:`distance`.
        """
        found = list(self.state_reasons(structure))
        far = self.far(structure, distance)
        if len(far):
            worst = far[np.argmax(distance[far])]
            found.append(
                f"geometry: the surroundings of {len(far)} of {len(structure)} atoms are unlike "
                f"known ones, most those of atom {worst} "
                f"({chemical_symbols[structure.numbers[worst]]}), at {distance[worst]:.3g} times "
                "the largest known distance"
            )
        return tuple(found)

    def far(self, structure: Structure, distance: np.ndarray) -> np.ndarray:
        """Indices of the atoms of known elements that are beyond the known ones."""
        is_known = np.isin(structure.numbers, self.seen["elements"])
        # not "distance > 1": features that are no numbers are unlike all others
        return np.flatnonzero(~(distance <= 1.0) & is_known)

    def state_reasons(self, structure: Structure) -> tuple[str, ...]:
        """Elements, charge, spin and boundaries of a structure that were never seen; no distances.

        Boundaries count where the structure has fewer periodic directions than any that was seen.

        Args:
            structure: The structure.
        """
        found, seen = [], self.seen
        unseen = sorted(elements_of(structure) - set(seen["elements"]))
        if unseen:
            found.append(f"element {' '.join(chemical_symbols[z] for z in unseen)} never seen")
        for name in ("total_charge", "spin_multiplicity"):
            what = name.replace("_", " ")
            value, values = getattr(structure, name), seen[name]
            if value not in values:
                found.append(f"{what} {value} never seen (seen: {', '.join(map(str, values))})")
        # a liquid of known molecules has known surroundings; surfaces end where crystals go on
        directions = int(structure.pbc.sum())
        if directions < min(seen["periodic_directions"]):
            known = ", ".join(_BOUNDARIES[i] for i in seen["periodic_directions"])
            found.append(f"pbc: {_BOUNDARIES[directions]} never seen (seen: {known})")
        return tuple(found)
