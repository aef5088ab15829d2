"""Units of engines in those of lesff: the table that all conversions read."""

from __future__ import annotations

from dataclasses import dataclass

from lesff.units import BOHR, EV_TO_KCAL_PER_MOL, HARTREE


@dataclass(frozen=True, kw_only=True)
class EngineUnits:
    """Units of an engine; charges are in e everywhere.

    Attributes:
        length: Of the engine's unit of length, in A.
        energy: Of its unit of energy, in eV.
    """

    length: float
    energy: float

    @property
    def force(self) -> float:
        """Of its unit of force, in eV/A."""
        return self.energy / self.length


_EV_TO_KJ_PER_MOL = 4.184 * EV_TO_KCAL_PER_MOL

UNITS = {
    "lammps metal": EngineUnits(length=1.0, energy=1.0),
    "lammps real": EngineUnits(length=1.0, energy=1.0 / EV_TO_KCAL_PER_MOL),
    "openmm": EngineUnits(length=10.0, energy=1.0 / _EV_TO_KJ_PER_MOL),
    "atomic": EngineUnits(length=BOHR, energy=HARTREE),
}
"""A and eV; A and kcal/mol; nm and kJ/mol; bohr and hartree."""
