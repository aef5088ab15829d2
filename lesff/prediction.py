"""What a model predicted: arrays by name, with units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lesff.errors import PropertyError
from lesff.quantities import QUANTITIES


class Prediction(Mapping[str, np.ndarray]):
    """Results for one structure or for a list of them.

    Attribute and item access give numpy arrays for one structure (scalars as float), and lists of
    them for a list of structures; ``repr`` shows the units. Shapes and units, as in
    :data:`lesff.quantities.QUANTITIES`: energy, energy_sr, energy_lr () eV; node_energy
    (n_atoms,) eV; forces (n_atoms, 3) eV/A; stress (3, 3) eV/A^3; hessian (n_atoms, 3, n_atoms, 3)
    eV/A^2; latent_charges, charges (n_atoms,) e; dipole (3,) e A; quadrupole (3, 3) e A^2;
    born_effective_charges (n_atoms, 3, 3) e; polarizability (3, 3) e A^2/V; atomic_dipoles
    (n_atoms, 3) e A, atomic_quadrupoles (n_atoms, 3, 3) e A^2; energy_uncertainty () eV;
    forces_uncertainty (n_atoms,) eV/A; novelty (n_atoms,), without unit.

    Args:
        values: Results by property, one entry per structure.
        is_single: Whether a single structure was given.
        model: Resolved name of the model.
        reasons: Why each structure is out of the domain, see :attr:`out_of_domain`; None if the
            model is not calibrated.
    """

    def __init__(
        self,
        values: dict[str, list[Any]],
        *,
        is_single: bool,
        model: str,
        reasons: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        self._values = values
        self._is_single = is_single
        self.model = model
        self._reasons = None if reasons is None else list(reasons)

    @property
    def out_of_domain(self) -> Any:
        """Why a structure is unlike what the model's uncertainty was calibrated on.

        One tuple of reasons (element, charge, spin, pbc or geometry never seen) for one structure,
        empty if there is none; a list of them for a list of structures.

        Raises:
            PropertyError: for a model without calibration.
        """
        if self._reasons is None:
            raise PropertyError(
                "`out_of_domain` needs predictions of a calibrated model: make one with `lesff "
                "calibrate NAME --train FILE --validation FILE -o DIR` and load DIR"
            )
        return self._reasons[0] if self._is_single else self._reasons

    def __getitem__(self, name: str) -> Any:
        """Results of a property."""
        if name not in self._values:
            raise KeyError(self._absent(name))
        return self._values[name][0] if self._is_single else self._values[name]

    def __getattr__(self, name: str) -> Any:
        """Results of a property."""
        # private names are never results: copying asks for some before there are any values
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name not in self._values:
            raise AttributeError(self._absent(name))
        return self[name]

    def _absent(self, name: str) -> str:
        if name in QUANTITIES:
            return f"{name!r} was not asked for; use predict(..., properties=[{name!r}])"
        return f"no result {name!r}; this prediction has {', '.join(self._values)}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def n_structures(self) -> int:
        """Number of structures predicted."""
        return len(next(iter(self._values.values())))

    def per_structure(self) -> list[dict[str, Any]]:
        """One dictionary of results per structure."""
        names = list(self._values)
        columns = zip(*self._values.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]

    def __repr__(self) -> str:
        count = "1 structure" if self._is_single else f"{self.n_structures} structures"
        lines = [f"Prediction of {self.model} for {count}"]
        for name, column in self._values.items():
            first = column[0]
            unit = QUANTITIES[name].unit
            if self._is_single and np.ndim(first) == 0:
                lines.append(f"  {name} = {first:.6f} {unit}")
            elif self._is_single and np.size(first) <= 3:
                lines.append(f"  {name} = {np.array2string(first, precision=4)} {unit}")
            else:
                lines.append(f"  {name}: {_shape_text(name)} {unit}")
        if self._is_single and self._reasons:
            lines += [f"  out of domain: {reason}" for reason in self._reasons[0]]
        return "\n".join(lines)


def _shape_text(name: str) -> str:
    row = QUANTITIES[name]
    lead = ("n_atoms",) if row.level == "atom" else ()
    parts = [*lead, *map(str, row.shape)]
    if row.level == "pair":
        parts = [part for extent in map(str, row.shape) for part in ("n_atoms", extent)]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
