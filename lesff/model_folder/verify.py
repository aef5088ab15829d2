"""Whether a model gives its golden values here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lesff.model_folder.digests import folder_damage
from lesff.model_folder.folder import load_unchecked
from lesff.model_folder.golden import GOLDEN_UNCERTAINTIES, evaluate, golden_structures, read_golden
from lesff.model_folder.layout import PARITY_FILE

PARITY_TOLERANCE = 1e-7
"""Allowed error of replayed float64 values, in eV per atom, eV/A and e.

Other processors and thread counts change the order of sums, which moves results by less than 1e-9.
"""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Agreement of a model with the golden values stored beside it.

    Attributes:
        energy_error: Largest error of an energy, in eV per atom.
        force_error: Largest error of a force component, in eV/A.
        charge_error: Largest error of a charge in e, or None for a model without charges.
        uncertainty_error: Largest error of an uncertainty (eV, eV/A), relative to it where it is
            above 1, or None for a model without.
        n_structures: Number of structures replayed.
        tolerance: Largest error allowed, same units.
        damage: How weights or configuration differ from the digests that the folder carries, which
            golden values need not feel; None if they do not.
    """

    energy_error: float
    force_error: float
    charge_error: float | None
    n_structures: int
    tolerance: float
    uncertainty_error: float | None = None
    damage: str | None = None

    @property
    def ok(self) -> bool:
        """Whether bytes are right and errors within the tolerance; False for those that are NaN."""
        errors = [self.energy_error, self.force_error]
        errors += [self.charge_error or 0.0, self.uncertainty_error or 0.0]
        return self.damage is None and all(error <= self.tolerance for error in errors)


def verify_parity(folder: Path) -> ParityReport:
    """Replay the golden values of a model folder in float64 and compare its digests.

    Args:
        folder: The model folder.

    Raises:
        IntegrityError: if a file is missing or damaged.
        ConfigError: for a bad ``config.json``.
    """
    folder = Path(folder)
    potential = load_unchecked(folder, dtype=torch.float64)
    golden = read_golden(
        folder / PARITY_FILE,
        has_charges=potential.traits.has_charges,
        has_uncertainty=potential.uncertainty is not None,
    )
    counts = golden["n_atoms"]
    now = evaluate(potential, golden_structures(golden, folder / PARITY_FILE))

    def largest(name: str) -> float:
        return float((now[name] - golden[name]).abs().max())

    energy_error = (now["energy"] - golden["energy"]).abs() / counts
    return ParityReport(
        energy_error=float(energy_error.max()),
        force_error=largest("forces"),
        charge_error=largest("charges") if "charges" in golden else None,
        n_structures=len(counts),
        tolerance=PARITY_TOLERANCE,
        uncertainty_error=_uncertainty_error(now, golden),
        damage=folder_damage(folder),
    )


def _uncertainty_error(now: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> float | None:
    errors = [
        float(((now[name] - golden[name]) / golden[name].clamp(min=1.0)).abs().max())
        for name in GOLDEN_UNCERTAINTIES
        if name in golden
    ]
    return max(errors, default=None)
