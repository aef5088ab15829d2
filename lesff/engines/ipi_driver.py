"""i-PI: the driver that it loads by path (``<pes>custom</pes>``), alone or with beads in batches.

i-PI runs this file as a module of its own; :mod:`lesff.engines.ipi` says where it is and writes the
input that names it. Units of i-PI are atomic; its cell has lattice vectors as columns, upper
triangular; its virial is ``-V`` times the stress.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ipi.pes.dummy import Dummy_driver
from ipi.utils.softexit import softexit
from ipi.utils.units import unit_to_internal

from lesff.atoms.structure import Structure, read_atoms
from lesff.errors import ConfigError, LesffError, StructureError
from lesff.model import load
from lesff.potential.evaluator import VIRIAL
from lesff.quantities import QUANTITIES

__DRIVER_NAME__ = "lesff"
__DRIVER_CLASS__ = "LesffDriver"

# i-PI's own constants, so that its output in eV and A is lesff's
_ANGSTROM = unit_to_internal("length", "angstrom", 1.0)
_EV = unit_to_internal("energy", "electronvolt", 1.0)
_EXTRA_UNITS = {"eV": _EV, "eV/A": _EV / _ANGSTROM, "e*A": _ANGSTROM, "e*A^2": _ANGSTROM**2}
"""Atomic units per unit of lesff; what is not listed stays as it is."""


class LesffDriver(Dummy_driver):
    """Energy, forces, virial and extras of one configuration or of a list of them.

    Args:
        template: File with the atoms in i-PI's order: elements, boundaries, charge and spin
            (``atoms.info``). Positions and cell come from i-PI.
        model: Name of the model.
        extras: Quantities of :data:`lesff.quantities.QUANTITIES` with ``+`` between them, such as
            ``dipole+charges``, given as JSON with each step, in atomic units.
        dtype: Precision, the model's own if not given.
        device: Where to compute.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`; ``verbosity`` is i-PI's.

    Raises:
        StructureError, ModelNotFoundError, UnsupportedInputError: before the run starts.
    """

    def __init__(
        self,
        template: str,
        model: str = "off-medium",
        extras: str = "",
        dtype: Any = None,
        device: str = "cpu",
        verbosity: Any = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self._template, self._model = str(template), str(model)
        self._extras = [name.strip() for name in str(extras).split("+") if name.strip()]
        self._loading = {"dtype": dtype, "device": device}
        self._options = {name: _plain(value) for name, value in options.items()}
        super().__init__(verbose)

    def check_parameters(self) -> None:
        """Read the template, load the model and look at what will be asked of it."""
        first = read_atoms(Path(self._template))[0]
        model = load(self._model, **self._loading)
        try:
            self.evaluator = model.evaluator(**self._options)
        except TypeError as error:
            raise ConfigError(f"options of the i-PI driver: {error}") from error
        unknown = sorted(set(self._extras) - set(model.potential.available_properties()))
        if unknown:
            raise ConfigError(
                f"`extras` must name quantities that {model.name} gives, got {', '.join(unknown)}; "
                f"it gives {', '.join(model.potential.available_properties())}"
            )
        self._start = start = self.evaluator.of_atoms(first, f"the template {self._template}")
        names = ["energy", "forces", *self._extras]
        self._is_periodic = bool(start.pbc.all())
        self._names = [*names, VIRIAL] if self._is_periodic else names
        # elements and boundaries that the model cannot do end the run before it starts
        self.evaluator.evaluate(start, ["energy", *self._extras])

    def __call__(self, cell: Any, pos: Any) -> Any:
        """As :meth:`compute`; what lesff refuses ends i-PI with a message and a restart file."""
        try:
            return self.compute(cell, pos)
        except LesffError as error:
            # writes the restart file; the error itself ends i-PI with a status other than 0
            softexit.cleanup(status="bad", message=f"lesff: {error}")
            raise

    def compute(self, cell: Any, pos: Any) -> Any:
        """Results of one configuration, or a list of them for lists.

        Args:
            cell: (3, 3) in bohr, lattice vectors as columns; or a list.
            pos: (n_atoms, 3) in bohr; or a list.

        Returns:
            Energy (hartree), forces (n_atoms, 3), virial (3, 3) in hartree, extras as JSON.
        """
        if not isinstance(cell, list):
            (result,) = self.compute([cell], [pos])
            return result
        structures = [self._structure(c, x) for c, x in zip(cell, pos, strict=True)]
        return [self._to_ipi(row) for row in self.evaluator.evaluate_batch(structures, self._names)]

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> Any:
        """Results of one configuration, as :meth:`compute`."""
        return self.compute(cell, pos)

    def _structure(self, cell: np.ndarray, pos: np.ndarray) -> Structure:
        start = self._start
        positions = np.reshape(pos, (-1, 3)) / _ANGSTROM
        if len(positions) != len(start):
            raise StructureError(
                f"i-PI has {len(positions)} atoms, but the template {self._template} has "
                f"{len(start)}: give the same atoms in the same order"
            )
        box = np.asarray(cell).T / _ANGSTROM
        return self.evaluator.moved(start, positions, box if start.pbc.any() else start.cell)

    def _to_ipi(self, row: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray, str]:
        virial = row.get(VIRIAL, np.zeros((3, 3)))
        extras = {name: _extra(name, row[name]) for name in self._extras}
        return (
            row["energy"] * _EV,
            row["forces"] * (_EV / _ANGSTROM),
            virial * _EV,
            json.dumps(extras) if extras else "",
        )


def _plain(value: Any) -> Any:
    """A value of i-PI's input, which is text: one number, several, a truth value, or text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        numbers = [float(part) for part in value.split()]
    except ValueError:
        return value
    return numbers[0] if len(numbers) == 1 else numbers


def _extra(name: str, value: Any) -> Any:
    """A quantity in atomic units, as JSON takes it."""
    return (np.asarray(value) * _EXTRA_UNITS.get(QUANTITIES[name].unit, 1.0)).tolist()
