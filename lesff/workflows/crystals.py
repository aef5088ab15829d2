"""What workflows of crystals begin with: the minimum with its symmetry."""

from __future__ import annotations

from typing import Literal

import ase
import numpy as np
from ase.constraints import FixSymmetry

from lesff.errors import ConfigError, ConvergenceError
from lesff.model import Model
from lesff.workflows.extras import require
from lesff.workflows.folder import WorkFolder, staged
from lesff.workflows.relax import RelaxOptions, relax

Start = Literal["cell", "atoms", "none"]
SYMMETRY_TOLERANCE = 1e-3
"""Distance in A within which positions count as equivalent."""


def check_crystal(atoms: ase.Atoms) -> None:
    """Refuse what is not periodic in three directions.

    Raises:
        ConfigError: for such.
    """
    if not atoms.pbc.all():
        raise ConfigError(
            "this workflow must have a crystal, periodic in three directions, got "
            f"pbc {atoms.pbc.tolist()}"
        )


def minimum(model: Model, atoms: ase.Atoms, start: Start, *, fmax: float) -> ase.Atoms:
    """The crystal at its minimum, symmetry kept.

    Args:
        model: The model.
        atoms: The crystal; its constraints have no meaning here and are left out.
        start: ``"cell"``: atoms and cell are relaxed, ``"atoms"``: atoms only, ``"none"``: neither.
        fmax: Largest force at the end, eV/A.

    Raises:
        ConvergenceError: if forces stay larger.
    """
    check_crystal(atoms)
    copy = atoms.copy()
    copy.set_constraint()
    if start == "none":
        return copy
    require("spglib", "spglib")
    copy.set_constraint(FixSymmetry(copy, symprec=SYMMETRY_TOLERANCE))
    options = RelaxOptions(
        method="lbfgs", cell="full" if start == "cell" else "fixed", fmax=fmax, steps=1000
    )
    (row,) = relax(model, [copy], options).relaxed
    if not row.converged:
        why = row.error or f"the largest force is {row.fmax:.2g} eV/A"
        raise ConvergenceError(
            f"the crystal must have a minimum with forces below {fmax} eV/A, but after {row.steps} "
            f"steps {why}; relax it first, raise `fmax`, or take it as it is (`--relax none`)"
        )
    found = row.atoms.copy()
    found.set_constraint()
    return found


def kept_minimum(
    model: Model, atoms: ase.Atoms, start: Start, *, fmax: float, folder: WorkFolder | None
) -> ase.Atoms:
    """As :func:`minimum`, a stage of the folder, if there is one; without constraints."""

    def relaxed() -> dict[str, np.ndarray]:
        found = minimum(model, atoms, start, fmax=fmax)
        return {"positions": found.positions, "cell": found.cell.array}

    known = staged(folder, "minimum", relaxed)
    crystal = atoms.copy()
    crystal.set_constraint()
    crystal.set_cell(known["cell"])
    crystal.positions = known["positions"]
    return crystal
